package compile_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const balanced = `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: cart}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: sennit.dev/v1alpha1, kind: ExternalService, metadata: {namespace: shop, name: bank}, spec: {host: bank.example, port: 443}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: shop, name: cart}
spec:
  parentRefs: [{group: "", kind: Service, name: cart}]
  rules: [{backendRefs: [{name: orders, port: 80}]}]
---
apiVersion: sennit.dev/v1alpha1
kind: LoadBalancingPolicy
metadata: {namespace: shop, name: a}
spec:
  targetRefs: [{kind: Service, name: orders}, {kind: ExternalService, name: bank}]
  algorithm: RoundRobin
---
apiVersion: sennit.dev/v1alpha1
kind: LoadBalancingPolicy
metadata: {namespace: shop, name: b}
spec:
  targetRefs: [{kind: Service, name: orders}, {kind: Service, name: cart}, {kind: Service, name: gone}]
  algorithm: Random
---
apiVersion: sennit.dev/v1alpha1
kind: LoadBalancingPolicy
metadata: {namespace: other, name: c}
spec:
  targetRefs: [{kind: Service, name: orders}]
  algorithm: Sorted
`

// chosen says how each backend of a service's rules chooses instances, and by which policy.
func chosen(out compile.Output, service string) string {
	var all []string
	for _, port := range out.Bodies[snapshot.OutSubject("shop", service, "")].(*snapshot.Outbound).Ports {
		for _, rule := range port.Rules {
			for _, b := range rule.Backends {
				all = append(all, fmt.Sprintf("%s %s %s", b.Service, strings.TrimPrefix(b.Balance.String(), "BALANCE_"), b.BalancingPolicy))
			}
		}
	}
	return strings.Join(all, "; ")
}

func TestLoadBalancingPoliciesAreAttached(t *testing.T) {
	in := compile.InputOf(t, balanced)
	in.Balancing[0].Generation = 7
	out := compile.Compile(in)
	for service, want := range map[string]string{
		"orders": "orders ROUND_ROBIN shop/a",
		"cart":   "orders ROUND_ROBIN shop/a", // the policy is the backend's, not the caller's name for it
		"bank":   "bank ROUND_ROBIN shop/a",
	} {
		if got := chosen(out, service); got != want {
			t.Errorf("%s: %s, want %s", service, got, want)
		}
	}
	for name, want := range map[string]string{
		"shop/a":  "Accepted True Accepted 7 the policy is in effect",
		"shop/b":  "Accepted False Conflicted 0 the older policy shop/a is in effect at Service shop/orders; there is no Service shop/gone; the policy is in effect at its other targets",
		"other/c": `Accepted False Invalid 0 spec.algorithm: this version knows none of the name "Sorted"`,
	} {
		namespace, name, _ := strings.Cut(name, "/")
		var got []string
		for _, c := range out.Balancing[types.NamespacedName{Namespace: namespace, Name: name}] {
			got = append(got, fmt.Sprintf("%s %s %s %d %s", c.Type, c.Status, c.Reason, c.ObservedGeneration, c.Message))
		}
		if strings.Join(got, "\n") != want {
			t.Errorf("%s/%s: %s\nwant %s", namespace, name, got, want)
		}
	}
}

func TestFieldsOfLoadBalancingAreCompiled(t *testing.T) {
	in := compile.InputOf(t, `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{name: http, port: 80}]}}
---
apiVersion: sennit.dev/v1alpha1
kind: LoadBalancingPolicy
metadata: {namespace: shop, name: a}
spec:
  targetRefs: [{kind: Service, name: orders}]
  algorithm: Maglev
  hashOn: [{type: Header, name: X-User}, {type: Cookie, name: c}, {type: QueryParameter, name: q}, {type: Source}]
  slowStart: {window: 30s}
  locality: {prefer: Region}
`)
	body := compile.Compile(in).Bodies[snapshot.OutSubject("shop", "orders", "")].(*snapshot.Outbound)
	b := body.Ports[0].Rules[0].Backends[0]
	if got := fmt.Sprint(b.Balance, b.HashKeys); !strings.Contains(got, "MAGLEV") || len(b.HashKeys) != 4 || b.SlowStartMs != 30_000 || b.Locality != snapshot.Locality_LOCALITY_REGION || b.HashKeys[0].Type != snapshot.HashKey_HEADER || b.HashKeys[0].Name != "X-User" ||
		b.HashKeys[1].Type != snapshot.HashKey_COOKIE || b.HashKeys[2].Type != snapshot.HashKey_QUERY || b.HashKeys[3].Type != snapshot.HashKey_SOURCE {
		t.Error(got)
	}
	in.Balancing[0].Spec.Locality.Prefer = "Planet"
	if c := compile.Compile(in).Balancing[types.NamespacedName{Namespace: "shop", Name: "a"}]; c[0].Reason != "Invalid" || !strings.HasPrefix(c[0].Message, "spec.locality.prefer: ") {
		t.Errorf("%+v", c)
	}
	in.Balancing[0].Spec.HashOn[1].Type = "Weather"
	if c := compile.Compile(in).Balancing[types.NamespacedName{Namespace: "shop", Name: "a"}]; c[0].Reason != "Invalid" || !strings.HasPrefix(c[0].Message, "spec.hashOn[1].type: ") {
		t.Errorf("%+v", c)
	}
}

func TestTheOlderLoadBalancingPolicyIsInEffect(t *testing.T) {
	in := compile.InputOf(t, balanced)
	in.Balancing[0].CreationTimestamp = metav1.NewTime(time.Unix(2, 0))
	in.Balancing[1].CreationTimestamp = metav1.NewTime(time.Unix(1, 0))
	if got, want := chosen(compile.Compile(in), "orders"), "orders RANDOM shop/b"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	in.Balancing = in.Balancing[2:]
	if got, want := chosen(compile.Compile(in), "orders"), "orders LEAST_REQUEST "; got != want {
		t.Errorf("without a policy: %q, want %q", got, want)
	}
}
