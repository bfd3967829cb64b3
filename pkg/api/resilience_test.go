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
		{"nothing", target, []string{"f.yaml:4:1: spec: must say something: give one of outliers, circuitBreaker, retry, retryBudget, hedging, adaptiveConcurrency"}},
		{"bounds", target + "  circuitBreaker: {maxConnections: 1, maxPendingRequests: 2, maxRequests: 3}\n", nil},
		{"no bounds", target + "  circuitBreaker: {}\n",
			[]string{"f.yaml:6:3: spec.circuitBreaker: must bound something: give maxConnections, maxPendingRequests or maxRequests"}},
		{"a bound of nothing", target + "  circuitBreaker: {maxRequests: -1}\n",
			[]string{"f.yaml:6:33: spec.circuitBreaker.maxRequests: must be from 1 to 1000000, is -1"}},
		{"no reason", target + "  outliers: {}\n", []string{"f.yaml:6:3: spec.outliers: must say what makes an outlier: give consecutiveErrors, successRate or latency"}},
		{"of a route", "  targetRefs: [{kind: HTTPRoute, name: a}]\n  retry: {}\n", nil},
		{"of calls", "  targetRefs: [{kind: GRPCRoute, name: a}]\n  retry: {}\n", nil},
		{"instances of a route", "  targetRefs: [{kind: HTTPRoute, name: a}]\n  outliers: {consecutiveErrors: 5}\n",
			[]string{"f.yaml:5:16: spec.targetRefs[0]: must be a Service or an ExternalService: outliers is about instances, which a route does not have (put retry and hedging into a policy of its own)"}},
		{"of a gateway", "  targetRefs: [{kind: Gateway, name: a}]\n  retry: {}\n",
			[]string{`f.yaml:5:23: spec.targetRefs[0].kind: must be one of Service, ExternalService, HTTPRoute, GRPCRoute, is "Gateway"`}},
		{"retries", target + "  retry: {conditions: [Reset], codes: [502, 503], grpcCodes: [UNAVAILABLE], attempts: 10, perTryTimeout: 1s, backoff: 1ms, maxBackoff: 10s}\n  retryBudget: {percent: 0, minPerSecond: 0}\n", nil},
		{"retries that cannot be", target + "  retry: {conditions: [Error], codes: [200], grpcCodes: [OK], attempts: 11, perTryTimeout: 0s, backoff: 1s, maxBackoff: 20s}\n  retryBudget: {percent: 101, minPerSecond: 1001}\n", []string{
			`f.yaml:6:24: spec.retry.conditions[0]: must be one of ConnectFailure, Reset, Timeout, is "Error"`,
			"f.yaml:6:40: spec.retry.codes[0]: must be from 400 to 599, is 200",
			`f.yaml:6:58: spec.retry.grpcCodes[0]: must be one of ` + strings.Join(GRPCCodes[1:], ", ") + `, is "OK"`,
			"f.yaml:6:73: spec.retry.attempts: must be from 1 to 10, is 11",
			`f.yaml:6:92: spec.retry.perTryTimeout: must be from 1ms to 24h0m0s, is "0s"`,
			`f.yaml:6:121: spec.retry.maxBackoff: must be from 1ms to 10s, is "20s"`,
			"f.yaml:7:26: spec.retryBudget.percent: must be from 0 to 100, is 101",
			"f.yaml:7:45: spec.retryBudget.minPerSecond: must be from 0 to 1000, is 1001"}},
		{"a service twice", "  targetRefs: [{kind: Service, name: a}, {kind: Service, name: a}]\n  outliers: {consecutiveErrors: 5}\n",
			[]string{"f.yaml:5:42: spec.targetRefs[1]: must be unique, but Service/a is already item 0"}},
		{"by statistics", target + "  outliers: {interval: 1s, successRate: {}, latency: {factor: 2.5, minDifference: 0s}}\n", nil},
		{"statistics that cannot be", target + "  outliers: {interval: 1ms, successRate: {minInstances: 2, factor: 0}, latency: {minRequests: 0, factor: 0.5}}\n", []string{
			`f.yaml:6:24: spec.outliers.interval: must be from 100ms to 1h0m0s, is "1ms"`,
			"f.yaml:6:57: spec.outliers.successRate.minInstances: must be from 3 to 1000, is 2",
			"f.yaml:6:68: spec.outliers.successRate.factor: must be from 0.1 to 100, is 0",
			"f.yaml:6:95: spec.outliers.latency.minRequests: must be from 1 to 1000000, is 0",
			"f.yaml:6:106: spec.outliers.latency.factor: must be from 1 to 1000, is 0.5"}},
		{"hedging", target + "  hedging: {delay: 50ms}\n", nil},
		{"hedging at once", target + "  hedging: {delay: 0s}\n", []string{`f.yaml:6:20: spec.hedging.delay: must be from 1ms to 1h0m0s, is "0s"`}},
		{"hedging without a delay", target + "  hedging: {}\n", []string{"f.yaml:6:3: spec.hedging.delay: is required"}},
		{"a measured bound", target + "  adaptiveConcurrency: {}\n", nil},
		{"a measured bound that cannot be", target + "  adaptiveConcurrency: {minConcurrency: 10, maxConcurrency: 5, tolerance: 0.5}\n", []string{
			"f.yaml:6:61: spec.adaptiveConcurrency.maxConcurrency: must be no less than minConcurrency, which is 10, is 5",
			"f.yaml:6:75: spec.adaptiveConcurrency.tolerance: must be from 1 to 100, is 0.5"}},
		{"numbers", target + "  outliers: {consecutiveErrors: -1, maxEjectedPercent: 0, panicPercent: 101}\n", []string{
			"f.yaml:6:33: spec.outliers.consecutiveErrors: must be from 0 to 10000, is -1",
			"f.yaml:6:56: spec.outliers.maxEjectedPercent: must be from 1 to 100, is 0",
			"f.yaml:6:73: spec.outliers.panicPercent: must be from 0 to 100, is 101"}},
		{"times", target + "  outliers: {consecutiveErrors: 5, ejectionTime: 10m}\n",
			[]string{"f.yaml:6:13: spec.outliers.maxEjectionTime: must be no less than ejectionTime, which is 10m0s, is 5m0s"}},
		{"no time", target + "  outliers: {consecutiveErrors: 5, ejectionTime: 0s}\n",
			[]string{`f.yaml:6:50: spec.outliers.ejectionTime: must be from 1ms to 24h0m0s, is "0s"`}},
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
