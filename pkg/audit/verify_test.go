package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// stream is a stream in memory.
type stream struct {
	entries []bus.Entry
	fail    error // of the next AppendAll, which stores where lost
	lost    bool
}

func (s *stream) Get(_ context.Context, subject string) (bus.Entry, error) {
	for _, e := range slices.Backward(s.entries) {
		if e.Subject == subject {
			return e, nil
		}
	}
	return bus.Entry{}, bus.ErrNotFound
}

func (s *stream) AppendAll(ctx context.Context, subject string, all [][]byte, expect uint64) (uint64, error) {
	last, _ := s.Get(ctx, subject)
	if last.Sequence != expect {
		return 0, bus.ErrConflict
	}
	err := s.fail
	if s.fail = nil; err == nil || s.lost {
		for _, data := range all {
			s.entries = append(s.entries, bus.Entry{Subject: subject, Data: data, Sequence: uint64(len(s.entries) + 1)})
		}
	}
	return uint64(len(s.entries)), err
}

// history is what two controllers wrote, and the log of documents that it is of.
type history struct {
	stream
	documents []bus.Entry
	keys      snapshot.Keys
	writers   []*Writer
	heads     *Heads
	kept      *Head
	taken     int // entries that heads has
}

func newHistory(writers ...string) *history {
	h := &history{keys: snapshot.Keys{}, heads: NewHeads(nil, nil)}
	for i, name := range writers {
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i + 1)}, ed25519.SeedSize))
		signer := snapshot.NewSigner(key)
		h.keys[signer.ID] = key.Public().(ed25519.PublicKey)
		clock := time.Unix(1_800_000_000, 0)
		h.writers = append(h.writers, NewWriter(WriterConfig{Store: &h.stream, Cluster: "demo", Writer: name, Signer: func() snapshot.Signer { return signer }, Now: func() time.Time {
			clock = clock.Add(time.Second)
			return clock
		}}))
	}
	return h
}

func (h *history) write(w *Writer, entries ...*Entry) error {
	var batch []*pending
	for _, e := range entries {
		batch = append(batch, &pending{entry: e})
	}
	if err := w.write(context.Background(), batch); err != nil {
		return err
	}
	if last := batch[len(batch)-1]; last.entry.GetCheckpoint() != nil {
		h.kept = &Head{Writer: w.cfg.Writer, Number: last.stored.Number, Hash: HashOf(last.stored.Data)}
	}
	return nil
}

// change stores a revision of a document and returns its event.
func (h *history) change(name string) *Entry {
	event := &Event{Kind: Change, Actor: "alice", From: "192.0.2.7:50000", Verb: "apply", Resource: "services", Namespace: "default", Name: name}
	for _, e := range h.documents {
		if e.Subject == name {
			event.Before = RevisionOf(e)
		}
	}
	e := bus.Entry{Subject: name, Data: fmt.Appendf(nil, "%s %d", name, len(h.documents)), Sequence: uint64(len(h.documents) + 1), Time: time.Unix(1_800_000_000, int64(len(h.documents)))}
	h.documents = append(h.documents, e)
	event.After = RevisionOf(e)
	return &Entry{Event: event}
}

func (h *history) checkpoint(w *Writer) error {
	for _, e := range h.entries[h.taken:] {
		h.heads.take(e)
	}
	h.taken = len(h.entries)
	if c := h.heads.checkpoint(); c != nil {
		return h.write(w, &Entry{Checkpoint: c})
	}
	return nil
}

func verify(entries, documents []bus.Entry, keys snapshot.Keys, kept *Head) Findings {
	v := NewVerifier("demo", keys, kept)
	for _, e := range documents {
		v.Document(e)
	}
	for _, e := range entries {
		v.Record(e)
	}
	return v.Findings()
}

func (h *history) verify() Findings { return verify(h.entries, h.documents, h.keys, h.kept) }

