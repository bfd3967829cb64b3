package compile_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/quota"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const limited = `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{name: http, port: 80}, {name: sql, port: 90}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: cart}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: db}, spec: {ports: [{name: sql, port: 90}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: shop, name: both}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}, {group: "", kind: Service, name: cart}]
  rules: [{backendRefs: [{name: cart, port: 80}]}]
---
apiVersion: sennit.dev/v1alpha1
kind: QuotaPolicy
metadata: {namespace: shop, name: b-service}
spec:
  targetRefs: [{kind: Service, name: orders}]
  limits: [{name: all, requests: 10, per: Second, burst: 5}, {name: user, requests: 1, per: Day, by: [{type: Header, name: X-User}]}]
---
apiVersion: sennit.dev/v1alpha1
kind: QuotaPolicy
metadata: {namespace: shop, name: a-route}
spec:
  targetRefs: [{kind: HTTPRoute, name: both}]
  limits: [{name: each, requests: 3, per: Minute, by: [{type: CallingService}]}]
---
apiVersion: sennit.dev/v1alpha1
kind: QuotaPolicy
metadata: {namespace: shop, name: nowhere}
spec:
  targetRefs: [{kind: Service, name: gone}, {kind: Service, name: db}, {kind: Service, name: cart}]
  limits: [{name: x, requests: 3, per: Hour}]
`

// limitsOf names the limits of each rule of a service.
func limitsOf(t *testing.T, out compile.Output, service string) string {
	t.Helper()
	body := out.Bodies[snapshot.OutSubject("shop", service, "")].(*snapshot.Outbound)
	var all []string
	for _, port := range body.Ports {
		for _, rule := range port.Rules {
			var ids []string
			for _, at := range rule.Limits {
				l := body.Limits[at]
				ids = append(ids, fmt.Sprint(l.Id, map[bool]string{true: "+caller"}[l.ByCaller], l.ByHeader))
			}
			all = append(all, fmt.Sprintf("%d: %s", port.Number, strings.Join(ids, " ")))
		}
	}
	return strings.Join(all, "; ")
}

func TestLimitsAreAttached(t *testing.T) {
	out := compile.Compile(compile.InputOf(t, limited))
	for service, want := range map[string]string{
		"orders": "80: shop/b-service/all shop/b-service/userx-user shop/a-route/each+caller; 90: ",
		"cart":   "80: shop/nowhere/x shop/a-route/each+caller",
		"db":     "90: ",
	} {
		if got := limitsOf(t, out, service); got != want {
			t.Errorf("%s: %s\nwant %s", service, got, want)
		}
	}
	for id, want := range map[string]quota.Limit{
		"shop/b-service/all":  {Requests: 10, Per: time.Second, Burst: 5},
		"shop/b-service/user": {Requests: 1, Per: 24 * time.Hour},
		"shop/a-route/each":   {Requests: 3, Per: time.Minute},
	} {
		if out.Limits[id] != want {
			t.Errorf("%s allows %+v, want %+v", id, out.Limits[id], want)
		}
	}
}

func TestPoliciesHaveAStatus(t *testing.T) {
	out := compile.Compile(compile.InputOf(t, limited))
	for name, want := range map[string]string{
		"b-service": "True: the policy is in effect",
		"nowhere": "False: there is no Service shop/gone; Service shop/db has no port that is known to be HTTP (set appProtocol: http), " +
			"and connections are not counted; the policy is in effect at its other targets",
	} {
		c := out.Quotas[types.NamespacedName{Namespace: "shop", Name: name}][0]
		if got := fmt.Sprintf("%s: %s", c.Status, c.Message); got != want {
			t.Errorf("%s: %s\nwant %s", name, got, want)
		}
	}
}

// TestLimitsNeedAReaderThatKnowsThem wants a node that knows no limits to keep what it had, rather than to let
// everything pass.
func TestLimitsNeedAReaderThatKnowsThem(t *testing.T) {
	out := compile.Compile(compile.InputOf(t, limited))
	for service, want := range map[string]string{"orders": "[quota]", "db": "[]"} {
		if got := fmt.Sprint(compile.Requires(out.Bodies[snapshot.OutSubject("shop", service, "")])); got != want {
			t.Errorf("%s requires %s, want %s", service, got, want)
		}
	}
}

func TestConditionsKeepTheirTime(t *testing.T) {
	then, now := metav1.Unix(1000, 0), metav1.Unix(2000, 0)
	stored := []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue, Message: "a", LastTransitionTime: then}}
	for _, tt := range []struct {
		name     string
		compiled metav1.Condition
		changed  bool
		at       metav1.Time
	}{
		{"nothing new", metav1.Condition{Type: "Accepted", Status: metav1.ConditionTrue, Message: "a"}, false, then},
		{"another message", metav1.Condition{Type: "Accepted", Status: metav1.ConditionTrue, Message: "b"}, true, then},
		{"another status", metav1.Condition{Type: "Accepted", Status: metav1.ConditionFalse, Message: "a"}, true, now},
	} {
		merged, changed := compile.MergeConditions(stored, []metav1.Condition{tt.compiled}, now)
		if changed != tt.changed || merged[0].LastTransitionTime != tt.at {
			t.Errorf("%s: changed %t, at %v", tt.name, changed, merged[0].LastTransitionTime)
		}
	}
}
