package compile

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	// ServiceLabel is the label that every instance has beside its own: the name of its service. A Service
	// selects with it, and no registration can set it to something else.
	ServiceLabel = "sennit.dev/service"
	// LaneAnnotation on a Service says what the lanes to its instances run over. What it may say is in pkg/api.
	LaneAnnotation = "sennit.dev/lane"
	// PlaintextAnnotation on a Service says whether its nodes take connections of callers without an identity. What it may
	// say is in pkg/api; everything but "permissive" is as if it were absent.
	PlaintextAnnotation = "sennit.dev/plaintext"
	plaintextPermissive = "permissive"
)

// A service is one name that can be called: a Service document, or what instances registered without one.
type service struct {
	name      exchange.ServiceName
	document  *corev1.Service      // nil: implied by its instances, or an ExternalService
	outside   *api.ExternalService // nil: it is in the mesh
	ports     []servicePort        // by number
	reachable []servicePort        // ports, and what its own instances registered; by number
	own       []*snapshot.Instance
	shards    []*snapshot.Endpoints // at least one
	carrier   snapshot.Carrier

	resilience *snapshot.Resilience // nil: no policy is for it

	authorization []*snapshot.AuthorizationPolicy // of those that are for it
	balancing     *balancing                      // nil: no policy is in effect here
}

type servicePort struct {
	number   uint32 // as snapshot.PortID has it
	name     string
	target   intstr.IntOrString // zero: the number itself
	protocol snapshot.Protocol
	declared bool        // the document says the protocol; nobody guessed it
	tls      *backendTLS // nil: instances are spoken to in the clear
}

func (s *service) port(number uint32) (servicePort, bool) {
	for _, p := range s.ports {
		if p.number == number {
			return p, true
		}
	}
	return servicePort{}, false
}

// A catalog holds the services of an input. A Service of type ExternalName is not in it: it names nothing
// in the mesh (GEP-1294, "Allowed service types").
type catalog struct {
	byName    map[exchange.ServiceName]*service
	external  map[exchange.ServiceName]bool
	displaced map[exchange.ServiceName]bool // ExternalServices whose name an older Service has
	outside   bool                          // as routes of Gateways see it: into other namespaces they lead those outside by a grant alone
	grants    *grants
	routes    map[routeID]*snapshot.Resilience // the policies that are for one
}

func (c *catalog) sorted() []*service {
	all := make([]*service, 0, len(c.byName))
	for _, s := range c.byName {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *service) int { return compareNames(a.name, b.name) })
	return all
}

func newCatalog(in Input) *catalog {
	c := &catalog{
		byName:   make(map[exchange.ServiceName]*service, len(in.Services)),
		external: make(map[exchange.ServiceName]bool),
		grants:   newGrants(in.Grants),
	}
	displacing := c.addExternal(in)
	for _, document := range in.Services {
		name := exchange.ServiceName{Namespace: document.Namespace, Name: document.Name}
		if displacing[name] {
			continue
		}
		if document.Spec.Type == corev1.ServiceTypeExternalName {
			c.external[name] = true
			continue
		}
		s := &service{name: name, document: document}
		s.carrier = carriers[document.Annotations[LaneAnnotation]]
		c.byName[name] = s
	}
	instances := slices.Clone(in.Instances)
	slices.SortStableFunc(instances, func(a, b *snapshot.Instance) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Instance, b.Instance), strings.Compare(a.Service, b.Service))
	})
	labelled := make(labelIndex)
	for _, instance := range instances {
		name, err := exchange.ParseServiceName(instance.Service)
		if err != nil || c.external[name] || instance.Gateway != nil && len(instance.Ports) == 0 {
			continue // a gateway lets in those outside, and nobody calls it
		}
		if address, err := netip.ParseAddrPort(instance.LaneAddress); err != nil || address.Port() == 0 {
			continue // its node has not said where it is reached
		}
		s := c.byName[name]
		if s == nil && instance.Egress {
			continue
		}
		if s == nil {
			s = &service{name: name}
			c.byName[name] = s
		}
		if instance.Egress != (s.outside != nil) {
			continue // a process is no way out, and a way out leads nowhere without the document
		}
		s.own = append(s.own, instance)
		if s.outside == nil { // a Service's selector leads to processes, and never out of the mesh
			labelled.add(name, instance)
		}
	}
	for _, s := range c.byName {
		if s.outside != nil {
			s.shards = shardEndpoints(s.own, s.ports, in.Lost)
			continue
		}
		registered := registeredPorts(s.own)
		members := s.own
		if s.document == nil {
			s.ports = registered
		} else {
			if len(s.document.Spec.Selector) > 0 {
				members = labelled.matching(s.name.Namespace, s.document.Spec.Selector)
			}
			s.ports = declaredPorts(s.document, members)
		}
		s.reachable = slices.Clone(s.ports)
		for _, p := range registered {
			if _, known := s.port(p.number); !known {
				s.reachable = append(s.reachable, p)
			}
		}
		slices.SortFunc(s.reachable, byNumber)
		s.shards = shardEndpoints(members, s.ports, in.Lost)
	}
	return c
}

