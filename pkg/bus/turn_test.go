package bus_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// takeTurn takes the turn of the stream of quotas, and returns what it read.
func takeTurn(t *testing.T, b *bustest.Bus, name string) (*bus.Turn, []string) {
	t.Helper()
	var read []string
	turn, err := b.Controller.TakeTurn(t.Context(), bus.StreamQuota, name, time.Now(), func(e bus.Entry) error {
		read = append(read, fmt.Sprintf("%s=%s", e.Subject, e.Data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return turn, read
}

func TestATurnEndsTheOneBefore(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	one, read := takeTurn(t, b, "one")
	if len(read) != 0 {
		t.Errorf("a new stream holds %q", read)
	}
	write := func(turn *bus.Turn, text string, subjects ...string) error {
		var records []snapshot.Raw
		for _, s := range subjects {
			records = append(records, snapshot.Raw{Subject: "sennit.quota.reserved." + s, Data: []byte(text)})
		}
		return turn.Write(t.Context(), records)
	}
	for i, subjects := range [][]string{{"a"}, {"a", "b", "c"}, nil, {"b"}} {
		if err := write(one, fmt.Sprint(i), subjects...); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	two, read := takeTurn(t, b, "two")
	slices.Sort(read)
	if want := []string{"sennit.quota.reserved.a=1", "sennit.quota.reserved.b=3", "sennit.quota.reserved.c=1"}; !slices.Equal(read, want) {
		t.Errorf("the next turn reads %q, want %q", read, want)
	}
	if two.Number() != one.Number()+1 {
		t.Errorf("turn %d follows turn %d", two.Number(), one.Number())
	}
	for _, subjects := range [][]string{{"a"}, {"a", "b"}, nil} {
		if err := write(one, "late", subjects...); !errors.Is(err, bus.ErrDeposed) {
			t.Errorf("a write to %q after the turn: %v", subjects, err)
		}
	}
	if err := write(two, "4", "a"); err != nil {
		t.Errorf("the new turn cannot write: %v", err)
	}
	if _, read := takeTurn(t, b, "two"); slices.Contains(read, "sennit.quota.reserved.a=late") || len(read) != 3 {
		t.Errorf("at the end there is %q", read)
	}
}
