package api

import (
	"strings"
	"testing"
)

func TestLoadBalancingPolicies(t *testing.T) {
	const head = "apiVersion: sennit.dev/v1alpha1\nkind: LoadBalancingPolicy\nmetadata: {name: l}\nspec:\n  targetRefs: [{kind: Service, name: a}]\n"
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"the least", head, nil},
		{"an algorithm that is misspelt", head + "  algorithm: round-robin\n", []string{
			`f.yaml:6:14: spec.algorithm: must be one of LeastRequest, RoundRobin, Random, PeakEWMA, RingHash, Maglev, is "round-robin"`}},
		{"a route, a group, one twice", strings.Replace(head, "[{kind: Service, name: a}]",
			"[{kind: HTTPRoute, name: a}, {kind: Service, name: b, group: c}, {kind: ExternalService, name: d}, {kind: ExternalService, name: d}]", 1), []string{
			`f.yaml:5:23: spec.targetRefs[0].kind: must be one of Service, ExternalService, is "HTTPRoute"`,
			`f.yaml:5:76: spec.targetRefs[1].group: must be "" for a Service, is "c"`,
			`f.yaml:5:114: spec.targetRefs[3]: must be unique, but ExternalService/d is already item 2`}},
		{"a hash of nothing", head + "  algorithm: Maglev\n", []string{
			"f.yaml:4:1: spec.hashOn: is required for Maglev: what of a request is hashed"}},
		{"a hash that nobody asks for", head + "  hashOn: [{type: Source}]\n", []string{
			"f.yaml:6:11: spec.hashOn: must not be given for LeastRequest, which hashes nothing"}},
		{"keys", head + "  algorithm: RingHash\n  hashOn: [{type: Header}, {type: Cookie, name: a b}, {type: Source, name: x}, {type: IP}]\n", []string{
			"f.yaml:7:12: spec.hashOn[0].name: is required: what to hash",
			`f.yaml:7:49: spec.hashOn[1].name: must be a token (RFC 9110 §5.6.2), is "a b"`,
			`f.yaml:7:76: spec.hashOn[2].name: must not be given for Source, is "x"`,
			"f.yaml:7:80: spec.hashOn[3].name: is required: what to hash",
			`f.yaml:7:87: spec.hashOn[3].type: must be one of Header, Cookie, QueryParameter, Source, is "IP"`}},
		{"all keys", head + "  algorithm: Maglev\n  hashOn: [{type: Header, name: X-User}, {type: Cookie, name: u}, {type: QueryParameter, name: user id}, {type: Source}]\n", nil},
		{"a slow start", head + "  slowStart: {window: 30s}\n", nil},
		{"a slow start without end", head + "  slowStart: {window: 2h}\n", []string{
			`f.yaml:6:23: spec.slowStart.window: must be from 1s to 1h0m0s, is "2h"`}},
		{"a slow start of what is hashed", head + "  algorithm: Maglev\n  hashOn: [{type: Source}]\n  slowStart: {window: 0s}\n", []string{
			"f.yaml:8:14: spec.slowStart: must not be given for Maglev: what is hashed to an instance cannot wait",
			`f.yaml:8:23: spec.slowStart.window: must be from 1s to 1h0m0s, is "0s"`}},
		{"a locality", head + "  locality: {prefer: Zone}\n", nil},
		{"a locality of something else", head + "  locality: {prefer: Rack}\n", []string{
			`f.yaml:6:22: spec.locality.prefer: must be one of Zone, Region, is "Rack"`}},
		{"a locality of what is hashed", head + "  algorithm: RingHash\n  hashOn: [{type: Source}]\n  locality: {prefer: Zone}\n", []string{
			"f.yaml:8:13: spec.locality: must not be given for RingHash: nodes of all zones send a key to one instance"}},
		{"nothing", strings.Replace(head, "[{kind: Service, name: a}]", "[]", 1), []string{
			"f.yaml:5:15: spec.targetRefs: must have at least 1 items, has 0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, got := decode(t, tt.text); strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
	docs, errs := decode(t, head)
	if errs != nil || str(docs[0].Object.Object["spec"], "algorithm") != LeastRequest {
		t.Errorf("%v of %q", docs, errs)
	}
}

// TestFormerAnnotation wants to be told who still has the annotation that chose an algorithm.
func TestFormerAnnotation(t *testing.T) {
	docs, errs := decode(t, "apiVersion: v1\nkind: Service\nmetadata: {name: a, annotations: {sennit.dev/balance: random}}\nspec: {ports: [{port: 80}]}\n")
	if errs != nil {
		t.Fatal(errs)
	}
	if got := Warnings(docs[0].Kind, docs[0].Object); len(got) != 1 || !strings.Contains(got[0], "sennit.dev/balance") || !strings.Contains(got[0], "LoadBalancingPolicy") {
		t.Errorf("warnings %q", got)
	}
}
