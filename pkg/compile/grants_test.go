package compile

import (
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestGrantsLetRoutesLeadElsewhere: from outside into another namespace where a grant of that namespace says so, for
// the namespace, the kind and the name that it says, and for no others.
func TestGrantsLetRoutesLeadElsewhere(t *testing.T) {
	const from, to = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: desk}", `{group: "", kind: Service}`
	for _, tt := range []struct {
		name, in, from, to string
		want               string
	}{
		{"all services", "shop", from, to, "True ResolvedRefs"},
		{"this service", "shop", from, `{group: "", kind: Service, name: web}`, "True ResolvedRefs"},
		{"among others", "shop", "{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: desk}, " + from, `{group: "", kind: Secret}, ` + to, "True ResolvedRefs"},
		{"another service", "shop", from, `{group: "", kind: Service, name: web2}`, "False RefNotPermitted"},
		{"another kind", "shop", from, `{group: "", kind: Secret}`, "False RefNotPermitted"},
		{"another kind of route", "shop", "{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: desk}", to, "False RefNotPermitted"},
		{"another group", "shop", "{group: example.com, kind: HTTPRoute, namespace: desk}", to, "False RefNotPermitted"},
		{"routes of another namespace", "shop", "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: office}", to, "False RefNotPermitted"},
		{"a grant that the route's own namespace gives itself", "desk", from, to, "False RefNotPermitted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := withGateway(t, "{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}", "", "desk")
			shop := gatewayv1.Namespace("shop")
			in.Routes[0].Spec.Rules[0].BackendRefs[0].Namespace = &shop
			in.Grants = InputOf(t, "kind: ReferenceGrant\nmetadata: {name: g, namespace: "+tt.in+"}\nspec: {from: ["+tt.from+"], to: ["+tt.to+"]}").Grants
			o := Compile(in)
			c := condition(t, o, "desk", "r", 0, gatewayv1.RouteConditionResolvedRefs)
			if got := string(c.Status) + " " + c.Reason; got != tt.want {
				t.Errorf("%+v", c)
			}
			answer := o.Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound).Ingress.Rules[0].Backends[0].Answer
			if permitted := c.Status == "True"; permitted != (answer == 0) {
				t.Errorf("%s, and the backend's share is answered with %d", c.Reason, answer)
			}
		})
	}
}
