package bus

import (
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A nudge asks one node to ask: its subject is all that it says. Nobody believes anything because of it. What a node
// learns is in the answer to its own request, which is signed and carries the request's nonce; so a nudge that was
// forged, repeated or lost costs a request, or a second until the next.

// nudgeSubject is where a node is nudged. Nothing is stored there.
func nudgeSubject(node string) string { return snapshot.LivePrefix + "tap." + snapshot.Escape(node) }

// Nudge makes a node ask who taps it; only controllers may. It does not wait for the node.
func (c *Conn) Nudge(node string) error {
	if err := c.nc.Publish(nudgeSubject(node), nil); err != nil {
		return fmt.Errorf("nudge node %q: %w", node, err)
	}
	return nil
}

// Nudged calls fn each time that this node is nudged, until stop is called. fn must not block.
func (c *Conn) Nudged(fn func()) (stop func(), err error) {
	sub, err := c.nc.Subscribe(nudgeSubject(c.cfg.Name), func(*nats.Msg) { fn() })
	if err != nil {
		return nil, fmt.Errorf("hear of taps: %w", err)
	}
	return func() { _ = sub.Unsubscribe() }, nil // fails where the connection is closed, which is as good
}
