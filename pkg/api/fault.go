package api

import (
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// A FaultPolicy (sennit.dev/v1alpha1) has callers' nodes spoil a share of the requests to a service or of a route.
type FaultPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   FaultPolicySpec   `json:"spec,omitempty"`
	Status FaultPolicyStatus `json:"status,omitempty"`
}

// FaultPolicySpec says whose requests are spoiled, and how.
type FaultPolicySpec struct {
	TargetRefs []FaultTarget `json:"targetRefs"`
	Faults     []Fault       `json:"faults"`
}

// A FaultTarget is a Service or an ExternalService of the policy's namespace, or an HTTPRoute or GRPCRoute of it or one of its rules.
type FaultTarget struct {
	Group       string `json:"group"`
	Kind        string `json:"kind"`
	Name        string `json:"name"`
	SectionName string `json:"sectionName,omitempty"` // of a route: the name of a rule; empty: all rules
}

// A Fault is what happens to a share of the requests that it is for.
type Fault struct {
	Name       string                     `json:"name"`
	Percentage float64                    `json:"percentage"`
	Matches    []gatewayv1.HTTPRouteMatch `json:"matches,omitempty"`
	From       []FaultCaller              `json:"from,omitempty"`
	Delay      *FaultDelay                `json:"delay,omitempty"`
	Abort      *FaultAbort                `json:"abort,omitempty"`
	Bandwidth  *FaultBandwidth            `json:"bandwidth,omitempty"`
	Reset      bool                       `json:"reset,omitempty"`
}

// A FaultCaller is a service whose calls are spoiled.
type FaultCaller struct {
	Namespace string `json:"namespace,omitempty"` // empty: the policy's
	Name      string `json:"name"`
}

// A FaultDelay holds a request back.
type FaultDelay struct {
	Fixed string `json:"fixed"`
}

// A FaultAbort answers in the place of the service.
type FaultAbort struct {
	HTTPStatus int32  `json:"httpStatus,omitempty"`
	GRPCStatus string `json:"grpcStatus,omitempty"` // empty: what HTTPStatus is in gRPC
}

// A FaultBandwidth slows bodies down. 0: not limited.
type FaultBandwidth struct {
	ResponseBytesPerSecond int64 `json:"responseBytesPerSecond,omitempty"`
	RequestBytesPerSecond  int64 `json:"requestBytesPerSecond,omitempty"`
}

// FaultPolicyStatus is what became of the policy.
type FaultPolicyStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// FaultPolicyList is the list of FaultPolicy.
type FaultPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []FaultPolicy `json:"items"`
}

const (
	maxFaultTargets   = 16
	maxFaults         = 8
	maxFaultMatches   = 8
	maxFaultCallers   = 32
	maxFaultDelay     = 5 * time.Minute
	maxFaultBandwidth = 1 << 40
)

// gatewayDuration is a duration of GEP-2257.
var gatewayDuration = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)

// gRPCStatuses are the codes by which a call can fail, as gRPC names them; the position is the number less one.
var gRPCStatuses = []string{
	"CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
	"DATA_LOSS", "UNAUTHENTICATED",
}

// GRPCCode is the number of the status, or 0 where it is that of the HTTP status.
func (a *FaultAbort) GRPCCode() uint32 { return uint32(slices.Index(gRPCStatuses, a.GRPCStatus) + 1) }

// Share is the percentage in millionths.
func (f *Fault) Share() uint32 { return uint32(math.Round(min(max(f.Percentage, 0), 100) * 1e4)) }

// DelayOf is how long a request is held back; 0 where it is not.
func (f *Fault) DelayOf() time.Duration {
	if f.Delay == nil {
		return 0
	}
	d, _ := time.ParseDuration(f.Delay.Fixed) // which was checked when it was stored
	return min(max(d, 0), maxFaultDelay)
}

