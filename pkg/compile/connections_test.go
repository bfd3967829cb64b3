package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// withConnections is a mesh with Gateway shop/edge of some listeners, Services of TCP and HTTP, and more documents.
func withConnections(t *testing.T, listeners string, more ...string) Input {
	t.Helper()
	return InputOf(t, class+`
---
kind: Service
metadata: {name: db, namespace: shop}
spec: {ports: [{port: 5432}]}
---
kind: Service
metadata: {name: far, namespace: desk}
spec: {ports: [{port: 5432}]}
---
kind: Gateway
metadata: {name: edge, namespace: shop, generation: 3}
spec: {gatewayClassName: sennit, listeners: [`+listeners+`]}
---
`+strings.Join(more, "\n---\n"))
}

// TestListenersOfConnections: which kinds of routes they take, what they need, and with which others they share a port.
func TestListenersOfConnections(t *testing.T) {
	const passes, ends = "protocol: TLS, tls: {mode: Passthrough}", "protocol: TLS, tls: {certificateRefs: [{name: good}]}"
	for _, tt := range []struct{ name, listeners, accepted, refs, kinds, compiled string }{
		{"TLS that passes through", "{name: a, port: 443, " + passes + "}", "True Accepted", "True ResolvedRefs", "TLSRoute", "tcp passthrough"},
		{"TLS that ends", "{name: a, port: 443, hostname: A.b, " + ends + "}", "True Accepted", "True ResolvedRefs", "TLSRoute", "a.b tcp certificate"},
		{"TLS that ends, without a certificate", "{name: a, port: 443, protocol: TLS, tls: {mode: Terminate}}", "True Accepted", "False InvalidCertificateRef", "TLSRoute", ""},
		{"TLS that does both, for different names", "{name: a, port: 443, hostname: a.b, " + passes + "}, {name: b, port: 443, hostname: b.b, " + ends + "}", "True Accepted", "True ResolvedRefs", "TLSRoute", "a.b tcp passthrough"},
		{"TLS that does both, for one name", "{name: a, port: 443, hostname: a.b, " + passes + "}, {name: b, port: 443, hostname: A.b, " + ends + "}", "False HostnameConflict", "True ResolvedRefs", "TLSRoute", ""},
		{"HTTPS beside it, for another name", "{name: a, port: 443, hostname: a.b, " + passes + "}, {name: b, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good}]}}", "True Accepted", "True ResolvedRefs", "TLSRoute", "a.b tcp passthrough"},
		{"HTTPS beside it, for the same name", "{name: a, port: 443, " + passes + "}, {name: b, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good}]}}", "False HostnameConflict", "True ResolvedRefs", "TLSRoute", ""},
		{"HTTPS that passes through", "{name: a, port: 443, protocol: HTTPS, tls: {mode: Passthrough}}", "False UnsupportedValue", "True ResolvedRefs", "", ""},
		{"TCP", "{name: a, port: 5432, hostname: a.b, protocol: TCP}", "True Accepted", "True ResolvedRefs", "TCPRoute", "tcp"},
		{"TCP beside TLS", "{name: a, port: 443, protocol: TCP}, {name: b, port: 443, " + passes + "}", "False ProtocolConflict", "True ResolvedRefs", "TCPRoute", ""},
		{"kinds that it takes, and others", "{name: a, port: 443, " + passes + ", allowedRoutes: {kinds: [{kind: TLSRoute}, {kind: TCPRoute}]}}", "True Accepted", "False InvalidRouteKinds", "TLSRoute", "tcp passthrough"},
		{"kinds that it does not take", "{name: a, port: 5432, protocol: TCP, allowedRoutes: {kinds: [{kind: HTTPRoute}]}}", "True Accepted", "False InvalidRouteKinds", "", "tcp"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := withConnections(t, tt.listeners)
			good, _ := certificateSecret(t, "shop", "good")
			in.Secrets = append(in.Secrets, good)
			o := Compile(in)
			l := edgeStatus(t, o).Listeners[0]
			var kinds []string
			for _, k := range l.SupportedKinds {
				kinds = append(kinds, string(k.Kind))
			}
			body, _ := o.Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound)
			compiled := ""
			for _, c := range body.GetIngress().GetListeners() {
				if c.Name == "a" {
					compiled = c.Hostname
					if c.Tcp {
						compiled += " tcp"
					}
					if c.Tls.GetPassthrough() {
						compiled += " passthrough"
					}
					if len(c.Tls.GetCertificates()) > 0 {
						compiled += " certificate"
					}
					if !slices.Contains(Requires(body), snapshot.FeatureIngressTCP) {
						t.Error("a node that knows no such listeners may open them")
					}
				}
			}
			got := []string{said(t, l.Conditions, "Accepted"), said(t, l.Conditions, "ResolvedRefs"), strings.Join(kinds, " "), strings.TrimSpace(compiled)}
			if want := []string{tt.accepted, tt.refs, tt.kinds, tt.compiled}; !slices.Equal(got, want) {
				t.Errorf("got %q\nwant %q", got, want)
			}
		})
	}
}

