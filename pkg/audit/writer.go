package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Limits of one atomic batch, which shares one sync to disk.
const (
	maxBatch      = 64
	maxBatchBytes = 1 << 20
	maxEvent      = 256 << 10 // bytes of one event: 256 certificates and a long reason
)

// ErrStopped is returned for what was to be recorded when the writer ended: it was stored or not.
var ErrStopped = errors.New("the controller stops; nothing more is recorded in the audit")

// Store is the audit's stream (*bus.Records).
type Store interface {
	// Get returns the last record of a subject, or bus.ErrNotFound.
	Get(ctx context.Context, subject string) (bus.Entry, error)
	// AppendAll stores all or none where the last sequence of subject is expect, else bus.ErrConflict.
	AppendAll(ctx context.Context, subject string, all [][]byte, expect uint64) (uint64, error)
}

// WriterConfig composes a Writer.
type WriterConfig struct {
	Store           Store
	Cluster, Writer string                 // Writer is the controller's name
	Signer          func() snapshot.Signer // of this moment
	Log             *slog.Logger
	Now             func() time.Time // nil: time.Now
}

// A Writer extends one chain. Its goroutine owns the head; what is recorded while a batch is written goes out in the
// next, together. It is safe for concurrent use.
type Writer struct {
	cfg   WriterConfig
	queue chan *pending
	ended chan struct{} // closed when Run returns

	// Owned by Run.
	known    bool // whether the three below are the stream's
	number   uint64
	hash     []byte
	sequence uint64 // in the stream
}

// pending is an entry on its way.
type pending struct {
	entry  *Entry
	data   []byte // set with done, as it was stored
	stored Stored
	err    error
	done   chan struct{}
}

// Stored says where a record is.
type Stored struct {
	Number   uint64 // in the chain
	Sequence uint64 // in the stream
	Data     []byte // nobody changes it
}

// NewWriter returns a writer; nothing is stored before Run.
func NewWriter(cfg WriterConfig) *Writer {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Writer{cfg: cfg, queue: make(chan *pending, maxBatch), ended: make(chan struct{})}
}

// Record stores an event, and returns when it is on disk. After an error it was stored or not. It waits for Run.
func (w *Writer) Record(ctx context.Context, event *Event) (Stored, error) {
	return w.store(ctx, &Entry{Event: event})
}

// Do records that something is begun, does it, and records how it ended: what was done is never without a record,
// wherever the process dies. What cannot be recorded is not begun. Where the outcome alone cannot be recorded, the
// error says so.
func (w *Writer) Do(ctx context.Context, event *Event, do func() error) error {
	begun := proto.CloneOf(event)
	begun.Result = Result_RESULT_BEGUN
	stored, err := w.Record(ctx, begun)
	if err != nil {
		return err
	}
	err = do()
	outcome := proto.CloneOf(event) // do may have found out more
	outcome.Begun = stored.Number
	if err != nil {
		outcome.Result, outcome.Detail = Result_RESULT_FAILED, err.Error()
	}
	_, recordErr := w.Record(context.WithoutCancel(ctx), outcome)
	if err != nil {
		return err
	}
	return recordErr
}

func (w *Writer) store(ctx context.Context, entry *Entry) (Stored, error) {
	if size := proto.Size(entry); size > maxEvent {
		return Stored{}, fmt.Errorf("record in the audit: the event has %d bytes, at most %d", size, maxEvent)
	}
	p := &pending{entry: entry, done: make(chan struct{})}
	select {
	case w.queue <- p:
	case <-w.ended:
		return Stored{}, ErrStopped
	case <-ctx.Done():
		return Stored{}, fmt.Errorf("record in the audit: %w", context.Cause(ctx))
	}
	select {
	case <-p.done:
	case <-w.ended:
		return Stored{}, ErrStopped
	case <-ctx.Done():
		return Stored{}, fmt.Errorf("record in the audit: %w", context.Cause(ctx))
	}
	if p.err != nil {
		return Stored{}, fmt.Errorf("record in the audit: %w", p.err)
	}
	return p.stored, nil
}

// Run writes until ctx ends. What is still queued then was not recorded.
func (w *Writer) Run(ctx context.Context) error {
	defer close(w.ended)
	for {
		select {
		case <-ctx.Done():
			return nil
		case first := <-w.queue:
			batch, size := []*pending{first}, proto.Size(first.entry)
			for more := true; more && len(batch) < maxBatch && size < maxBatchBytes; {
				select {
				case next := <-w.queue:
					batch, size = append(batch, next), size+proto.Size(next.entry)
				default:
					more = false
				}
			}
			err := w.write(ctx, batch)
			if err != nil && ctx.Err() == nil {
				w.cfg.Log.Error("events cannot be recorded", "events", len(batch), "err", err)
			}
			for _, p := range batch {
				p.err = err
				close(p.done)
			}
		}
	}
}

// write stores a batch. After an error the head is read again: it says whether the batch is there.
func (w *Writer) write(ctx context.Context, batch []*pending) error {
	if !w.known {
		if err := w.readHead(ctx); err != nil {
			return err
		}
	}
	number, hash := w.number, w.hash
	all := make([][]byte, 0, len(batch))
	for _, p := range batch {
		number++
		p.entry.Cluster, p.entry.Writer, p.entry.Number, p.entry.Previous = w.cfg.Cluster, w.cfg.Writer, number, hash
		p.entry.UnixNs = w.cfg.Now().UnixNano()
		data, err := seal(w.cfg.Signer(), p.entry)
		if err != nil {
			return err
		}
		p.data, hash = data, HashOf(data)
		all = append(all, data)
	}
	last, err := w.cfg.Store.AppendAll(ctx, Subject(w.cfg.Writer), all, w.sequence)
	if err != nil {
		w.known = false
		if w.readHead(ctx) != nil || !bytes.Equal(w.hash, hash) {
			return err
		}
		last = w.sequence // stored, and the answer was lost
	}
	for i, p := range batch {
		p.stored = Stored{Number: p.entry.GetNumber(), Sequence: last - uint64(len(batch)-1-i), Data: p.data}
	}
	w.number, w.hash, w.sequence = number, hash, last
	return nil
}

func (w *Writer) readHead(ctx context.Context) error {
	last, err := w.cfg.Store.Get(ctx, Subject(w.cfg.Writer))
	if errors.Is(err, bus.ErrNotFound) {
		w.known, w.number, w.hash, w.sequence = true, 0, nil, 0
		return nil
	}
	if err != nil {
		return err
	}
	entry, err := Open(last.Data)
	if err != nil {
		return fmt.Errorf("the newest record of %s cannot be read: %w (`sennit audit verify` says what is damaged; restore the state directory from a backup)", w.cfg.Writer, err)
	}
	w.known, w.number, w.hash, w.sequence = true, entry.GetNumber(), HashOf(last.Data), last.Sequence
	return nil
}
