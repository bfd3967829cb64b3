package api

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func faultPolicy(spec string) string {
	return "apiVersion: sennit.dev/v1alpha1\nkind: FaultPolicy\nmetadata: {name: slow}\nspec:\n" + spec + "\n"
}

func TestFaultPolicies(t *testing.T) {
	t.Parallel()
	const target = "  targetRefs: [{kind: Service, name: orders}]\n  faults: "
	for _, tt := range []struct {
		name, spec, want string // want is part of the only error; "" where there is none
	}{
		{"all that can be said", "  targetRefs: [{kind: Service, name: orders}, {kind: HTTPRoute, name: r, sectionName: get}, {kind: ExternalService, name: pay}]\n" +
			"  faults: [{name: a, percentage: 0.0001, delay: {fixed: 1m30s}, abort: {grpcStatus: UNAVAILABLE}, from: [{name: web}, {namespace: ops, name: probe}], " +
			"matches: [{method: GET, headers: [{name: x-test, value: '1'}], path: {value: /a}}]}, {name: b, percentage: 100, delay: {fixed: 1s}, bandwidth: {responseBytesPerSecond: 1000}}, {name: c, percentage: 12.5, reset: true}]", ""},
		{"no target", "  targetRefs: []\n  faults: [{name: a, percentage: 1, reset: true}]", "spec.targetRefs: must have at least 1 items, has 0"},
		{"no fault", target + "[]", "spec.faults: must have at least 1 items, has 0"},
		{"a kind of target", "  targetRefs: [{kind: Gateway, name: g}]\n  faults: [{name: a, percentage: 1, reset: true}]", "spec.targetRefs[0].kind: must be one of Service, HTTPRoute, GRPCRoute, ExternalService, is \"Gateway\""},
		{"a section of a service", "  targetRefs: [{kind: Service, name: s, sectionName: http}]\n  faults: [{name: a, percentage: 1, reset: true}]", "it names a rule of a route"},
		{"a target twice", "  targetRefs: [{kind: HTTPRoute, name: r}, {kind: HTTPRoute, name: r}]\n  faults: [{name: a, percentage: 1, reset: true}]", "HTTPRoute/r is already item 0"},
		{"two rules of a route", "  targetRefs: [{kind: HTTPRoute, name: r, sectionName: a}, {kind: HTTPRoute, name: r, sectionName: b}]\n  faults: [{name: a, percentage: 1, reset: true}]", ""},
		{"no share", target + "[{name: a, reset: true}]", "percentage: is required"},
		{"a share of nothing", target + "[{name: a, percentage: 0, reset: true}]", "must be more than 0 and at most 100, is 0"},
		{"a share of more than all", target + "[{name: a, percentage: 100.5, reset: true}]", "must be more than 0 and at most 100, is 100.5"},
		{"a share that nobody draws", target + "[{name: a, percentage: 0.00005, reset: true}]", "must be a multiple of 0.0001"},
		{"nothing happens", target + "[{name: a, percentage: 1}]", "must say what happens: give delay, abort, bandwidth or reset: true"},
		{"an answer and none", target + "[{name: a, percentage: 1, reset: true, abort: {}}]", "a request is either answered or reset"},
		{"a slow answer of the node's", target + "[{name: a, percentage: 1, abort: {}, bandwidth: {responseBytesPerSecond: 1}}]", "leave nothing to be slowed down"},
		{"a delay without a unit", target + "[{name: a, percentage: 1, delay: {fixed: '5'}}]", "must be a duration from 1ms to 5m0s, such as 250ms"},
		{"a delay of nanoseconds", target + "[{name: a, percentage: 1, delay: {fixed: 5ns}}]", "spec.faults[0].delay.fixed: must be a duration"},
		{"a delay of hours", target + "[{name: a, percentage: 1, delay: {fixed: 1h}}]", "must be a duration"},
		{"an answer that is none", target + "[{name: a, percentage: 1, abort: {httpStatus: 200}}]", "from 400 to 599, is 200"},
		{"no status of gRPC", target + "[{name: a, percentage: 1, abort: {grpcStatus: OK}}]", "must be one of CANCELLED,"},
		{"a bandwidth without limits", target + "[{name: a, percentage: 1, bandwidth: {}}]", "must limit something"},
		{"no bandwidth at all", target + "[{name: a, percentage: 1, bandwidth: {responseBytesPerSecond: 0}}]", "must be from 1 to"},
		{"a caller that is no name", target + "[{name: a, percentage: 1, reset: true, from: [{name: Web}]}]", "spec.faults[0].from[0].name: must be at most 63"},
		{"a match that Gateway API refuses", target + "[{name: a, percentage: 1, reset: true, matches: [{path: {type: Exact, value: a}}]}]", "spec.faults[0].matches[0].path"},
		{"a field that there is not", target + "[{name: a, percent: 1, percentage: 1, reset: true}]", "spec.faults[0].percent: unknown field"},
	} {
		_, errs := decode(t, faultPolicy(tt.spec))
		if tt.want == "" && len(errs) > 0 || tt.want != "" && (len(errs) != 1 || !strings.Contains(errs[0], tt.want)) {
			t.Errorf("%s: %q, want %q", tt.name, errs, tt.want)
		}
	}
}

func TestFaultPolicyIsCompleted(t *testing.T) {
	t.Parallel()
	docs, errs := decode(t, faultPolicy("  targetRefs: [{kind: HTTPRoute, name: r}]\n  faults: [{name: a, percentage: 5, abort: {}, matches: [{path: {value: /a}}]}, {name: b, percentage: 0.0003, delay: {fixed: 1s500ms}, abort: {grpcStatus: UNAVAILABLE}}]"))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	var p FaultPolicy
	if err := As(docs[0].Object, &p); err != nil {
		t.Fatal(err)
	}
	a, b := &p.Spec.Faults[0], &p.Spec.Faults[1]
	if p.Spec.TargetRefs[0].Group != HTTPRoute.Group || a.Abort.HTTPStatus != 503 || string(*a.Matches[0].Path.Type) != "PathPrefix" {
		t.Errorf("what goes without saying is not set: %+v", p.Spec)
	}
	if a.Share() != 50_000 || b.Share() != 3 || b.DelayOf() != 1500*time.Millisecond || a.Abort.GRPCCode() != 0 || b.Abort.GRPCCode() != 14 {
		t.Errorf("shares %d and %d, delay %s, codes %d and %d", a.Share(), b.Share(), b.DelayOf(), a.Abort.GRPCCode(), b.Abort.GRPCCode())
	}
	c := p.DeepCopyObject().(*FaultPolicy)
	c.Spec.Faults[0].Abort.HTTPStatus, *c.Spec.Faults[0].Matches[0].Path.Value = 500, "/b"
	if a.Abort.HTTPStatus != 503 || *a.Matches[0].Path.Value != "/a" || !slices.Equal(c.Spec.TargetRefs, p.Spec.TargetRefs) {
		t.Error("a copy shares with what it was copied from")
	}
}
