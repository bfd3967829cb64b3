package bus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

func TestAppendIsConditionalOnTheSubjectsLastRecord(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	records := bustest.Start(t).Controller.Records(bus.StreamResource)
	const subject = "sennit.resource.v1.services.default.orders"

	if _, err := records.Get(ctx, subject); !errors.Is(err, bus.ErrNotFound) {
		t.Fatalf("Get of nothing: %v, want ErrNotFound", err)
	}
	first, err := records.Append(ctx, subject, []byte("a"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := records.Append(ctx, subject, []byte("b"), 0); !errors.Is(err, bus.ErrConflict) {
		t.Fatalf("Append as if there were none: %v, want ErrConflict", err)
	}
	if _, err := records.Append(ctx, subject+"2", []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	second, err := records.Append(ctx, subject, []byte("c"), first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := records.Append(ctx, subject, []byte("d"), first); !errors.Is(err, bus.ErrConflict) {
		t.Fatalf("Append on an old sequence: %v, want ErrConflict", err)
	}
	entry, err := records.Get(ctx, subject)
	if err != nil || string(entry.Data) != "c" || entry.Sequence != second || entry.Subject != subject || entry.Time.IsZero() {
		t.Fatalf("Get: %+v, %v; want c at %d", entry, err, second)
	}
	if last, err := records.Last(ctx); err != nil || last != second {
		t.Fatalf("Last: %d, %v; want %d", last, err, second)
	}
	if first, err := records.First(ctx); err != nil || first != 1 {
		t.Fatalf("First: %d, %v; want 1", first, err)
	}
}

func TestAppendAllStoresAllOrNone(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	records := bustest.Start(t).Controller.Records(bus.StreamAudit)
	const subject = "sennit.audit.c1.log"

	last, err := records.AppendAll(ctx, subject, [][]byte{[]byte("a"), []byte("b"), []byte("c")}, 0)
	if err != nil || last != 3 {
		t.Fatalf("%d, %v", last, err)
	}
	if _, err := records.AppendAll(ctx, subject, [][]byte{[]byte("x"), []byte("y")}, 2); !errors.Is(err, bus.ErrConflict) {
		t.Errorf("on an old sequence: %v, want ErrConflict", err)
	}
	if last, err = records.AppendAll(ctx, subject, [][]byte{[]byte("d")}, 3); err != nil || last != 4 {
		t.Fatalf("one alone: %d, %v", last, err)
	}
	for sequence, want := range map[uint64]string{1: "a", 2: "b", 3: "c", 4: "d"} {
		if e, err := records.At(ctx, sequence); err != nil || string(e.Data) != want || e.Subject != subject || e.Sequence != sequence || e.Time.IsZero() {
			t.Errorf("record %d: %+v, %v", sequence, e, err)
		}
	}
	if _, err := records.At(ctx, 5); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("At of nothing: %v, want ErrNotFound", err)
	}
}

func TestStreamsKeepWhatTheyPromise(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := bustest.Start(t)
	for _, tt := range []struct {
		stream bus.Stream
		token  string
		kept   int // of three records of one subject
	}{
		{bus.StreamResource, "resource", 3},
		{bus.StreamAudit, "audit", 3},
		{bus.StreamStatus, "status", 1},
		{bus.StreamInstance, "instance", 1},
		{bus.StreamConfig, "config", 1},
		{bus.StreamRegistry, "registry", 1},
		{bus.StreamQuota, "quota", 1},
	} {
		records := b.Controller.Records(tt.stream)
		subject := "sennit." + tt.token + ".a.b"
		var last uint64
		for i := range 3 {
			var err error
			if last, err = records.Append(ctx, subject, fmt.Append(nil, i), last); err != nil {
				t.Fatalf("%s: %v", tt.stream, err)
			}
		}
		if seen := follow(t, records, 1, last); len(seen) != tt.kept {
			t.Errorf("%s keeps %d records of three of one subject, want %d", tt.stream, len(seen), tt.kept)
		}
		if _, err := records.Append(ctx, "sennit.other.a", nil, 0); err == nil {
			t.Errorf("%s stored a subject that is not its own", tt.stream)
		}
		err := records.Forget(ctx, subject, last)
		_, gone := records.Get(ctx, subject)
		if everything := tt.stream == bus.StreamResource || tt.stream == bus.StreamAudit; everything != (err != nil) || everything != (gone == nil) {
			t.Errorf("%s: forgetting gave %v, and then reading %v", tt.stream, err, gone)
		}
	}
}

// follow reads records up to a sequence.
func follow(t *testing.T, records *bus.Records, from, last uint64) (seen []bus.Entry) {
	t.Helper()
	done := errors.New("done")
	err := records.Follow(t.Context(), from, func(entry bus.Entry) error {
		seen = append(seen, entry)
		if entry.Sequence >= last {
			return done
		}
		return nil
	})
	if !errors.Is(err, done) {
		t.Fatalf("Follow ended with %v before sequence %d", err, last)
	}
	return seen
}

func TestFollowEndsWithItsContext(t *testing.T) {
	t.Parallel()
	records := bustest.Start(t).Controller.Records(bus.StreamResource)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := records.Append(ctx, "sennit.resource.a", nil, 0); err != nil {
		t.Fatal(err)
	}
	err := records.Follow(ctx, 0, func(bus.Entry) error { cancel(); return nil })
	if err != nil {
		t.Fatalf("Follow: %v, want nil when its context ends", err)
	}
}

// A stream has at most a thousand consumers: a follower that has ended must not count.
func TestWhoFollowedLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	conn := bustest.Start(t).Controller
	records := conn.Records(bus.StreamRegistry)
	if _, err := records.Append(t.Context(), "sennit.registry.node.a", []byte("a"), 0); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	for range 10 {
		if err := records.Follow(t.Context(), 1, func(bus.Entry) error { return enough }); !errors.Is(err, enough) {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err := records.Follow(ctx, 1, func(bus.Entry) error {
			cancel()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n, err := conn.Consumers(t.Context(), bus.StreamRegistry); err != nil || n != 0 {
		t.Errorf("%d consumers are left, %v", n, err)
	}
}
