package controller

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// readStall is how long the next document may take to be read at the start.
const readStall = 10 * time.Second

var errDamaged = errors.New("documents that were stored cannot be read any more")

// checkDocuments reads the log of documents once, which keeps every revision and so has no gaps. The embedded
// server passes over records that are damaged without a word, and a controller that did the same would tell
// the nodes that what they hold has been deleted.
func (c *Controller) checkDocuments(ctx context.Context) error {
	records := c.conn.Records(bus.StreamResource)
	last, err := records.Last(ctx)
	if err != nil {
		return err
	}
	published, err := c.publishedFrom(ctx)
	if err != nil {
		return err
	}
	if published > last {
		return fmt.Errorf("%w: %s ends with number %d, and number %d was in what nodes have (restore the state directory from a backup)",
			errDamaged, filepath.Join(c.cfg.StateDir, "streams"), last, published)
	}
	if last == 0 {
		return nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	read := uint64(0)
	stalled := time.AfterFunc(readStall, func() { stop(errDamaged) })
	defer stalled.Stop()
	errRead := errors.New("all is read")
	err = records.Follow(ctx, 1, func(e bus.Entry) error {
		if e.Sequence != read+1 {
			return errDamaged
		}
		if read++; read >= last {
			return errRead
		}
		stalled.Reset(readStall)
		return nil
	})
	switch {
	case errors.Is(err, errRead):
		return nil
	case errors.Is(err, errDamaged), errors.Is(context.Cause(ctx), errDamaged):
		return fmt.Errorf("%w: number %d of %d is missing in %s (restore the state directory from a backup)",
			errDamaged, read+1, last, filepath.Join(c.cfg.StateDir, "streams"))
	}
	return err
}

// publishedFrom returns the newest document that went into the stored snapshots. A log whose end was damaged is
// cut off there by the embedded server, and shows no gap.
func (c *Controller) publishedFrom(ctx context.Context) (newest uint64, err error) {
	records := c.conn.Records(bus.StreamConfig)
	last, err := records.Last(ctx)
	if err != nil || last == 0 {
		return 0, err
	}
	first, err := records.First(ctx)
	if err != nil || first > last {
		return 0, err
	}
	reading, stop := context.WithTimeout(ctx, readStall) // what cannot be read here is compiled anew
	defer stop()
	errRead := errors.New("all is read")
	err = records.Follow(reading, first, func(e bus.Entry) error {
		var message snapshot.Message
		var envelope snapshot.Envelope
		if proto.Unmarshal(e.Data, &message) == nil && proto.Unmarshal(message.GetEnvelope(), &envelope) == nil {
			newest = max(newest, envelope.GetBuiltFrom().GetResources())
		}
		if e.Sequence >= last {
			return errRead
		}
		return nil
	})
	if errors.Is(err, errRead) || reading.Err() != nil && ctx.Err() == nil {
		return newest, nil
	}
	return newest, err
}
