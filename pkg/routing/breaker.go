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
	bAdaptive           // requests, where the limit is measured
	breakerKinds
)

// breakerNames are the words for them, in metrics and details.
var breakerNames = [breakerKinds]string{"requests", "connections", "pending", "adaptive"}

// A breaker is a policy's bounds, made ready. It never changes.
type breaker struct {
	most     [breakerKinds]int64 // 0: no bound
	details  [breakerKinds]string
	adaptive *adaptive // nil: no bound is measured
}

func compileBreaker(s *snapshot.CircuitBreaker, measured *snapshot.AdaptiveConcurrency, origin string) *breaker {
	if s == nil && measured == nil {
		return nil
	}
	b := &breaker{adaptive: compileAdaptive(measured)}
	b.details[bAdaptive] = fmt.Sprintf("ResiliencePolicy %s allows no more requests at a time from this node while the service is as slow as now", origin)
	for kind, most := range []uint64{s.GetMaxRequests(), s.GetMaxConnections(), s.GetMaxPending()} {
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

// enter counts one more, and returns the counter to take it from; nil where nothing bounds them, or there would be one too
// many, of the kind over that is not negative then. It counts before it looks: of several at once some may be refused for which there would
// have been room.
func (b *breaker) enter(p *pool, kind int) (counter *atomic.Int64, over int) {
	most, over := b.most[kind], kind
	measured := kind == bRequests && b.adaptive != nil
	if measured {
		if limit := p.concurrency.now(b.adaptive); most == 0 || limit < most {
			most, over = limit, bAdaptive
		}
	}
	if most == 0 {
		return nil, -1
	}
	counter = &p.traffic.now[kind]
	n := counter.Add(1)
	if measured {
		p.concurrency.entered(n)
	}
	if n <= most {
		return counter, -1
	}
	counter.Add(-1)
	p.traffic.refused[over].Add(1)
	return nil, over
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
	var over int
	if d.held, over = r.breaker.enter(d.backend.pool, kind); over >= 0 {
		d.answer(503, exchange.CircuitOpen, r.breaker.details[over])
	}
	return over < 0
}

// Wait counts the exchange among those that wait for a stream, until Waited; it reports false where there are too many.
func (d *Decision) Wait() bool {
	r := d.backend.resilience
	if r == nil || r.breaker == nil {
		return true
	}
	var over int
	d.waits, over = r.breaker.enter(d.backend.pool, bPending)
	return over < 0
}

// Waited ends what Wait began.
func (d *Decision) Waited() {
	if d.waits != nil {
		d.waits.Add(-1)
		d.waits = nil
	}
}
