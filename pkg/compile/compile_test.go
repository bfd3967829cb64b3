package compile

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func instance(service, node, name string, labels map[string]string, ports ...*snapshot.InstancePort) *snapshot.Instance {
	if len(ports) == 0 {
		ports = []*snapshot.InstancePort{httpPort(80)}
	}
	return &snapshot.Instance{Service: service, Node: node, Instance: name, Labels: labels, Ports: ports, LaneAddress: "10.0.0.1:7000"}
}

func httpPort(number uint32) *snapshot.InstancePort {
	return &snapshot.InstancePort{Number: number, Name: "http", Protocol: snapshot.Protocol_PROTOCOL_HTTP, Address: "127.0.0.1:8080"}
}

func out(t testing.TB, o Output, namespace, service, callers string) *snapshot.Outbound {
	t.Helper()
	body, ok := o.Bodies[snapshot.OutSubject(namespace, service, callers)].(*snapshot.Outbound)
	if !ok {
		t.Fatalf("no outbound of %s/%s for %q among %d bodies", namespace, service, callers, len(o.Bodies))
	}
	return body
}

func origins(port *snapshot.OutboundPort) []string {
	var all []string
	for _, r := range port.Rules {
		all = append(all, r.Origin)
	}
	return all
}

func condition(t testing.TB, o Output, namespace, name string, parent int, kind gatewayv1.RouteConditionType) v1.Condition {
	t.Helper()
	status := o.Statuses[types.NamespacedName{Namespace: namespace, Name: name}]
	if parent >= len(status.Parents) {
		t.Fatalf("%s/%s has no status for parent %d", namespace, name, parent)
	}
	for _, c := range status.Parents[parent].Conditions {
		if c.Type == string(kind) {
			return c
		}
	}
	t.Fatalf("%s/%s has no condition %s", namespace, name, kind)
	return v1.Condition{}
}

const shop = `
kind: Service
metadata: {name: payments, namespace: shop}
spec: {ports: [{port: 80, name: http}, {port: 5432, name: postgres}]}
---
kind: Service
metadata: {name: payments-v2, namespace: shop}
spec: {ports: [{port: 80, name: http}], selector: {sennit.dev/service: payments, version: v2}}
---
kind: Service
metadata: {name: raw, namespace: shop}
spec: {ports: [{port: 80, name: http, appProtocol: tcp}]}
---
kind: Service
metadata: {name: outside, namespace: shop}
spec: {type: ExternalName, externalName: example.com}
`

// route returns shop with one HTTPRoute whose spec.rules are given.
func route(rules string) string {
	return shop + `
---
kind: HTTPRoute
metadata: {name: r, namespace: shop, generation: 7}
spec:
  parentRefs: [{group: "", kind: Service, name: payments}]
  rules: ` + rules + "\n"
}

func TestServiceWithoutRoutesRoutesToItself(t *testing.T) {
	o := Compile(InputOf(t, shop))
	ports := out(t, o, "shop", "payments", "").Ports
	if len(ports) != 2 || ports[0].Protocol != snapshot.Protocol_PROTOCOL_HTTP || ports[1].Protocol != snapshot.Protocol_PROTOCOL_TCP {
		t.Fatalf("ports: %v", ports)
	}
	for _, p := range ports {
		if len(p.Rules) != 1 || p.Rules[0].Match != nil || p.Rules[0].Backends[0].Service != "payments" || p.Rules[0].Backends[0].Port != p.Number || p.Rules[0].Backends[0].Shards != 1 {
			t.Errorf("port %d: %v", p.Number, p.Rules)
		}
	}
	if o.Bodies[snapshot.OutSubject("shop", "outside", "")] != nil {
		t.Error("a Service of type ExternalName can be called")
	}
}

