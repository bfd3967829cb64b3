package compile

import (
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// ofConnections reports whether routes of a kind decide on whole connections, or flows of datagrams, whose bytes nobody
// looks at. Such a route is an HTTPRoute of one rule that matches everything; where its backend is not there, the
// connection is reset, and the flow's datagrams are dropped.
func ofConnections(kind *api.Kind) bool {
	return kind == api.TLSRoute || kind == api.TCPRoute || kind == api.UDPRoute
}

func tlsAsHTTP(route *gatewayv1.TLSRoute) *gatewayv1.HTTPRoute {
	as := &gatewayv1.HTTPRoute{ObjectMeta: route.ObjectMeta}
	as.Spec.CommonRouteSpec, as.Spec.Hostnames = route.Spec.CommonRouteSpec, route.Spec.Hostnames
	for _, rule := range route.Spec.Rules {
		as.Spec.Rules = append(as.Spec.Rules, ruleOfConnections(rule.Name, rule.BackendRefs))
	}
	return as
}

func tcpAsHTTP(route *gatewayv1.TCPRoute) *gatewayv1.HTTPRoute {
	as := &gatewayv1.HTTPRoute{ObjectMeta: route.ObjectMeta}
	as.Spec.CommonRouteSpec = route.Spec.CommonRouteSpec
	for _, rule := range route.Spec.Rules {
		as.Spec.Rules = append(as.Spec.Rules, ruleOfConnections(rule.Name, rule.BackendRefs))
	}
	return as
}

func ruleOfConnections(name *gatewayv1.SectionName, refs []gatewayv1.BackendRef) gatewayv1.HTTPRouteRule {
	rule := gatewayv1.HTTPRouteRule{Name: name}
	for _, ref := range refs {
		rule.BackendRefs = append(rule.BackendRefs, gatewayv1.HTTPBackendRef{BackendRef: ref})
	}
	return rule
}
