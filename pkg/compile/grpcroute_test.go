package compile

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// accepted is the Accepted condition of a route at its first parent, and its message.
func accepted(t *testing.T, statuses map[types.NamespacedName]gatewayv1.RouteStatus, name string) (string, string) {
	t.Helper()
	status := statuses[types.NamespacedName{Namespace: "shop", Name: name}]
	if len(status.Parents) == 0 || status.Parents[0].Conditions[0].Type != string(gatewayv1.RouteConditionAccepted) {
		t.Fatalf("%s: %+v", name, status)
	}
	c := status.Parents[0].Conditions[0]
	return string(c.Status) + " " + c.Reason, c.Message
}

// TestGRPCRouteRefused: what Gateway API's schema does not let in, and what this version does not execute.
func TestGRPCRouteRefused(t *testing.T) {
	for _, tt := range []struct{ rule, want string }{
		{"{matches: [{method: {service: a.B, method: Get}}]}", ""},
		{"{matches: [{method: {type: RegularExpression, service: 'a.*'}}]}", ""},
		{"{matches: [{method: {}}]}", "spec.rules[0].matches[0].method: must have a service or a method"},
		{"{matches: [{}, {method: {service: a/b}}]}", "spec.rules[0].matches[1].method.service"},
		{"{matches: [{method: {service: a, method: b/c}}]}", "spec.rules[0].matches[0].method.method"},
		{"{matches: [{method: {type: RegularExpression, method: '('}}]}", "not a regular expression"},
		{"{matches: [{method: {type: RegularExpression, method: 'a)|(b'}}]}", "not a regular expression"},
		{"{matches: [{method: {type: Prefix, method: a}}]}", "spec.rules[0].matches[0].method.type"},
		{"{matches: [{headers: [{name: te, value: trailers}]}]}", "spec.rules[0].matches[0].headers[0].name: te"},
		{"{matches: [{headers: [{name: x, type: RegularExpression, value: '('}]}]}", "spec.rules[0].matches[0].headers[0].value"},
		{"{filters: [{type: ExtensionRef, extensionRef: {group: a.example, kind: B, name: c}}]}", "spec.rules[0].filters[0]: filters of type ExtensionRef"},
		{"{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [content-length]}}]}", "spec.rules[0].filters[0].requestHeaderModifier"},
		{"{backendRefs: [{name: payments, port: 80, weight: -1}]}", "spec.rules[0].backendRefs[0].weight"},
	} {
		o := Compile(InputOf(t, shop+`
---
kind: GRPCRoute
metadata: {name: r, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: payments, port: 80}], rules: [`+tt.rule+"]}\n"))
		got, message := accepted(t, o.GRPC, "r")
		if tt.want == "" && got != "True Accepted" || tt.want != "" && (got != "False UnsupportedValue" || !strings.Contains(message, tt.want)) {
			t.Errorf("%s: %s: %s", tt.rule, got, message)
		}
	}
}

