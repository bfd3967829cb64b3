package api

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
)

// SwaggerDoc says what the fields mean, for `kubectl explain`.
func (FaultPolicy) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "FaultPolicy has the callers' nodes spoil a share of the requests to a service or of a route, to try what happens then.",
		"spec":   "Whose requests are spoiled, and how.",
		"status": "What became of the policy.",
	}
}

// SwaggerDoc says what the fields mean.
func (FaultPolicySpec) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "FaultPolicySpec says whose requests are spoiled, and how.",
		"targetRefs": "Services, ExternalServices, HTTPRoutes and GRPCRoutes of the policy's namespace, or rules of these routes.",
		"faults":     "What happens. Each is drawn for each request on its own; of several that meet, the longest delay, the first abort or reset, and the lowest bandwidth count.",
	}
}

// SwaggerDoc says what the fields mean.
func (FaultTarget) SwaggerDoc() map[string]string {
	return map[string]string{
		"":            "FaultTarget is a Service, an ExternalService, an HTTPRoute or a GRPCRoute of the policy's namespace.",
		"group":       `"" for a Service, gateway.networking.k8s.io for an HTTPRoute or GRPCRoute, sennit.dev for an ExternalService; each where it is not given.`,
		"kind":        "Service, HTTPRoute, GRPCRoute or ExternalService.",
		"name":        "Its name.",
		"sectionName": "Of a route: the name of one of its rules. All of them where it is not given.",
	}
}

// SwaggerDoc says what the fields mean.
func (Fault) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "Fault is what happens to a share of the requests that it is for. A delay may come with one of abort, bandwidth and reset.",
		"name":       "Name of the fault, for people, logs and metrics.",
		"percentage": "Which share of the requests is spoiled: more than 0, at most 100, in steps of 0.0001. Each request is drawn for on its own.",
		"matches":    "The requests that it is for, as an HTTPRoute has them: one of the matches suffices. All where it is not given.",
		"from":       "The calling services that it is for. All where it is not given.",
		"delay":      "The request is held back before an instance is chosen.",
		"abort":      "The request is answered in the place of the service, which does not get it.",
		"bandwidth":  "The bodies are passed on slowly.",
		"reset":      "The exchange is reset without an answer; the service does not get the request.",
	}
}

// SwaggerDoc says what the fields mean.
func (FaultCaller) SwaggerDoc() map[string]string {
	return map[string]string{
		"":          "FaultCaller is a service whose calls are spoiled.",
		"namespace": "Its namespace; the policy's where it is not given.",
		"name":      "Its name. A Gateway's stands for those outside.",
	}
}

// SwaggerDoc says what the fields mean.
func (FaultDelay) SwaggerDoc() map[string]string {
	return map[string]string{
		"":      "FaultDelay holds a request back. The time counts for the timeouts of the rule.",
		"fixed": "For how long: 1ms to 5m (GEP-2257).",
	}
}

// SwaggerDoc says what the fields mean.
func (FaultAbort) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "FaultAbort answers in the place of the service.",
		"httpStatus": "The status of the answer, 400 to 599. 503 where it is not given.",
		"grpcStatus": "The status of the answer to a call of gRPC, as UNAVAILABLE. What httpStatus is in gRPC where it is not given.",
	}
}

// SwaggerDoc says what the fields mean.
func (FaultBandwidth) SwaggerDoc() map[string]string {
	return map[string]string{
		"":                       "FaultBandwidth passes bodies on slowly. Heads are not counted.",
		"responseBytesPerSecond": "At most so many bytes of a response's body in a second.",
		"requestBytesPerSecond":  "At most so many bytes of a request's body in a second.",
	}
}

// SwaggerDoc says what the fields mean.
func (FaultPolicyStatus) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "FaultPolicyStatus is what became of the policy.",
		"conditions": "Accepted: whether the policy is in effect.",
	}
}

// DeepCopyObject implements runtime.Object.
func (p *FaultPolicy) DeepCopyObject() runtime.Object {
	c := *p
	p.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Spec.TargetRefs = slices.Clone(p.Spec.TargetRefs)
	c.Spec.Faults = slices.Clone(p.Spec.Faults)
	for i := range c.Spec.Faults {
		c.Spec.Faults[i] = c.Spec.Faults[i].copied()
	}
	c.Status.Conditions = slices.Clone(p.Status.Conditions)
	return &c
}

func (f Fault) copied() Fault {
	f.Matches, f.From = slices.Clone(f.Matches), slices.Clone(f.From)
	for i := range f.Matches {
		f.Matches[i] = *f.Matches[i].DeepCopy()
	}
	f.Delay, f.Abort, f.Bandwidth = copyOf(f.Delay), copyOf(f.Abort), copyOf(f.Bandwidth)
	return f
}

func copyOf[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// DeepCopyObject implements runtime.Object.
func (l *FaultPolicyList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = make([]FaultPolicy, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*FaultPolicy)
	}
	return &c
}