// TestRoutesOfConnectionsAtGateways: what a TLSRoute or TCPRoute finds there, with the reasons of Gateway API.
func TestRoutesOfConnectionsAtGateways(t *testing.T) {
	const (
		passes = "{name: a, port: 443, protocol: TLS, hostname: '*.shop.example', tls: {mode: Passthrough}}"
		tcp    = "{name: a, port: 5432, protocol: TCP}"
		http   = "{name: a, port: 80, protocol: HTTP}"
		grant  = "kind: ReferenceGrant\nmetadata: {name: g, namespace: desk}\nspec: {from: [{group: gateway.networking.k8s.io, kind: TLSRoute, namespace: shop}], to: [{group: \"\", kind: Service}]}"
		bank   = "kind: ExternalService\nmetadata: {name: bank, namespace: shop}\nspec: {host: bank.example, port: 443, protocol: HTTP}"
	)
	for _, tt := range []struct {
		name, listeners, kind, parent, hostname, backend, more string
		accepted, resolved                                     string
		hosts                                                  string // that are compiled, with their backends
		attached                                               int32
	}{
		{"by name", passes, "TLSRoute", "name: edge", "a.shop.example", "name: db, port: 5432", "", "True Accepted", "True ResolvedRefs", "a.shop.example>shop/db", 1},
		{"by a wildcard of its own", passes, "TLSRoute", "name: edge", "*.example", "name: db, port: 5432", "", "True Accepted", "True ResolvedRefs", "*.shop.example>shop/db", 1},
		{"no name in common", passes, "TLSRoute", "name: edge", "shop.example", "name: db, port: 5432", "", "False NoMatchingListenerHostname", "True ResolvedRefs", "", 0},
		{"a listener for HTTP", http, "TLSRoute", "name: edge", "a.example", "name: db, port: 5432", "", "False NotAllowedByListeners", "True ResolvedRefs", "", 0},
		{"no such listener", passes, "TLSRoute", "name: edge, sectionName: b", "a.shop.example", "name: db, port: 5432", "", "False NoMatchingParent", "True ResolvedRefs", "", 0},
		{"a Service", passes, "TLSRoute", `name: db, group: "", kind: Service`, "a.shop.example", "name: db, port: 5432", "", "False NoMatchingParent", "True ResolvedRefs", "", 0},
		{"no such backend", passes, "TLSRoute", "name: edge", "a.shop.example", "name: none, port: 5432", "", "True Accepted", "False BackendNotFound", "a.shop.example>500", 1},
		{"a backend of another kind", passes, "TLSRoute", "name: edge", "a.shop.example", "name: db, port: 5432, kind: Pod", "", "True Accepted", "False InvalidKind", "a.shop.example>500", 1},
		{"a backend of HTTP", passes, "TLSRoute", "name: edge", "a.shop.example", "name: web, port: 80", "", "True Accepted", "True ResolvedRefs", "a.shop.example>shop/web", 1},
		{"a host outside, of HTTP", passes, "TLSRoute", "name: edge", "a.shop.example", "name: bank, group: sennit.dev, kind: ExternalService", bank, "True Accepted", "False UnsupportedProtocol", "a.shop.example>500", 1},
		{"another namespace", passes, "TLSRoute", "name: edge", "a.shop.example", "name: far, namespace: desk, port: 5432", "", "True Accepted", "False RefNotPermitted", "a.shop.example>500", 1},
		{"another namespace, by a grant", passes, "TLSRoute", "name: edge", "a.shop.example", "name: far, namespace: desk, port: 5432", grant, "True Accepted", "True ResolvedRefs", "a.shop.example>desk/far", 1},
		{"another namespace, by a grant to TLSRoutes", tcp, "TCPRoute", "name: edge", "", "name: far, namespace: desk, port: 5432", grant, "True Accepted", "False RefNotPermitted", ">500", 1},
		{"TCP", tcp, "TCPRoute", "name: edge", "", "name: db, port: 5432", "", "True Accepted", "True ResolvedRefs", ">shop/db", 1},
		{"TCP by port", tcp, "TCPRoute", "name: edge, port: 5432", "", "name: db, port: 5432", "", "True Accepted", "True ResolvedRefs", ">shop/db", 1},
		{"TCP at a listener for TLS", passes, "TCPRoute", "name: edge", "", "name: db, port: 5432", "", "False NotAllowedByListeners", "True ResolvedRefs", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hostnames := ""
			if tt.hostname != "" {
				hostnames = "hostnames: ['" + tt.hostname + "'], "
			}
			in := withConnections(t, tt.listeners, "kind: "+tt.kind+"\nmetadata: {name: r, namespace: shop, generation: 3}\nspec: {"+hostnames+"parentRefs: [{"+tt.parent+"}], rules: [{backendRefs: [{"+tt.backend+"}]}]}", tt.more)
			o := Compile(in)
			statuses := o.TLS
			if tt.kind == "TCPRoute" {
				statuses = o.TCP
			}
			status := statuses[types.NamespacedName{Namespace: "shop", Name: "r"}]
			if len(status.Parents) != 1 {
				t.Fatalf("%+v", status)
			}
			hosts := ""
			body, _ := o.Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound)
			for _, h := range body.GetIngress().GetListeners()[0].GetHosts() {
				b := body.Ingress.Rules[h.Rules[0]].Backends[0]
				hosts += h.Hostname + ">"
				if b.Answer != 0 {
					hosts += fmt.Sprint(b.Answer)
				} else {
					hosts += b.Namespace + "/" + b.Service
				}
			}
			conditions := status.Parents[0].Conditions
			got := []string{said(t, conditions, "Accepted"), said(t, conditions, "ResolvedRefs"), hosts, fmt.Sprint(edgeStatus(t, o).Listeners[0].AttachedRoutes)}
			if want := []string{tt.accepted, tt.resolved, tt.hosts, fmt.Sprint(tt.attached)}; !slices.Equal(got, want) {
				t.Errorf("got %q\nwant %q\n%+v", got, want, conditions)
			}
		})
	}
}

