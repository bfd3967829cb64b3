package compile_test

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const spoiled = `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{name: http, port: 80}, {name: sql, port: 90}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: cart}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: db}, spec: {ports: [{name: sql, port: 90}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: shop, name: split}
spec:
  parentRefs: [{group: "", kind: Service, name: cart}]
  rules:
  - {name: get, matches: [{method: GET}], backendRefs: [{name: cart, port: 80}, {name: orders, port: 80}]}
  - {name: rest, backendRefs: [{name: orders, port: 80}]}
---
apiVersion: sennit.dev/v1alpha1
kind: FaultPolicy
metadata: {namespace: shop, name: b-service}
spec:
  targetRefs: [{kind: Service, name: orders}]
  faults:
  - {name: slow, percentage: 12.5, delay: {fixed: 2s}, from: [{name: web}, {namespace: ops, name: probe}]}
  - {name: thin, percentage: 100, bandwidth: {responseBytesPerSecond: 1000, requestBytesPerSecond: 10}}
---
apiVersion: sennit.dev/v1alpha1
kind: FaultPolicy
metadata: {namespace: shop, name: a-rule}
spec:
  targetRefs: [{kind: HTTPRoute, name: split, sectionName: get}]
  faults:
  - {name: refuse, percentage: 0.0001, abort: {httpStatus: 503, grpcStatus: INTERNAL}, matches: [{headers: [{name: X-Test, value: "1"}]}, {path: {type: Exact, value: /a}}]}
---
apiVersion: sennit.dev/v1alpha1
kind: FaultPolicy
metadata: {namespace: shop, name: nowhere}
spec:
  targetRefs: [{kind: Service, name: gone}, {kind: Service, name: db}, {kind: HTTPRoute, name: split, sectionName: put}, {kind: HTTPRoute, name: split}]
  faults: [{name: x, percentage: 1, reset: true}]
---
apiVersion: sennit.dev/v1alpha1
kind: FaultPolicy
metadata: {namespace: shop, name: wrong}
spec:
  targetRefs: [{kind: Service, name: orders}]
  faults: [{name: x, percentage: 1, reset: true, matches: [{headers: [{name: x, type: RegularExpression, value: "("}]}]}]
`

// faultsOf names the faults of each rule of a service, and of its backends.
func faultsOf(body *snapshot.Outbound) string {
	names := func(at []uint32) (all []string) {
		for _, i := range at {
			all = append(all, body.Faults[i].Id)
		}
		return all
	}
	var all []string
	for _, port := range body.Ports {
		for _, rule := range port.Rules {
			one := fmt.Sprint(port.Number, names(rule.Faults))
			for _, b := range rule.Backends {
				one += fmt.Sprint(" ", b.Service, names(b.Faults))
			}
			all = append(all, one)
		}
	}
	return strings.Join(all, "; ")
}

func TestFaultsAreAttached(t *testing.T) {
	out := compile.Compile(compile.InputOf(t, spoiled))
	for service, want := range map[string]string{
		"orders": "80 [shop/b-service/slow shop/b-service/thin] orders[]; 90 [] orders[]",
		"cart": "80 [shop/nowhere/x shop/a-rule/refuse] cart[] orders[shop/b-service/slow shop/b-service/thin]; " +
			"80 [shop/nowhere/x] orders[shop/b-service/slow shop/b-service/thin]",
		"db": "90 [] db[]",
	} {
		if got := faultsOf(out.Bodies[snapshot.OutSubject("shop", service, "")].(*snapshot.Outbound)); got != want {
			t.Errorf("%s: %s\nwant %s", service, got, want)
		}
	}
}

