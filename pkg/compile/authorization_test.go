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

const guarded = `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: cart}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: other, name: orders}, spec: {ports: [{name: http, port: 80}]}}
---
apiVersion: sennit.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  targetRefs: [{kind: Service, name: orders}, {kind: Service, name: nowhere}]
  action: Allow
  rules: [{from: [{services: [shop/cart]}], to: [{grpcMethods: [a.B/Get, a.C/*], paths: [{type: Exact, value: /x}]}]}]
---
{apiVersion: sennit.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: all}, spec: {targetRefs: [{kind: Namespace, name: shop}], mode: DryRun}}
---
{apiVersion: sennit.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: foreign}, spec: {targetRefs: [{kind: Namespace, name: other}], action: Deny, rules: [{}]}}
`

func TestPoliciesAreAtTheServicesThatTheyAreFor(t *testing.T) {
	out := compile.Compile(compile.InputOf(t, guarded))
	for _, tt := range []struct{ namespace, service, want string }{
		{"shop", "orders", "shop/all dry, shop/orders"},
		{"shop", "cart", "shop/all dry"},
		{"other", "orders", ""},
	} {
		body := out.Bodies[snapshot.InSubject(tt.namespace, tt.service)].(*snapshot.Inbound)
		var got []string
		for _, p := range body.GetAuthorization().GetPolicies() {
			name := p.Origin
			if p.DryRun {
				name += " dry"
			}
			got = append(got, name)
		}
		if strings.Join(got, ", ") != tt.want {
			t.Errorf("%s/%s: %q, want %q", tt.namespace, tt.service, got, tt.want)
		}
		if needs := slices.Contains(compile.Requires(body), snapshot.FeatureAuthorization); needs != (tt.want != "") {
			t.Errorf("%s/%s: requires the feature: %t", tt.namespace, tt.service, needs)
		}
	}
	policies := out.Bodies[snapshot.InSubject("shop", "orders")].(*snapshot.Inbound).Authorization.Policies
	var paths []string
	for _, m := range policies[1].Rules[0].To[0].Paths {
		paths = append(paths, fmt.Sprint(m.Kind, m.Value))
	}
	if got := strings.Join(paths, " "); got != "EXACT/x EXACT/a.B/Get PREFIX/a.C" {
		t.Errorf("paths: %s", got)
	}
	for name, want := range map[string]string{
		"all":     "True Accepted: the policy is in effect",
		"orders":  "False TargetNotFound: there is no Service shop/nowhere; the policy is in effect at its other targets",
		"foreign": "False TargetNotFound: Namespace other is not that of the policy: write a policy into it",
	} {
		c := out.Authorization[types.NamespacedName{Namespace: "shop", Name: name}]
		if got := fmt.Sprintf("%s %s: %s", c[0].Status, c[0].Reason, c[0].Message); got != want {
			t.Errorf("%s: %s\nwant %s", name, got, want)
		}
	}
}