// faultPolicy checks what the schema cannot say, and names the group of targets that do not.
func (w *walker) faultPolicy(u *unstructured.Unstructured) {
	spec := u.Object["spec"]
	targets, faults := items(spec, "targetRefs"), items(spec, "faults")
	w.between("spec.targetRefs", "items", int64(len(targets)), 1, maxFaultTargets)
	w.between("spec.faults", "items", int64(len(faults)), 1, maxFaults)
	seen := map[string]int{}
	for i, t := range targets {
		at := index("spec.targetRefs", i)
		w.target(at, t, Service.Name, HTTPRoute.Name, GRPCRoute.Name, ExternalServices.Name)
		section := str(t, "sectionName")
		if section != "" && str(t, "kind") != HTTPRoute.Name && str(t, "kind") != GRPCRoute.Name {
			w.add(field(at, "sectionName"), Invalid, "must not be given for a %s: it names a rule of a route", str(t, "kind"))
		}
		key := str(t, "kind") + "/" + str(t, "name") + "#" + section
		if first, have := seen[key]; have {
			w.add(at, DuplicateValue, "must be unique, but %s is already item %d", strings.TrimSuffix(key, "#"), first)
		}
		seen[key] = i
	}
	for i, f := range faults {
		w.fault(index("spec.faults", i), f)
	}
}

func (w *walker) fault(path string, f any) {
	w.form(field(path, "name"), str(f, "name"), label)
	w.percentage(field(path, "percentage"), at(f, "percentage"))
	w.between(field(path, "matches"), "items", int64(len(items(f, "matches"))), 0, maxFaultMatches)
	from := items(f, "from")
	w.between(field(path, "from"), "items", int64(len(from)), 0, maxFaultCallers)
	for i, caller := range from {
		w.form(field(index(field(path, "from"), i), "name"), str(caller, "name"), label)
		if ns := str(caller, "namespace"); ns != "" {
			w.form(field(index(field(path, "from"), i), "namespace"), ns, label)
		}
	}
	reset, _ := at(f, "reset").(bool)
	delay, abort, bandwidth := at(f, "delay"), at(f, "abort"), at(f, "bandwidth")
	switch {
	case delay == nil && abort == nil && bandwidth == nil && !reset:
		w.add(path, Required, "must say what happens: give delay, abort, bandwidth or reset: true")
	case abort != nil && reset:
		w.add(field(path, "reset"), Invalid, "must not be given with abort: a request is either answered or reset; write two faults")
	case bandwidth != nil && (abort != nil || reset):
		w.add(field(path, "bandwidth"), Invalid, "must not be given with abort or reset, which leave nothing to be slowed down; write two faults")
	}
	if delay != nil {
		text := str(delay, "fixed")
		d, err := time.ParseDuration(text)
		if err != nil || !gatewayDuration.MatchString(text) || d < time.Millisecond || d > maxFaultDelay {
			w.add(field(field(path, "delay"), "fixed"), Invalid, "must be a duration from 1ms to %s, such as 250ms or 1m30s (GEP-2257), is %q", maxFaultDelay, text)
		}
	}
	if abort != nil {
		w.faultAbort(field(path, "abort"), abort)
	}
	if bandwidth != nil {
		w.faultBandwidth(field(path, "bandwidth"), bandwidth)
	}
}

// percentage is more than 0, at most 100, and no finer than what a node draws.
func (w *walker) percentage(path string, v any) {
	share, _ := v.(float64)
	if n, ok := v.(int64); ok {
		share = float64(n)
	}
	const finest = 1e-4
	switch steps := share / finest; {
	case !(share > 0 && share <= 100): // NaN too
		w.add(path, Invalid, "must be more than 0 and at most 100, is %v", v)
	case math.Abs(steps-math.Round(steps)) > 1e-6*steps:
		w.add(path, Invalid, "must be a multiple of 0.0001, is %v", v)
	}
}

func (w *walker) faultAbort(path string, abort any) {
	if n := num(abort, "httpStatus"); n < 400 || n > 599 {
		w.add(field(path, "httpStatus"), Invalid, "must be the status of an error, from 400 to 599, is %d", n)
	}
	if status := str(abort, "grpcStatus"); status != "" {
		w.oneOf(field(path, "grpcStatus"), status, gRPCStatuses...)
	}
}

func (w *walker) faultBandwidth(path string, bandwidth any) {
	given := false
	for _, name := range []string{"responseBytesPerSecond", "requestBytesPerSecond"} {
		if !has(bandwidth, name) {
			continue
		}
		given = true
		if n := num(bandwidth, name); n < 1 || n > maxFaultBandwidth {
			w.add(field(path, name), Invalid, "must be from 1 to %d, is %d", int64(maxFaultBandwidth), n)
		}
	}
	if !given {
		w.add(path, Required, "must limit something: give responseBytesPerSecond or requestBytesPerSecond")
	}
}
