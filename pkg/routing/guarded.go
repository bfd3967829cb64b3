package routing

import (
	"cmp"
	"slices"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// Guarded is what this node's ResiliencePolicies have done for one service.
type Guarded struct {
	Service   exchange.ServiceName
	Ejected   []EjectedInstance // that are now
	Ejections uint64            // since the node knows the service
	Refused   map[string]uint64 // since the node knows the service, by what there was too much of: requests, connections, pending, adaptive
	Limit     int64             // of requests under way, as it is measured; 0: it is not
}

// An EjectedInstance is not asked until a time.
type EjectedInstance struct {
	Node, ID string
	Until    time.Time
}

// Guarded lists the services that a policy is or was for, in order. It is safe for concurrent use with everything.
func (t *Table) Guarded(now time.Time) []Guarded {
	var all []Guarded
	for _, p := range *t.guarded.Load() {
		g := Guarded{Service: p.name, Ejections: p.ejections.total.Load(), Refused: map[string]uint64{}}
		g.Limit = p.concurrency.limit.Load()
		for kind, name := range breakerNames {
			g.Refused[name] = p.traffic.refused[kind].Load()
		}
		if s := p.set.Load(); s != nil {
			for _, i := range s.instances {
				if i.standing.isEjected(now.UnixNano()) {
					g.Ejected = append(g.Ejected, EjectedInstance{i.Node, i.ID, time.Unix(0, i.standing.ejected.Load())})
				}
			}
		}
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b Guarded) int {
		return cmp.Or(cmp.Compare(a.Service.Namespace, b.Service.Namespace), cmp.Compare(a.Service.Name, b.Service.Name))
	})
	return all
}

// guard has a pool among those that Guarded lists, for as long as the table has it.
func (t *Table) guard(p *pool) {
	if before := *t.guarded.Load(); !slices.Contains(before, p) {
		next := append(slices.Clone(before), p)
		t.guarded.Store(&next)
	}
}

// unguard ends that.
func (t *Table) unguard(p *pool) {
	if before := *t.guarded.Load(); slices.Contains(before, p) {
		next := slices.DeleteFunc(slices.Clone(before), func(other *pool) bool { return other == p })
		t.guarded.Store(&next)
	}
}