func TestFaultsSayWhatTheyDo(t *testing.T) {
	out := compile.Compile(compile.InputOf(t, spoiled))
	body := out.Bodies[snapshot.OutSubject("shop", "cart", "")].(*snapshot.Outbound)
	all := map[string]string{}
	for _, f := range body.Faults {
		all[f.Id] = strings.Join(strings.Fields(f.String()), " ")
	}
	for id, want := range map[string]*snapshot.Fault{
		"shop/b-service/slow": {Id: "shop/b-service/slow", Share: 125_000, DelayMs: 2000, Callers: []string{"shop/web", "ops/probe"}},
		"shop/b-service/thin": {Id: "shop/b-service/thin", Share: 1_000_000, ResponseRate: 1000, RequestRate: 10},
		"shop/nowhere/x":      {Id: "shop/nowhere/x", Share: 10_000, Reset_: true},
		"shop/a-rule/refuse": {Id: "shop/a-rule/refuse", Share: 1, Abort: 503, AbortGrpc: 13, Matches: []*snapshot.Match{
			{Headers: []*snapshot.FieldMatch{{Name: "x-test", Value: &snapshot.StringMatch{Value: "1"}}}},
			{Path: &snapshot.StringMatch{Value: "/a"}},
		}},
	} {
		if text := strings.Join(strings.Fields(want.String()), " "); all[id] != text {
			t.Errorf("%s: %s\nwant %s", id, all[id], text)
		}
	}
}

func TestFaultPoliciesHaveAStatus(t *testing.T) {
	out := compile.Compile(compile.InputOf(t, spoiled))
	for name, want := range map[string]string{
		"b-service": "True Accepted: the policy is in effect",
		"nowhere": "False TargetNotFound: there is no Service shop/gone; Service shop/db has no port that is known to be HTTP (set appProtocol: http), " +
			"and connections are not spoiled; HTTPRoute shop/split has no rule of the name put; the policy is in effect at its other targets",
		"wrong": "False Invalid: spec.faults[0].matches[0].headers[0].value: not a regular expression of RE2: error parsing regexp: missing closing ): `(`; the policy is not in effect",
	} {
		c := out.Faults[types.NamespacedName{Namespace: "shop", Name: name}][0]
		if got := fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message); got != want {
			t.Errorf("%s: %s\nwant %s", name, got, want)
		}
	}
}

// TestFaultsOfAGRPCRoute are at the rule that is named, as of an HTTPRoute.
func TestFaultsOfAGRPCRoute(t *testing.T) {
	out := compile.Compile(compile.InputOf(t, `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{name: http, port: 80, appProtocol: grpc}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {namespace: shop, name: calls}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules:
  - {name: add, matches: [{method: {service: shop.Orders, method: Add}}], backendRefs: [{name: orders, port: 80}]}
  - {name: rest, backendRefs: [{name: orders, port: 80}]}
---
apiVersion: sennit.dev/v1alpha1
kind: FaultPolicy
metadata: {namespace: shop, name: p}
spec:
  targetRefs: [{kind: GRPCRoute, name: calls, sectionName: add}]
  faults: [{name: x, percentage: 1, reset: true}]
`))
	body := out.Bodies[snapshot.OutSubject("shop", "orders", "")].(*snapshot.Outbound)
	if got, want := faultsOf(body), "80 [shop/p/x] orders[]; 80 [] orders[]"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if c := out.Faults[types.NamespacedName{Namespace: "shop", Name: "p"}][0]; c.Status != "True" {
		t.Errorf("%+v", c)
	}
}

// TestFaultsAtAGateway wants a service's faults to hit what comes to it from outside, and at no other backend.
func TestFaultsAtAGateway(t *testing.T) {
	out := compile.Compile(compile.InputOf(t, spoiled+`---
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: sennit}, spec: {controllerName: sennit.dev/gateway-controller}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {namespace: shop, name: front}, spec: {gatewayClassName: sennit, listeners: [{name: http, port: 8080, protocol: HTTP}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: shop, name: outside}
spec:
  parentRefs: [{name: front}]
  rules: [{backendRefs: [{name: cart, port: 80}, {name: orders, port: 80}]}]
`))
	in := out.Bodies[snapshot.InSubject("shop", "front")].(*snapshot.Inbound).Ingress
	if len(in.GetRules()) != 1 || len(in.Faults) != 2 || in.Faults[0].Id != "shop/b-service/slow" {
		t.Fatalf("%v", in)
	}
	if r := in.Rules[0]; len(r.Faults)+len(r.Backends[0].Faults) != 0 || fmt.Sprint(r.Backends[1].Faults) != "[0 1]" {
		t.Errorf("%v", r)
	}
}