// TestKindsAtOneService: at a port that a GRPCRoute has no HTTPRoute is in effect, however old; elsewhere it is.
func TestKindsAtOneService(t *testing.T) {
	const documents = `
kind: Service
metadata: {name: site, namespace: shop}
spec: {ports: [{port: 80, appProtocol: http}, {port: 81, appProtocol: http}]}
---
kind: HTTPRoute
metadata: {name: r, namespace: shop, creationTimestamp: "2020-01-01T00:00:00Z"}
spec: {parentRefs: [{group: "", kind: Service, name: site, port: 80}], rules: [{backendRefs: [{name: site, port: 80}]}]}
---
kind: HTTPRoute
metadata: {name: both, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: site}], rules: [{backendRefs: [{name: site, port: 80}]}]}
---
kind: HTTPRoute
metadata: {name: consumer, namespace: desk}
spec: {parentRefs: [{group: "", kind: Service, name: site, namespace: shop, port: 80}], rules: [{backendRefs: [{name: site, namespace: shop, port: 80}]}]}
---
kind: GRPCRoute
metadata: {name: r, namespace: shop, creationTimestamp: "2021-01-01T00:00:00Z"}
spec: {parentRefs: [{group: "", kind: Service, name: site, port: 80}], rules: [{backendRefs: [{name: site, port: 80}]}]}
`
	o := Compile(InputOf(t, documents))
	if got, _ := accepted(t, o.GRPC, "r"); got != "True Accepted" {
		t.Errorf("the GRPCRoute: %s", got)
	}
	if got, message := accepted(t, o.Statuses, "r"); got != "False Conflicted" || !strings.Contains(message, "GRPCRoute shop/r has port 80 of shop/site") {
		t.Errorf("the HTTPRoute: %s: %s", got, message)
	}
	if got, message := accepted(t, o.Statuses, "both"); got != "True Accepted" || !strings.Contains(message, "has port 80") {
		t.Errorf("the HTTPRoute of both ports: %s: %s", got, message)
	}
	if got := origins(out(t, o, "shop", "site", "").Ports[0]); len(got) != 1 || !strings.HasPrefix(got[0], "grpcroute/shop/r#") {
		t.Errorf("port 80: %v", got)
	}
	if got := origins(out(t, o, "shop", "site", "").Ports[1]); len(got) != 1 || !strings.HasPrefix(got[0], "httproute/shop/both#") {
		t.Errorf("port 81: %v", got)
	}
	if rules := out(t, o, "shop", "site", "desk").Ports[0].Rules; len(rules) != 1 || !strings.HasPrefix(rules[0].Origin, "httproute/desk/consumer#") {
		t.Errorf("callers with a consumer route: %v", rules)
	}
	// One that is not in effect takes nothing.
	in := InputOf(t, documents)
	bad := "a/b"
	in.GRPC[0].Spec.Rules[0].Matches = []gatewayv1.GRPCRouteMatch{{Method: &gatewayv1.GRPCMethodMatch{Service: &bad}}}
	if got, _ := accepted(t, Compile(in).Statuses, "r"); got != "True Accepted" {
		t.Errorf("beside a GRPCRoute that is refused: %s", got)
	}
}

// TestKindsAtOneListener: of an HTTPRoute and a GRPCRoute with hostnames in common the older one is in effect, of two
// as old the first by name.
func TestKindsAtOneListener(t *testing.T) {
	for _, tt := range []struct {
		name, http, grpc   string // hostnames
		younger            string // kind of the one that is not as old; empty: none
		httpName           string
		wantHTTP, wantGRPC bool
	}{
		{"the older HTTPRoute", "[a.example]", "[a.example]", "GRPCRoute", "r", true, false},
		{"the older GRPCRoute", "[a.example]", "[a.example]", "HTTPRoute", "r", false, true},
		{"as old, by name", "[a.example]", "[a.example]", "", "z", false, true},
		{"as old, by name, the other", "[a.example]", "[a.example]", "", "a", true, false},
		{"nothing in common", "[a.example]", "[b.example]", "", "a", true, true},
		{"a wildcard covers it", "['*.example']", "[b.example]", "GRPCRoute", "r", true, false},
		{"all hosts", "[]", "[b.example]", "GRPCRoute", "r", true, false},
		{"in common beyond the listener alone", "[a.example, b.elsewhere]", "[c.example, b.elsewhere]", "GRPCRoute", "r", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := withGateway(t, "{name: a, port: 80, protocol: HTTP, hostname: '*.example'}", "")
			routes := InputOf(t, `
kind: HTTPRoute
metadata: {name: `+tt.httpName+`, namespace: shop}
spec: {parentRefs: [{name: edge}], hostnames: `+tt.http+`, rules: [{backendRefs: [{name: payments, port: 80}]}]}
---
kind: GRPCRoute
metadata: {name: g, namespace: shop}
spec: {parentRefs: [{name: edge}], hostnames: `+tt.grpc+`, rules: [{backendRefs: [{name: payments, port: 80}]}]}
`)
			in.Routes, in.GRPC = routes.Routes, routes.GRPC
			in.Routes[0].CreationTimestamp, in.GRPC[0].CreationTimestamp = v1.Unix(100, 0), v1.Unix(100, 0)
			switch tt.younger {
			case "HTTPRoute":
				in.Routes[0].CreationTimestamp = v1.NewTime(time.Unix(101, 0))
			case "GRPCRoute":
				in.GRPC[0].CreationTimestamp = v1.NewTime(time.Unix(101, 0))
			}
			o := Compile(in)
			for kind, want := range map[string]bool{"HTTPRoute": tt.wantHTTP, "GRPCRoute": tt.wantGRPC} {
				statuses, name := o.Statuses, tt.httpName
				if kind == "GRPCRoute" {
					statuses, name = o.GRPC, "g"
				}
				got, message := accepted(t, statuses, name)
				if want && got != "True Accepted" || !want && got != "False Conflicted" {
					t.Errorf("%s: %s: %s", kind, got, message)
				}
			}
			attached := int32(0)
			for _, ok := range []bool{tt.wantHTTP, tt.wantGRPC} {
				if ok {
					attached++
				}
			}
			if got := edgeStatus(t, o).Listeners[0].AttachedRoutes; got != attached {
				t.Errorf("%d routes are attached, want %d", got, attached)
			}
		})
	}
}