// registeredPorts are the ports that instances registered. Where one speaks HTTP and another does not it is TCP,
// which carries everything; the name is the first instance's.
func registeredPorts(instances []*snapshot.Instance) []servicePort {
	var ports []servicePort
	index := make(map[uint32]int)
	for _, instance := range instances {
		for _, p := range instance.Ports {
			i, known := index[portID(p)]
			if !known {
				index[portID(p)] = len(ports)
				ports = append(ports, servicePort{number: portID(p), name: p.Name, protocol: p.Protocol})
			} else {
				ports[i].protocol = both(ports[i].protocol, p.Protocol)
			}
		}
	}
	slices.SortFunc(ports, byNumber)
	return ports
}

// declaredPorts are the ports of a Service document; those that are neither TCP nor UDP cannot be called and are left
// out. What a port speaks is said by its appProtocol, else by its name, else by the instances behind it,
// else it is TCP.
func declaredPorts(document *corev1.Service, members []*snapshot.Instance) []servicePort {
	ports := make([]servicePort, 0, len(document.Spec.Ports))
	for _, p := range document.Spec.Ports {
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP && p.Protocol != corev1.ProtocolUDP || p.Port < 1 || p.Port > 65535 {
			continue
		}
		port := servicePort{number: uint32(p.Port), name: p.Name, target: p.TargetPort}
		switch {
		case p.Protocol == corev1.ProtocolUDP:
			port.number += snapshot.UDPPort
			port.protocol, port.declared = snapshot.Protocol_PROTOCOL_UDP, true
		case p.AppProtocol != nil && *p.AppProtocol != "":
			port.protocol, port.declared = appProtocol(*p.AppProtocol), true
		case namesHTTP(p.Name):
			port.protocol, port.declared = snapshot.Protocol_PROTOCOL_HTTP, true
		default:
			port.protocol = memberProtocol(port, members)
		}
		ports = append(ports, port)
	}
	slices.SortStableFunc(ports, byNumber)
	return slices.CompactFunc(ports, func(a, b servicePort) bool { return a.number == b.number })
}

// appProtocol reads KEP-3726's and IANA's names, and the usual one for gRPC.
func appProtocol(name string) snapshot.Protocol {
	switch strings.ToLower(name) {
	case "http", "kubernetes.io/ws":
		return snapshot.Protocol_PROTOCOL_HTTP
	case "kubernetes.io/h2c", "grpc":
		return snapshot.Protocol_PROTOCOL_HTTP2
	}
	return snapshot.Protocol_PROTOCOL_TCP
}

// isHTTP reports whether routes and limits of requests apply to what a port speaks.
func isHTTP(p snapshot.Protocol) bool {
	return p == snapshot.Protocol_PROTOCOL_HTTP || p == snapshot.Protocol_PROTOCOL_HTTP2
}

// namesHTTP reports whether a port's name says HTTP/1.1: it starts with "http", and not with "https" or
// "http2".
func namesHTTP(name string) bool {
	return strings.HasPrefix(name, "http") && !strings.HasPrefix(name, "https") && !strings.HasPrefix(name, "http2")
}

func memberProtocol(port servicePort, members []*snapshot.Instance) snapshot.Protocol {
	found, protocol := false, snapshot.Protocol_PROTOCOL_TCP
	for _, instance := range members {
		if p := offered(instance, port); p != nil {
			if !found {
				found, protocol = true, p.Protocol
			}
			protocol = both(protocol, p.Protocol)
		}
	}
	return protocol
}

// both is what a port speaks behind which some instances speak one thing and some another. Versions of HTTP are
// translated, so that is HTTP, and each node goes by what its own instance registered.
func both(a, b snapshot.Protocol) snapshot.Protocol {
	switch {
	case a == b:
		return a
	case isHTTP(a) && isHTTP(b):
		return snapshot.Protocol_PROTOCOL_HTTP
	}
	return snapshot.Protocol_PROTOCOL_TCP
}

// carriers are what a LaneAnnotation says; everything else is as if it were absent.
var carriers = map[string]snapshot.Carrier{
	"auto": snapshot.Carrier_CARRIER_AUTO,
	"quic": snapshot.Carrier_CARRIER_QUIC,
	"tcp":  snapshot.Carrier_CARRIER_TCP,
}

func byNumber(a, b servicePort) int { return cmp.Compare(a.number, b.number) }
