package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

const route = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: payments
  namespace: default
spec:
  parentRefs:
  - {group: "", kind: Service, name: payments, port: 80}
  rules:
  - backendRefs:
    - {name: payments-v1, port: 80, weight: 90}
    - {name: payments-v2, port: 80, weight: 10}
`

// want lists the errors of a file, a line each; nothing where it is valid.
func decode(t *testing.T, text string) (docs []Document, errs []string) {
	t.Helper()
	docs, err := Decode("f.yaml", []byte(text))
	if err == nil {
		return docs, nil
	}
	var list FileErrors
	if !errors.As(err, &list) {
		t.Fatalf("not FileErrors: %v", err)
	}
	if docs != nil {
		t.Error("documents beside errors")
	}
	return nil, strings.Split(err.Error(), "\n")
}

func TestDecodeNamesEveryMistake(t *testing.T) {
	t.Parallel()
	service := func(lines string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: orders}\nspec:\n" + lines
	}
	rule := func(lines string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  rules:\n" + lines
	}
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"valid", route, nil},
		{"nothing but comments", "# nothing\n---\n---\n", nil},
		{"an external service", "apiVersion: sennit.dev/v1alpha1\nkind: ExternalService\nmetadata: {name: api}\nspec: {host: api.example, port: 443, allowedAddresses: [10.0.0.0/8]}\n", nil},
		{"an external service of many hosts", "apiVersion: sennit.dev/v1alpha1\nkind: ExternalService\nmetadata: {name: api}\nspec: {host: '*.example', port: 0, protocol: GRPC, allowedAddresses: [10.0.0.1/8], tls: {mode: None, serverName: a}}\n",
			[]string{
				`f.yaml:4:14: spec.host: must be the name of one host, as api.example.com, or an IP address, without scheme, port and path, is "*.example"`,
				`f.yaml:4:33: spec.port: must be from 1 to 65535, is 0`,
				`f.yaml:4:46: spec.protocol: must be one of HTTP, HTTP2, TCP, is "GRPC"`,
				`f.yaml:4:71: spec.allowedAddresses[0]: must be a prefix of IP addresses such as 192.0.2.0/24 or 192.0.2.7/32, with zeros behind it, is "10.0.0.1/8"`,
				`f.yaml:4:114: spec.tls.serverName: must not be given with mode: None, which verifies nothing`,
			}},
		{"a certificate that is none", "apiVersion: sennit.dev/v1alpha1\nkind: ExternalService\nmetadata: {name: api}\nspec: {host: api.example, port: 443, tls: {mode: Simple, caBundle: MII}}\n",
			[]string{`f.yaml:4:68: spec.tls.caBundle: must hold certificates in PEM, holds none`}},
		{"negative weight", strings.Replace(route, "weight: 10", "weight: -1", 1),
			[]string{"f.yaml:12:45: spec.rules[0].backendRefs[1].weight: must be from 0 to 1000000, is -1"}},
		{"unknown field", strings.Replace(route, "  rules:", "  hostname: [a]\n  rules:", 1),
			[]string{"f.yaml:9:3: spec.hostname: unknown field; did you mean hostnames?"}},
		{"wrong case", strings.Replace(route, "backendRefs", "backendrefs", 1),
			[]string{"f.yaml:10:5: spec.rules[0].backendrefs: unknown field; did you mean backendRefs?"}},
		{"wrong case of kind", strings.Replace(route, "kind: HTTPRoute", "KIND: HTTPRoute", 1),
			[]string{"f.yaml:2:1: KIND: unknown field; did you mean kind?"}},
		{"number as string", service("  ports: [{port: \"80\"}]\n"),
			[]string{`f.yaml:5:18: spec.ports[0].port: must be a whole number, is the string "80" (write 80, without quotes)`}},
		{"string as number", service("  ports: [{port: 80}]\n  selector: {version: 1}\n"),
			[]string{`f.yaml:6:23: spec.selector.version: must be a string, is the number 1 (write "1", with quotes)`}},
		{"fraction", service("  ports: [{port: 80.5}]\n"),
			[]string{"f.yaml:5:18: spec.ports[0].port: must be a whole number, is the number 80.5"}},
		{"port out of range", service("  ports: [{port: 70000}]\n"),
			[]string{"f.yaml:5:18: spec.ports[0].port: must be from 1 to 65535, is 70000"}},
		{"list for a map", service("  - a\n"),
			[]string{"f.yaml:5:3: spec: must be a map of fields, is a list"}},
		{"duplicate key", service("  ports: [{port: 80}]\n  ports: [{port: 81}]\n"),
			[]string{"f.yaml:6:3: spec.ports: is given twice"}},
		{"two ports without names", service("  ports: [{port: 80}, {port: 81, name: b}]\n"),
			[]string{"f.yaml:5:11: spec.ports[0].name: is required where there is more than one port"}},
		{"the same port twice", service("  ports: [{port: 80, name: a}, {port: 80, name: b}]\n"),
			[]string{"f.yaml:5:32: spec.ports[1]: must be unique, but port: 80, protocol: TCP is already in item 0"}},
		{"the same name twice", service("  ports: [{port: 80, name: a}, {port: 81, name: a}]\n"),
			[]string{"f.yaml:5:49: spec.ports[1].name: must be unique, but a is already the name of item 0"}},
		{"no ports", service("  selector: {a: b}\n"), []string{"f.yaml:4:1: spec.ports: is required: list at least one port"}},
		{"service type", service("  type: ExternalName\n  ports: [{port: 80}]\n"),
			[]string{`f.yaml:5:9: spec.type: must be one of ClusterIP, NodePort, LoadBalancer, is "ExternalName"`}},
		{"bad name", "apiVersion: v1\nkind: Namespace\nmetadata: {name: Shop}\n", []string{
			`f.yaml:3:18: metadata.name: must be at most 63 lower-case letters, digits and '-', with a letter or digit at both ends, is "Shop"`}},
		{"no name", "apiVersion: v1\nkind: Namespace\n", []string{"f.yaml:1:1: metadata.name: is required"}},
		{"kind of another version", "apiVersion: v1\nkind: HTTPRoute\n",
			[]string{`f.yaml:1:13: apiVersion: HTTPRoute is served as gateway.networking.k8s.io/v1, not as "v1"`}},
		{"unknown kind", "apiVersion: v1\nkind: Servce\n", []string{`f.yaml:2:7: kind: no kind "Servce" in v1; did you mean Service?`}},
		{"a kind that is not served", "apiVersion: v1\nkind: Pod\n",
			[]string{`f.yaml:2:7: kind: no kind "Pod" in v1; the kinds are Namespace, Service, Secret, ConfigMap, EndpointSlice, GatewayClass, Gateway, ListenerSet, HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, UDPRoute, ReferenceGrant, BackendTLSPolicy, QuotaPolicy, ExternalService, ResiliencePolicy, FaultPolicy, LoadBalancingPolicy, AuthorizationPolicy, AuthenticationPolicy, FederatedTrustDomain, JoinToken, OperatorToken, Node, Role, ClusterRole, RoleBinding, ClusterRoleBinding`}},
		{"no kind", "metadata: {name: a}\n", []string{"f.yaml:1:1: apiVersion: is missing", "f.yaml:1:1: kind: is missing"}},
		{"not a map", "hello\n", []string{`f.yaml:1:1: must be a document with apiVersion and kind, is the string "hello"`}},
		{"syntax", "apiVersion: v1\nkind: [\n", []string{"f.yaml:2:1: did not find expected node content"}},
		{"a tab", "apiVersion: v1\n\tkind: Service\n", []string{"f.yaml:2:1: found a tab character that violates indentation"}},
		{"all of a file at once", strings.Replace(route, "weight: 10", "weight: -1", 1) + "---\n" + service("  prots: []\n  ports: [{port: 0}]\n"), []string{
			"f.yaml:12:45: spec.rules[0].backendRefs[1].weight: must be from 0 to 1000000, is -1",
			"f.yaml:18:3: spec.prots: unknown field; did you mean ports?",
		}},
		{"in a List", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a, nam: b}\n",
			[]string{"f.yaml:6:23: items[0].metadata.nam: unknown field; did you mean name?"}},
		{"label", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {\"a b\": c}}\n", []string{
			`f.yaml:3:29: metadata.labels: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]'), is "a b"`}},

		{"backend without port", rule("  - backendRefs: [{name: a}]\n"), []string{"f.yaml:6:19: spec.rules[0].backendRefs[0]: Must have port for Service reference"}},
		{"relative path", rule("  - matches: [{path: {value: cart}}]\n"),
			[]string{
				"f.yaml:6:22: spec.rules[0].matches[0].path: value must be an absolute path and start with '/' when type one of Exact, PathPrefix"}},
		{"path type", rule("  - matches: [{path: {type: Prefix, value: /}}]\n"),
			[]string{`f.yaml:6:29: spec.rules[0].matches[0].path.type: must be one of Exact, PathPrefix, RegularExpression, is "Prefix"`}},
		{"header twice", rule("  - matches: [{headers: [{name: a, value: b}, {name: a, value: c}]}]\n"),
			[]string{"f.yaml:6:47: spec.rules[0].matches[0].headers[1]: must be unique, but name: a is already in item 0"}},
		{"too many rules", rule(strings.Repeat("  - {}\n", 17)), []string{"f.yaml:6:3: spec.rules: must have at most 16 items, has 17"}},
		{"timeouts", rule("  - timeouts: {request: 1s, backendRequest: 2s}\n"),
			[]string{"f.yaml:6:15: spec.rules[0].timeouts: backendRequest timeout cannot be longer than request timeout"}},
		{"a duration without unit", rule("  - timeouts: {request: \"10\"}\n"),
			[]string{`f.yaml:6:25: spec.rules[0].timeouts.request: must match ^([0-9]{1,5}(h|m|s|ms)){1,4}$, is "10"`}},
		{"filter without its part", rule("  - filters: [{type: RequestRedirect}]\n"),
			[]string{"f.yaml:6:15: spec.rules[0].filters[0]: requestRedirect must be specified for RequestRedirect type"}},
		{"quota without what it needs", quotaPolicy("  targetRefs: [{kind: Service}]\n  limits: [{name: a, requests: 1}]\n"), []string{
			"f.yaml:5:16: spec.targetRefs[0].name: is required",
			"f.yaml:6:12: spec.limits[0].per: is required"}},
		{"quota of something else", quotaPolicy("  targetRefs: [{kind: Gateway, name: a}, {kind: Service, name: a, group: b}]\n  limits: []\n"), []string{
			`f.yaml:5:23: spec.targetRefs[0].kind: must be one of Service, HTTPRoute, GRPCRoute, ExternalService, is "Gateway"`,
			`f.yaml:5:74: spec.targetRefs[1].group: must be "" for a Service, is "b"`,
			"f.yaml:6:11: spec.limits: must have at least 1 items, has 0"}},
		{"quota numbers", quotaPolicy("  targetRefs: [{kind: Service, name: a}]\n  limits:\n  - {name: A, requests: 0, per: Week}\n  - {name: b, requests: 1, per: Day, burst: 1000}\n"), []string{
			`f.yaml:7:12: spec.limits[0].name: must be at most 63 lower-case letters, digits and '-', with a letter or digit at both ends, is "A"`,
			"f.yaml:7:25: spec.limits[0].requests: must be from 1 to 1000000000, is 0",
			`f.yaml:7:33: spec.limits[0].per: must be one of Second, Minute, Hour, Day, is "Week"`,
			"f.yaml:8:45: spec.limits[1].burst: must be no more than flows in within 366 days at the rate of the limit, takes 1000"}},
		{"quota keys", quotaPolicy("  targetRefs: [{kind: Service, name: a}]\n  limits:\n  - name: a\n    requests: 1\n    per: Day\n    by: [{type: Header}, {type: CallingService, name: x}, {type: CallingService}, {type: IP}]\n"), []string{
			"f.yaml:10:10: spec.limits[0].by[0].name: is required: the header to count by",
			`f.yaml:10:55: spec.limits[0].by[1].name: must not be given for CallingService, is "x"`,
			"f.yaml:10:59: spec.limits[0].by[2]: must be unique, but there is another of type CallingService",
			`f.yaml:10:90: spec.limits[0].by[3].type: must be one of CallingService, Header, is "IP"`}},
		{"join token", "apiVersion: sennit.dev/v1alpha1\nkind: JoinToken\nmetadata: {name: t}\nspec: {services: [orders], ttl: 0s}\n", []string{
			"f.yaml:4:1: spec.node: is required"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, got := decode(t, tt.text)
			if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestDecodeSetsDefaults(t *testing.T) {
	t.Parallel()
	docs, errs := decode(t, route+"---\napiVersion: v1\nkind: Service\nmetadata: {name: a, creationTimestamp: null}\nspec: {ports: [{port: 80}]}\n")
	if errs != nil {
		t.Fatal(errs)
	}
	if docs[1].Line != 14 || docs[1].Kind != Service {
		t.Errorf("second document: %s of line %d", docs[1].Kind.Name, docs[1].Line)
	}
	if got := fmt.Sprint(docs[1].Object.Object["spec"]); got != "map[ports:[map[port:80 protocol:TCP targetPort:80]] sessionAffinity:None type:ClusterIP]" {
		t.Error(got)
	}
	rules := items(docs[0].Object.Object["spec"], "rules")
	if got := fmt.Sprint(at(rules[0], "matches")); got != "[map[path:map[type:PathPrefix value:/]]]" {
		t.Error(got)
	}
	if got := fmt.Sprint(items(rules[0], "backendRefs")[0]); got != "map[group: kind:Service name:payments-v1 port:80 weight:90]" {
		t.Error(got)
	}
	if _, there := docs[1].Object.Object["metadata"].(map[string]any)["creationTimestamp"]; there {
		t.Error("null was kept")
	}
	for _, d := range docs {
		if fmt.Sprint(d.Written.Object) == fmt.Sprint(d.Object.Object) {
			t.Errorf("%s as written holds defaults: %v", d.Kind.Name, d.Written.Object)
		}
	}
}

func TestDecodeBoundsAliases(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  x0: &x0 [a,a,a,a,a,a,a,a,a,a]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "  x%d: &x%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*x%d,", i-1), 10), ","))
	}
	_, errs := decode(t, b.String())
	if len(errs) != 1 || !strings.Contains(errs[0], "100000 values") {
		t.Errorf("got %q", errs)
	}
	_, errs = decode(t, "a: &a [*a]\n")
	if len(errs) != 1 || !strings.Contains(errs[0], "f.yaml:1:") {
		t.Errorf("a cycle: got %q", errs)
	}
}

func TestDecodeMerges(t *testing.T) {
	t.Parallel()
	docs, errs := decode(t, `apiVersion: v1
kind: Service
metadata: {name: a}
spec:
  ports:
  - &p {port: 80, name: http, protocol: TCP}
  - {<<: *p, port: 81, name: admin}
`)
	if errs != nil {
		t.Fatal(errs)
	}
	if got := fmt.Sprint(items(docs[0].Object.Object["spec"], "ports")[1]); got != "map[name:admin port:81 protocol:TCP targetPort:81]" {
		t.Error(got)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(route))
	f.Add([]byte("a: &a [*a]\n---\n? {b: c}\n: d\n"))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [1, null]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := Decode("f", data)
		if err != nil && docs != nil {
			t.Fatal("documents beside errors")
		}
		for _, d := range docs {
			if again := Check(d.Kind, d.Object.DeepCopy()); len(again) > 0 {
				t.Fatalf("a checked document has problems: %v", again)
			}
		}
	})
}

func quotaPolicy(spec string) string {
	return "apiVersion: sennit.dev/v1alpha1\nkind: QuotaPolicy\nmetadata: {name: q}\nspec:\n" + spec
}
