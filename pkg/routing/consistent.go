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

// What a backend asks for of the groups of its port: by hash, by name, by closeness.
const (
	ringOf = iota
	maglevOf
	knownOf // without a circle
	consistents

	localities = snapshot.Locality(3)
)

// A wanted is one of these: a consistent, or behind them a locality.
type wanted struct {
	port uint32
	what int
}

// want has the backend's pool make what the backend's algorithm needs, of the set that is there and of those that come.
func (t *Table) want(b *backend) {
	switch b.balance {
	case snapshot.Balance_BALANCE_RING_HASH:
		t.ask(b, ringOf)
	case snapshot.Balance_BALANCE_MAGLEV:
		t.ask(b, maglevOf)
	}
	if b.locality != snapshot.Locality_LOCALITY_NONE {
		t.ask(b, consistents+int(b.locality))
	}
}

func (t *Table) ask(b *backend, what int) {
	p, want := b.pool, wanted{b.port, what}
	if p == nil || p.wanted[want] {
		return
	}
	if p.wanted == nil {
		p.wanted = make(map[wanted]bool)
	}
	p.wanted[want] = true
	switch s := p.set.Load(); {
	case s == nil:
	case p.complete():
		t.renew(p) // whom the node calls is another question now
	default: // of the set before, until the shards that are missing come
		t.prepare(s.group(want.port), nil, what)
	}
}

// prepareAll makes what is asked for of a set that nobody reads yet.
func (t *Table) prepareAll(p *pool, s *set) {
	old := p.set.Load()
	for want := range p.wanted {
		var before *group
		if old != nil {
			before = old.group(want.port)
		}
		t.prepare(s.group(want.port), before, want.what)
	}
}

// prepare makes one thing. Circles of the group before stay where the instances are the same: they know nothing of health.
func (t *Table) prepare(g, before *group, what int) {
	if what >= consistents {
		prefer := snapshot.Locality(what - consistents)
		g.locality[prefer].Store(t.locate(prefer, g))
		return
	}
	var old *consistent
	if before != nil {
		old = before.consistent[what].Load()
	}
	g.round(what, old)
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
