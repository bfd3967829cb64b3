package routing

import (
	"cmp"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// UnreachableFor is how long an instance is skipped after this node found that it cannot be reached.
const UnreachableFor = 10 * time.Second

// An Instance is one process of a service, as this node calls it. It never changes; a new snapshot brings
// new ones, which share what this node counts about the same instance.
type Instance struct {
	Node     string
	Address  netip.AddrPort // where the node's lanes are dialled
	Identity exchange.ServiceName
	ID       string
	Labels   map[string]string // not to be changed
	Version  string            // the label "version"

	load      *load
	key       instanceKey
	standing  *standing // in the service whose endpoints these are
	hash      uint64    // of key, the same on all nodes
	weight    uint32    // 1 to mostWeight
	unhealthy bool      // as the endpoints say

	zone, region string // of its node; empty: nothing is said
}

type instanceKey struct {
	identity exchange.ServiceName
	node, id string
}

func (k *instanceKey) hash() uint64 {
	return hashed(hashed(hashed(hashed(0, k.identity.Namespace), k.identity.Name), k.node), k.id)
}

// A load is what this node knows by itself of an instance, for as long as some snapshot names it.
type load struct {
	inFlight    atomic.Int64
	unreachable atomic.Int64 // Unix nanoseconds until which it is skipped; 0: it is not
	peak        peak         // of the exchanges whose backend asks for it
	warmup      warmup

	ill  bool // as the newest set says; the writer's
	sets int  // that name the instance; the writer's
}

// InFlight is how many exchanges of this node the instance has.
func (i *Instance) InFlight() int64 { return i.load.inFlight.Load() }

func (i *Instance) skipped(now int64) bool {
	until := i.load.unreachable.Load()
	return until != 0 && now < until
}

// MarkUnreachable has an instance skipped for UnreachableFor, while there are others.
func (t *Table) MarkUnreachable(i *Instance, now time.Time) {
	i.load.unreachable.Store(now.Add(UnreachableFor).UnixNano())
}

// MarkReachable has an instance chosen again at once.
func (t *Table) MarkReachable(i *Instance) {
	if i.load.unreachable.Load() != 0 { // a write would take the line from every reader
		i.load.unreachable.Store(0)
	}
}

// instance makes the Instance of a checked endpoint. later says that others of its service were there before: what is new
// then, or is well again, may start slowly.
func (t *Table) instance(e *snapshot.Endpoint, later bool) *Instance {
	identity, _ := exchange.ParseServiceName(e.Service)
	address, _ := netip.ParseAddrPort(e.Address)
	key := instanceKey{identity, e.Node, e.Instance}
	l := t.loads[key]
	if l == nil {
		l = &load{ill: later}
		t.loads[key] = l
	}
	if l.ill && !e.Unhealthy {
		l.warmup.since.Store(begins)
	}
	l.ill = e.Unhealthy
	l.sets++
	weight := min(cmp.Or(e.Weight, usualWeight), mostWeight)
	return &Instance{
		Node: e.Node, Address: address, Identity: identity, ID: e.Instance, Labels: e.Labels, Version: e.Labels["version"],
		load: l, key: key, hash: key.hash(), weight: weight, unhealthy: e.Unhealthy, zone: e.Zone, region: e.Region,
	}
}

// release forgets the loads that only a replaced set named.
func (t *Table) release(old *set) {
	if old == nil {
		return
	}
	for _, i := range old.instances {
		if i.load.sets--; i.load.sets == 0 {
			delete(t.loads, i.key)
		}
	}
}