// TestListenersForKinds: a listener takes the kinds that it names, and says which it could.
func TestListenersForKinds(t *testing.T) {
	for _, tt := range []struct{ kinds, supported, http, grpc string }{
		{"", "HTTPRoute GRPCRoute", "True Accepted", "True Accepted"},
		{", allowedRoutes: {kinds: [{kind: HTTPRoute}]}", "HTTPRoute", "True Accepted", "False NotAllowedByListeners"},
		{", allowedRoutes: {kinds: [{kind: GRPCRoute}]}", "GRPCRoute", "False NotAllowedByListeners", "True Accepted"},
	} {
		in := withGateway(t, "{name: a, port: 80, protocol: HTTP"+tt.kinds+"}", "")
		routes := InputOf(t, `
kind: HTTPRoute
metadata: {name: h, namespace: shop}
spec: {parentRefs: [{name: edge}], hostnames: [h.example]}
---
kind: GRPCRoute
metadata: {name: g, namespace: shop}
spec: {parentRefs: [{name: edge}], hostnames: [g.example]}
`)
		in.Routes, in.GRPC = routes.Routes, routes.GRPC
		o := Compile(in)
		var supported []string
		for _, k := range edgeStatus(t, o).Listeners[0].SupportedKinds {
			supported = append(supported, string(k.Kind))
		}
		http, _ := accepted(t, o.Statuses, "h")
		grpc, _ := accepted(t, o.GRPC, "g")
		if got := strings.Join(supported, " "); got != tt.supported || http != tt.http || grpc != tt.grpc {
			t.Errorf("%q: supports %s, HTTPRoute %s, GRPCRoute %s", tt.kinds, got, http, grpc)
		}
	}
}

// TestGRPCRouteIsItsOwnKind: for grants and for policies a GRPCRoute is none of the HTTPRoutes of its name.
func TestGRPCRouteIsItsOwnKind(t *testing.T) {
	for _, kind := range []string{"HTTPRoute", "GRPCRoute"} {
		in := withGateway(t, "{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}", "")
		more := InputOf(t, `
kind: HTTPRoute
metadata: {name: r, namespace: desk}
spec: {parentRefs: [{name: edge, namespace: shop}], hostnames: [h.example], rules: [{backendRefs: [{name: web, namespace: shop, port: 80}]}]}
---
kind: GRPCRoute
metadata: {name: r, namespace: desk}
spec: {parentRefs: [{name: edge, namespace: shop}], hostnames: [g.example], rules: [{backendRefs: [{name: web, namespace: shop, port: 80}]}]}
---
kind: ReferenceGrant
metadata: {name: g, namespace: shop}
spec: {from: [{group: gateway.networking.k8s.io, kind: `+kind+`, namespace: desk}], to: [{group: "", kind: Service}]}
---
kind: QuotaPolicy
metadata: {name: q, namespace: desk}
spec: {targetRefs: [{kind: `+kind+`, name: r}], limits: [{name: all, requests: 1, per: Second}]}
`)
		in.Routes, in.GRPC, in.Grants, in.Quotas = more.Routes, more.GRPC, more.Grants, more.Quotas
		o := Compile(in)
		for _, r := range o.Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound).Ingress.Rules {
			is := strings.HasPrefix(r.Origin, strings.ToLower(kind)+"/")
			if permitted := r.Backends[0].Answer == 0; permitted != is {
				t.Errorf("granted to %s: %s is answered with %d", kind, r.Origin, r.Backends[0].Answer)
			}
			if limited := len(r.Limits) > 0; limited != is {
				t.Errorf("limits of %s: %s has %d", kind, r.Origin, len(r.Limits))
			}
		}
		if c := o.Quotas[types.NamespacedName{Namespace: "desk", Name: "q"}][0]; c.Status != v1.ConditionTrue {
			t.Errorf("%+v", c)
		}
	}
}