func TestProtocolOfPort(t *testing.T) {
	for _, tt := range []struct {
		name, port string
		want       snapshot.Protocol
	}{
		{"appProtocol wins over the name", `{port: 80, name: http, appProtocol: tcp}`, 0},
		{"appProtocol http", `{port: 80, name: x, appProtocol: http}`, 1},
		{"WebSocket is HTTP", `{port: 80, appProtocol: kubernetes.io/ws}`, 1},
		{"HTTP/2", `{port: 80, appProtocol: kubernetes.io/h2c}`, 2},
		{"gRPC is HTTP/2", `{port: 80, name: http, appProtocol: grpc}`, 2},
		{"name http", `{port: 80, name: http}`, 1},
		{"name that starts with http", `{port: 80, name: http-web}`, 1},
		{"name https is not HTTP", `{port: 80, name: https}`, 0},
		{"name http2 is not HTTP/1.1", `{port: 80, name: http2}`, 0},
		{"what instances registered", `{port: 81, name: x}`, 1},
		{"else TCP", `{port: 99, name: x}`, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := InputOf(t, "kind: Service\nmetadata: {name: a, namespace: ns}\nspec: {ports: ["+tt.port+"]}")
			in.Instances = []*snapshot.Instance{instance("ns/a", "n1", "a", nil, httpPort(81))}
			if got := out(t, Compile(in), "ns", "a", "").Ports[0].Protocol; got != tt.want {
				t.Errorf("protocol %v, want %v", got, tt.want)
			}
		})
	}
}

