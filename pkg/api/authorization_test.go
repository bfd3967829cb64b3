package api

import (
	"slices"
	"strings"
	"testing"
)

func TestAuthorizationPolicies(t *testing.T) {
	const target = "  targetRefs: [{kind: Service, name: orders}]\n"
	for _, tt := range []struct {
		name, spec string
		want       []string
	}{
		{"default deny", "  targetRefs: [{kind: Namespace, name: default}]\n", nil},
		{"rules", target + "  rules: [{from: [{services: [shop/cart]}], to: [{methods: [GET], paths: [{value: /a}], ports: [80]}]}]\n", nil},
		{"a Deny of nothing", target + "  action: Deny\n", []string{"spec.rules: must have an item"}},
		{"an action that is not there", target + "  action: Audit\n", []string{"spec.action: must be one of Allow, Deny"}},
		{"a service without a namespace", target + "  rules: [{from: [{services: [cart]}]}]\n", []string{"services[0]: must be NAMESPACE/NAME"}},
		{"nobody", target + "  rules: [{from: [{services: []}]}]\n", []string{"services: "}},
		{"a source that says nothing", target + "  rules: [{from: [{}]}]\n", []string{"from[0]: must say who"}},
		{"paths", target + "  rules: [{to: [{paths: [{value: a}, {value: /a/../b}, {value: '/a%20b'}, {value: '/a/*'}]}]}]\n",
			[]string{"paths[0].value", "paths[1].value", "paths[2].value", "paths[3].value"}},
		{"a method in small letters", target + "  rules: [{to: [{methods: [get]}]}]\n", []string{"methods[0]: must be a method in capitals"}},
		{"a method of gRPC", target + "  rules: [{to: [{grpcMethods: [/a.B/Get]}]}]\n", []string{"grpcMethods[0]: must be SERVICE/METHOD"}},
		{"a port", target + "  rules: [{to: [{ports: [0]}]}]\n", []string{"ports[0]: must be from 1 to 65535"}},
		{"conditions", target + "  rules: [{from: [{labels: {tier: web}, nodes: [n1], trustDomains: [mesh.example.com]}], to: [{headers: [{name: X-Tenant, value: a}, {name: b, type: Present}], hosts: [a.example.com, '*.b.example.com', '[::1]']}]}]\n", nil},
		{"headers that no request has", target + "  rules: [{to: [{headers: [{name: Host, value: a}, {name: content-length, value: '1'}, {name: ':path', value: /}]}]}]\n",
			[]string{`headers[0].name: is "host": ask by hosts`, "headers[1].name: no request has", `headers[2].name: is ":path": ask by`}},
		{"headers that read as others", target + "  rules: [{to: [{notHeaders: [{name: x_role, value: a}, {name: 'a b', value: a}]}]}]\n", []string{"notHeaders[0].name: must be", "notHeaders[1].name: must be"}},
		{"values of headers", target + "  rules: [{to: [{headers: [{name: a}, {name: b, type: Present, value: c}, {name: d, value: ' e'}, {name: f, type: Regex, value: g}]}]}]\n",
			[]string{"headers[0].value: must be given", "headers[1].value: must be empty", "headers[2].value: must be printable", "headers[3].type: must be one of"}},
		{"hosts", target + "  rules: [{to: [{hosts: [A.example.com, 'a:80', '*', 'a.*.b', a.]}]}]\n", []string{"hosts[0]", "hosts[1]", "hosts[2]", "hosts[3]", "hosts[4]"}},
		{"nodes and trust domains", target + "  rules: [{from: [{nodes: [N_1], notTrustDomains: ['spiffe://a']}]}]\n", []string{"nodes[0]: must be the name of a node", "notTrustDomains[0]: must be"}},
		{"who shows no identity", target + "  rules: [{from: [{plaintext: true}, {services: [a/b]}]}]\n", nil},
		{"who shows no identity and is somebody", target + "  rules: [{from: [{plaintext: true, namespaces: [a]}, {plaintext: false}]}]\n", []string{"from[0].plaintext: is true, and alone", "from[1].plaintext: is true, and alone"}},
		{"no labels", target + "  rules: [{from: [{labels: {}}]}]\n", []string{"labels: "}},
		{"conditions in CEL", target + "  rules: [{when: [\"request.method == 'GET'\", \"'a' in user.claims.groups\"]}]\n", nil},
		{"conditions that do not compile", target + "  rules: [{when: [\"request.verb == 'GET'\", 'request.port', 'user.claims.a.all(x, user.claims.b.all(y, x == y))', '']}]\n", []string{
			"rules[0].when[0]: must be a condition in CEL: 1:8: undeclared reference to 'request.verb'", "rules[0].when[1]: must be a condition in CEL: it is int",
			"rules[0].when[2]: must be a condition in CEL: it could take too long", "rules[0].when[3]: must be a condition in CEL: an expression has"}},
		{"no conditions", target + "  rules: [{when: []}]\n", []string{"rules[0].when: "}},
		{"an unknown field", target + "  rules: [{if: []}]\n", []string{"rules[0].if: unknown field"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Decode("f.yaml", []byte("apiVersion: sennit.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec:\n"+tt.spec))
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if len(got) != len(tt.want) || slices.ContainsFunc(tt.want, func(want string) bool {
				return !slices.ContainsFunc(got, func(line string) bool { return strings.Contains(line, want) })
			}) {
				t.Errorf("%s\nwant %s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}
