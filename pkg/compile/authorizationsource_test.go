package compile_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const labelledCallers = `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: cart, labels: {tier: web, team: a}}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: other, name: front, labels: {tier: web}}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {namespace: shop, name: edge, labels: {tier: edge}}, spec: {gatewayClassName: sennit, listeners: [{name: http, port: 80, protocol: HTTP}]}}
---
apiVersion: sennit.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  targetRefs: [{kind: Service, name: orders}]
  action: ACTION
  rules: [{from: [SOURCE]}]
`

// TestLabelsAreThoseOfDocuments writes labels out as services. A rule for labels that nobody has is for nobody: without
// any source it would be for everybody.
func TestLabelsAreThoseOfDocuments(t *testing.T) {
	for _, tt := range []struct{ source, want string }{
		{"{labels: {tier: web}}", "other/front shop/cart not "},
		{"{labels: {tier: web, team: a}}", "shop/cart not "},
		{"{labels: {tier: edge}}", "shop/edge not "},
		{"{labels: {tier: web}, services: [shop/cart, shop/edge]}", "shop/cart not "},
		{"{labels: {tier: db}}", "nobody"},
		{"{labels: {tier: ''}}", "nobody"},
		{"{labels: {tier: edge}, services: [shop/cart]}", "nobody"},
		{"{notLabels: {tier: web}}", " not other/front shop/cart"},
		{"{notLabels: {tier: db}, namespaces: [shop]}", " not "},
	} {
		for _, action := range []string{"Allow", "Deny"} {
			out := compile.Compile(compile.InputOf(t, strings.NewReplacer("SOURCE", tt.source, "ACTION", action).Replace(labelledCallers)))
			body := out.Bodies[snapshot.InSubject("shop", "orders")].(*snapshot.Inbound)
			got := "nobody"
			if rules := body.Authorization.Policies[0].Rules; len(rules) > 0 {
				got = strings.Join(rules[0].From[0].Services, " ") + " not " + strings.Join(rules[0].From[0].NotServices, " ")
			}
			if got != tt.want {
				t.Errorf("%s %s: %s, want %s", action, tt.source, got, tt.want)
			}
			if slices.Contains(compile.Requires(body), snapshot.FeatureAuthorizationConditions) {
				t.Errorf("%s: nodes of before need to know nothing new for names of services", tt.source)
			}
		}
	}
}

// TestNodesThatDoNotKnowConditionsKeepWhatTheyHad: one that did not know a condition would take the rule for everybody.
func TestNodesThatDoNotKnowConditionsKeepWhatTheyHad(t *testing.T) {
	const document = `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: sennit.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: orders}, spec: {targetRefs: [{kind: Service, name: orders}], rules: [RULE]}}
`
	dry := compile.Compile(compile.InputOf(t, strings.NewReplacer("RULE", "{when: ['request.port == 80']}", "rules:", "mode: DryRun, rules:").Replace(document)))
	if slices.Contains(compile.Requires(dry.Bodies[snapshot.InSubject("shop", "orders")]), snapshot.FeatureAuthorizationConditions) {
		t.Error("a dry run shuts nodes of before")
	}
	for rule, want := range map[string]bool{
		"{from: [{nodes: [a]}]}": true, "{from: [{notNodes: [a]}]}": true, "{from: [{plaintext: true}]}": true, "{from: [{trustDomains: [a]}]}": true, "{from: [{notTrustDomains: [a]}]}": true,
		"{to: [{headers: [{name: a, value: b}]}]}": true, "{to: [{notHeaders: [{name: a, value: b}]}]}": true,
		"{to: [{hosts: [a]}]}": true, "{to: [{notHosts: [a]}]}": true, "{when: ['request.port == 80']}": true, "{to: [{ports: [80]}]}": false, "{}": false,
	} {
		out := compile.Compile(compile.InputOf(t, strings.Replace(document, "RULE", rule, 1)))
		body := out.Bodies[snapshot.InSubject("shop", "orders")]
		if got := slices.Contains(compile.Requires(body), snapshot.FeatureAuthorizationConditions); got != want {
			t.Errorf("%s: required %t", rule, got)
		}
	}
}
