package node

import (
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/egress"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/origination"
	"github.com/sennit-mesh/sennit/pkg/proxy"
	"github.com/sennit-mesh/sennit/pkg/registry"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// places finds where local instances are (proxy.Places): their processes, or hosts outside.
type places struct {
	local    *registry.Local
	outsides *outsides
	tls      *originations
	table    *routing.Table
}

// Secure says how a process is spoken to.
func (p places) Secure(service exchange.ServiceName, kind exchange.Kind, target *exchange.Target) (*origination.Settings, bool) {
	return p.tls.find(service, kind, target)
}

// Find looks an instance up; it takes no lock. HTTP/2 is spoken where the instance was registered with it, or its Service
// says so.
func (p places) Find(service exchange.ServiceName, target exchange.Target) (proxy.Place, bool) {
	if port, ok := p.local.Lookup(service, target); ok {
		http2 := port.Protocol == snapshot.Protocol_PROTOCOL_HTTP2 || p.table.Serves(service, target.Port) == snapshot.Protocol_PROTOCOL_HTTP2
		return proxy.Place{Process: port.Address, HTTP2: http2, Connect: port.Connect, UDP: port.UDP()}, true
	}
	if target.UDP || !p.local.IsEgress(service, target.Instance) {
		return proxy.Place{}, false
	}
	host := p.outsides.find(service)
	if host == nil || host.Port != target.Port {
		return proxy.Place{}, false
	}
	return proxy.Place{Outside: host, HTTP2: host.HTTP2}, true
}

// outsides are the hosts outside that configuration names. Readers take no lock; one writer at a time.
type outsides struct {
	hosts atomic.Pointer[map[exchange.ServiceName]outside]
}

type outside struct {
	of    *snapshot.Outside
	allow []netip.Prefix // of services.d
	host  *egress.Host
}

func (o *outsides) find(service exchange.ServiceName) *egress.Host {
	if all := o.hosts.Load(); all != nil {
		return (*all)[service].host
	}
	return nil
}

// drop forgets what a subject said that is not followed any more.
func (o *outsides) drop(subject string) {
	if names, err := snapshot.ParseSubject(subject); err == nil && names.Kind == snapshot.KindIn {
		_ = o.set(exchange.ServiceName{Namespace: names.Namespace, Name: names.Service}, nil, nil) // nothing is made that could fail
	}
}

// set takes what a service leads to, and what services.d opens for it; nil where it is in the mesh, or gone. What did not
// change keeps its connections.
func (o *outsides) set(service exchange.ServiceName, of *snapshot.Outside, allow []netip.Prefix) error {
	all := map[exchange.ServiceName]outside{}
	if old := o.hosts.Load(); old != nil {
		all = maps.Clone(*old)
	}
	if of == nil {
		delete(all, service)
	} else if old := all[service]; !proto.Equal(old.of, of) || !slices.Equal(old.allow, allow) {
		host, err := egress.New(of, allow)
		if err != nil {
			return err
		}
		all[service] = outside{of, allow, host}
	}
	o.hosts.Store(&all)
	return nil
}

// allow takes what services.d opens now.
func (o *outsides) allow(of func(exchange.ServiceName) []netip.Prefix) {
	if all := o.hosts.Load(); all != nil {
		for service, held := range *all {
			_ = o.set(service, held.of, of(service)) // what was a host before is one with other addresses
		}
	}
}
