package sim

import (
	"context"
	"errors"
	"time"
)

// cut breaks the connections of all nodes at once; each connects again without a pause. It is over when every
// node has a beat that was made since, and the change that was made meanwhile.
func (f *fleet) cut(ctx context.Context) (Recovery, error) {
	return f.recover(ctx, func(context.Context) error {
		for _, n := range f.nodes {
			if err := n.conn.Reconnect(); err != nil {
				return err
			}
		}
		return nil
	})
}

// restart kills the controller and starts it again. Nodes try to connect after 100 to 200 ms, then after twice
// that, and so on.
func (f *fleet) restart(ctx context.Context) (Recovery, error) {
	return f.recover(ctx, func(ctx context.Context) error {
		if err := f.mesh.Controller().Kill(); err != nil {
			return err
		}
		return f.mesh.StartController(ctx)
	})
}

func (f *fleet) recover(ctx context.Context, fail func(context.Context) error) (r Recovery, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, setupTime, errors.New("the nodes took too long to come back"))
	defer cancel()
	beat, controller := f.beat(), f.mesh.Controller()
	before, err := f.usage()
	if err != nil {
		return r, err
	}
	start := time.Now()
	if err := fail(ctx); err != nil {
		return r, err
	}
	r.Failed = time.Since(start).Seconds()
	if err := f.settle(ctx, beat); err != nil {
		return r, err
	}
	r.Converged = time.Since(start).Seconds()
	after, err := f.usage()
	if f.mesh.Controller() != controller {
		before.controller = 0 // another process, which has spent nothing before
	}
	r.spent(before, after)
	return r, err
}
