package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
)

// checkpointEvery is how long what was recorded waits at most for a checkpoint.
const checkpointEvery = 5 * time.Second

// Log is a stream as it is read (*bus.Records).
type Log interface {
	Follow(ctx context.Context, from uint64, fn func(bus.Entry) error) error
	Last(ctx context.Context) (uint64, error)
}

// Heads follows the audit's stream and knows the newest record of each chain, and up to where changes of documents
// are recorded. It is safe for concurrent use.
type Heads struct {
	log  Log
	from uint64 // what Run reads first

	mu        sync.Mutex
	heads     map[string]*Head
	read      uint64
	documents uint64
	checked   uint64 // sequence of the newest checkpoint
	moved     chan struct{}
}

// NewHeads begins at a checkpoint that was kept (see Kept), or where that is nil at the beginning of the stream.
func NewHeads(log Log, kept *Checkpoint) *Heads {
	h := &Heads{log: log, from: kept.GetRead() + 1, heads: map[string]*Head{}, read: kept.GetRead(), documents: kept.GetDocuments(), moved: make(chan struct{})}
	for _, head := range kept.GetHeads() {
		h.heads[head.GetWriter()] = head
	}
	return h
}

// Run follows the stream until ctx ends. A record that cannot be read is passed over: verifying finds it.
func (h *Heads) Run(ctx context.Context) error {
	return h.log.Follow(ctx, h.from, func(e bus.Entry) error {
		h.take(e)
		return nil
	})
}

func (h *Heads) take(e bus.Entry) {
	entry, err := Open(e.Data)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.read = e.Sequence
	if err == nil {
		h.heads[entry.GetWriter()] = &Head{Writer: entry.GetWriter(), Number: entry.GetNumber(), Hash: HashOf(e.Data)}
		h.documents = max(h.documents, entry.GetEvent().GetAfter().GetSequence())
		if entry.GetCheckpoint() != nil {
			h.checked = e.Sequence
		}
	}
	close(h.moved)
	h.moved = make(chan struct{})
}

// Documents waits until all that is in the stream now was read, and returns the sequence of the newest change of a
// document that is recorded.
func (h *Heads) Documents(ctx context.Context) (uint64, error) {
	last, err := h.log.Last(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the end of the audit: %w", err)
	}
	for {
		h.mu.Lock()
		read, documents, moved := h.read, h.documents, h.moved
		h.mu.Unlock()
		if read >= last {
			return documents, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return 0, fmt.Errorf("read the audit: %w", context.Cause(ctx))
		}
	}
}

// checkpoint is what the stream is now; nil where nothing but a checkpoint was stored since the last.
func (h *Heads) checkpoint() *Checkpoint {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.read == h.checked || len(h.heads) == 0 {
		return nil
	}
	heads := slices.SortedFunc(maps.Values(h.heads), func(a, b *Head) int { return strings.Compare(a.GetWriter(), b.GetWriter()) })
	return &Checkpoint{Heads: heads, Read: h.read, Documents: h.documents}
}

// Checkpoint stores a checkpoint of what Heads has read, if there is anything new, and hands it to keep.
func (w *Writer) Checkpoint(ctx context.Context, h *Heads, keep func([]byte) error) error {
	c := h.checkpoint()
	if c == nil {
		return nil
	}
	stored, err := w.store(ctx, &Entry{Checkpoint: c})
	if err != nil {
		return err
	}
	return keep(stored.Data)
}

// Lead stores checkpoints until ctx ends, where the controller leads.
func (w *Writer) Lead(ctx context.Context, h *Heads, leading func() bool, keep func([]byte) error) error {
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if !leading() {
			continue
		}
		if err := w.Checkpoint(ctx, h, keep); err != nil && ctx.Err() == nil && !errors.Is(err, ErrStopped) {
			w.cfg.Log.Error("a checkpoint of the audit cannot be stored", "err", err)
		}
	}
}

// Kept reads the checkpoint that keep was given: its own head, and what it says. Nil data is no checkpoint.
func Kept(data []byte) (*Head, *Checkpoint, error) {
	if data == nil {
		return nil, nil, nil
	}
	entry, err := Open(data)
	if err != nil || entry.GetCheckpoint() == nil {
		return nil, nil, fmt.Errorf("the copy of the newest checkpoint: %w", errors.Join(ErrMalformed, err))
	}
	return &Head{Writer: entry.GetWriter(), Number: entry.GetNumber(), Hash: HashOf(data)}, proto.CloneOf(entry.GetCheckpoint()), nil
}
