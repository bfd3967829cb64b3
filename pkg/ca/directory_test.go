package ca

import (
	"context"
	"errors"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/bus"
)

// A follower reads a store from its beginning.
type follower interface {
	Follow(ctx context.Context, from uint64, fn func(bus.Entry) error) error
	Last(ctx context.Context) (uint64, error)
}

// readDirectory reads a registry as of now.
func readDirectory(t *testing.T, from follower) *Directory {
	t.Helper()
	d := NewDirectory()
	last, err := from.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if last == 0 {
		return d
	}
	read := errors.New("read")
	err = from.Follow(t.Context(), 1, func(e bus.Entry) error {
		if _, err := d.Take(e); err != nil {
			return err
		}
		if e.Sequence >= last {
			return read
		}
		return nil
	})
	if !errors.Is(err, read) {
		t.Fatal(err)
	}
	return d
}

func TestDirectorySkipsWhatItCannotRead(t *testing.T) {
	t.Parallel()
	d := NewDirectory()
	for _, subject := range []string{nodePrefix + "web1", tokenPrefixes + "00"} {
		if node, err := d.Take(bus.Entry{Subject: subject, Data: []byte{0xff}}); err == nil || node {
			t.Errorf("%s: %v, %v", subject, node, err)
		}
	}
	if node, err := d.Take(bus.Entry{Subject: registryPrefix + "other", Data: []byte{0xff}}); err != nil || node {
		t.Errorf("a record of neither: %v, %v", node, err)
	}
	if len(d.Nodes()) != 0 || len(d.Tokens()) != 0 {
		t.Error("something was taken in")
	}
}
