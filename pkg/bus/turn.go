package bus

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A Turn is a controller's term over a stream that it alone writes, other than that of configuration. Each write is
// conditional on the turn's record, so that one who was paused can write nothing when it wakes. It is used by one
// goroutine.
type Turn struct {
	stream   *jetConfig
	record   *TermRecord
	fence    uint64 // the sequence of the record
	instance []byte
}

// TakeTurn begins a controller's turn over a stream, which ends that of whoever had it, and hands over all that is
// stored there. What others still have on its way is refused from then on.
func (c *Conn) TakeTurn(ctx context.Context, stream Stream, controller string, now time.Time, fn func(Entry) error) (*Turn, error) {
	js, err := c.js.Stream(ctx, string(stream))
	if err != nil {
		return nil, fmt.Errorf("take the turn of %s: %w", stream, storeError(err))
	}
	subject := "sennit." + strings.ToLower(strings.TrimPrefix(string(stream), "SENNIT_")) + ".term"
	t := &Turn{stream: &jetConfig{conn: c.nc, stream: js, subject: subject}, instance: make([]byte, 16)}
	rand.Read(t.instance) // never fails
	before, sequence, err := t.stream.term(ctx)
	if err != nil {
		return nil, fmt.Errorf("take the turn of %s: %w", stream, err)
	}
	t.record = &TermRecord{Number: before.GetNumber() + 1, Controller: controller, Instance: t.instance, UnixMs: now.UnixMilli()}
	if t.fence, err = t.write(ctx, sequence, nil); err != nil {
		return nil, fmt.Errorf("take the turn of %s: %w", stream, err)
	}
	errRead := errors.New("all is read")
	err = c.Records(stream).Follow(ctx, 1, func(e Entry) error {
		if e.Subject != subject {
			if err := fn(e); err != nil {
				return err
			}
		}
		if e.Sequence >= t.fence {
			return errRead
		}
		return nil
	})
	switch {
	case errors.Is(err, errRead):
		return t, nil
	case err != nil:
		return nil, fmt.Errorf("take the turn of %s: %w", stream, err)
	}
	return nil, ctx.Err()
}

// Number is one more than that of the turn before.
func (t *Turn) Number() uint64 { return t.record.GetNumber() }

// Write stores all records or none, as long as the turn lasts; without any it makes sure that it does. It fails with
// ErrDeposed where it is over. After any other error the records may be stored or not, and the turn is to be taken
// again.
func (t *Turn) Write(ctx context.Context, records []snapshot.Raw) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	fence, err := t.write(ctx, t.fence, records)
	if err == nil {
		t.fence = fence
		return nil
	}
	if !errors.Is(err, errRefused) {
		return err
	}
	current, _, readErr := t.stream.term(ctx)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	if !bytes.Equal(current.GetInstance(), t.instance) {
		return fmt.Errorf("term %d is of %q: %w", current.GetNumber(), current.GetController(), ErrDeposed)
	}
	return err
}

// write stores the turn's own record anew, before the others, in one batch: what is conditional on it is what the
// others are conditional on, and a stream that forgets what is old does not forget it. It returns the record's
// sequence.
func (t *Turn) write(ctx context.Context, fence uint64, records []snapshot.Raw) (uint64, error) {
	data, err := proto.Marshal(t.record)
	if err != nil {
		return 0, err
	}
	batch := append([]snapshot.Raw{{Subject: t.stream.subject, Data: data}}, records...)
	last, err := t.stream.write(ctx, fence, batch)
	return last - uint64(len(records)), err
}
