package routing

import (
	"cmp"
	"slices"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A consistent is a group as hashes and sessions see it: all of its members, on however many nodes. Every node must find
// the same instance for a key, and so none keeps to few.
type consistent struct {
	tier           // whose members are ordered by Instance.hash, as the circle's candidates
	circle *circle // nil: of sessions
}

// Which consistent a backend asks for.
const (
	ringOf = iota
	maglevOf
	knownOf // without a circle
	consistents
)

// A circled asks for a consistent of a port's group.
type circled struct {
	port uint16
	kind int
}

// circles has the pool make the circle that a backend needs, of the set that is there and of those that come.
func (p *pool) circles(b *backend) {
	switch b.balance {
	case snapshot.Balance_BALANCE_RING_HASH:
		p.circle(circled{b.port, ringOf})
	case snapshot.Balance_BALANCE_MAGLEV:
		p.circle(circled{b.port, maglevOf})
	}
}

func (p *pool) circle(want circled) {
	if p.circled[want] {
		return
	}
	if p.circled == nil {
		p.circled = make(map[circled]bool)
	}
	p.circled[want] = true
	if s := p.set.Load(); s != nil {
		s.group(want.port).round(want.kind, nil)
	}
}

// round makes what is asked for of a set that nobody reads yet. Circles of the set before stay where the instances are
// the same: they know nothing of health.
func (p *pool) round(s *set) {
	old := p.set.Load()
	for want := range p.circled {
		var before *consistent
		if old != nil {
			before = old.group(want.port).consistent[want.kind].Load()
		}
		s.group(want.port).round(want.kind, before)
	}
}

func (g *group) round(kind int, before *consistent) {
	c := &consistent{tier: tier{members: slices.Clone(g.whole)}}
	slices.SortFunc(c.members, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.instance.hash, b.instance.hash), cmp.Compare(a.target, b.target))
	})
	c.members = slices.CompactFunc(c.members, func(a, b member) bool { return a.instance.hash == b.instance.hash })
	if kind != knownOf {
		candidates := make([]candidate, len(c.members))
		for i, m := range c.members {
			candidates[i] = candidate{m.instance.hash, m.instance.weight}
		}
		if before != nil && slices.Equal(before.circle.candidates, candidates[:min(len(candidates), mostCandidates)]) {
			c.circle = before.circle
		} else {
			c.circle = newCircle(kind, candidates)
		}
	}
	g.consistent[kind].Store(c)
}

// known finds a member by the hash of its instance, where a backend has asked for it.
func (g *group) known(hash uint64) (member, bool) {
	c := g.consistent[knownOf].Load()
	if c == nil {
		return member{}, false
	}
	at, found := slices.BinarySearchFunc(c.members, hash, func(m member, hash uint64) int { return cmp.Compare(m.instance.hash, hash) })
	if !found {
		return member{}, false
	}
	return c.members[at], true
}

// hashedMember chooses by hash among the healthy that this node can reach and did not try, with the same exceptions as
// selectMember.
func hashedMember(g *group, b *backend, hash uint64, tried []*load, now int64) (member, bool) {
	kind := maglevOf
	if b.balance == snapshot.Balance_BALANCE_RING_HASH {
		kind = ringOf
	}
	c := g.consistent[kind].Load()
	if c == nil || len(c.members) == 0 {
		return member{}, false
	}
	s := selection{tier: &c.tier, tried: tried, now: now, at: now, heeds: b.heeds(now)}
	ill := len(g.healthy) == 0
	for {
		i := c.circle.find(hash, func(i int) bool { return (ill || c.members[i].healthy) && s.usable(i) })
		if i >= 0 {
			return c.members[i], true
		}
		if s.now == 0 {
			return member{}, false
		}
		s.now = 0
	}
}
