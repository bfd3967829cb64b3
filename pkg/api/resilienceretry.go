package api

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A ResilienceRetry says when a request is sent again.
type ResilienceRetry struct {
	Conditions    []string         `json:"conditions,omitempty"` // by default all; empty: none of them
	Codes         []int32          `json:"codes,omitempty"`
	GRPCCodes     []string         `json:"grpcCodes,omitempty"`
	Attempts      int32            `json:"attempts,omitempty"` // after the first
	PerTryTimeout *metav1.Duration `json:"perTryTimeout,omitempty"`
	Backoff       metav1.Duration  `json:"backoff,omitempty"`
	MaxBackoff    *metav1.Duration `json:"maxBackoff,omitempty"` // nil: ten times the backoff
}

// What a retry can be for, beside statuses.
const (
	OnConnectFailure = "ConnectFailure"
	OnReset          = "Reset"
	OnTimeout        = "Timeout"
)

// GRPCCodes are the statuses of gRPC, each at the place of its number.
var GRPCCodes = []string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
	"UNAUTHENTICATED",
}

// A RetryBudget bounds the retries of each calling service for the service, from one node.
type RetryBudget struct {
	Percent      int32 `json:"percent,omitempty"` // of the requests
	MinPerSecond int32 `json:"minPerSecond,omitempty"`
}

// Hedging sends a request that waits for its response to a second instance too.
type Hedging struct {
	Delay metav1.Duration `json:"delay"`
}

const (
	maxRetryAttempts = 10
	maxRetryBackoff  = 10 * time.Second
	maxPerTryTimeout = 24 * time.Hour
	maxBudgetRate    = 1000
)

func (w *walker) resilienceRetry(path string, r map[string]any) {
	for i, on := range items(r, "conditions") {
		name, _ := on.(string)
		w.oneOf(index(field(path, "conditions"), i), name, OnConnectFailure, OnReset, OnTimeout)
	}
	for i, c := range items(r, "codes") {
		if code, _ := c.(int64); code < 400 || code > 599 {
			w.add(index(field(path, "codes"), i), Invalid, "must be from 400 to 599, is %d", code)
		}
	}
	w.between(field(path, "codes"), "items", int64(len(items(r, "codes"))), 0, 200)
	for i, c := range items(r, "grpcCodes") {
		name, _ := c.(string)
		w.oneOf(index(field(path, "grpcCodes"), i), name, GRPCCodes[1:]...)
	}
	w.between(field(path, "grpcCodes"), "items", int64(len(items(r, "grpcCodes"))), 0, int64(len(GRPCCodes)-1))
	w.number(path, r, "attempts", 1, maxRetryAttempts)
	w.span(path, r, "perTryTimeout", time.Millisecond, maxPerTryTimeout)
	first := w.span(path, r, "backoff", time.Millisecond, maxRetryBackoff)
	if longest := w.span(path, r, "maxBackoff", time.Millisecond, maxRetryBackoff); longest > 0 && longest < first {
		w.add(field(path, "maxBackoff"), Invalid, "must be no less than backoff, which is %s, is %s", first, longest)
	}
}

// SwaggerDoc says what the fields mean.
func (ResilienceRetry) SwaggerDoc() map[string]string {
	return map[string]string{
		"":              "ResilienceRetry says when a request is sent again. What is not idempotent never is once a byte of it reached the service, but for grpcCodes.",
		"conditions":    "ConnectFailure: no byte reached the service, and no other instance is left to ask at once. Reset: it broke off before its response. Timeout: the time of one attempt was over. All where it is not given.",
		"codes":         "Statuses of responses, 400 to 599, that are not passed on.",
		"grpcCodes":     "Statuses of calls of gRPC, such as UNAVAILABLE, that ended without a message. Whoever lists one says that such a call may be sent again.",
		"attempts":      "How often, after the first time.",
		"perTryTimeout": "How long one attempt may take, where the rule has no shorter backendRequest.",
		"backoff":       "The least wait before the first of these. It doubles each time, and chance adds up to half of it.",
		"maxBackoff":    "What it doubles to at most. Without it: ten times backoff.",
	}
}

// SwaggerDoc says what the fields mean.
func (RetryBudget) SwaggerDoc() map[string]string {
	return map[string]string{
		"":             "RetryBudget bounds retries, for each service that calls and from each node, in any ten seconds.",
		"percent":      "Of the requests so many may be sent again.",
		"minPerSecond": "So many a second may, however few the requests are.",
	}
}

// SwaggerDoc says what the fields mean.
func (Hedging) SwaggerDoc() map[string]string {
	return map[string]string{
		"":      "Hedging sends a request that waits for its response to a second instance too. The response whose head is first is passed on.",
		"delay": "How long the first may take. What nineteen of twenty requests do not exceed doubles few of them.",
	}
}
