package analyze

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// inputOf decodes documents.
func inputOf(t *testing.T, text string) (in compile.Input) {
	t.Helper()
	docs, err := api.Decode("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range docs {
		if d.Kind.Namespaced {
			d.Object.SetNamespace("default")
		}
		switch d.Kind {
		case api.Service:
			in.Services = append(in.Services, decode[corev1.Service](t, d))
		case api.HTTPRoute:
			in.Routes = append(in.Routes, decode[gatewayv1.HTTPRoute](t, d))
		case api.QuotaPolicies:
			in.Quotas = append(in.Quotas, decode[api.QuotaPolicy](t, d))
		case api.AuthenticationPolicies:
			in.Authentication = append(in.Authentication, decode[api.AuthenticationPolicy](t, d))
		case api.AuthorizationPolicies:
			in.Authorization = append(in.Authorization, decode[api.AuthorizationPolicy](t, d))
		case api.ResiliencePolicies:
			in.Resilience = append(in.Resilience, decode[api.ResiliencePolicy](t, d))
		case api.FaultPolicies:
			in.Faults = append(in.Faults, decode[api.FaultPolicy](t, d))
		case api.Gateway:
			in.Gateways = append(in.Gateways, decode[gatewayv1.Gateway](t, d))
		case api.GatewayClass:
			in.Classes = append(in.Classes, decode[gatewayv1.GatewayClass](t, d))
		}
	}
	in.Instances = []*snapshot.Instance{{
		Node: "n1", Instance: "orders-1", Service: "default/orders", LaneAddress: "10.0.0.1:7000", Labels: map[string]string{"version": "v1"},
		Ports: []*snapshot.InstancePort{{Number: 80, Protocol: snapshot.Protocol_PROTOCOL_HTTP}},
	}}
	return in
}

func decode[T any](t *testing.T, d api.Document) *T {
	t.Helper()
	one := new(T)
	if err := api.As(d.Object, one); err != nil {
		t.Fatal(err)
	}
	return one
}

const service = `
apiVersion: v1
kind: Service
metadata: {name: orders}
spec: {ports: [{port: 80, appProtocol: http}]}
---
`

func route(name, rules string) string {
	return `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: ` + name + `}
spec:
  parentRefs: [{group: "", kind: Service, name: orders, port: 80}]
  rules: ` + rules + `
---
`
}

