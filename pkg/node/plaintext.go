package node

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/proxy"
	"github.com/sennit-mesh/sennit/pkg/registry"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// A plaintext lets callers that show no identity reach services of this host, where services.d names an address for them
// and the document of the service says so. What they send goes the way of every request, over a lane of this node with
// itself, so that the same policies, limits and logs are for it; its target says that nobody knows the caller.
type plaintext struct {
	outbound *proxy.Outbound // with a table that leads to this host alone
	table    *routing.Table
	version  uint64                            // of what is in the table; n.mu is held
	led      map[exchange.ServiceName][]string // what is in it
	recent   telemetry.Denials                 // connections that no controller was told of
}

func (n *Node) newPlaintext() {
	n.plain.table, n.plain.led = routing.New(), map[exchange.ServiceName][]string{}
	n.plain.table.Node = n.identity.Node()
	ready := func(context.Context, exchange.ServiceName, exchange.ServiceName) error { return nil }
	n.plain.outbound = &proxy.Outbound{
		TraceShare: n.cfg.TraceShare, Table: n.plain.table, Lanes: n.lanes, Await: ready, Log: n.log, Limits: http1Limits,
		Observe: func() proxy.Observer {
			return &unknownCallers{observer{log: n.access, spans: n.spans, taps: &n.taps, faults: &n.faults}}
		},
	}
}

// accept drives a connection that capture took.
func (n *Node) accept(ctx context.Context, conn *net.TCPConn, l capture.Listener) {
	if !l.Plaintext {
		n.outbound.Serve(ctx, conn, l)
		return
	}
	of, _ := n.admission.find(l.To) // what is not known is strict
	seen := telemetry.Denial{Service: l.To.String(), DryRun: of.permissive}
	if far, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		seen.Source = far.AddrPort().Addr().Unmap().WithZone("").String()
	}
	n.plain.recent.Add(seen, 1, time.Now())
	n.admission.denied.add(denial{l.To, strictly, of.permissive})
	if !of.permissive {
		n.admission.shut(l.To, seen.Source)
		_ = conn.SetLinger(0) // a reset, as where nobody listens
		return
	}
	n.plain.outbound.Serve(ctx, conn, l)
}

// plaintextListeners are the listeners for callers without an identity, and leads these to the instances of this host. n.mu
// is held.
func (n *Node) plaintextListeners() []capture.Listener {
	var wanted []capture.Listener
	led := map[exchange.ServiceName][]*registry.Instance{}
	for _, in := range n.local.Instances() {
		for _, p := range in.Ports {
			if p.Plaintext.IsValid() {
				wanted = append(wanted, capture.Listener{As: in.Service, To: in.Service, Port: p.Number, Address: p.Plaintext, Plaintext: true})
				if !slices.Contains(led[in.Service], in) {
					led[in.Service] = append(led[in.Service], in)
				}
			}
		}
	}
	for service := range n.plain.led {
		if led[service] == nil {
			n.lead(service, nil)
		}
	}
	for service, instances := range led {
		n.lead(service, instances)
	}
	return wanted
}

// lead puts the way to instances of this host into the table, or with none takes it out.
func (n *Node) lead(service exchange.ServiceName, instances []*registry.Instance) {
	outbound, endpoints := &snapshot.Outbound{}, &snapshot.Endpoints{Shards: 1}
	state := []string{n.address()}
	known := map[uint16]bool{}
	for _, in := range instances {
		endpoint := &snapshot.Endpoint{Node: n.identity.Node(), Address: n.address(), Service: service.String(), Instance: proxy.PlaintextInstance + in.Name}
		for _, p := range in.Ports {
			if !p.Plaintext.IsValid() {
				continue
			}
			endpoint.Ports = append(endpoint.Ports, &snapshot.EndpointPort{Number: uint32(p.Number), Target: uint32(p.Number)})
			state = append(state, fmt.Sprint(in.Name, p.Number, p.Protocol))
			if !known[p.Number] {
				known[p.Number] = true
				outbound.Ports = append(outbound.Ports, &snapshot.OutboundPort{Number: uint32(p.Number), Name: p.Name, Protocol: p.Protocol, Rules: []*snapshot.Rule{{
					Origin:   "plaintext",
					Backends: []*snapshot.Backend{{Namespace: service.Namespace, Service: service.Name, Port: uint32(p.Number), Weight: 1, Shards: 1}},
				}}})
			}
		}
		slices.SortFunc(endpoint.Ports, func(a, b *snapshot.EndpointPort) int { return int(a.Number) - int(b.Number) })
		endpoints.Endpoints = append(endpoints.Endpoints, endpoint)
	}
	slices.SortFunc(outbound.Ports, func(a, b *snapshot.OutboundPort) int { return int(a.Number) - int(b.Number) })
	if slices.Equal(state, n.plain.led[service]) {
		return
	}
	n.plain.led[service] = state
	bodies := []struct {
		subject string
		body    proto.Message
	}{{snapshot.EndpointsSubject(service.Namespace, service.Name, 0), endpoints}, {snapshot.OutSubject(service.Namespace, service.Name, ""), outbound}}
	if len(instances) == 0 {
		delete(n.plain.led, service)
	}
	n.plain.version++
	for _, b := range bodies {
		if len(instances) == 0 {
			b.body = nil
		}
		if _, err := n.plain.table.Apply(b.subject, snapshot.Version{Revision: n.plain.version}, b.body); err != nil {
			n.log.Error("callers without an identity are not led to a service of this host", "service", service.String(), "err", err)
		}
	}
}

// unknownCallers observes exchanges of which nobody knows who calls. No edge is counted: it would be of the service itself.
type unknownCallers struct{ observer }

// Ended records one exchange.
func (o *unknownCallers) Ended(seen *proxy.Observation) {
	unknown := *seen
	unknown.Caller = exchange.ServiceName{}
	o.observer.Ended(&unknown)
}
