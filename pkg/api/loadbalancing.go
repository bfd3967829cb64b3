package api

import (
	"slices"

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
}

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

const maxLoadBalancingTargets = 16

// loadBalancingPolicy checks what the schema cannot say.
func (w *walker) loadBalancingPolicy(u *unstructured.Unstructured) {
	spec := u.Object["spec"]
	targets := items(spec, "targetRefs")
	w.between("spec.targetRefs", "items", int64(len(targets)), 1, maxLoadBalancingTargets)
	w.targets("spec.targetRefs", targets, Service.Name, ExternalServices.Name)
	w.oneOf("spec.algorithm", str(spec, "algorithm"), LeastRequest, RoundRobin, Random)
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
		"algorithm":  "LeastRequest (of two random instances the one with fewer requests of the calling node), RoundRobin (each in turn) or Random.",
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
