package compile_test

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const resilient = `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: cart}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: sennit.dev/v1alpha1, kind: ExternalService, metadata: {namespace: shop, name: api}, spec: {host: api.example, port: 443}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: shop, name: cart}
spec:
  parentRefs: [{group: "", kind: Service, name: cart}]
  rules: [{backendRefs: [{name: orders, port: 80}, {name: cart, port: 80}]}]
---
apiVersion: sennit.dev/v1alpha1
kind: ResiliencePolicy
metadata: {namespace: shop, name: old, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  targetRefs: [{kind: Service, name: orders}, {kind: ExternalService, name: api}]
  outliers: {consecutiveErrors: 5, ejectionTime: 30s, maxEjectionTime: 5m, maxEjectedPercent: 50, panicPercent: 40}
---
apiVersion: sennit.dev/v1alpha1
kind: ResiliencePolicy
metadata: {namespace: shop, name: a-younger, creationTimestamp: "2026-01-02T00:00:00Z"}
spec:
  targetRefs: [{kind: Service, name: orders}, {kind: Service, name: cart}]
  outliers: {consecutiveErrors: 7, ejectionTime: 500us, maxEjectionTime: 5m, maxEjectedPercent: 50, panicPercent: 0}
---
apiVersion: sennit.dev/v1alpha1
kind: ResiliencePolicy
metadata: {namespace: other, name: elsewhere, creationTimestamp: "2025-01-01T00:00:00Z"}
spec:
  targetRefs: [{kind: Service, name: orders}]
  outliers: {consecutiveErrors: 7, ejectionTime: 30s, maxEjectionTime: 5m, maxEjectedPercent: 50, panicPercent: 0}
`

