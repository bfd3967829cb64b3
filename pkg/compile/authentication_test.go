package compile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// aKey is a public key of the curve P-256 (RFC 7515, appendix A.3).
const aKey = `{"kty":"EC","crv":"P-256","kid":"a","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`

func usersOf(name, namespace, age, targets string) string {
	return fmt.Sprintf(`
---
{apiVersion: sennit.dev/v1alpha1, kind: AuthenticationPolicy, metadata: {namespace: %s, name: %s, creationTimestamp: "2026-01-01T00:00:0%sZ"}, spec: {
  targetRefs: [%s], issuers: [{issuer: 'https://id.example', audiences: [shop], keys: {url: 'https://id.example/keys'}}]}}`, namespace, name, age, targets)
}

const withGateway = `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: sennit}, spec: {controllerName: sennit.dev/gateway-controller}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {namespace: shop, name: front}, spec: {gatewayClassName: sennit, listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {namespace: shop, name: a}, spec: {parentRefs: [{name: front}], hostnames: [a.example], rules: [{backendRefs: [{name: orders, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {namespace: shop, name: b}, spec: {parentRefs: [{name: front}], hostnames: [b.example], rules: [{backendRefs: [{name: orders, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {namespace: other, name: c}, spec: {parentRefs: [{namespace: shop, name: front}], hostnames: [c.example], rules: [{backendRefs: [{name: x, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {namespace: shop, name: inner}, spec: {parentRefs: [{group: "", kind: Service, name: orders}], rules: [{backendRefs: [{name: orders, port: 80}]}]}}
`

// TestWhoIsAskedForTheEndUser has policies of services, gateways and routes, some in each other's way.
func TestWhoIsAskedForTheEndUser(t *testing.T) {
	for _, tt := range []struct {
		name, policies   string
		service, a, b, c string            // the policy in effect there
		accepted         map[string]string // policies to a part of their condition; empty: it is True
	}{
		{"none", "", "", "", "", "", nil},
		{"a service's", usersOf("p", "shop", "1", "{kind: Service, name: orders}"), "shop/p", "", "", "", map[string]string{"shop/p": ""}},
		{"a gateway's", usersOf("p", "shop", "1", "{kind: Gateway, name: front}"), "", "shop/p", "shop/p", "shop/p", map[string]string{"shop/p": ""}},
		{"a route's beside the gateway's", usersOf("p", "shop", "1", "{kind: Gateway, name: front}") + usersOf("q", "shop", "2", "{kind: HTTPRoute, name: a}"),
			"", "shop/q", "shop/p", "shop/p", map[string]string{"shop/p": "", "shop/q": ""}},
		{"a route's of another namespace", usersOf("q", "other", "1", "{kind: HTTPRoute, name: c}"), "", "", "", "other/q", map[string]string{"other/q": ""}},
		{"a route's of another namespace, under the gateway's, which is younger", usersOf("p", "shop", "2", "{kind: Gateway, name: front}") + usersOf("q", "other", "1", "{kind: HTTPRoute, name: c}"),
			"", "shop/p", "shop/p", "shop/p", map[string]string{"shop/p": "", "other/q": "stays in effect there"}},
		{"two of one service", usersOf("p", "shop", "2", "{kind: Service, name: orders}") + usersOf("q", "shop", "1", "{kind: Service, name: orders}"),
			"shop/q", "", "", "", map[string]string{"shop/q": "", "shop/p": "shop/q is older"}},
		{"a route of the mesh", usersOf("p", "shop", "1", "{kind: HTTPRoute, name: inner}"), "", "", "", "", map[string]string{"shop/p": "is to name the Service"}},
		{"what is not there", usersOf("p", "shop", "1", "{kind: Service, name: x}, {kind: Gateway, name: x}, {kind: GRPCRoute, name: x}, {kind: Service, name: orders}"),
			"shop/p", "", "", "", map[string]string{"shop/p": "the policy is in effect at its other targets"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := compile.Compile(compile.InputOf(t, withGateway+tt.policies))
			service := out.Bodies[snapshot.InSubject("shop", "orders")].(*snapshot.Inbound)
			if got := service.GetAuthentication().GetOrigin(); got != tt.service {
				t.Errorf("the service has %q, want %q", got, tt.service)
			}
			if got := slices.Contains(compile.Requires(service), snapshot.FeatureAuthentication); got != (tt.service != "") {
				t.Errorf("nodes must know of it: %t", got)
			}
			ingress := out.Bodies[snapshot.InSubject("shop", "front")].(*snapshot.Inbound)
			for route, want := range map[string]string{"shop/a": tt.a, "shop/b": tt.b, "other/c": tt.c} {
				i := slices.IndexFunc(ingress.Ingress.Rules, func(r *snapshot.Rule) bool { return strings.HasPrefix(r.Origin, "httproute/"+route) })
				got := ""
				if at := ingress.Ingress.Rules[i].Authentication; at > 0 {
					got = ingress.Ingress.Authentications[at-1].Origin
				}
				if got != want {
					t.Errorf("route %s has %q, want %q", route, got, want)
				}
			}
			if got := slices.Contains(compile.Requires(ingress), snapshot.FeatureAuthentication); got != (tt.a+tt.b+tt.c != "") {
				t.Errorf("the gateway's nodes must know of it: %t", got)
			}
			for name, want := range tt.accepted {
				namespace, name, _ := strings.Cut(name, "/")
				c := out.Authentication[types.NamespacedName{Namespace: namespace, Name: name}]
				if len(c) != 2 || (c[0].Status == "True") != (want == "") || !strings.Contains(c[0].Message, want) {
					t.Errorf("%s/%s: %+v, want %q", namespace, name, c, want)
				}
			}
		})
	}
}

