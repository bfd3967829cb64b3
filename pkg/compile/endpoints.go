package compile

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// shardSize is the most instances that one shard of endpoints holds.
const shardSize = 256

// offered is the registered port of an instance that a Service's port leads to, or nil: the one that
// targetPort names or numbers, else the one of the Service port's own number; of UDP where that is.
func offered(instance *snapshot.Instance, port servicePort) *snapshot.InstancePort {
	var same *snapshot.InstancePort
	for _, p := range instance.Ports {
		if isUDP(p.Protocol) != isUDP(port.protocol) {
			continue
		}
		if port.target.Type == intstr.String && port.target.StrVal != "" && p.Name == port.target.StrVal ||
			port.target.Type == intstr.Int && port.target.IntVal > 0 && p.Number == uint32(port.target.IntVal) {
			return p
		}
		if portID(p) == port.number {
			same = p
		}
	}
	return same
}

// shardEndpoints puts instances, which come ordered, into as few shards as hold them: a power of two of
// them, by a hash of node and instance, so that one instance that comes, goes or changes touches one shard,
// and the whole only when the number of shards doubles or halves. Where names were chosen to collide, the
// shards are filled in order instead.
func shardEndpoints(members []*snapshot.Instance, ports []servicePort, lost map[string]bool) []*snapshot.Endpoints {
	hashes := make([]uint64, len(members))
	for i, m := range members {
		hashes[i] = hashOf(m.Node, m.Instance)
	}
	enough := 4 + len(members)/(shardSize/8)
	for count := 1; count <= enough; count *= 2 {
		sizes := make([]int, count)
		full := false
		for _, h := range hashes {
			sizes[h%uint64(count)]++
			full = full || sizes[h%uint64(count)] > shardSize
		}
		if !full {
			return fillShards(count, members, ports, lost, func(i int) int { return int(hashes[i] % uint64(count)) })
		}
	}
	return fillShards((len(members)+shardSize-1)/shardSize, members, ports, lost, func(i int) int { return i / shardSize })
}

func fillShards(count int, members []*snapshot.Instance, ports []servicePort, lost map[string]bool, shardOf func(int) int) []*snapshot.Endpoints {
	shards := make([]*snapshot.Endpoints, count)
	for i := range shards {
		shards[i] = &snapshot.Endpoints{Shards: uint32(count)}
	}
	for i, m := range members {
		shard := shards[shardOf(i)]
		shard.Endpoints = append(shard.Endpoints, endpoint(m, ports, lost[m.Node]))
	}
	return shards
}

func endpoint(m *snapshot.Instance, ports []servicePort, lost bool) *snapshot.Endpoint {
	e := &snapshot.Endpoint{
		Node:      m.Node,
		Address:   m.LaneAddress,
		Service:   m.Service,
		Instance:  m.Instance,
		Unhealthy: m.Unhealthy || lost,
		Weight:    m.Weight,
		Zone:      m.Zone,
		Region:    m.Region,
	}
	if name, err := exchange.ParseServiceName(m.Service); err == nil {
		e.Service = name.String() // "orders" is "default/orders"
	}
	if len(m.Labels) > 0 {
		e.Labels = m.Labels
	}
	plain := true
	if m.Egress {
		return e // it has no ports of its own
	}
	for _, p := range ports {
		registered := offered(m, p)
		if registered == nil {
			plain = false
			continue
		}
		plain = plain && portID(registered) == p.number
		e.Ports = append(e.Ports, &snapshot.EndpointPort{Number: p.number, Target: portID(registered)})
	}
	if plain {
		e.Ports = nil
	} else if len(e.Ports) == 0 {
		// It offers none of them, and an absent list would mean all.
		e.Ports = []*snapshot.EndpointPort{{}}
	}
	return e
}

// hashOf is FNV-1a over both names with a zero byte between, mixed so that the low bits depend on all.
func hashOf(node, instance string) uint64 {
	h := uint64(14695981039346656037)
	for _, s := range [...]string{node, "\x00", instance} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return h
}

// A labelIndex finds instances by one label; a selector looks at the rarest of its labels and checks the
// others.
type labelIndex map[labelled][]*snapshot.Instance

type labelled struct{ namespace, key, value string }

func (x labelIndex) add(name exchange.ServiceName, instance *snapshot.Instance) {
	at := labelled{name.Namespace, ServiceLabel, name.Name}
	x[at] = append(x[at], instance)
	for key, value := range instance.Labels {
		if key != ServiceLabel {
			at := labelled{name.Namespace, key, value}
			x[at] = append(x[at], instance)
		}
	}
}

// matching returns the instances of a namespace that have all labels of a selector, in the order in which
// they were added.
func (x labelIndex) matching(namespace string, selector map[string]string) []*snapshot.Instance {
	keys := slices.SortedFunc(maps.Keys(selector), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(x[labelled{namespace, a, selector[a]}]), len(x[labelled{namespace, b, selector[b]}])), strings.Compare(a, b))
	})
	found := x[labelled{namespace, keys[0], selector[keys[0]]}]
	if len(keys) == 1 {
		return found
	}
	var all []*snapshot.Instance
	for _, instance := range found {
		matches := true
		for _, key := range keys[1:] {
			value, has := instance.Labels[key]
			if key == ServiceLabel {
				name, _ := exchange.ParseServiceName(instance.Service)
				value, has = name.Name, true
			}
			matches = matches && has && value == selector[key]
		}
		if matches {
			all = append(all, instance)
		}
	}
	return all
}
