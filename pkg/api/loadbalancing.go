package api

import (
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// A LoadBalancingPolicy (sennit.dev/v1alpha1) says how the instances of services share their requests.
type LoadBalancingPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   LoadBalancingPolicySpec   `json:"spec,omitempty"`
	Status LoadBalancingPolicyStatus `json:"status,omitempty"`
}

// LoadBalancingPolicySpec says of which services, and how.
type LoadBalancingPolicySpec struct {
	TargetRefs []LoadBalancingTarget `json:"targetRefs"`
	Algorithm  string                `json:"algorithm,omitempty"`
	HashOn     []LoadBalancingKey    `json:"hashOn,omitempty"` // the first that a request has

	SlowStart *LoadBalancingSlowStart `json:"slowStart,omitempty"`
	Locality  *LoadBalancingLocality  `json:"locality,omitempty"`
}

// A LoadBalancingLocality says which instances are asked first.
type LoadBalancingLocality struct {
	Prefer string `json:"prefer"`
}

// What a LoadBalancingLocality can prefer.
const (
	PreferZone   = "Zone"
	PreferRegion = "Region"
)

// A LoadBalancingSlowStart gives instances that have just come less than their share.
type LoadBalancingSlowStart struct {
	Window metav1.Duration `json:"window"`
}

// A LoadBalancingKey is a part of a request by whose hash an instance is chosen.
type LoadBalancingKey struct {
	Type string `json:"type"`
	Name string `json:"name,omitempty"`
}

// What a LoadBalancingKey can be. ByHeader can be one, too.
const (
	ByCookie         = "Cookie"
	ByQueryParameter = "QueryParameter"
	BySource         = "Source"
)