func TestFindings(t *testing.T) {
	for _, tt := range []struct {
		name, documents string
		want            []string // "level code document field"
	}{
		{"nothing is wrong", service + route("a", `[{backendRefs: [{name: orders, port: 80}]}]`), nil},
		{"a reference to nothing", service + route("a", `[{backendRefs: [{name: orders, port: 80}, {name: gone, port: 80}, {name: lost, port: 80}]}]`), []string{
			"error BackendNotFound default/httproute/a spec.rules[0].backendRefs[1]", "error BackendNotFound default/httproute/a spec.rules[0].backendRefs[2]",
		}},
		{"no parent", strings.ReplaceAll(route("a", `[{backendRefs: [{name: orders, port: 443}]}]`), "Service, name: orders", "Service, name: lost"), []string{
			"error NoMatchingParent default/httproute/a spec.parentRefs[0]", "error BackendNotFound default/httproute/a spec.rules[0].backendRefs[0]",
		}},
		{"weights", service + route("a", `[{matches: [{method: GET}, {method: PUT}], backendRefs: [{name: orders, port: 80, weight: 0}]}]`), []string{
			"error WeightsAddUpToZero default/httproute/a spec.rules[0].backendRefs",
		}},
		{"a rule that no request reaches", service + route("a", `[{backendRefs: [{name: orders, port: 80}]}, {backendRefs: [{name: orders, port: 80}]}]`), []string{
			"warning RuleUnreachable default/httproute/a spec.rules[1].matches[0]",
		}},
		{"what is more specific goes first", service + route("a", `[{backendRefs: [{name: orders, port: 80}]}, {matches: [{path: {value: /x}}], backendRefs: [{name: orders, port: 80}]}]`), nil},
		{"routes in conflict", service + route("a", `[{backendRefs: [{name: orders, port: 80}]}]`) + route("b", `[{backendRefs: [{name: orders, port: 80}]}]`), []string{
			"error RuleConflict default/httproute/b spec.rules[0].matches[0]",
		}},
		{"nobody serves", service + `
apiVersion: v1
kind: Service
metadata: {name: orders-v9}
spec: {selector: {sennit.dev/service: orders, version: v9}, ports: [{port: 80, appProtocol: http}]}
`, []string{"warning NoInstances default/service/orders-v9 spec.selector"}},
		{"a policy that attaches to nothing", `
apiVersion: sennit.dev/v1alpha1
kind: QuotaPolicy
metadata: {name: q}
spec:
  targetRefs: [{kind: Service, name: gone}]
  limits: [{name: each, requests: 1, per: Second}]
`, []string{"error TargetNotFound default/quotapolicy/q "}},
		{"a hostname that no listener serves", service + `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sennit}
spec: {controllerName: sennit.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: sennit
  listeners: [{name: http, port: 80, protocol: HTTP, hostname: shop.example.com}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a}
spec:
  parentRefs: [{name: edge}]
  hostnames: [other.example.com]
  rules: [{backendRefs: [{name: orders, port: 80}]}]
`, []string{
			"error NoMatchingListenerHostname default/httproute/a spec.parentRefs[0]",
			"warning NoResources default/gateway/edge ", "warning Pending default/gateway/edge spec.listeners[0]",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := inputOf(t, tt.documents)
			var got []string
			for _, f := range Analyze(in, compile.Compile(in)) {
				got = append(got, fmt.Sprintf("%s %s %s %s", f.Level, f.Code, f.Document, f.Field))
				if f.Message == "" || f.Remedy == "" {
					t.Errorf("%+v", f)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%q\nwant %q", got, tt.want)
			}
		})
	}
}

// TestUnreachableRulesAreNeverPicked: what is said to be unreachable is no rule's answer to any of many requests.
func TestUnreachableRulesAreNeverPicked(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	said := 0
	for range 300 {
		var rules []*snapshot.Rule
		for i := range 6 {
			m := &snapshot.Match{Method: one("", "", "GET", "PUT")}
			if r.IntN(4) > 0 {
				m.Path = &snapshot.StringMatch{Kind: snapshot.StringMatch_Kind(r.IntN(2)), Value: one("/", "/a", "/a/b", "/ab")}
			}
			if r.IntN(3) == 0 {
				m.Headers = []*snapshot.FieldMatch{{Name: one("x", "X", "y"), Value: &snapshot.StringMatch{Value: one("1", "2")}}}
			}
			rules = append(rules, &snapshot.Rule{Origin: fmt.Sprintf("httproute/default/a#%d/0", i), Match: m, Answer: 500})
		}
		f := &findings{}
		f.rules("port 80", rules)
		unreachable := map[string]bool{}
		for _, found := range f.all {
			unreachable[found.Field] = true
			said++
		}
		table := routing.New()
		body := &snapshot.Outbound{Ports: []*snapshot.OutboundPort{{Number: 80, Protocol: snapshot.Protocol_PROTOCOL_HTTP, Rules: rules}}}
		if _, err := table.Apply(snapshot.OutSubject("default", "orders", ""), snapshot.Version{Revision: 1}, body); err != nil {
			t.Fatal(err)
		}
		orders := exchange.ServiceName{Namespace: "default", Name: "orders"}
		var d routing.Decision
		for range 100 {
			req := &exchange.Request{Method: one("GET", "PUT", "POST"), Path: one("/", "/a", "/a/b", "/a/b/c", "/ab", "/z")}
			for range r.IntN(3) {
				req.Fields = append(req.Fields, exchange.Field{Name: one("x", "y"), Value: one("1", "2")})
			}
			table.Pick(&routing.Call{Caller: orders, Callee: orders, Port: 80, Now: time.Unix(1, 0), Random: rand.NewPCG(1, 1)}, req, &d)
			if _, field := placeOf(d.Rule); unreachable[field] {
				t.Fatalf("%s takes %+v", field, req)
			}
		}
	}
	if said < 100 {
		t.Errorf("only %d rules were said to be unreachable", said)
	}
}
