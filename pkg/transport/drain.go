package transport

import (
	"context"
	"fmt"
)

// Drain lets go of all lanes without losing an exchange. Peers are told to open no more here and close their
// connections when the last exchange has ended; meanwhile this node's own calls go on. Then Open refuses,
// and this node's own lanes are drained likewise. It returns nil when all are closed, and where ctx ends
// before that an error that says how many exchanges still run. There is no way back; end Run afterwards.
func (t *Transport) Drain(ctx context.Context) error {
	t.draining.Store(true)
	if err := t.awaitNone(ctx, func(c *conn) bool { return c.lane == nil }, (*conn).goAway); err != nil {
		return err
	}
	t.shut.Store(true)
	for _, l := range *t.lanes.Load() {
		l.leave()
	}
	return t.awaitNone(ctx, func(*conn) bool { return true }, func(c *conn) {
		if c.lane == nil {
			c.goAway()
		} else {
			c.drain()
		}
	})
}

// awaitNone tells each connection of a kind to end, until there is none, nor any that peers began to open.
func (t *Transport) awaitNone(ctx context.Context, kind func(*conn) bool, tell func(*conn)) error {
	for {
		left, running := 0, 0
		for _, c := range t.conns() {
			if kind(c) {
				tell(c)
				c.mu.Lock()
				running += int(c.running.Load())
				c.mu.Unlock()
				left++
			}
		}
		// Those whose handshake is not complete yet are counted by inbound alone.
		if left == 0 && t.inbound.Load() == 0 {
			return nil
		}
		select {
		case <-t.changed:
		case <-ctx.Done():
			return fmt.Errorf("drain: %d exchanges still run on %d connections: %w", running, left, context.Cause(ctx))
		}
	}
}