func TestPrecedence(t *testing.T) {
	// Each pair is in the order in which it must be tried, and is compiled in both orders.
	const toV2 = `backendRefs: [{name: payments-v2, port: 80}]`
	for _, tt := range []struct{ name, first, second string }{
		{"an exact path", `{path: {type: Exact, value: /a}}`, `{path: {value: /abcdef}, method: GET, headers: [{name: a, value: b}]}`},
		{"an exact path before a regular expression", `{path: {type: Exact, value: /a}}`, `{path: {type: RegularExpression, value: /abcdef}}`},
		{"a regular expression before a prefix", `{path: {type: RegularExpression, value: /a}}`, `{path: {value: /abcdef}}`},
		{"the prefix with most characters", `{path: {value: /a/b}}`, `{path: {value: /a}, method: GET}`},
		{"a trailing slash is no character", `{path: {value: /a}, method: GET}`, `{path: {value: /a/}}`},
		{"a method", `{method: GET}`, `{headers: [{name: a, value: b}, {name: c, value: d}]}`},
		{"the most header matches", `{headers: [{name: a, value: b}, {name: c, value: d}]}`, `{headers: [{name: e, value: f}], queryParams: [{name: a, value: b}, {name: c, value: d}]}`},
		{"a repeated header counts once", `{headers: [{name: a, value: b}], queryParams: [{name: q, value: w}]}`, `{headers: [{name: x, value: b}, {name: X, value: c}]}`},
		{"the most query parameters", `{queryParams: [{name: a, value: b}, {name: c, value: d}]}`, `{queryParams: [{name: a, value: b}]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, matches := range []string{tt.first + ", " + tt.second, tt.second + ", " + tt.first} {
				o := Compile(InputOf(t, route(`[{matches: [`+matches+`], `+toV2+`}]`)))
				want := Compile(InputOf(t, route(`[{matches: [`+tt.first+`], `+toV2+`}]`)))
				if got := out(t, o, "shop", "payments", "").Ports[0].Rules[0]; !proto.Equal(got.Match, out(t, want, "shop", "payments", "").Ports[0].Rules[0].Match) {
					t.Errorf("%s: first is %v", matches, got)
				}
			}
		})
	}
}

func TestTiesBetweenRoutes(t *testing.T) {
	in := InputOf(t, shop)
	add := func(namespace, name, created string) {
		text := fmt.Sprintf(`{kind: HTTPRoute, metadata: {name: %s, namespace: %s, creationTimestamp: %q}, spec: {parentRefs: [{group: "", kind: Service, name: payments, namespace: shop}],
		  rules: [{backendRefs: [{name: payments, namespace: shop, port: 80}]}, {backendRefs: [{name: payments-v2, namespace: shop, port: 80}]}]}}`, name, namespace, created)
		in.Routes = append(in.Routes, InputOf(t, text).Routes...)
	}
	add("shop", "c", "2026-01-02T00:00:00Z")
	add("shop", "b", "2026-01-02T00:00:00Z")
	add("shop", "z", "2026-01-01T00:00:00Z")
	want := []string{"httproute/shop/z#0/0", "httproute/shop/z#1/0", "httproute/shop/b#0/0", "httproute/shop/b#1/0", "httproute/shop/c#0/0", "httproute/shop/c#1/0"}
	if got := origins(out(t, Compile(in), "shop", "payments", "").Ports[0]); !slices.Equal(got, want) {
		t.Errorf("order %v, want the oldest, then the alphabet, then the document", got)
	}
}

func TestConsumerRoutesAreForCallersOfTheirNamespaceOnly(t *testing.T) {
	o := Compile(InputOf(t, route(`[{backendRefs: [{name: payments, port: 80}]}]`)+`
---
kind: HTTPRoute
metadata: {name: mine, namespace: web}
spec:
  parentRefs: [{group: "", kind: Service, name: payments, namespace: shop}]
  rules: [{backendRefs: [{name: payments-v2, namespace: shop, port: 80}]}]
`))
	if got := origins(out(t, o, "shop", "payments", "").Ports[0]); !slices.Equal(got, []string{"httproute/shop/r#0/0"}) {
		t.Errorf("all callers get %v", got)
	}
	web := out(t, o, "shop", "payments", "web")
	if got := origins(web.Ports[0]); !slices.Equal(got, []string{"httproute/web/mine#0/0"}) {
		t.Errorf("callers of web get %v", got)
	}
	if got := origins(web.Ports[1]); !slices.Equal(got, []string{"service/shop/payments"}) {
		t.Errorf("callers of web get %v at the port without a route", got)
	}
	if c := condition(t, o, "web", "mine", 0, "ResolvedRefs"); c.Status != "True" {
		t.Errorf("a backend of another namespace: %v", c)
	}
}

func TestBackendsThatDoNotResolve(t *testing.T) {
	for _, tt := range []struct {
		name, ref string
		reason    gatewayv1.RouteConditionReason
		says      string
	}{
		{"no such Service", `{name: nobody, port: 80}`, gatewayv1.RouteReasonBackendNotFound, "there is no Service shop/nobody"},
		{"no such Service in another namespace", `{name: payments, namespace: web, port: 80}`, gatewayv1.RouteReasonBackendNotFound, "there is no Service web/payments"},
		{"no such port", `{name: payments, port: 81}`, gatewayv1.RouteReasonBackendNotFound, "has no port 81"},
		{"port missing", `{name: payments}`, gatewayv1.RouteReasonBackendNotFound, "port is missing"},
		{"another kind", `{name: payments, kind: Bucket, port: 80}`, gatewayv1.RouteReasonInvalidKind, "kind Bucket"},
		{"another group", `{name: payments, group: example.com, port: 80}`, gatewayv1.RouteReasonInvalidKind, `group "example.com"`},
		{"not HTTP", `{name: raw, port: 80}`, gatewayv1.RouteReasonUnsupportedProtocol, "not HTTP"},
		{"ExternalName", `{name: outside, port: 80}`, gatewayv1.RouteReasonBackendNotFound, "ExternalName"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Compile(InputOf(t, route(`[{backendRefs: [{name: payments-v2, port: 80, weight: 3}, `+tt.ref+`]}]`)))
			c := condition(t, o, "shop", "r", 0, gatewayv1.RouteConditionResolvedRefs)
			if c.Status != "False" || c.Reason != string(tt.reason) || !strings.Contains(c.Message, "spec.rules[0].backendRefs[1]: ") || !strings.Contains(c.Message, tt.says) {
				t.Errorf("ResolvedRefs: %+v", c)
			}
			if c := condition(t, o, "shop", "r", 0, gatewayv1.RouteConditionAccepted); c.Status != "True" || c.ObservedGeneration != 7 {
				t.Errorf("Accepted: %+v", c)
			}
			backends := out(t, o, "shop", "payments", "").Ports[0].Rules[0].Backends
			if len(backends) != 2 || backends[0].Weight != 3 || backends[0].Answer != 0 || backends[1].Weight != 1 || backends[1].Answer != 500 {
				t.Errorf("its share is not answered with 500: %v", backends)
			}
		})
	}
}

func TestWeights(t *testing.T) {
	for _, tt := range []struct {
		name, refs string
		answer     uint32
		backends   int
	}{
		{"a weight of 0 gets nothing", `[{name: payments, port: 80, weight: 0}, {name: payments-v2, port: 80}]`, 0, 1},
		{"all weights 0", `[{name: payments, port: 80, weight: 0}]`, 500, 0},
		{"no backends", `[]`, 500, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rule := out(t, Compile(InputOf(t, route(`[{backendRefs: `+tt.refs+`}]`))), "shop", "payments", "").Ports[0].Rules[0]
			if rule.Answer != tt.answer || len(rule.Backends) != tt.backends {
				t.Errorf("rule: %v", rule)
			}
		})
	}
}

func TestParents(t *testing.T) {
	for _, tt := range []struct{ name, ref, says string }{
		{"a Service", `{group: "", kind: Service, name: payments}`, ""},
		{"a port", `{group: "", kind: Service, name: payments, port: 80}`, ""},
		{"a section", `{group: "", kind: Service, name: payments, sectionName: http}`, ""},
		{"no such Service", `{group: "", kind: Service, name: nobody}`, "there is no Service shop/nobody"},
		{"no such port", `{group: "", kind: Service, name: payments, port: 81}`, "has no port"},
		{"port and section disagree", `{group: "", kind: Service, name: payments, port: 80, sectionName: postgres}`, "has no port"},
		{"a TCP port", `{group: "", kind: Service, name: payments, port: 5432}`, "set appProtocol: http"},
		{"the group forgotten", `{kind: Service, name: payments}`, `write group: ""`},
		{"a Gateway", `{name: payments}`, "there is no Gateway shop/payments"},
		{"another kind", `{group: example.com, kind: Mesh, name: payments}`, "not supported in this version"},
		{"ExternalName", `{group: "", kind: Service, name: outside}`, "ExternalName"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := InputOf(t, shop+`
---
{kind: HTTPRoute, metadata: {name: r, namespace: shop}, spec: {parentRefs: [`+tt.ref+`], rules: [{backendRefs: [{name: payments-v2, port: 80}]}]}}`)
			o := Compile(in)
			c := condition(t, o, "shop", "r", 0, gatewayv1.RouteConditionAccepted)
			inEffect := origins(out(t, o, "shop", "payments", "").Ports[0])[0] == "httproute/shop/r#0/0"
			if tt.says == "" && (c.Status != "True" || !inEffect) {
				t.Errorf("%+v, in effect: %v", c, inEffect)
			}
			if tt.says != "" && (c.Status != "False" || c.Reason != "NoMatchingParent" || !strings.Contains(c.Message, tt.says) || inEffect) {
				t.Errorf("%+v, in effect: %v", c, inEffect)
			}
		})
	}
}

func TestWhatIsNotExecutedIsRefused(t *testing.T) {
	const to = `backendRefs: [{name: payments-v2, port: 80}]`
	for _, tt := range []struct{ rule, says string }{
		{`{filters: [{type: CORS, cors: {allowOrigins: ["https://a.example/"]}}], ` + to + `}`, "spec.rules[0].filters[0].cors.allowOrigins[0]"},
		{`{filters: [{type: CORS, cors: {allowMethods: [GET, "*"]}}], ` + to + `}`, "spec.rules[0].filters[0].cors.allowMethods[1]"},
		{`{filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, http: {}, backendRef: {name: v1, port: 80}}}], ` + to + `}`, "spec.rules[0].filters[0]: filters of type ExternalAuth"},
		{`{filters: [{type: ExtensionRef}], ` + to + `}`, "spec.rules[0].filters[0]: filters of type ExtensionRef"},
		{`{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: b}]}}], ` + to + `}`, "spec.rules[0].filters[0].requestHeaderModifier.set[0].name: Host"},
		{`{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: a, value: "b\r\nc: d"}]}}], ` + to + `}`, "spec.rules[0].filters[0].requestHeaderModifier.add[0].value"},
		{`{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Content-Length]}}], ` + to + `}`, "spec.rules[0].filters[0].responseHeaderModifier.remove[0].name"},
		{`{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 300}}]}`, "spec.rules[0].filters[0].requestRedirect.statusCode"},
		{`{filters: [{type: RequestRedirect, requestRedirect: {scheme: ftp}}]}`, "spec.rules[0].filters[0].requestRedirect.scheme"},
		{`{filters: [{type: RequestRedirect, requestRedirect: {}}, {type: RequestRedirect, requestRedirect: {}}]}`, "spec.rules[0].filters[1]"},
		{`{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: x}}}], ` + to + `}`, "urlRewrite.path.replaceFullPath"},
		{`{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}], ` + to + `}`, "matches no prefix"},
		{`{backendRefs: [{name: payments-v2, port: 80, filters: [{type: RequestRedirect, requestRedirect: {}}]}]}`, "spec.rules[0].backendRefs[0].filters[0]: RequestRedirect is for all"},
		{`{backendRefs: [{name: payments-v2, port: 80, filters: [{type: RequestMirror}]}]}`, "spec.rules[0].backendRefs[0].filters[0]"},
		{`{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: payments, port: 80}, percent: 101}}], ` + to + `}`, "spec.rules[0].filters[0].requestMirror.percent"},
		{`{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: payments, port: 80}, fraction: {numerator: 3, denominator: 2}}}], ` + to + `}`, "spec.rules[0].filters[0].requestMirror.fraction"},
		{`{backendRefs: [{name: payments-v2, port: 80, weight: -1}]}`, "spec.rules[0].backendRefs[0].weight"},
		{`{retry: {attempts: 0}, ` + to + `}`, "spec.rules[0].retry.attempts"},
		{`{retry: {attempts: 11}, ` + to + `}`, "spec.rules[0].retry.attempts"},
		{`{retry: {codes: [503, 200]}, ` + to + `}`, "spec.rules[0].retry.codes[1]"},
		{`{retry: {backoff: 1.5s}, ` + to + `}`, "spec.rules[0].retry.backoff"},
		{`{retry: {backoff: 11s}, ` + to + `}`, "spec.rules[0].retry.backoff"},
		{`{sessionPersistence: {sessionName: a b}, ` + to + `}`, "spec.rules[0].sessionPersistence.sessionName"},
		{`{sessionPersistence: {type: Header, sessionName: Content-Length}, ` + to + `}`, "spec.rules[0].sessionPersistence.sessionName: Content-Length is not"},
		{`{sessionPersistence: {type: Header, sessionName: Sennit-Session}, ` + to + `}`, "spec.rules[0].sessionPersistence.sessionName: Sennit-Session is not"},
		{`{sessionPersistence: {type: Query}, ` + to + `}`, "spec.rules[0].sessionPersistence.type"},
		{`{sessionPersistence: {absoluteTimeout: 500ms}, ` + to + `}`, "spec.rules[0].sessionPersistence.absoluteTimeout"},
		{`{sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}, ` + to + `}`, "spec.rules[0].sessionPersistence.absoluteTimeout: is required"},
		{`{timeouts: {request: 1.5s}, ` + to + `}`, "spec.rules[0].timeouts.request"},
		{`{timeouts: {request: 1s, backendRequest: 2s}, ` + to + `}`, "spec.rules[0].timeouts.backendRequest"},
		{`{matches: [{path: {type: Glob, value: /a}}], ` + to + `}`, "spec.rules[0].matches[0].path.type"},
		{`{matches: [{}, {path: {value: a}}], ` + to + `}`, "spec.rules[0].matches[1].path.value"},
		{`{matches: [{path: {value: /a/../b}}], ` + to + `}`, "/../"},
		{`{matches: [{path: {value: /a%2Fb}}], ` + to + `}`, "%2F"},
		{`{matches: [{path: {type: RegularExpression, value: "(?=a)"}}], ` + to + `}`, "RE2"},
		{`{matches: [{headers: [{name: a, type: Glob, value: b}]}], ` + to + `}`, "spec.rules[0].matches[0].headers[0].type"},
		{`{matches: [{headers: [{name: a, type: RegularExpression, value: "["}]}], ` + to + `}`, "spec.rules[0].matches[0].headers[0].value"},
		{`{matches: [{headers: [{name: Content-Length, value: "0"}]}], ` + to + `}`, "spec.rules[0].matches[0].headers[0].name"},
		{`{matches: [{queryParams: [{name: a, type: RegularExpression, value: "["}]}], ` + to + `}`, "spec.rules[0].matches[0].queryParams[0].value"},
	} {
		t.Run(tt.says, func(t *testing.T) {
			o := Compile(InputOf(t, route("["+tt.rule+"]")))
			c := condition(t, o, "shop", "r", 0, gatewayv1.RouteConditionAccepted)
			if c.Status != "False" || c.Reason != "UnsupportedValue" || !strings.Contains(c.Message, tt.says) {
				t.Errorf("%+v", c)
			}
			if got := origins(out(t, o, "shop", "payments", "").Ports[0]); !slices.Equal(got, []string{"service/shop/payments"}) {
				t.Errorf("the refused route is in effect: %v", got)
			}
		})
	}
}

func TestTimeouts(t *testing.T) {
	rule := out(t, Compile(InputOf(t, route(`[{timeouts: {request: 1m30s, backendRequest: 250ms}, backendRefs: [{name: payments-v2, port: 80}]}]`))), "shop", "payments", "").Ports[0].Rules[0]
	if rule.TimeoutMs != 90_000 || rule.BackendTimeoutMs != 250 {
		t.Errorf("timeouts %d ms and %d ms", rule.TimeoutMs, rule.BackendTimeoutMs)
	}
}

func TestSameInputInAnyOrderGivesTheSameBytes(t *testing.T) {
	in := InputOf(t, route(`[{matches: [{path: {value: /a}}, {method: GET}], backendRefs: [{name: payments-v2, port: 80}, {name: nobody, port: 1}]}]`))
	for i := range 600 {
		in.Instances = append(in.Instances, instance("shop/payments", fmt.Sprintf("n%d", i%7), fmt.Sprintf("p-%d", i), map[string]string{"version": fmt.Sprintf("v%d", i%3), "zone": "a"}, httpPort(80), httpPort(81)))
	}
	want := encode(t, Compile(in))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 5 {
		random.Shuffle(len(in.Instances), func(i, j int) { in.Instances[i], in.Instances[j] = in.Instances[j], in.Instances[i] })
		random.Shuffle(len(in.Services), func(i, j int) { in.Services[i], in.Services[j] = in.Services[j], in.Services[i] })
		got := encode(t, Compile(in))
		if len(got) != len(want) {
			t.Fatalf("%d bodies, before %d", len(got), len(want))
		}
		for subject := range want {
			if !bytes.Equal(got[subject], want[subject]) {
				t.Fatalf("%s differs", subject)
			}
		}
	}
}

func encode(t testing.TB, o Output) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte, len(o.Bodies))
	for subject, body := range o.Bodies {
		encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(body)
		must(t, err)
		all[subject] = encoded
	}
	return all
}

func TestMergeStatusKeepsTimesAndForeigners(t *testing.T) {
	compiled := Compile(InputOf(t, route(`[{backendRefs: [{name: nobody, port: 80}]}]`))).Statuses[types.NamespacedName{Namespace: "shop", Name: "r"}]
	foreign := gatewayv1.RouteParentStatus{ControllerName: "example.com/other", ParentRef: gatewayv1.ParentReference{Name: "x"}}
	first := v1.Unix(1, 0)
	stored, changed := MergeStatus(gatewayv1.RouteStatus{Parents: []gatewayv1.RouteParentStatus{foreign}}, compiled, first)
	if !changed || len(stored.Parents) != 2 {
		t.Fatalf("changed %v: %+v", changed, stored)
	}
	if _, changed := MergeStatus(stored, compiled, v1.Unix(2, 0)); changed {
		t.Error("the same status counts as changed")
	}
	resolved := Compile(InputOf(t, route(`[{backendRefs: [{name: payments, port: 80}]}]`))).Statuses[types.NamespacedName{Namespace: "shop", Name: "r"}]
	stored, changed = MergeStatus(stored, resolved, v1.Unix(3, 0))
	accepted, refs := stored.Parents[0].Conditions[0], stored.Parents[0].Conditions[1]
	if !changed || accepted.LastTransitionTime != first || refs.LastTransitionTime.Unix() != 3 {
		t.Errorf("changed %v: accepted since %v, refs since %v", changed, accepted.LastTransitionTime, refs.LastTransitionTime)
	}
}

// TestMirrors: each gets its share, and one that is not there gets nothing, which the status says.
func TestMirrors(t *testing.T) {
	o := Compile(InputOf(t, route(`[{filters: [
		{type: RequestMirror, requestMirror: {backendRef: {name: payments-v2, port: 80}}},
		{type: RequestMirror, requestMirror: {backendRef: {name: nobody, port: 80}}},
		{type: RequestMirror, requestMirror: {backendRef: {name: payments-v2, port: 80}, percent: 7}},
		{type: RequestMirror, requestMirror: {backendRef: {name: payments-v2, port: 80}, fraction: {numerator: 1, denominator: 3}}}
	], backendRefs: [{name: payments, port: 80}]}]`)))
	var got []string
	for _, m := range out(t, o, "shop", "payments", "").Ports[0].Rules[0].Filters.Mirrors {
		got = append(got, fmt.Sprintf("%s %d/%d", m.Backend.Service, m.Numerator, m.Denominator))
	}
	if fmt.Sprint(got) != "[payments-v2 100/100 payments-v2 7/100 payments-v2 1/3]" {
		t.Error(got)
	}
	c := condition(t, o, "shop", "r", 0, gatewayv1.RouteConditionResolvedRefs)
	if c.Status != "False" || !strings.Contains(c.Message, "spec.rules[0].filters[1].requestMirror.backendRef: there is no Service shop/nobody") {
		t.Errorf("%+v", c)
	}
}
