package audit_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func signer() snapshot.Signer {
	return snapshot.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
}

// Many record at once, over a real stream, and the writer is started again in between.
func TestRecordedOnARealStream(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	records := b.Controller.Records(bus.StreamAudit)
	key := signer()
	var kept []byte
	const each, rounds = 40, 2
	for round := range rounds {
		w := audit.NewWriter(audit.WriterConfig{Store: records, Cluster: "demo", Writer: "c1", Signer: func() snapshot.Signer { return key }, Log: b.Log})
		ctx, stop := context.WithCancel(t.Context())
		var running, recording sync.WaitGroup
		running.Go(func() { _ = w.Run(ctx) })
		for i := range each {
			recording.Go(func() {
				if _, err := w.Record(t.Context(), &audit.Event{Kind: audit.Refusal, Actor: fmt.Sprint("web", i)}); err != nil {
					t.Error(err)
				}
			})
		}
		recording.Wait()
		_, from, err := audit.Kept(kept)
		if err != nil {
			t.Fatal(err)
		}
		heads := audit.NewHeads(records, from)
		running.Go(func() { _ = heads.Run(ctx) })
		if _, err := heads.Documents(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.Checkpoint(t.Context(), heads, func(data []byte) error { kept = data; return nil }); err != nil {
			t.Fatal(err)
		}
		stop()
		running.Wait()
		if _, err := w.Record(t.Context(), &audit.Event{Kind: audit.Refusal}); !errors.Is(err, audit.ErrStopped) {
			t.Errorf("round %d: a writer that has ended: %v", round, err)
		}
	}
	head, _, err := audit.Kept(kept)
	if err != nil {
		t.Fatal(err)
	}
	v := audit.NewVerifier("demo", snapshot.Keys{key.ID: key.Public().GetEd25519()}, head)
	last, err := records.Last(t.Context())
	if err != nil || last != rounds*(each+1) {
		t.Fatalf("%d records, %v", last, err)
	}
	errRead := errors.New("all is read")
	if err := records.Follow(t.Context(), 1, func(e bus.Entry) error {
		v.Record(e)
		if e.Sequence == last {
			return errRead
		}
		return nil
	}); !errors.Is(err, errRead) {
		t.Fatal(err)
	}
	if found := v.Findings(); len(found.Problems) > 0 || found.Checkpoints != rounds || found.Uncovered != 1 {
		t.Errorf("%+v", found)
	}
}

// An act is recorded before it is begun and when it has ended, and one that cannot be recorded is not begun.
func TestActsAreRecordedBeforeTheyAreBegun(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	records := b.Controller.Records(bus.StreamAudit)
	w := audit.NewWriter(audit.WriterConfig{Store: records, Cluster: "demo", Writer: "c1", Signer: signer, Log: b.Log})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = w.Run(ctx) })
	at := func(sequence uint64) *audit.Event {
		e, err := records.At(t.Context(), sequence)
		if err != nil {
			t.Fatal(err)
		}
		entry, err := audit.Open(e.Data)
		if err != nil {
			t.Fatal(err)
		}
		return entry.GetEvent()
	}
	refused := errors.New("it is not frozen")
	err := w.Do(t.Context(), &audit.Event{Kind: audit.Change, Verb: "accept", Name: "web1"}, func() error {
		if e := at(1); e.GetResult() != audit.Result_RESULT_BEGUN || e.GetName() != "web1" {
			t.Errorf("before it is done: %v", e)
		}
		return refused
	})
	if !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	if e := at(2); e.GetResult() != audit.Result_RESULT_FAILED || e.GetDetail() != refused.Error() {
		t.Errorf("when it has failed: %v", e)
	}
	if err := w.Do(t.Context(), &audit.Event{Kind: audit.Change, Verb: "remove", Name: "web1"}, func() error { return nil }); err != nil {
		t.Error(err)
	}
	if e := at(4); e.GetResult() != audit.Result_RESULT_DONE || e.GetBegun() != 3 {
		t.Errorf("when it is done: %v", e)
	}
	stop()
	running.Wait()
	err = w.Do(t.Context(), &audit.Event{Kind: audit.Change}, func() error { t.Error("it was done without a record"); return nil })
	if !errors.Is(err, audit.ErrStopped) {
		t.Errorf("got %v", err)
	}
}
