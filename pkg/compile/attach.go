package compile

import (
	"fmt"
	"slices"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// An attachment is where rules apply: at one port of a service, for the callers of one namespace (a
// consumer route, in that namespace), or for all others (producer routes, in the service's own; empty).
type attachment struct {
	service exchange.ServiceName
	port    uint32
	callers string
}

type attachments map[attachment][]*entry

// A compiledRoute is a route as callers of the mesh, or those outside, get it: what its rules may refer to is not the
// same for both. They are compiled when they are asked for first.
type compiledRoute struct {
	*routeDocument

	services *catalog
	refusal  string // why it is not in effect anywhere; may be empty
	entries  []*entry
	refs     *refProblems
}

func (r *compiledRoute) compile() {
	if r.refs == nil {
		r.entries, r.refs = compileRules(r.routeDocument, r.services)
	}
}

func (r *compiledRoute) rules() []*entry {
	r.compile()
	return r.entries
}

// accepted tells what became of a route at one of its parents; problem is why that does not take it, and may be empty.
func (r *compiledRoute) accepted(index int, reason gatewayv1.RouteConditionReason, problem string) v1.Condition {
	c := v1.Condition{Type: string(gatewayv1.RouteConditionAccepted), Status: v1.ConditionFalse}
	switch {
	case problem != "":
		c.Reason, c.Message = string(reason), fmt.Sprintf("spec.parentRefs[%d]: %s", index, problem)
	case r.refusal != "":
		c.Reason, c.Message = string(gatewayv1.RouteReasonUnsupportedValue), r.refusal+"; the route is not in effect"
	default:
		c.Status, c.Reason, c.Message = v1.ConditionTrue, string(gatewayv1.RouteReasonAccepted), "the route is in effect"
	}
	return c
}

func (r *compiledRoute) parentStatus(ref gatewayv1.ParentReference, controller gatewayv1.GatewayController, accepted v1.Condition) gatewayv1.RouteParentStatus {
	r.compile()
	return gatewayv1.RouteParentStatus{
		ParentRef:      ref,
		ControllerName: controller,
		Conditions:     observed(r.Generation, accepted, r.refs.condition()),
	}
}

// attach adds a route's rules wherever its parents accept it, and returns its status.
func attach(document *routeDocument, services *catalog, gateways *gateways, to attachments, taken claims) gatewayv1.RouteStatus {
	refusal := document.unsupported()
	route := &compiledRoute{routeDocument: document, services: services, refusal: refusal}
	outside := &compiledRoute{routeDocument: document, services: gateways.services, refusal: refusal}
	done := make(map[attachment]bool)
	var status gatewayv1.RouteStatus
	for i, ref := range document.Spec.ParentRefs {
		if parent, ok := parentListeners(document.Namespace, ref); ok {
			if at := gateways.attach(outside, i, ref, parent); at != nil {
				status.Parents = append(status.Parents, *at)
			}
			continue
		}
		name, ports, problem := parentPorts(document, ref, services)
		reason, note := gatewayv1.RouteReasonNoMatchingParent, ""
		at := attachmentsOf(document, name, ports)
		if problem == "" {
			if at, note = taken.leave(document.kind, at); len(at) == 0 {
				reason, problem = routeReasonConflicted, note
			}
		}
		accepted := route.accepted(i, reason, problem)
		if accepted.Status == v1.ConditionTrue {
			if len(document.Spec.Hostnames) > 0 {
				accepted.Message += "; spec.hostnames means nothing for a Service and is ignored (match the header Host instead)"
			}
			if note != "" {
				accepted.Message += "; " + note
			}
			for _, at := range at {
				if !done[at] {
					done[at] = true
					to[at] = append(to[at], route.rules()...)
				}
			}
		}
		status.Parents = append(status.Parents, route.parentStatus(ref, ControllerName, accepted))
	}
	return status
}

// parentPorts finds the ports that a parentRef selects, and that are of what the route is for, or says why there are none.
func parentPorts(route *routeDocument, ref gatewayv1.ParentReference, services *catalog) (exchange.ServiceName, []uint32, string) {
	group, kind := gatewayv1.GroupName, "Gateway"
	if ref.Group != nil {
		group = string(*ref.Group)
	}
	if ref.Kind != nil {
		kind = string(*ref.Kind)
	}
	name := exchange.ServiceName{Namespace: route.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil && *ref.Namespace != "" {
		name.Namespace = string(*ref.Namespace)
	}
	switch {
	case route.kind == api.TLSRoute:
		return name, nil, "a TLSRoute attaches to listeners of Gateways, and to nothing else in this version; a TCPRoute attaches to ports of Services"
	case kind == "Service" && group == gatewayv1.GroupName:
		return name, nil, `a Service is of the core group; write group: ""`
	case kind == api.ExternalServices.Name && group == api.ExternalServices.Group:
	case kind != "Service" || group != "":
		return name, nil, fmt.Sprintf(`parents of kind %s in group %q are not supported in this version; write group: "" and kind: Service, or kind: Gateway or ListenerSet`, kind, group)
	}
	parent, problem := services.find(kind, name)
	if problem != "" {
		return name, nil, problem
	}
	var wanted, other, elsewhere []uint32
	for _, p := range parent.ports {
		number, udp := snapshot.Port(p.number)
		if ref.Port != nil && *ref.Port != gatewayv1.PortNumber(number) || ref.SectionName != nil && *ref.SectionName != "" && string(*ref.SectionName) != p.name {
			continue
		}
		switch {
		case udp != (route.kind == api.UDPRoute):
			elsewhere = append(elsewhere, p.number)
		case udp, isHTTP(p.protocol) != ofConnections(route.kind):
			wanted = append(wanted, p.number)
		default:
			other = append(other, p.number)
		}
	}
	switch {
	case len(wanted) > 0:
		return name, wanted, ""
	case len(other) > 0 && ofConnections(route.kind):
		return name, nil, fmt.Sprintf("port %d of %s %s is HTTP, of which each request is routed; write an HTTPRoute", other[0], kind, name)
	case len(other) > 0:
		return name, nil, fmt.Sprintf("port %d of %s %s is not known to be HTTP; set %s", other[0], kind, name, parent.saysHTTP())
	case len(elsewhere) > 0 && route.kind == api.UDPRoute:
		return name, nil, fmt.Sprintf("port %s of %s %s is TCP, and a UDPRoute is for UDP; write protocol: UDP in the Service, or another kind of route", PortName(elsewhere[0]), kind, name)
	case len(elsewhere) > 0:
		return name, nil, fmt.Sprintf("port %s of %s %s is UDP; write a UDPRoute", PortName(elsewhere[0]), kind, name)
	}
	return name, nil, fmt.Sprintf("%s %s has no port that sectionName and port select", kind, name)
}

// consumers lists, for each service, the namespaces whose callers have rules of their own, in order.
func (a attachments) consumers() map[exchange.ServiceName][]string {
	found := make(map[exchange.ServiceName][]string)
	for at := range a {
		if at.callers != "" && !slices.Contains(found[at.service], at.callers) {
			found[at.service] = append(found[at.service], at.callers)
		}
	}
	for _, namespaces := range found {
		slices.Sort(namespaces)
	}
	return found
}
