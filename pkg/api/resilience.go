package api

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// A ResiliencePolicy (sennit.dev/v1alpha1) says how callers of a service deal with instances that fail.
type ResiliencePolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ResiliencePolicySpec   `json:"spec,omitempty"`
	Status ResiliencePolicyStatus `json:"status,omitempty"`
}

// ResiliencePolicySpec says for whom it is, and what is done.
type ResiliencePolicySpec struct {
	TargetRefs []ResilienceTarget  `json:"targetRefs"`
	Outliers   *ResilienceOutliers `json:"outliers,omitempty"` // nil: no instance is ejected
	Breaker    *CircuitBreaker     `json:"circuitBreaker,omitempty"`
	Retry      *ResilienceRetry    `json:"retry,omitempty"`
	Budget     *RetryBudget        `json:"retryBudget,omitempty"`
	Hedging    *Hedging            `json:"hedging,omitempty"`

	AdaptiveConcurrency *AdaptiveConcurrency `json:"adaptiveConcurrency,omitempty"` // nil: nothing is measured
}

// A ResilienceTarget is a Service, an ExternalService, an HTTPRoute or a GRPCRoute of the policy's namespace.
type ResilienceTarget struct {
	Group string `json:"group"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
}

// ResilienceOutliers says when an instance is not asked for a while. Each node judges by what it saw itself.
type ResilienceOutliers struct {
	ConsecutiveErrors int32           `json:"consecutiveErrors,omitempty"` // 0: not for these
	EjectionTime      metav1.Duration `json:"ejectionTime,omitempty"`
	MaxEjectionTime   metav1.Duration `json:"maxEjectionTime,omitempty"`
	MaxEjectedPercent int32           `json:"maxEjectedPercent,omitempty"`
	Interval          metav1.Duration `json:"interval,omitempty"`
	SuccessRate       *OutlierRate    `json:"successRate,omitempty"`  // nil: not for it
	Latency           *OutlierLatency `json:"latency,omitempty"`      // nil: not for it
	PanicPercent      int32           `json:"panicPercent,omitempty"` // 0 would say nothing: see SwaggerDoc
}

// A CircuitBreaker bounds what one node has under way to the service at a time; 0: no bound.
type CircuitBreaker struct {
	MaxConnections     int64 `json:"maxConnections,omitempty"`
	MaxPendingRequests int64 `json:"maxPendingRequests,omitempty"`
	MaxRequests        int64 `json:"maxRequests,omitempty"`
}

// ResiliencePolicyStatus is what became of the policy.
type ResiliencePolicyStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ResiliencePolicyList is the list of ResiliencePolicy.
type ResiliencePolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ResiliencePolicy `json:"items"`
}

// resilienceParts are what a policy can say.
var resilienceParts = []string{"outliers", "circuitBreaker", "retry", "retryBudget", "hedging", "adaptiveConcurrency"}

const (
	maxResilienceTargets = 16
	maxConsecutiveErrors = 10_000
	maxEjectionTime      = 24 * time.Hour
	maxUnderWay          = 1_000_000
)

// resiliencePolicy checks what the schema cannot say, and names the group of targets that do not.
func (w *walker) resiliencePolicy(u *unstructured.Unstructured) {
	spec := u.Object["spec"]
	targets := items(spec, "targetRefs")
	w.between("spec.targetRefs", "items", int64(len(targets)), 1, maxResilienceTargets)
	seen := map[string]int{}
	for i, t := range targets {
		at := index("spec.targetRefs", i)
		w.resilienceTarget(at, t)
		if kind := str(t, "kind"); kind == HTTPRoute.Name || kind == GRPCRoute.Name {
			for _, name := range []string{"outliers", "circuitBreaker", "retryBudget", "adaptiveConcurrency"} {
				if has(spec, name) {
					w.add(at, Invalid, "must be a Service or an ExternalService: %s is about instances, which a route does not have (put retry and hedging into a policy of its own)", name)
				}
			}
		}
		key := str(t, "kind") + "/" + str(t, "name")
		if first, have := seen[key]; have {
			w.add(at, DuplicateValue, "must be unique, but %s is already item %d", key, first)
		}
		seen[key] = i
	}
	if !slices.ContainsFunc(resilienceParts, func(name string) bool { return has(spec, name) }) {
		w.add("spec", Required, "must say something: give one of %s", strings.Join(resilienceParts, ", "))
	}
	if a := part(spec, "adaptiveConcurrency"); a != nil {
		w.adaptiveConcurrency("spec.adaptiveConcurrency", a)
	}
	if r := part(spec, "retry"); r != nil {
		w.resilienceRetry("spec.retry", r)
	}
	if h := part(spec, "hedging"); h != nil {
		w.span("spec.hedging", h, "delay", time.Millisecond, time.Hour)
	}
	if b := part(spec, "retryBudget"); b != nil {
		w.number("spec.retryBudget", b, "percent", 0, 100)
		w.number("spec.retryBudget", b, "minPerSecond", 0, maxBudgetRate)
	}
	if b := part(spec, "circuitBreaker"); b != nil {
		w.circuitBreaker("spec.circuitBreaker", b)
	}
	if o := part(spec, "outliers"); o != nil {
		w.resilienceOutliers("spec.outliers", o)
	}
}

// resilienceTarget checks what a policy names, and sets the group that goes without saying.
func (w *walker) resilienceTarget(path string, t any) {
	groups := map[string]string{Service.Name: Service.Group, ExternalServices.Name: ExternalServices.Group, HTTPRoute.Name: HTTPRoute.Group, GRPCRoute.Name: GRPCRoute.Group}
	group, known := groups[str(t, "kind")]
	if !known {
		w.oneOf(field(path, "kind"), str(t, "kind"), Service.Name, ExternalServices.Name, HTTPRoute.Name, GRPCRoute.Name)
		return
	}
	m := t.(map[string]any)
	if !has(m, "group") {
		m["group"] = group
	}
	if str(m, "group") != group {
		w.add(field(path, "group"), NotSupported, "must be %q for a %s, is %q", group, str(t, "kind"), str(m, "group"))
	}
	w.form(field(path, "name"), str(t, "name"), subdomain)
}

func (w *walker) resilienceOutliers(path string, o map[string]any) {
	if num(o, "consecutiveErrors") == 0 && !has(o, "successRate") && !has(o, "latency") {
		w.add(path, Required, "must say what makes an outlier: give consecutiveErrors, successRate or latency")
	}
	w.outlierStatistics(path, o)
	w.number(path, o, "consecutiveErrors", 0, maxConsecutiveErrors)
	first := w.span(path, o, "ejectionTime", time.Millisecond, maxEjectionTime)
	longest := w.span(path, o, "maxEjectionTime", time.Millisecond, maxEjectionTime)
	if longest < first {
		w.add(field(path, "maxEjectionTime"), Invalid, "must be no less than ejectionTime, which is %s, is %s", first, longest)
	}
	w.number(path, o, "maxEjectedPercent", 1, 100)
	w.number(path, o, "panicPercent", 0, 100)
}

func (w *walker) circuitBreaker(path string, b map[string]any) {
	given := false
	for _, name := range []string{"maxConnections", "maxPendingRequests", "maxRequests"} {
		if has(b, name) {
			given = true
			w.number(path, b, name, 1, maxUnderWay)
		}
	}
	if !given {
		w.add(path, Required, "must bound something: give maxConnections, maxPendingRequests or maxRequests")
	}
}

// number checks a whole number that the schema has given a default, or that may be missing.
func (w *walker) number(path string, m map[string]any, name string, least, most int64) {
	if n := num(m, name); n < least || n > most {
		w.add(field(path, name), Invalid, "must be from %d to %d, is %d", least, most, n)
	}
}

// span checks a duration that may be missing. It returns 0 where there is none.
func (w *walker) span(path string, m map[string]any, name string, least, most time.Duration) time.Duration {
	if !has(m, name) {
		return 0
	}
	var d metav1.Duration
	if err := d.UnmarshalJSON([]byte(`"` + str(m, name) + `"`)); err != nil || d.Duration < least || d.Duration > most {
		w.add(field(path, name), Invalid, "must be from %s to %s, is %q", least, most, str(m, name))
		return 0
	}
	return d.Duration
}

// part is a map within a document; nil where it is not there.
func part(v any, name string) map[string]any {
	m, _ := v.(map[string]any)
	inner, _ := m[name].(map[string]any)
	return inner
}

// SwaggerDoc says what the fields mean, for `kubectl explain`.
func (ResiliencePolicy) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "ResiliencePolicy says how callers of a service deal with instances that fail.",
		"spec":   "For whom it is, and what is done.",
		"status": "What became of the policy.",
	}
}

// SwaggerDoc says what the fields mean.
func (ResiliencePolicySpec) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "ResiliencePolicySpec says for whom it is, and what is done.",
		"targetRefs": "Services of the policy's namespace, or for retry and hedging HTTPRoutes and GRPCRoutes. Of several policies for one the oldest is in effect.",
		"outliers":   "Which instances are not asked for a while. Without it none is ejected.",

		"retry":       "When a request is sent again. A rule of an HTTPRoute that has a retry of its own goes by that.",
		"retryBudget": "How many retries there may be, by whichever rule or policy. Without it: a fifth of the requests, or 3 a second where that is more.",
		"hedging":     "When a request that waits for its response is sent to a second instance too. Idempotent requests only, within the budget.",

		"adaptiveConcurrency": "A bound of the requests under way that follows what the service bears, by its latency. What is beyond is answered with 503, circuit-open.",

		"circuitBreaker": "How much one node may have under way to the service at a time. What is beyond is answered with 503, circuit-open.",
	}
}

// SwaggerDoc says what the fields mean.
func (CircuitBreaker) SwaggerDoc() map[string]string {
	return map[string]string{
		"":                   "CircuitBreaker bounds what one node has under way to the service at a time, of all its callers there. What is not given is not bounded.",
		"maxConnections":     "TCP connections of ports that are not HTTP.",
		"maxPendingRequests": "Requests that wait for a connection or a stream to an instance's node.",
		"maxRequests":        "Requests that run, waits between their attempts included. Of ports that are HTTP.",
	}
}

// SwaggerDoc says what the fields mean.
func (ResilienceTarget) SwaggerDoc() map[string]string {
	return map[string]string{
		"":      "ResilienceTarget is a Service, an ExternalService, an HTTPRoute or a GRPCRoute of the policy's namespace.",
		"group": `"" for a Service, sennit.dev for an ExternalService, gateway.networking.k8s.io for a route; each where it is not given.`,
		"kind":  "Service, ExternalService, HTTPRoute or GRPCRoute.",
		"name":  "Its name.",
	}
}

// SwaggerDoc says what the fields mean.
func (ResilienceOutliers) SwaggerDoc() map[string]string {
	return map[string]string{
		"":                  "ResilienceOutliers says when a node does not ask an instance for a while, by what it saw of it itself.",
		"consecutiveErrors": "After so many errors in a row an instance is ejected. An error is a response of 500 to 599, a call of gRPC that ended as one, and an attempt that broke off or timed out.",
		"ejectionTime":      "For how long an instance is ejected the first time; the second time for twice as long, and so on. Each such time without an ejection takes one back.",
		"interval":          "Over which successRate and latency are counted.",
		"successRate":       "Instances whose share of successes in an interval is far below that of the others are ejected.",
		"latency":           "Instances that took far longer in an interval than the others are ejected.",
		"maxEjectionTime":   "For how long at most.",
		"maxEjectedPercent": "Of the instances that the node calls at most so many are ejected at a time, and one always may be.",
		"panicPercent":      "Where fewer than so many of the instances would be left, none counts as ejected. 0: they always do.",
	}
}

// SwaggerDoc says what the fields mean.
func (ResiliencePolicyStatus) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "ResiliencePolicyStatus is what became of the policy.",
		"conditions": "Accepted: whether the policy is in effect.",
	}
}

// DeepCopyObject implements runtime.Object.
func (p *ResiliencePolicy) DeepCopyObject() runtime.Object {
	c := *p
	p.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Spec.TargetRefs = slices.Clone(p.Spec.TargetRefs)
	if c.Spec.Outliers = copied(p.Spec.Outliers); c.Spec.Outliers != nil {
		c.Spec.Outliers.SuccessRate = copied(p.Spec.Outliers.SuccessRate)
		c.Spec.Outliers.Latency = copied(p.Spec.Outliers.Latency)
	}
	c.Spec.Breaker = copied(p.Spec.Breaker)
	c.Spec.Budget = copied(p.Spec.Budget)
	c.Spec.Hedging = copied(p.Spec.Hedging)
	c.Spec.AdaptiveConcurrency = copied(p.Spec.AdaptiveConcurrency)
	if c.Spec.Retry = copied(p.Spec.Retry); c.Spec.Retry != nil {
		c.Spec.Retry.Conditions = slices.Clone(p.Spec.Retry.Conditions)
		c.Spec.Retry.Codes = slices.Clone(p.Spec.Retry.Codes)
		c.Spec.Retry.GRPCCodes = slices.Clone(p.Spec.Retry.GRPCCodes)
	}
	c.Status.Conditions = slices.Clone(p.Status.Conditions)
	return &c
}

func copied[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// DeepCopyObject implements runtime.Object.
func (l *ResiliencePolicyList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = make([]ResiliencePolicy, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*ResiliencePolicy)
	}
	return &c
}
