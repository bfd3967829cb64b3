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
		{"an unknown field", target + "  rules: [{when: []}]\n", []string{"rules[0].when: unknown field"}},
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
