package routing

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A pool is the instances of one service, as the shards of its endpoints bring them. Readers see a set
// that never changes. The set is replaced when the shards held agree on how many there are and all of those
// are held: a service whose instances spread over more shards never seems smaller for a moment.
type pool struct {
	name exchange.ServiceName
	set  atomic.Pointer[set] // nil: never complete

	ejections ejections
	traffic   traffic

	concurrency concurrency

	standings map[instanceKey]*standing // the writer's: of the instances of set

	source     *snapshot.Resilience // the writer's: of which resilience was made last
	resilience *resilience          // the writer's

	budgets atomic.Pointer[map[exchange.ServiceName]*budget] // by caller; replaced where one is new

	shards map[uint32]*shard // the writer's
	wanted map[wanted]bool   // by backends; the writer's
}

type shard struct {
	subject string
	version snapshot.Version
	body    *snapshot.Endpoints // nil: gone
	waits   bool                // not in effect yet
}

// A set is the instances of a pool by the port through which they are called.
type set struct {
	ports     map[uint32]*group // by snapshot.PortID: the ports that some endpoint names
	rest      *group            // for every other port
	instances []*Instance       // each once
	called    []*Instance       // those that some port's group has, each once
}

// A group is the instances that a request may go to, on few nodes (few.go).
type group struct {
	healthy []member
	all     []member
	flat    tier // of healthy, or of all where none is

	whole      []member                                // on all nodes
	consistent [consistents]atomic.Pointer[consistent] // of whole; nil where no backend asks for it
	locality   [localities]atomic.Pointer[locality]    // the same; that of none is nil
}

type member struct {
	instance *Instance
	target   uint32 // the port to ask of the instance's node; 0: the backend's own
	healthy  bool
}

func (s *set) group(port uint32) *group {
	if g := s.ports[port]; g != nil {
		return g
	}
	return s.rest
}

// pool returns the pool of a service, making it where it is new.
func (t *Table) pool(name exchange.ServiceName) *pool {
	p := t.pools[name]
	if p == nil {
		p = &pool{name: name, shards: make(map[uint32]*shard)}
		t.pools[name] = p
	}
	return p
}

func (t *Table) applyEndpoints(name exchange.ServiceName, number uint32, subject string, version snapshot.Version, body *snapshot.Endpoints) ([]Applied, error) {
	if p := t.pools[name]; p != nil && p.shards[number] != nil && version.Compare(p.shards[number].version) <= 0 {
		return nil, nil
	}
	if body != nil {
		if err := checkEndpoints(body); err != nil {
			return nil, fmt.Errorf("apply %s: %w", subject, err)
		}
	}
	p := t.pool(name)
	p.shards[number] = &shard{subject, version, body, true}
	var applied []Applied
	if p.complete() {
		t.renew(p)
		for _, i := range slices.Sorted(maps.Keys(p.shards)) {
			if s := p.shards[i]; s.waits {
				s.waits = false
				applied = append(applied, Applied{s.subject, s.version})
			}
		}
	}
	for key, o := range t.outbounds {
		if o.waits && o.next.refersTo(p) {
			applied = t.settle(key, o, applied)
		}
	}
	return applied, nil
}

// renew replaces the set of a complete pool.
func (t *Table) renew(p *pool) {
	old, next := p.set.Load(), t.assemble(p)
	t.prepareAll(p, next)
	p.set.Store(next)
	t.release(old)
	p.recount()
}

// stated is how many shards there are, as shard 0 has it; 0 where it is gone or not held.
func (p *pool) stated() uint32 {
	first := p.shards[0]
	if first == nil || first.body == nil {
		return 0
	}
	return max(first.body.Shards, 1)
}

// complete reports whether the shards held are one consistent set. Shard 0 is in every set; those past the
// stated number are what is left of a larger one.
func (p *pool) complete() bool {
	if p.shards[0] == nil {
		return false
	}
	count := p.stated()
	for i := range count {
		if s := p.shards[i]; s == nil || s.body == nil || max(s.body.Shards, 1) != count {
			return false
		}
	}
	return true
}

// holds reports whether a route that was compiled for a number of shards can use the pool.
func (p *pool) holds(shards uint32) bool {
	if p.set.Load() == nil {
		return false
	}
	for i := range shards {
		if p.shards[i] == nil {
			return false
		}
	}
	return true
}

// maxShards bounds what one body can make the table ask for: 16 million instances.
const maxShards = 1 << 16

func checkEndpoints(body *snapshot.Endpoints) error {
	if body.Shards > maxShards {
		return fmt.Errorf("says that there are %d shards; at most %d are possible", body.Shards, maxShards)
	}
	for _, e := range body.Endpoints {
		if _, err := exchange.ParseServiceName(e.Service); err != nil {
			return fmt.Errorf("instance %q of node %q: %w", e.Instance, e.Node, err)
		}
		if _, err := netip.ParseAddrPort(e.Address); err != nil {
			return fmt.Errorf("instance %q of node %q: address: %w", e.Instance, e.Node, err)
		}
	}
	return nil
}

// assemble makes the set of a complete pool.
func (t *Table) assemble(p *pool) *set {
	s := &set{ports: make(map[uint32]*group), rest: &group{}}
	before := p.standings
	p.standings = make(map[instanceKey]*standing, len(before))
	for i := range p.stated() {
		for _, e := range p.shards[i].body.Endpoints {
			for _, port := range e.Ports {
				if s.ports[port.Number] == nil {
					s.ports[port.Number] = &group{}
				}
			}
		}
	}
	for i := range p.stated() {
		for _, e := range p.shards[i].body.Endpoints {
			instance := t.instance(e, p.set.Load() != nil)
			if instance.standing = before[instance.key]; instance.standing == nil {
				instance.standing = new(standing)
			}
			p.standings[instance.key] = instance.standing
			s.instances = append(s.instances, instance)
			if len(e.Ports) == 0 {
				s.rest.add(member{instance, 0, !e.Unhealthy})
				for number, g := range s.ports {
					g.add(member{instance, number, !e.Unhealthy})
				}
			}
			for _, port := range e.Ports {
				s.ports[port.Number].add(member{instance, port.Target, !e.Unhealthy})
			}
		}
	}
	t.thin(s.rest)
	for _, g := range s.ports {
		t.thin(g)
	}
	s.noteCalled(len(p.wanted) > 0)
	return s
}

// noteCalled lists the instances that requests may go to.
func (s *set) noteCalled(all bool) {
	if all { // hashes, sessions and localities lead beyond the few
		s.called = s.instances
		return
	}
	called := make(map[*Instance]bool, len(s.instances))
	note := func(g *group) {
		for _, m := range g.all {
			called[m.instance] = true
		}
		for _, m := range g.healthy {
			called[m.instance] = true
		}
	}
	note(s.rest)
	for _, g := range s.ports {
		note(g)
	}
	for _, i := range s.instances {
		if called[i] {
			s.called = append(s.called, i)
		}
	}
}

// thin leaves few of each list: those that are not healthy take no place from those that are.
func (t *Table) thin(g *group) {
	g.whole = g.all
	g.healthy, g.all = t.few(g.healthy), t.few(g.all)
	if g.flat = newTier(g.healthy); len(g.healthy) == 0 {
		g.flat = newTier(g.all)
	}
}

func (g *group) add(m member) {
	g.all = append(g.all, m)
	if m.healthy {
		g.healthy = append(g.healthy, m)
	}
}