// TestTheOldestTCPRouteHasTheListener: others attach, and get nothing.
func TestTheOldestTCPRouteHasTheListener(t *testing.T) {
	route := func(name, created, backend string) string {
		return "kind: TCPRoute\nmetadata: {name: " + name + ", namespace: shop, generation: 3, creationTimestamp: '" + created + "'}\nspec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: " + backend + "}]}]}"
	}
	in := withConnections(t, "{name: a, port: 5432, protocol: TCP}", route("a", "2026-02-01T00:00:00Z", "db, port: 5432"), route("b", "2026-01-01T00:00:00Z", "db, port: 5432, weight: 3}, {name: web, port: 80"))
	p := &api.QuotaPolicy{}
	p.Namespace, p.Name = "shop", "p"
	p.Spec.TargetRefs = []api.QuotaTarget{{Kind: "Service", Name: "web"}}
	p.Spec.Limits = []api.QuotaLimit{{Name: "l", Requests: 1, Per: "Second"}}
	in.Quotas = append(in.Quotas, p)
	o := Compile(in)
	for _, name := range []string{"a", "b"} {
		if got := said(t, o.TCP[types.NamespacedName{Namespace: "shop", Name: name}].Parents[0].Conditions, "Accepted"); got != "True Accepted" {
			t.Errorf("%s: %s", name, got)
		}
	}
	in2 := o.Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound).Ingress
	first := in2.Rules[in2.Listeners[0].Hosts[0].Rules[0]]
	if got := edgeStatus(t, o).Listeners[0].AttachedRoutes; got != 2 || first.Origin != "tcproute/shop/b#0/0" || len(first.Backends) != 2 || first.Backends[0].Weight != 3 || len(first.Limits) != 0 {
		t.Errorf("%d attached, %+v", got, first)
	}
}