// A LoadBalancingTarget is a Service or an ExternalService of the policy's namespace.
type LoadBalancingTarget struct {
	Group string `json:"group"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
}

// The algorithms of a LoadBalancingPolicy.
const (
	LeastRequest = "LeastRequest"
	RoundRobin   = "RoundRobin"
	Random       = "Random"
	PeakEWMA     = "PeakEWMA"
	RingHash     = "RingHash"
	Maglev       = "Maglev"
)

// LoadBalancingPolicyStatus is what became of the policy.
type LoadBalancingPolicyStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// LoadBalancingPolicyList is the list of LoadBalancingPolicy.
type LoadBalancingPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []LoadBalancingPolicy `json:"items"`
}

const (
	maxLoadBalancingTargets = 16
	maxLoadBalancingKeys    = 4
	// minSlowStart and maxSlowStart bound the window of a slow start.
	minSlowStart, maxSlowStart = time.Second, time.Hour
)

// loadBalancingPolicy checks what the schema cannot say.
func (w *walker) loadBalancingPolicy(u *unstructured.Unstructured) {
	spec := u.Object["spec"]
	targets := items(spec, "targetRefs")
	w.between("spec.targetRefs", "items", int64(len(targets)), 1, maxLoadBalancingTargets)
	w.targets("spec.targetRefs", targets, Service.Name, ExternalServices.Name)
	algorithm := str(spec, "algorithm")
	w.oneOf("spec.algorithm", algorithm, LeastRequest, RoundRobin, Random, PeakEWMA, RingHash, Maglev)
	keys := items(spec, "hashOn")
	switch hashes := algorithm == RingHash || algorithm == Maglev; {
	case hashes && len(keys) == 0:
		w.add("spec.hashOn", Required, "is required for %s: what of a request is hashed", algorithm)
	case !hashes && len(keys) > 0:
		w.add("spec.hashOn", Invalid, "must not be given for %s, which hashes nothing", algorithm)
	}
	if has(spec, "slowStart") {
		if hashes := algorithm == RingHash || algorithm == Maglev; hashes {
			w.add("spec.slowStart", Invalid, "must not be given for %s: what is hashed to an instance cannot wait", algorithm)
		}
		w.window("spec.slowStart.window", str(at(spec, "slowStart"), "window"), minSlowStart, maxSlowStart)
	}
	if has(spec, "locality") {
		if hashes := algorithm == RingHash || algorithm == Maglev; hashes {
			w.add("spec.locality", Invalid, "must not be given for %s: nodes of all zones send a key to one instance", algorithm)
		}
		w.oneOf("spec.locality.prefer", str(at(spec, "locality"), "prefer"), PreferZone, PreferRegion)
	}
	w.between("spec.hashOn", "items", int64(len(keys)), 0, maxLoadBalancingKeys)
	for i, k := range keys {
		w.loadBalancingKey(index("spec.hashOn", i), str(k, "type"), str(k, "name"))
	}
}

// window checks a duration.
func (w *walker) window(path, text string, least, most time.Duration) {
	var d metav1.Duration
	if err := d.UnmarshalJSON([]byte(strconv.Quote(text))); err != nil || d.Duration < least || d.Duration > most {
		w.add(path, Invalid, "must be from %s to %s, is %q", least, most, text)
	}
}

func (w *walker) loadBalancingKey(path, kind, name string) {
	w.oneOf(field(path, "type"), kind, ByHeader, ByCookie, ByQueryParameter, BySource)
	at := field(path, "name")
	switch {
	case kind == BySource && name != "":
		w.add(at, Invalid, "must not be given for %s, is %q", kind, name)
	case kind != BySource && name == "":
		w.add(at, Required, "is required: what to hash")
	case kind == ByQueryParameter && len(name) > 256:
		w.add(at, Invalid, "must have at most 256 bytes, has %d", len(name))
	case (kind == ByHeader || kind == ByCookie) && !headerName.MatchString(name):
		w.add(at, Invalid, "must be a token (RFC 9110 §5.6.2), is %q", name)
	}
}

// SwaggerDoc says what the fields mean, for `kubectl explain`.
func (LoadBalancingPolicy) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "LoadBalancingPolicy says how the instances of services share their requests. Of several that name one service the oldest is in effect there.",
		"spec":   "Of which services, and how.",
		"status": "What became of the policy.",
	}
}

// SwaggerDoc says what the fields mean.
func (LoadBalancingPolicySpec) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "LoadBalancingPolicySpec says of which services, and how.",
		"targetRefs": "Services and ExternalServices of the policy's namespace whose instances are meant.",
		"algorithm":  "LeastRequest (of two random instances the one with fewer requests of the calling node), RoundRobin (each in turn), Random, PeakEWMA (of two random instances the one whose answers come sooner), RingHash or Maglev (requests with one key at one instance).",
		"hashOn":     "What RingHash and Maglev hash: the first that a request has. A request that has none goes where LeastRequest sends it.",
		"slowStart":  "Gives instances that have just come, or are well again, less than their share at first. Without it, they have it at once.",
		"locality":   "Which instances are asked first. Without it, all are alike, wherever they are.",
	}
}

// SwaggerDoc says what the fields mean.
func (LoadBalancingLocality) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "LoadBalancingLocality says which instances are asked first.",
		"prefer": "Zone (those in the calling node's zone, then those in its region, then all) or Region.",
	}
}

// SwaggerDoc says what the fields mean.
func (LoadBalancingSlowStart) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "LoadBalancingSlowStart gives instances that have just come less than their share at first.",
		"window": "How long, from 1s to 1h. The share grows evenly from a tenth.",
	}
}

// SwaggerDoc says what the fields mean.
func (LoadBalancingKey) SwaggerDoc() map[string]string {
	return map[string]string{
		"":     "LoadBalancingKey is a part of a request by whose hash an instance is chosen.",
		"type": "Header, Cookie, QueryParameter or Source (at a Gateway the client's address, else the caller's host and service).",
		"name": "Name of the header, cookie or parameter.",
	}
}

// SwaggerDoc says what the fields mean.
func (LoadBalancingTarget) SwaggerDoc() map[string]string {
	return map[string]string{
		"":      "LoadBalancingTarget is a Service or an ExternalService of the policy's namespace.",
		"group": `"" for a Service, sennit.dev for an ExternalService; each where it is not given.`,
		"kind":  "Service or ExternalService.",
		"name":  "Its name.",
	}
}

// SwaggerDoc says what the fields mean.
func (LoadBalancingPolicyStatus) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "LoadBalancingPolicyStatus is what became of the policy.",
		"conditions": "Accepted: whether the policy is in effect.",
	}
}

// DeepCopyObject implements runtime.Object.
func (p *LoadBalancingPolicy) DeepCopyObject() runtime.Object {
	c := *p
	p.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Spec.TargetRefs = slices.Clone(p.Spec.TargetRefs)
	c.Spec.HashOn = slices.Clone(p.Spec.HashOn)
	if p.Spec.SlowStart != nil {
		s := *p.Spec.SlowStart
		c.Spec.SlowStart = &s
	}
	if p.Spec.Locality != nil {
		l := *p.Spec.Locality
		c.Spec.Locality = &l
	}
	c.Status.Conditions = slices.Clone(p.Status.Conditions)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (l *LoadBalancingPolicyList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = make([]LoadBalancingPolicy, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*LoadBalancingPolicy)
	}
	return &c
}
