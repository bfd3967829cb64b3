package routing

import (
	"cmp"
	"slices"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A consistent is a group as hashes see it: all of its members, on however many nodes. Every node must find the same
// instance for a key, and so none keeps to few.
type consistent struct {
	members []member // as the circle's candidates
	circle  *circle
}

// A circled asks for the circle of a port's group.
type circled struct {
	port    uint16
	balance snapshot.Balance
}

// circles has the pool make the circle that a backend needs, of the set that is there and of those that come.
func (p *pool) circles(b *backend) {
	if b.balance != snapshot.Balance_BALANCE_RING_HASH && b.balance != snapshot.Balance_BALANCE_MAGLEV {
		return
	}
	want := circled{b.port, b.balance}
	if p.circled[want] {
		return
	}
	if p.circled == nil {
		p.circled = make(map[circled]bool)
	}
	p.circled[want] = true
	if s := p.set.Load(); s != nil {
		s.group(want.port).round(want.balance, nil)
	}
}

// round makes the circles that are asked for of a set that nobody reads yet. Those of the set before stay where the
// instances are the same: they know nothing of health.
func (p *pool) round(s *set) {
	old := p.set.Load()
	for want := range p.circled {
		var before *consistent
		if old != nil {
			before = old.group(want.port).consistent(want.balance)
		}
		s.group(want.port).round(want.balance, before)
	}
}

func (g *group) consistent(balance snapshot.Balance) *consistent {
	if balance == snapshot.Balance_BALANCE_RING_HASH {
		return g.ring.Load()
	}
	return g.maglev.Load()
}

func (g *group) round(balance snapshot.Balance, before *consistent) {
	c := &consistent{members: slices.Clone(g.whole)}
	slices.SortFunc(c.members, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.instance.hash, b.instance.hash), cmp.Compare(a.target, b.target))
	})
	c.members = slices.CompactFunc(c.members, func(a, b member) bool { return a.instance.hash == b.instance.hash })
	candidates := make([]candidate, len(c.members))
	for i, m := range c.members {
		candidates[i] = candidate{m.instance.hash, 1}
	}
	if before != nil && slices.Equal(before.circle.candidates, candidates[:min(len(candidates), mostCandidates)]) {
		c.circle = before.circle
	} else {
		c.circle = newCircle(balance, candidates)
	}
	if balance == snapshot.Balance_BALANCE_RING_HASH {
		g.ring.Store(c)
	} else {
		g.maglev.Store(c)
	}
}

// hashedMember chooses by hash among the healthy that this node can reach and did not try, with the same exceptions as
// selectMember.
func hashedMember(g *group, b *backend, hash uint64, tried []*load, now int64) (member, bool) {
	c := g.consistent(b.balance)
	if c == nil || len(c.circle.candidates) == 0 {
		return member{}, false
	}
	s := selection{from: c.members, tried: tried, now: now, heeds: b.heeds(now)}
	ill := len(g.healthy) == 0
	for {
		i := c.circle.find(hash, func(i int) bool { return (ill || s.from[i].healthy) && s.usable(i) })
		if i >= 0 {
			return s.from[i], true
		}
		if s.now == 0 {
			return member{}, false
		}
		s.now = 0
	}
}
