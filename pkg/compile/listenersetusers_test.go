package compile_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestUsersAtListenersOfOthers: a route that attaches by a ListenerSet is asked for its users as at the Gateway itself, and the
// Gateway's policy stands before its own there too.
func TestUsersAtListenersOfOthers(t *testing.T) {
	mesh := strings.Replace(withGateway, "gatewayClassName: sennit, ", "gatewayClassName: sennit, allowedListeners: {namespaces: {from: All}}, ", 1) + `---
{apiVersion: gateway.networking.k8s.io/v1, kind: ListenerSet, metadata: {namespace: other, name: set}, spec: {parentRef: {namespace: shop, name: front}, listeners: [{name: l, port: 80, protocol: HTTP, hostname: d.example}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {namespace: other, name: d}, spec: {parentRefs: [{kind: ListenerSet, name: set}], rules: [{backendRefs: [{name: x, port: 80}]}]}}
`
	route := usersOf("q", "other", "1", "{kind: HTTPRoute, name: d}")
	for _, tt := range []struct{ name, policies, want, says string }{
		{"a route's", route, "other/q", ""},
		{"the Gateway's", usersOf("p", "shop", "2", "{kind: Gateway, name: front}"), "shop/p", ""},
		{"both", route + usersOf("p", "shop", "2", "{kind: Gateway, name: front}"), "shop/p", "stays in effect there"},
	} {
		out := compile.Compile(compile.InputOf(t, mesh+tt.policies))
		ingress, got := out.Bodies[snapshot.InSubject("shop", "front")].(*snapshot.Inbound).Ingress, ""
		for _, rule := range ingress.Rules {
			if strings.HasPrefix(rule.Origin, "httproute/other/d") && rule.Authentication > 0 {
				got = ingress.Authentications[rule.Authentication-1].Origin
			}
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if c := out.Authentication[types.NamespacedName{Namespace: "other", Name: "q"}]; strings.Contains(tt.policies, "name: d}") && (len(c) == 0 || (c[0].Status == "True") != (tt.says == "") || !strings.Contains(c[0].Message, tt.says)) {
			t.Errorf("%s: %+v", tt.name, c)
		}
	}
}
