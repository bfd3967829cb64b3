package telemetry

import "time"

// A total is what was counted of an edge, wherever its instances run, since it was first seen. Reports add to it what
// they take from the edges, so that an exchange is counted once, and pays nothing for being counted for good.
type total struct {
	codes          [numCodes]uint64
	failures       [numReasons]uint64
	sent, received uint64
	took           time.Duration // of all exchanges together
	latencies      merged
	idle           int // reports in a row without an exchange
}

const (
	maxTotals = 2048 // of 4.6 KB each
	totalIdle = 3600 // reports without an exchange until a total is forgotten; more than an edge's idleAfter
)

// totalOf finds or makes the total that an edge adds to. What is beyond the 2,048 that are told apart adds to that of
// Overflow. e.mu is held.
func (e *Edges) totalOf(name Edge) *total {
	name.Node = ""
	if t := e.totals[name]; t != nil {
		return t
	}
	if len(e.totals) >= maxTotals {
		name = Overflow
		if t := e.totals[name]; t != nil {
			return t
		}
	}
	t := &total{}
	e.totals[name] = t
	return t
}

// forget drops the totals that nothing was added to for an hour of reports: no edge adds to them any more. e.mu is held.
func (e *Edges) forget() {
	for name, t := range e.totals {
		if t.idle++; t.idle > totalIdle {
			delete(e.totals, name)
		}
	}
}
