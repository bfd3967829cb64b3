package registry

import (
	"maps"
	"slices"
	"time"
)

// Rules say when a silent node counts as lost. The zero value of each field is its default.
type Rules struct {
	LostAfter   time.Duration // silence; 15 s, three alive messages
	Grace       time.Duration // after an election or a recovery of the bus; 30 s
	DeleteAfter time.Duration // since a node was declared lost; 7 days
}

func (r Rules) withDefaults() Rules {
	if r.LostAfter == 0 {
		r.LostAfter = 15 * time.Second
	}
	if r.Grace == 0 {
		r.Grace = 30 * time.Second
	}
	if r.DeleteAfter == 0 {
		r.DeleteAfter = 7 * 24 * time.Hour
	}
	return r
}

// stalled is how long the leader may go without deciding: after more than that it was itself away, and what
// it did not hear says nothing.
const stalled = 5 * time.Second

// liveness decides which nodes are lost. It knows no clock and does no I/O: every call brings the time, and
// the leader carries out what tick returns.
//
// Silence has two causes, and they look alike: the node died, or it could not be heard. INVARIANT: nobody
// is declared lost while the second is likely, which is
//   - for Grace after an election, a recovery of the bus, or a pause of the leader itself, and
//   - while more than a fifth of the nodes, and more than one, are silent or were declared lost within
//     Grace, and for Grace after that.
//
// Nodes are counted as silent after half of LostAfter already: those that vanish together vanish within one
// interval of alive messages, and the first of them must not be declared lost before the last is counted.
type liveness struct {
	rules      Rules
	quietUntil time.Time // nobody is declared lost before
	ticked     time.Time
	nodes      map[string]*nodeState
}

type nodeState struct {
	known    time.Time // when this controller learned of it
	heard    time.Time // its last alive message to this controller; zero: none
	version  string    // of its program, as it says
	standing Standing  // as it says
	draining bool      // it said that it goes away
	declared time.Time // when tick last said that it is lost
	lost     bool      // as recorded
	since    time.Time // of lost, as recorded: by the clock of the leader of then
	recorded time.Time // when this controller read that
}

// A verdict is what the leader is to record now. Until it is recorded the next tick says it again.
type verdict struct {
	lost, back, remove []string // each in order
	silent             int      // nodes that are silent and not lost; 0 where none is held back
}

func newLiveness(rules Rules) *liveness {
	return &liveness{rules: rules.withDefaults(), nodes: map[string]*nodeState{}}
}

// calm begins a time in which nobody is declared lost: at an election, at a recovery of the bus.
func (l *liveness) calm(now time.Time) {
	l.quietUntil = later(l.quietUntil, now.Add(l.rules.Grace))
}

// alive takes in that a node was heard.
func (l *liveness) alive(node string, now time.Time) {
	n := l.know(node, now)
	n.heard = later(n.heard, now)
}

// know makes a node known that is to be watched.
func (l *liveness) know(node string, now time.Time) *nodeState {
	n := l.nodes[node]
	if n == nil {
		n = &nodeState{known: now}
		l.nodes[node] = n
	}
	return n
}

// recorded takes in what the records say of a node.
func (l *liveness) recorded(node string, lost bool, since, now time.Time) {
	n := l.know(node, now)
	n.lost, n.since, n.recorded = lost, since, now
}

// forget ends the watch over a node.
func (l *liveness) forget(node string) { delete(l.nodes, node) }

// tick decides. The leader calls it each second.
func (l *liveness) tick(now time.Time) verdict {
	if now.Sub(l.ticked) > stalled {
		l.calm(now)
	}
	l.ticked = now
	var v verdict
	watched, vanishing := 0, 0
	for _, name := range slices.Sorted(maps.Keys(l.nodes)) {
		n := l.nodes[name]
		silent := now.Sub(later(n.heard, n.known))
		declared := !n.declared.IsZero() && now.Sub(n.declared) <= l.rules.Grace
		switch {
		case n.lost && silent < l.rules.LostAfter && n.heard.After(n.recorded):
			v.back = append(v.back, name)
		case n.lost && now.Sub(n.since) >= l.rules.DeleteAfter && silent >= l.rules.LostAfter:
			v.remove = append(v.remove, name)
		case !n.lost && silent >= l.rules.LostAfter:
			v.lost = append(v.lost, name)
		}
		if !n.lost || declared {
			watched++
		}
		if !n.lost && silent > l.rules.LostAfter/2 || n.lost && declared {
			vanishing++
		}
	}
	if vanishing > 1 && vanishing*5 > watched {
		v.silent = vanishing
		l.calm(now)
	}
	if now.Before(l.quietUntil) {
		v.lost, v.remove = nil, nil
	}
	for _, name := range v.lost {
		if n := l.nodes[name]; n.declared.IsZero() || now.Sub(n.declared) > l.rules.Grace {
			n.declared = now
		}
	}
	return v
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
