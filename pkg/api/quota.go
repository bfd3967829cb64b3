package api

import (
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// A QuotaPolicy (sennit.dev/v1alpha1) limits how many requests reach a service or a route, over the whole cluster.
type QuotaPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   QuotaPolicySpec   `json:"spec,omitempty"`
	Status QuotaPolicyStatus `json:"status,omitempty"`
}

// QuotaPolicySpec says what is limited, and how.
type QuotaPolicySpec struct {
	TargetRefs []QuotaTarget `json:"targetRefs"`
	Limits     []QuotaLimit  `json:"limits"`
}

// A QuotaTarget is a Service, an ExternalService, an HTTPRoute or a GRPCRoute of the policy's namespace.
type QuotaTarget struct {
	Group string `json:"group"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
}

// A QuotaLimit is one limit. All limits of all policies of a request hold.
type QuotaLimit struct {
	Name     string     `json:"name"`
	Requests int64      `json:"requests"`
	Per      string     `json:"per"`
	Burst    int64      `json:"burst,omitempty"` // 0: a window
	By       []QuotaKey `json:"by,omitempty"`
}

// A QuotaKey is what a limit counts by.
type QuotaKey struct {
	Type string `json:"type"`
	Name string `json:"name,omitempty"`
}

// What a QuotaKey can be.
const (
	ByCallingService = "CallingService"
	ByHeader         = "Header"
)

// QuotaPolicyStatus is what became of the policy.
type QuotaPolicyStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// QuotaPolicyList is the list of QuotaPolicy.
type QuotaPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []QuotaPolicy `json:"items"`
}

const (
	maxQuotaTargets = 16
	maxQuotaLimits  = 8
	maxQuotaTokens  = 1_000_000_000
	// maxQuotaFill is the longest time in which a bucket fills, in days.
	maxQuotaFill = 366
)

// quotaPeriods are the windows of a limit.
var quotaPeriods = map[string]time.Duration{"Second": time.Second, "Minute": time.Minute, "Hour": time.Hour, "Day": 24 * time.Hour}

// Period is how long the limit's window is, or the time to which the rate of its bucket refers.
func (l *QuotaLimit) Period() time.Duration { return quotaPeriods[l.Per] }

// QuotaPeriod names a period as documents do.
func QuotaPeriod(d time.Duration) string {
	for name, period := range quotaPeriods {
		if period == d {
			return name
		}
	}
	return d.String()
}

var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$")

// quotaPolicy checks what the schema cannot say, and names the group of targets that do not.
func (w *walker) quotaPolicy(u *unstructured.Unstructured) {
	spec := u.Object["spec"]
	targets, limits := items(spec, "targetRefs"), items(spec, "limits")
	w.between("spec.targetRefs", "items", int64(len(targets)), 1, maxQuotaTargets)
	w.between("spec.limits", "items", int64(len(limits)), 1, maxQuotaLimits)
	w.targets("spec.targetRefs", targets, Service.Name, HTTPRoute.Name, GRPCRoute.Name, ExternalServices.Name)
	for i, l := range limits {
		w.quotaLimit(index("spec.limits", i), l)
	}
}

func (w *walker) between(path, what string, n, least, most int64) {
	switch {
	case n > most:
		w.add(path, TooMany, "must have at most %d %s, has %d", most, what, n)
	case n < least:
		w.add(path, Invalid, "must have at least %d %s, has %d", least, what, n)
	}
}

// targets checks what a policy names, which is of some kinds, and each once.
func (w *walker) targets(path string, targets []any, kinds ...string) {
	seen := map[string]int{}
	for i, t := range targets {
		at := index(path, i)
		w.target(at, t, kinds...)
		key := str(t, "kind") + "/" + str(t, "name")
		if first, have := seen[key]; have {
			w.add(at, DuplicateValue, "must be unique, but %s is already item %d", key, first)
		}
		seen[key] = i
	}
}

// target checks what a policy names, and sets the group that goes without saying.
func (w *walker) target(path string, t any, kinds ...string) {
	groups := map[string]string{Service.Name: Service.Group, HTTPRoute.Name: HTTPRoute.Group, GRPCRoute.Name: GRPCRoute.Group, Gateway.Name: Gateway.Group, ExternalServices.Name: ExternalServices.Group}
	if !slices.Contains(kinds, str(t, "kind")) {
		w.oneOf(field(path, "kind"), str(t, "kind"), kinds...)
		return
	}
	group := groups[str(t, "kind")]
	m := t.(map[string]any)
	if !has(m, "group") {
		m["group"] = group
	}
	if str(m, "group") != group {
		w.add(field(path, "group"), NotSupported, "must be %q for a %s, is %q", group, str(t, "kind"), str(m, "group"))
	}
	w.form(field(path, "name"), str(t, "name"), subdomain)
}

func (w *walker) quotaLimit(path string, l any) {
	w.form(field(path, "name"), str(l, "name"), label)
	if n := num(l, "requests"); n < 1 || n > maxQuotaTokens {
		w.add(field(path, "requests"), Invalid, "must be from 1 to %d, is %d", maxQuotaTokens, n)
	}
	w.oneOf(field(path, "per"), str(l, "per"), "Second", "Minute", "Hour", "Day")
	if has(l, "burst") {
		n := num(l, "burst")
		days := float64(n) / float64(max(num(l, "requests"), 1)) * quotaPeriods[str(l, "per")].Hours() / 24
		switch {
		case n < 0 || n > maxQuotaTokens:
			w.add(field(path, "burst"), Invalid, "must be from 1 to %d, or 0 for a window, is %d", maxQuotaTokens, n)
		case days > maxQuotaFill:
			w.add(field(path, "burst"), Invalid, "must be no more than flows in within %d days at the rate of the limit, takes %.0f", maxQuotaFill, days)
		}
	}
	var types []string
	for i, b := range items(l, "by") {
		at := index(field(path, "by"), i)
		kind, name := str(b, "type"), str(b, "name")
		w.oneOf(field(at, "type"), kind, ByCallingService, ByHeader)
		switch {
		case kind == ByHeader && name == "":
			w.add(field(at, "name"), Required, "is required: the header to count by")
		case kind == ByHeader && !headerName.MatchString(name):
			w.add(field(at, "name"), Invalid, "must be the name of a header (RFC 9110 §5.1), is %q", name)
		case kind == ByCallingService && name != "":
			w.add(field(at, "name"), Invalid, "must not be given for %s, is %q", kind, name)
		}
		if slices.Contains(types, kind) {
			w.add(at, DuplicateValue, "must be unique, but there is another of type %s", kind)
		}
		types = append(types, kind)
	}
}

// Counts tells what a limit counts by; header is in lower case, and empty where no header counts.
func (l *QuotaLimit) Counts() (byCaller bool, header string) {
	for _, b := range l.By {
		switch b.Type {
		case ByCallingService:
			byCaller = true
		case ByHeader:
			header = strings.ToLower(b.Name)
		}
	}
	return byCaller, header
}

// SwaggerDoc says what the fields mean, for `kubectl explain`.
func (QuotaPolicy) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "QuotaPolicy limits how many requests reach a service or a route, counted over the whole cluster. What is refused is answered with 429.",
		"spec":   "What is limited, and how.",
		"status": "What became of the policy.",
	}
}

// SwaggerDoc says what the fields mean.
func (QuotaPolicySpec) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "QuotaPolicySpec says what is limited, and how.",
		"targetRefs": "Services, ExternalServices, HTTPRoutes and GRPCRoutes of the policy's namespace whose requests are counted.",
		"limits":     "The limits. A request must be within all of them.",
	}
}

// SwaggerDoc says what the fields mean.
func (QuotaTarget) SwaggerDoc() map[string]string {
	return map[string]string{
		"":      "QuotaTarget is a Service, an ExternalService, an HTTPRoute or a GRPCRoute of the policy's namespace.",
		"group": `"" for a Service, gateway.networking.k8s.io for a route, sennit.dev for an ExternalService; each where it is not given.`,
		"kind":  "Service, HTTPRoute, GRPCRoute or ExternalService.",
		"name":  "Its name.",
	}
}

// SwaggerDoc says what the fields mean.
func (QuotaLimit) SwaggerDoc() map[string]string {
	return map[string]string{
		"":         "QuotaLimit is one limit: a number of requests in each window, or a bucket where burst is given.",
		"name":     "Name of the limit, for people and logs.",
		"requests": "How many requests are allowed in each period.",
		"per":      "Second, Minute, Hour or Day. Windows are those of Unix time (UTC).",
		"burst":    "Makes the limit a bucket: it holds this many requests when it is full, and is refilled at the rate of requests and per.",
		"by":       "What is counted apart. Without it, all requests count together.",
	}
}

// SwaggerDoc says what the fields mean.
func (QuotaKey) SwaggerDoc() map[string]string {
	return map[string]string{
		"":     "QuotaKey is something that is counted apart.",
		"type": "CallingService (each service that calls) or Header (each value of a header).",
		"name": "Name of the header.",
	}
}

// SwaggerDoc says what the fields mean.
func (QuotaPolicyStatus) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "QuotaPolicyStatus is what became of the policy.",
		"conditions": "Accepted: whether the policy is in effect.",
	}
}

// DeepCopyObject implements runtime.Object.
func (p *QuotaPolicy) DeepCopyObject() runtime.Object {
	c := *p
	p.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Spec.TargetRefs = slices.Clone(p.Spec.TargetRefs)
	c.Spec.Limits = slices.Clone(p.Spec.Limits)
	for i := range c.Spec.Limits {
		c.Spec.Limits[i].By = slices.Clone(c.Spec.Limits[i].By)
	}
	c.Status.Conditions = slices.Clone(p.Status.Conditions)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (l *QuotaPolicyList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = make([]QuotaPolicy, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*QuotaPolicy)
	}
	return &c
}