func TestResilienceIsAtEachBackend(t *testing.T) {
	out := compile.Compile(compile.InputOf(t, resilient))
	backends := func(service string) []*snapshot.Backend {
		return out.Bodies[snapshot.OutSubject("shop", service, "")].(*snapshot.Outbound).Ports[0].Rules[0].Backends
	}
	for _, tt := range []struct {
		name    string
		backend *snapshot.Backend
		want    string
	}{
		{"the service itself", backends("orders")[0], "shop/old 5 30000 300000 50 40"},
		{"a route to it", backends("cart")[0], "shop/old 5 30000 300000 50 40"},
		{"another of the route", backends("cart")[1], "shop/a-younger 7 1 300000 50 0"},
		{"a host outside", backends("api")[0], "shop/old 5 30000 300000 50 40"},
	} {
		r := tt.backend.Resilience
		o := r.GetOutliers()
		got := fmt.Sprint(r.GetOrigin(), " ", o.GetConsecutiveErrors(), o.GetEjectionMs(), o.GetMaxEjectionMs(), o.GetMaxEjectedPercent(), o.GetPanicPercent())
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestResiliencePoliciesHaveAStatus(t *testing.T) {
	out := compile.Compile(compile.InputOf(t, resilient))
	for _, tt := range []struct{ namespace, name, want string }{
		{"shop", "old", "True Accepted: the policy is in effect"},
		{"shop", "a-younger", "False Conflicted: Service shop/orders has the older ResiliencePolicy shop/old: delete one of them, or put both into one; " +
			"the policy is in effect at its other targets"},
		{"other", "elsewhere", "False TargetNotFound: there is no Service other/orders"},
	} {
		c := out.Resilience[types.NamespacedName{Namespace: tt.namespace, Name: tt.name}]
		if len(c) != 1 {
			t.Fatalf("%s: %v", tt.name, c)
		}
		if got := fmt.Sprintf("%s %s: %s", c[0].Status, c[0].Reason, c[0].Message); got != tt.want {
			t.Errorf("%s: %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

const retried = `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{name: http, port: 80}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: shop, name: orders}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules:
  - {matches: [{path: {value: /own}}], retry: {attempts: 2}, backendRefs: [{name: orders, port: 80}]}
  - {backendRefs: [{name: orders, port: 80}]}
---
apiVersion: sennit.dev/v1alpha1
kind: ResiliencePolicy
metadata: {namespace: shop, name: service}
spec:
  targetRefs: [{kind: Service, name: orders}]
  retry: {conditions: [Reset, Timeout], codes: [503], grpcCodes: [UNAVAILABLE, CANCELLED], attempts: 3, perTryTimeout: 1s, backoff: 25ms, maxBackoff: 1s}
  retryBudget: {percent: 10, minPerSecond: 1}
---
apiVersion: sennit.dev/v1alpha1
kind: ResiliencePolicy
metadata: {namespace: shop, name: route}
spec:
  targetRefs: [{kind: HTTPRoute, name: orders}, {kind: HTTPRoute, name: gone}]
  retry: {conditions: [], attempts: 5, backoff: 25ms}
  hedging: {delay: 70ms}
`

func TestPolicyRetries(t *testing.T) {
	out := compile.Compile(compile.InputOf(t, retried))
	rules := out.Bodies[snapshot.OutSubject("shop", "orders", "")].(*snapshot.Outbound).Ports[0].Rules
	policy := rules[1].Backends[0].Resilience
	for _, tt := range []struct {
		name string
		got  fmt.Stringer
		want fmt.Stringer
	}{
		{"a rule with a retry", rules[0].Retry, &snapshot.Retry{Attempts: 2, BackoffMs: 25}},
		{"a rule without one, of a route with a policy", rules[1].Retry, &snapshot.Retry{Attempts: 5, BackoffMs: 25, On: []snapshot.Retry_Condition{snapshot.Retry_NONE}}},
		{"the service", policy.Retry, &snapshot.Retry{
			Attempts: 3, BackoffMs: 25, MaxBackoffMs: 1000, PerTryTimeoutMs: 1000, Codes: []uint32{503}, GrpcCodes: []uint32{14, 1},
			On: []snapshot.Retry_Condition{snapshot.Retry_RESET, snapshot.Retry_TIMEOUT},
		}},
		{"the budget", policy.RetryBudget, &snapshot.RetryBudget{Percent: 10, MinPerSecond: 1}},
	} {
		if tt.got.String() != tt.want.String() {
			t.Errorf("%s: %s\nwant %s", tt.name, tt.got, tt.want)
		}
	}
	for i, rule := range rules {
		if rule.HedgeDelayMs != 70 {
			t.Errorf("rule %d is hedged after %d ms", i, rule.HedgeDelayMs)
		}
	}
	c := out.Resilience[types.NamespacedName{Namespace: "shop", Name: "route"}][0]
	if want := "there is no HTTPRoute shop/gone; the policy is in effect at its other targets"; c.Message != want {
		t.Errorf("%s\nwant %s", c.Message, want)
	}
}

// TestPolicyOfCalls: a policy of a GRPCRoute is for its rules, and not for those of an HTTPRoute of its name.
func TestPolicyOfCalls(t *testing.T) {
	out := compile.Compile(compile.InputOf(t, `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{name: http, port: 80}, {name: http-calls, port: 81}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {namespace: shop, name: orders}, spec: {parentRefs: [{group: "", kind: Service, name: orders, port: 80}], rules: [{backendRefs: [{name: orders, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {namespace: shop, name: orders}, spec: {parentRefs: [{group: "", kind: Service, name: orders, port: 81}], rules: [{backendRefs: [{name: orders, port: 81}]}]}}
---
{apiVersion: sennit.dev/v1alpha1, kind: ResiliencePolicy, metadata: {namespace: shop, name: calls}, spec: {targetRefs: [{kind: GRPCRoute, name: orders}], retry: {grpcCodes: [UNAVAILABLE], attempts: 2}}}
---
{apiVersion: sennit.dev/v1alpha1, kind: ResiliencePolicy, metadata: {namespace: shop, name: gone}, spec: {targetRefs: [{kind: GRPCRoute, name: gone}], retry: {attempts: 2}}}
`))
	ports := out.Bodies[snapshot.OutSubject("shop", "orders", "")].(*snapshot.Outbound).Ports
	if got := ports[1].Rules[0].Retry; got.GetAttempts() != 2 || len(got.GetGrpcCodes()) != 1 {
		t.Errorf("the GRPCRoute: %v", got)
	}
	if got := ports[0].Rules[0].Retry; got != nil {
		t.Errorf("the HTTPRoute: %v", got)
	}
	if c := out.Resilience[types.NamespacedName{Namespace: "shop", Name: "gone"}][0]; c.Message != "there is no GRPCRoute shop/gone" {
		t.Errorf("%+v", c)
	}
}

func TestStatisticsOfOutliers(t *testing.T) {
	out := compile.Compile(compile.InputOf(t, `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{name: http, port: 80}]}}
---
apiVersion: sennit.dev/v1alpha1
kind: ResiliencePolicy
metadata: {namespace: shop, name: p}
spec:
  targetRefs: [{kind: Service, name: orders}]
  outliers:
    interval: 5s
    successRate: {minInstances: 5, minRequests: 100, factor: 1.9}
    latency: {minInstances: 3, minRequests: 50, factor: 3, minDifference: 10ms}
  circuitBreaker: {maxConnections: 1, maxPendingRequests: 2, maxRequests: 3}
  adaptiveConcurrency: {interval: 500ms, minRequests: 20, minConcurrency: 4, maxConcurrency: 1000, tolerance: 1.5, probeInterval: 30s}
`))
	got := out.Bodies[snapshot.OutSubject("shop", "orders", "")].(*snapshot.Outbound).Ports[0].Rules[0].Backends[0].Resilience
	want := &snapshot.Resilience{
		Origin: "shop/p",
		Outliers: &snapshot.Outliers{
			IntervalMs:  5000,
			SuccessRate: &snapshot.Outliers_SuccessRate{MinInstances: 5, MinRequests: 100, FactorThousandths: 1900},
			Latency:     &snapshot.Outliers_Latency{MinInstances: 3, MinRequests: 50, FactorThousandths: 3000, MinDifferenceMs: 10},
		},
		CircuitBreaker: &snapshot.CircuitBreaker{MaxConnections: 1, MaxPending: 2, MaxRequests: 3},
		AdaptiveConcurrency: &snapshot.AdaptiveConcurrency{
			IntervalMs: 500, MinRequests: 20, MinConcurrency: 4, MaxConcurrency: 1000, ToleranceThousandths: 1500, ProbeIntervalMs: 30_000,
		},
	}
	if got.String() != want.String() {
		t.Errorf("%s\nwant %s", got, want)
	}
}
