package bus

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/internal/segments"
)

const (
	connectTimeout = 5 * time.Second
	reconnectFirst = 100 * time.Millisecond
	reconnectMost  = 5 * time.Second
	// dialAgain is when another connection is begun where nobody answered the first. A kernel repeats its own after 1, 3
	// and 7 seconds: a network that is mended in between would be noticed up to four seconds late.
	dialAgain = 500 * time.Millisecond
)

// A dialer makes the TCP connections of one Conn (nats.CustomDialer), one at a time.
type dialer struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	// unanswered says that the last attempt found nobody who even refused.
	unanswered atomic.Bool
}

// newDialer keeps packets short: the bus carries so little that they cost little.
func newDialer() *dialer {
	return &dialer{dial: (&net.Dialer{Control: segments.Short}).DialContext}
}

// Dial connects within connectTimeout. The first connection that stands is it; a refusal ends all.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results, left := make(chan result), make(chan struct{})
	defer close(left)
	begin := func() {
		conn, err := d.dial(ctx, network, address)
		select {
		case results <- result{conn, err}:
		case <-left:
			if conn != nil {
				_ = conn.Close() // another was faster
			}
		}
	}
	go begin()
	tick := time.NewTicker(dialAgain)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if ctx.Err() == nil {
				go begin()
			}
		case first := <-results:
			var timeout net.Error
			d.unanswered.Store(errors.Is(first.err, context.DeadlineExceeded) || errors.As(first.err, &timeout) && timeout.Timeout())
			return first.conn, first.err
		}
	}
}

// delay doubles from reconnectFirst to reconnectMost, each with up to as much again at random, so that the nodes of a
// mesh do not come back all at once. Where nobody answered, connecting itself took its time: the next begins soon.
func (d *dialer) delay(attempts int) time.Duration {
	delay := reconnectMost
	if attempts < 10 {
		delay = min(reconnectFirst<<max(attempts-1, 0), reconnectMost)
	}
	if d.unanswered.Load() {
		delay = reconnectFirst
	}
	return delay + rand.N(delay)
}
