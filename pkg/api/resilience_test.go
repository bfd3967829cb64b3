package api

import (
	"slices"
	"strings"
	"testing"
)

func resiliencePolicy(spec string) string {
	return "apiVersion: sennit.dev/v1alpha1\nkind: ResiliencePolicy\nmetadata: {name: r}\nspec:\n" + spec
}

func TestResiliencePolicies(t *testing.T) {
	const target = "  targetRefs: [{kind: Service, name: orders}]\n"
	for _, tt := range []struct {
		name, spec string
		want       []string
	}{
		{"errors in a row", target + "  outliers: {consecutiveErrors: 5}\n", nil},
		{"of a host outside", "  targetRefs: [{kind: ExternalService, name: api}]\n  outliers: {consecutiveErrors: 5, panicPercent: 0}\n", nil},
		{"nothing", target, []string{"f.yaml:4:1: spec: must say something: give outliers or circuitBreaker"}},
		{"bounds", target + "  circuitBreaker: {maxConnections: 1, maxPendingRequests: 2, maxRequests: 3}\n", nil},
		{"no bounds", target + "  circuitBreaker: {}\n",
			[]string{"f.yaml:6:3: spec.circuitBreaker: must bound something: give maxConnections, maxPendingRequests or maxRequests"}},
		{"a bound of nothing", target + "  circuitBreaker: {maxRequests: -1}\n",
			[]string{"f.yaml:6:33: spec.circuitBreaker.maxRequests: must be from 1 to 1000000, is -1"}},
		{"no reason", target + "  outliers: {}\n", []string{"f.yaml:6:3: spec.outliers: must say what makes an outlier: give consecutiveErrors"}},
		{"of a route", "  targetRefs: [{kind: HTTPRoute, name: a}]\n  outliers: {consecutiveErrors: 5}\n",
			[]string{`f.yaml:5:23: spec.targetRefs[0].kind: must be one of Service, ExternalService, is "HTTPRoute"`}},
		{"a service twice", "  targetRefs: [{kind: Service, name: a}, {kind: Service, name: a}]\n  outliers: {consecutiveErrors: 5}\n",
			[]string{"f.yaml:5:42: spec.targetRefs[1]: must be unique, but Service/a is already item 0"}},
		{"numbers", target + "  outliers: {consecutiveErrors: -1, maxEjectedPercent: 0, panicPercent: 101}\n", []string{
			"f.yaml:6:33: spec.outliers.consecutiveErrors: must be from 0 to 10000, is -1",
			"f.yaml:6:56: spec.outliers.maxEjectedPercent: must be from 1 to 100, is 0",
			"f.yaml:6:73: spec.outliers.panicPercent: must be from 0 to 100, is 101"}},
		{"times", target + "  outliers: {consecutiveErrors: 5, ejectionTime: 10m}\n",
			[]string{"f.yaml:6:13: spec.outliers.maxEjectionTime: must be no less than ejectionTime, which is 10m0s, is 5m0s"}},
		{"no time", target + "  outliers: {consecutiveErrors: 5, ejectionTime: 0s}\n",
			[]string{`f.yaml:6:50: spec.outliers.ejectionTime: must be longer than 0s and at most 24h0m0s, is "0s"`}},
		{"an unknown field", target + "  outliers: {consecutiveError: 5}\n", []string{"f.yaml:6:14: spec.outliers.consecutiveError: unknown field; did you mean consecutiveErrors?"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Decode("f.yaml", []byte(resiliencePolicy(tt.spec)))
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%s\nwant %s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}