func TestKeysOfIssuers(t *testing.T) {
	const from = "https://id.example/keys"
	in := compile.InputOf(t, withGateway+usersOf("p", "shop", "1", "{kind: Service, name: orders}")+usersOf("q", "shop", "2", "{kind: Gateway, name: front}"))
	out := compile.Compile(in)
	name := types.NamespacedName{Namespace: "shop", Name: "p"}
	if c := out.Authentication[name]; len(out.KeySources) != 1 || out.KeySources[0].URL != from || c[1].Status != "False" || !strings.Contains(c[1].Message, "not fetched yet") {
		t.Errorf("%v, %+v", out.KeySources, c)
	}
	in.KeySets = map[compile.KeySource]compile.KeySet{{URL: from}: {Keys: []byte(`{"keys":[` + aKey + `]}`)}}
	out = compile.Compile(in)
	body := out.Bodies[snapshot.InSubject("shop", "orders")].(*snapshot.Inbound).Authentication
	if c := out.Authentication[name]; c[1].Status != "True" || !strings.Contains(string(body.Issuers[0].Keys), `"kid":"a"`) || body.Issuers[0].Url != from {
		t.Errorf("%v, %+v", body, c)
	}
	in.KeySets[compile.KeySource{URL: from}] = compile.KeySet{Problem: "nobody answers"}
	if c := compile.Compile(in).Authentication[name]; c[1].Status != "False" || !strings.Contains(c[1].Message, "nobody answers") {
		t.Errorf("%+v", c)
	}
	private := strings.Replace(aKey, `"kid"`, `"d":"AAAA","kid"`, 1)
	for keys, good := range map[string]bool{aKey: true, private: false} {
		in := compile.InputOf(t, withGateway+`
---
{apiVersion: sennit.dev/v1alpha1, kind: AuthenticationPolicy, metadata: {namespace: shop, name: p}, spec: {targetRefs: [{kind: Service, name: orders}], issuers: [{issuer: a, anyAudience: true, keys: {inline: '{"keys":[`+keys+`]}'}}]}}`)
		out := compile.Compile(in)
		body := out.Bodies[snapshot.InSubject("shop", "orders")].(*snapshot.Inbound).Authentication
		if c := out.Authentication[name]; (c[1].Status == "True") != good || (len(body.Issuers[0].Keys) > 0) != good || strings.Contains(string(body.Issuers[0].Keys), "AAAA") {
			t.Errorf("%s: %v, %+v", keys, body, c)
		}
	}
}
