package routing

import (
	"fmt"
	"math"
	"sync/atomic"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// What a circuit breaker counts.
const (
	bRequests    = iota // exchanges of HTTP from the choice of an instance to their end, waits between attempts included
	bConnections        // TCP connections that are carried unread
	bPending            // exchanges that wait for a stream to their instance
	breakerKinds
)

// breakerNames are the words for them, in metrics and details.
var breakerNames = [breakerKinds]string{"requests", "connections", "pending"}

// A breaker is a policy's bounds, made ready. It never changes.
type breaker struct {
	most    [breakerKinds]int64 // 0: no bound
	details [breakerKinds]string
}

func compileBreaker(s *snapshot.CircuitBreaker, origin string) *breaker {
	if s == nil {
		return nil
	}
	b := &breaker{}
	for kind, most := range [breakerKinds]uint64{s.MaxRequests, s.MaxConnections, s.MaxPending} {
		b.most[kind] = int64(min(most, math.MaxInt64))
		b.details[kind] = fmt.Sprintf("ResiliencePolicy %s allows %d %s at a time from this node", origin, most, breakerNames[kind])
	}
	return b
}

// traffic is what this node has under way to a service, of all callers here. What began before a policy bounded it is
// not in it.
type traffic struct {
	now     [breakerKinds]atomic.Int64
	refused [breakerKinds]atomic.Uint64 // since the pool was made
}

// enter counts one more, and returns the counter to take it from; nil and false where it would be one too many. It
// counts before it looks: of several at once some may be refused for which there would have been room.
func (b *breaker) enter(t *traffic, kind int) (*atomic.Int64, bool) {
	most := b.most[kind]
	if most == 0 {
		return nil, true
	}
	counter := &t.now[kind]
	if counter.Add(1) <= most {
		return counter, true
	}
	counter.Add(-1)
	t.refused[kind].Add(1)
	return nil, false
}

// admit counts the exchange among those to its service, once however often it is sent, and answers where there are too
// many.
func (d *Decision) admit() bool {
	r := d.backend.resilience
	if r == nil || r.breaker == nil || d.held != nil {
		return true
	}
	kind := bRequests
	if d.raw {
		kind = bConnections
	}
	var ok bool
	if d.held, ok = r.breaker.enter(&d.backend.pool.traffic, kind); !ok {
		d.answer(503, exchange.CircuitOpen, r.breaker.details[kind])
	}
	return ok
}

// Wait counts the exchange among those that wait for a stream, until Waited; it reports false where there are too many.
func (d *Decision) Wait() bool {
	r := d.backend.resilience
	if r == nil || r.breaker == nil {
		return true
	}
	var ok bool
	d.waits, ok = r.breaker.enter(&d.backend.pool.traffic, bPending)
	return ok
}

// Waited ends what Wait began.
func (d *Decision) Waited() {
	if d.waits != nil {
		d.waits.Add(-1)
		d.waits = nil
	}
}
