package compile

import (
	"fmt"
	"maps"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// routeReasonConflicted is the reason of Accepted where a route of another kind has what this one is for (GEP-1294,
// "Route types"); Gateway API names it without having a constant for it.
const routeReasonConflicted gatewayv1.RouteConditionReason = "Conflicted"

// A routeDocument is one route in the words of an HTTPRoute, which other kinds share but for their matches.
type routeDocument struct {
	*gatewayv1.HTTPRoute

	kind *api.Kind
	grpc *gatewayv1.GRPCRoute // where the matches are, of a GRPCRoute
}

// A routeID names a route among those of all kinds.
type routeID struct{ kind, namespace, name string }

func (id routeID) String() string { return id.kind + " " + id.namespace + "/" + id.name }

func (r *routeDocument) id() routeID { return routeID{r.kind.Name, r.Namespace, r.Name} }

// routesOf lists the routes of all kinds, the oldest first, then by "namespace/name".
func routesOf(in Input) []*routeDocument {
	all := make([]*routeDocument, 0, len(in.Routes)+len(in.GRPC)+len(in.TLS)+len(in.TCP)+len(in.UDP))
	for _, r := range in.Routes {
		all = append(all, &routeDocument{HTTPRoute: r, kind: api.HTTPRoute})
	}
	for _, r := range in.GRPC {
		all = append(all, &routeDocument{HTTPRoute: asHTTP(r), kind: api.GRPCRoute, grpc: r})
	}
	for _, r := range in.TLS {
		all = append(all, &routeDocument{HTTPRoute: tlsAsHTTP(r), kind: api.TLSRoute})
	}
	for _, r := range in.TCP {
		all = append(all, &routeDocument{HTTPRoute: tcpAsHTTP(r), kind: api.TCPRoute})
	}
	for _, r := range in.UDP {
		all = append(all, &routeDocument{HTTPRoute: udpAsHTTP(r), kind: api.UDPRoute})
	}
	return oldestFirst(all)
}

// unsupported is what unsupported says of an HTTPRoute, of a route of any kind.
func (r *routeDocument) unsupported() string {
	if r.grpc != nil {
		if problem := unsupportedCalls(r.grpc); problem != "" {
			return problem
		}
	}
	return unsupported(r.HTTPRoute)
}

// matches makes an entry of each match of a rule. A rule without one matches everything.
func (r *routeDocument) matches(rule int) []*entry {
	if r.grpc != nil {
		return compileCalls(r.grpc, rule)
	}
	var matches []gatewayv1.HTTPRouteMatch
	if len(r.Spec.Rules) > 0 {
		matches = r.Spec.Rules[rule].Matches
	}
	if len(matches) == 0 {
		matches = []gatewayv1.HTTPRouteMatch{{}}
	}
	entries := make([]*entry, len(matches))
	for i := range matches {
		entries[i] = compileMatch(&matches[i])
	}
	return entries
}

// unresolved is the status for requests of which the backend is not there: of a call of gRPC it becomes UNAVAILABLE
// (GRPCRouteRule.backendRefs).
func (r *routeDocument) unresolved() uint32 {
	if r.grpc != nil {
		return 503
	}
	return 500
}

// attachmentsOf are where a route is in effect at ports of a Service.
func attachmentsOf(route *routeDocument, service exchange.ServiceName, ports []uint32) []attachment {
	callers := ""
	if route.Namespace != service.Namespace {
		callers = route.Namespace
	}
	all := make([]attachment, len(ports))
	for i, port := range ports {
		all[i] = attachment{service, port, callers}
	}
	return all
}

// Claims are the attachments that a GRPCRoute has, and no HTTPRoute can have then: of several kinds the most specific
// one is applied alone (GEP-1294, "Route types").
type claims map[attachment]*routeDocument

func claimed(routes []*routeDocument, services *catalog) claims {
	c := claims{}
	for _, route := range routes {
		if route.kind != api.GRPCRoute || route.unsupported() != "" {
			continue
		}
		for _, ref := range route.Spec.ParentRefs {
			if _, ok := parentListeners(route.Namespace, ref); ok {
				continue
			}
			name, ports, problem := parentPorts(route, ref, services)
			if problem != "" {
				continue
			}
			for _, at := range attachmentsOf(route, name, ports) {
				if c[at] == nil {
					c[at] = route
				}
			}
		}
	}
	return c
}

// conflicting is a route of another kind that is attached to the listener and has some of the hostnames; nil: there is
// none. Rules of different kinds are not merged: the older route has them (HTTPRouteSpec.hostnames).
func (l *listener) conflicting(kind gatewayv1.Kind, hostnames []string) *routeDocument {
	for _, taken := range slices.Sorted(maps.Keys(l.hosts)) {
		for _, h := range hostnames {
			if _, both := intersection(taken, h); !both {
				continue
			}
			if at := slices.IndexFunc(l.hosts[taken], func(e *entry) bool { return e.route.kind.Name != string(kind) }); at >= 0 {
				return l.hosts[taken][at].route
			}
		}
	}
	return nil
}

// leave returns those of a route's attachments that are left to its kind, and what it says of the others.
func (c claims) leave(kind *api.Kind, all []attachment) (left []attachment, note string) {
	for _, at := range all {
		if by := c[at]; by != nil && by.kind != kind {
			note = fmt.Sprintf("%s has port %s of %s, and is of a more specific kind", by.id(), PortName(at.port), at.service)
			continue
		}
		left = append(left, at)
	}
	return left, note
}
