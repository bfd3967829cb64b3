package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// addExternal makes services of the ExternalServices, and returns the names at which one displaces a Service: of two
// with one name the older is in effect, and the Service where they are equally old.
func (c *catalog) addExternal(in Input) (displacing map[exchange.ServiceName]bool) {
	displacing, c.displaced = map[exchange.ServiceName]bool{}, map[exchange.ServiceName]bool{}
	services := make(map[exchange.ServiceName]v1.Time, len(in.Services))
	for _, s := range in.Services {
		services[exchange.ServiceName{Namespace: s.Namespace, Name: s.Name}] = s.CreationTimestamp
	}
	for _, document := range in.External {
		name := exchange.ServiceName{Namespace: document.Namespace, Name: document.Name}
		if made, taken := services[name]; taken {
			if !document.CreationTimestamp.Before(&made) {
				c.displaced[name] = true
				continue
			}
			displacing[name] = true
		}
		s := &service{name: name, outside: document}
		s.carrier = carriers[document.Annotations[LaneAnnotation]]
		s.ports = []servicePort{{number: uint32(document.Spec.Port), protocol: outsideProtocol(document), declared: true}}
		s.reachable = s.ports
		c.byName[name] = s
	}
	return displacing
}

func outsideProtocol(document *api.ExternalService) snapshot.Protocol {
	switch document.Spec.Protocol {
	case api.ProtocolTCP:
		return snapshot.Protocol_PROTOCOL_TCP
	case api.ProtocolHTTP2:
		return snapshot.Protocol_PROTOCOL_HTTP2
	}
	return snapshot.Protocol_PROTOCOL_HTTP
}

// dialled is what the nodes that are the egress are told.
func dialled(document *api.ExternalService, policy *backendTLS) *snapshot.Outside {
	out := &snapshot.Outside{
		Host: document.Spec.Host, Port: uint32(document.Spec.Port), Protocol: outsideProtocol(document), AllowedAddresses: document.Spec.AllowedAddresses,
	}
	if tls := document.Spec.TLS; tls == nil || tls.Mode != api.TLSNone { // what nobody said is the safe one
		out.Tls, out.ServerName = true, document.Spec.Host
		if tls != nil {
			out.ServerName, out.CaBundle = cmp.Or(tls.ServerName, document.Spec.Host), tls.CABundle
		}
		if policy != nil {
			out.Origination = policy.says
		}
	}
	return out
}

// find returns the Service or ExternalService of a name, or says why there is none.
func (c *catalog) find(kind string, name exchange.ServiceName) (*service, string) {
	s := c.byName[name]
	external := kind == api.ExternalServices.Name
	switch {
	case s != nil && external == (s.outside != nil):
		return s, ""
	case external && c.displaced[name]:
		return nil, fmt.Sprintf("ExternalService %s is not in effect: an older Service has its name", name)
	case external:
		return nil, fmt.Sprintf("there is no ExternalService %s", name)
	case s != nil:
		return nil, fmt.Sprintf("there is no Service %s in effect; the ExternalService of this name is named with group: sennit.dev, kind: ExternalService", name)
	case c.external[name]:
		return nil, fmt.Sprintf("Service %s is of type ExternalName, which is nothing in the mesh (an ExternalService is what leads out of it)", name)
	}
	return nil, fmt.Sprintf("there is no Service %s", name)
}

// saysHTTP is what a document says to be HTTP.
func (s *service) saysHTTP() string {
	if s.outside != nil {
		return "spec.protocol: HTTP"
	}
	return "appProtocol: http"
}

// externalConditions says of each ExternalService whether it is in effect, and whether any node carries calls to it.
func (c *catalog) externalConditions(in Input) map[types.NamespacedName][]v1.Condition {
	all := make(map[types.NamespacedName][]v1.Condition, len(in.External))
	displaced := map[exchange.ServiceName]bool{}
	for _, s := range in.Services {
		displaced[exchange.ServiceName{Namespace: s.Namespace, Name: s.Name}] = true
	}
	for _, document := range in.External {
		name := exchange.ServiceName{Namespace: document.Namespace, Name: document.Name}
		accepted := v1.Condition{
			Type: string(gatewayv1.GatewayConditionAccepted), Status: v1.ConditionTrue, Reason: string(gatewayv1.GatewayReasonAccepted),
			Message: "the document is in effect",
		}
		programmed := v1.Condition{Type: string(gatewayv1.GatewayConditionProgrammed), Status: v1.ConditionFalse}
		if c.displaced[name] {
			accepted.Status, accepted.Reason = v1.ConditionFalse, "Conflicted"
			accepted.Message = "an older Service has this name: rename one of them, or delete the Service"
			programmed.Reason, programmed.Message = "Invalid", "the document is not in effect"
		} else {
			if displaced[name] {
				accepted.Message += "; the younger Service of this name is not"
			}
			programmed = c.byName[name].egressCondition(in.Lost, programmed)
		}
		all[types.NamespacedName{Namespace: document.Namespace, Name: document.Name}] = observed(document.Generation, accepted, programmed)
	}
	return all
}

func (s *service) egressCondition(lost map[string]bool, c v1.Condition) v1.Condition {
	var nodes []string
	for _, in := range s.own {
		if !in.Unhealthy && !lost[in.Node] {
			nodes = append(nodes, in.Node)
		}
	}
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	if len(nodes) == 0 {
		c.Reason = "NoEgress"
		c.Message = fmt.Sprintf("no node carries calls to it: allow one with `sennit node allow NODE %s`, and put `service: %s` with `egress: {}` into its services.d", s.name, s.name)
		return c
	}
	c.Status, c.Reason = v1.ConditionTrue, string(gatewayv1.GatewayReasonProgrammed)
	const most = 8
	c.Message = fmt.Sprintf("calls to it are carried by: %s", strings.Join(nodes[:min(most, len(nodes))], ", "))
	if len(nodes) > most {
		c.Message += ", …"
	}
	return c
}