// TestTCPRoutesOfServices: connections of callers in the mesh are shared out by a TCPRoute of the Service's namespace, or of
// their own.
func TestTCPRoutesOfServices(t *testing.T) {
	in := withConnections(t, "{name: a, port: 5432, protocol: TCP}",
		"kind: TCPRoute\nmetadata: {name: own, namespace: shop, generation: 3}\nspec: {parentRefs: [{name: db, kind: Service, group: ''}], rules: [{backendRefs: [{name: db, port: 5432, weight: 9}, {name: web, port: 80, weight: 1}]}]}",
		"kind: TCPRoute\nmetadata: {name: theirs, namespace: desk, generation: 3}\nspec: {parentRefs: [{name: db, namespace: shop, kind: Service, group: ''}], rules: [{backendRefs: [{name: far, port: 5432}]}]}",
		"kind: TCPRoute\nmetadata: {name: web, namespace: shop, generation: 3}\nspec: {parentRefs: [{name: web, kind: Service, group: ''}], rules: [{backendRefs: [{name: db, port: 5432}]}]}",
		"kind: HTTPRoute\nmetadata: {name: db, namespace: shop, generation: 3}\nspec: {parentRefs: [{name: db, kind: Service, group: ''}], rules: [{backendRefs: [{name: web, port: 80}]}]}",
	)
	o := Compile(in)
	for callers, want := range map[string]string{"": "tcproute/shop/own#0/0 9 shop/db 1 shop/web", "desk": "tcproute/desk/theirs#0/0 1 desk/far"} {
		rule := out(t, o, "shop", "db", callers).Ports[0].Rules[0]
		got := rule.Origin
		for _, b := range rule.Backends {
			got += fmt.Sprintf(" %d %s/%s", b.Weight, b.Namespace, b.Service)
		}
		if got != want {
			t.Errorf("for callers of %q: %s, want %s", callers, got, want)
		}
	}
	said := func(status gatewayv1.RouteStatus) string {
		c := status.Parents[0].Conditions[slices.IndexFunc(status.Parents[0].Conditions, func(c v1.Condition) bool { return c.Type == "Accepted" })]
		return c.Reason + ": " + c.Message
	}
	if got := said(o.TCP[types.NamespacedName{Namespace: "shop", Name: "web"}]); !strings.HasPrefix(got, "NoMatchingParent: ") || !strings.Contains(got, "write an HTTPRoute") {
		t.Errorf("at HTTP: %s", got)
	}
	if got := said(o.Statuses[types.NamespacedName{Namespace: "shop", Name: "db"}]); !strings.HasPrefix(got, "NoMatchingParent: ") {
		t.Errorf("HTTPRoute at TCP: %s", got)
	}
}