// drawn draws a history of changes, joins and checkpoints by two controllers, that ends as it likes.
func drawn(t *rapid.T) *history {
	h := newHistory("c1", "c2")
	for range rapid.IntRange(2, 30).Draw(t, "steps") {
		w := h.writers[rapid.IntRange(0, 1).Draw(t, "writer")]
		var err error
		switch rapid.IntRange(0, 3).Draw(t, "step") {
		case 0:
			err = h.checkpoint(w)
		case 1:
			err = h.write(w, &Entry{Event: &Event{Kind: Join, Actor: "web1", Verb: "join"}}, &Entry{Event: &Event{
				Kind: Issuance, Actor: "web1", Certificates: []*Certificate{{Serial: "5f", SpiffeId: "spiffe://demo.example/node/web1", NotAfterUnixMs: 1}}}})
		case 2:
			var changes []*Entry
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				changes = append(changes, h.change(rapid.SampledFrom([]string{"orders", "payments"}).Draw(t, "name")))
			}
			err = h.write(w, changes...)
		case 3:
			h.fail, h.lost = fmt.Errorf("the answer was lost"), true
			err = h.write(w, h.change("orders"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if found := h.verify(); len(found.Problems) > 0 || found.Records != len(h.entries) {
		t.Fatalf("a history that nobody touched: %+v", found)
	}
	return h
}

// covered tells whether the newest checkpoint covers entry i, or it is that checkpoint, of which a copy is kept.
func (h *history) covered(i int) bool {
	entry, _ := Open(h.entries[i].Data)
	if h.kept == nil {
		return false
	}
	for _, e := range h.entries {
		c, _ := Open(e.Data)
		if c.GetWriter() != h.kept.GetWriter() || c.GetNumber() != h.kept.GetNumber() {
			continue
		}
		for _, head := range c.GetCheckpoint().GetHeads() {
			if head.GetWriter() == entry.GetWriter() && entry.GetNumber() <= head.GetNumber() {
				return true
			}
		}
		return entry.GetWriter() == c.GetWriter() && entry.GetNumber() <= c.GetNumber()
	}
	return false
}

func renumber(entries []bus.Entry) []bus.Entry {
	for i := range entries {
		entries[i].Sequence = uint64(i + 1)
	}
	return entries
}

func TestEveryChangeOfTheStreamIsFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := drawn(t)
		if len(h.entries) == 0 {
			t.Skip("nothing was stored")
		}
		entries := slices.Clone(h.entries)
		i := rapid.IntRange(0, len(entries)-1).Draw(t, "record")
		entry, err := Open(entries[i].Data)
		if err != nil {
			t.Fatal(err)
		}
		last, err := h.Get(t.Context(), entries[i].Subject)
		if err != nil {
			t.Fatal(err)
		}
		what := rapid.SampledFrom([]string{"flip", "remove", "insert", "repeat", "swap", "truncate", "rewrite"}).Draw(t, "what")
		switch what {
		case "flip":
			data := bytes.Clone(entries[i].Data)
			data[rapid.IntRange(0, len(data)-1).Draw(t, "byte")] ^= byte(1 << rapid.IntRange(0, 7).Draw(t, "bit"))
			entries[i].Data = data
		case "remove": // and whoever did it hid the gap
			if last.Sequence == entries[i].Sequence && !h.covered(i) {
				t.Skip("the end of a chain behind the newest checkpoint")
			}
			entries = renumber(slices.Delete(entries, i, i+1))
		case "insert": // by somebody without a controller's key
			forged := snapshot.NewSigner(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize)))
			entry.Number, entry.Previous = entry.GetNumber()+1, HashOf(entries[i].Data)
			data, err := seal(forged, entry)
			if err != nil {
				t.Fatal(err)
			}
			entries = renumber(slices.Insert(entries, i+1, bus.Entry{Subject: entries[i].Subject, Data: data}))
		case "repeat":
			entries = renumber(append(entries, entries[i]))
		case "swap":
			j := slices.IndexFunc(entries[i+1:], func(e bus.Entry) bool { return e.Subject == entries[i].Subject })
			if j < 0 {
				t.Skip("the last of its chain")
			}
			entries[i], entries[i+1+j] = entries[i+1+j], entries[i]
			entries = renumber(entries)
		case "truncate":
			if !h.covered(i) {
				t.Skip("behind the newest checkpoint")
			}
			entries = entries[:i]
		case "rewrite": // by somebody who has a controller's key, and makes the whole chain anew behind it
			if !h.covered(i) {
				t.Skip("behind the newest checkpoint")
			}
			w := h.writers[slices.IndexFunc(h.writers, func(w *Writer) bool { return w.cfg.Writer == entry.GetWriter() })]
			entry.UnixNs++
			hash := []byte(nil)
			for j := i; j < len(entries); j++ {
				if entries[j].Subject != entries[i].Subject {
					continue
				}
				if j > i {
					if entry, err = Open(entries[j].Data); err != nil {
						t.Fatal(err)
					}
					entry.Previous = hash
				}
				data, err := seal(w.cfg.Signer(), entry)
				if err != nil {
					t.Fatal(err)
				}
				entries[j].Data, hash = data, HashOf(data)
			}
		}
		if found := verify(entries, h.documents, h.keys, h.kept); len(found.Problems) == 0 {
			t.Fatalf("%s of record %d of %d was not found: %+v", what, i+1, len(h.entries), found)
		}
	})
}

func TestChangedDocumentsAreFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := drawn(t)
		if len(h.documents) == 0 {
			t.Skip("no document")
		}
		documents := slices.Clone(h.documents)
		i := rapid.IntRange(0, len(documents)-1).Draw(t, "document")
		switch rapid.IntRange(0, 3).Draw(t, "what") {
		case 0:
			documents[i].Data = bytes.Clone(documents[i].Data)
			documents[i].Data[0] ^= 1
		case 1:
			documents = slices.Delete(documents, i, i+1)
		case 2:
			documents[i].Subject = "another"
		case 3:
			documents[i].Time = documents[i].Time.Add(-time.Hour)
		}
		if found := verify(h.entries, documents, h.keys, h.kept); len(found.Problems) == 0 {
			t.Fatalf("document %d was changed: %+v", i+1, found)
		}
	})
}

// What cannot be found, so that nobody takes the promise for more than it is.
func TestTheEndBehindTheNewestCheckpointCanBeCutOff(t *testing.T) {
	t.Parallel()
	h := newHistory("c1")
	w := h.writers[0]
	for range 3 {
		if err := h.write(w, h.change("orders")); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.checkpoint(w); err != nil {
		t.Fatal(err)
	}
	if err := h.write(w, &Entry{Event: &Event{Kind: Refusal, Actor: "web1"}}); err != nil {
		t.Fatal(err)
	}
	if found := verify(h.entries[:4], h.documents, h.keys, h.kept); len(found.Problems) > 0 {
		t.Errorf("it was found after all: %+v", found)
	}
	found := verify(h.entries[:3], h.documents, h.keys, h.kept)
	if len(found.Problems) != 1 || !strings.Contains(found.Problems[0], "cut off") {
		t.Errorf("a checkpoint is missing: %+v", found)
	}
	if found := h.verify(); found.Uncovered != 2 || found.Newest.GetNumber() != 4 || found.Checkpoints != 1 {
		t.Errorf("%+v", found)
	}
}

// A document whose change nobody recorded was put there past the controllers.
func TestAChangeWithoutARecordIsFound(t *testing.T) {
	t.Parallel()
	h := newHistory("c1")
	h.change("orders")
	if err := h.write(h.writers[0], h.change("payments")); err != nil {
		t.Fatal(err)
	}
	if found := h.verify(); len(found.Problems) != 1 || !strings.Contains(found.Problems[0], "revision 1 in the log of documents has no record") {
		t.Errorf("%+v", found)
	}
}

// Keys are retired. What they signed is covered by a later checkpoint of a key that is listed.
func TestARetiredKeysRecordsAreCovered(t *testing.T) {
	t.Parallel()
	h := newHistory("c1", "c2")
	if err := h.write(h.writers[0], h.change("orders")); err != nil {
		t.Fatal(err)
	}
	delete(h.keys, h.writers[0].cfg.Signer().ID)
	if found := h.verify(); len(found.Problems) != 1 || !strings.Contains(found.Problems[0], "no checkpoint covers it") {
		t.Errorf("%+v", found)
	}
	if err := h.checkpoint(h.writers[1]); err != nil {
		t.Fatal(err)
	}
	if found := h.verify(); len(found.Problems) != 0 {
		t.Errorf("%+v", found)
	}
}
