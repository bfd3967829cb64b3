package api

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// The words of an AuthorizationPolicy.
const (
	AuthorizationAllow   = "Allow"
	AuthorizationDeny    = "Deny"
	AuthorizationEnforce = "Enforce"
	AuthorizationDryRun  = "DryRun"
	AuthorizationExact   = "Exact"
	AuthorizationPrefix  = "PathPrefix"
)

// An AuthorizationPolicy (sennit.dev/v1alpha1) says who may call services, and for what.
type AuthorizationPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   AuthorizationPolicySpec   `json:"spec,omitempty"`
	Status AuthorizationPolicyStatus `json:"status,omitempty"`
}

// AuthorizationPolicySpec says for which services it is, and for which requests.
type AuthorizationPolicySpec struct {
	TargetRefs []AuthorizationTarget `json:"targetRefs"`
	Action     string                `json:"action,omitempty"`
	Mode       string                `json:"mode,omitempty"`
	Rules      []AuthorizationRule   `json:"rules,omitempty"` // none: it is for no request
}

// An AuthorizationTarget is a Service or an ExternalService of the policy's namespace, or that Namespace.
type AuthorizationTarget struct {
	Group string `json:"group"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
}

// An AuthorizationRule is for requests that one of from and one of to is for; where there are none, for all.
type AuthorizationRule struct {
	From []AuthorizationSource    `json:"from,omitempty"`
	To   []AuthorizationOperation `json:"to,omitempty"`
	When []string                 `json:"when,omitempty"` // in CEL; all must be true
}

// An AuthorizationSource is who calls.
type AuthorizationSource struct {
	Services      []string `json:"services,omitempty"`
	Namespaces    []string `json:"namespaces,omitempty"`
	NotServices   []string `json:"notServices,omitempty"`
	NotNamespaces []string `json:"notNamespaces,omitempty"`
	// Labels are those of the calling service's document: its operator vouches for them, and no node can claim them.
	Labels          map[string]string `json:"labels,omitempty"` // all of them
	NotLabels       map[string]string `json:"notLabels,omitempty"`
	TrustDomains    []string          `json:"trustDomains,omitempty"`
	NotTrustDomains []string          `json:"notTrustDomains,omitempty"`
	Nodes           []string          `json:"nodes,omitempty"`
	NotNodes        []string          `json:"notNodes,omitempty"`
	Plaintext       bool              `json:"plaintext,omitempty"` // who shows no identity
}

// An AuthorizationOperation is what is called.
type AuthorizationOperation struct {
	Methods     []string            `json:"methods,omitempty"`
	NotMethods  []string            `json:"notMethods,omitempty"`
	Paths       []AuthorizationPath `json:"paths,omitempty"`
	NotPaths    []AuthorizationPath `json:"notPaths,omitempty"`
	GRPCMethods []string            `json:"grpcMethods,omitempty"` // beside Paths
	Ports       []int32             `json:"ports,omitempty"`
	NotPorts    []int32             `json:"notPorts,omitempty"`

	Headers    []AuthorizationHeader `json:"headers,omitempty"` // all of them
	NotHeaders []AuthorizationHeader `json:"notHeaders,omitempty"`
	Hosts      []string              `json:"hosts,omitempty"`
	NotHosts   []string              `json:"notHosts,omitempty"`
}

// An AuthorizationPath is one path, or all that begin with some segments.
type AuthorizationPath struct {
	Type  string `json:"type,omitempty"`
	Value string `json:"value"`
}

// AuthorizationPolicyStatus is what became of the policy.
type AuthorizationPolicyStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// AuthorizationPolicyList is the list of AuthorizationPolicy.
type AuthorizationPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AuthorizationPolicy `json:"items"`
}

const (
	maxAuthorizationTargets = 16
	maxAuthorizationRules   = 64
	maxAuthorizationSources = 16
	maxAuthorizationValues  = 64
)

// authorizationPolicy checks what the schema cannot say, and names the group of targets that do not.
func (w *walker) authorizationPolicy(u *unstructured.Unstructured) {
	spec := u.Object["spec"]
	targets := items(spec, "targetRefs")
	w.between("spec.targetRefs", "items", int64(len(targets)), 1, maxAuthorizationTargets)
	for i, t := range targets {
		w.authorizationTarget(index("spec.targetRefs", i), t)
	}
	w.oneOf("spec.action", str(spec, "action"), AuthorizationAllow, AuthorizationDeny)
	w.oneOf("spec.mode", str(spec, "mode"), AuthorizationEnforce, AuthorizationDryRun)
	rules := items(spec, "rules")
	if len(rules) == 0 && str(spec, "action") == AuthorizationDeny {
		w.add("spec.rules", Required, "must have an item: a policy that denies and has no rule denies nothing (an empty item, {}, denies everything)")
	}
	w.between("spec.rules", "items", int64(len(rules)), 0, maxAuthorizationRules)
	for i, r := range rules {
		at := index("spec.rules", i)
		from, to := items(r, "from"), items(r, "to")
		w.between(field(at, "from"), "items", int64(len(from)), 0, maxAuthorizationSources)
		w.between(field(at, "to"), "items", int64(len(to)), 0, maxAuthorizationSources)
		w.authorizationConditions(field(at, "when"), r)
		for j, f := range from {
			w.authorizationSource(index(field(at, "from"), j), f)
		}
		for j, t := range to {
			w.authorizationOperation(index(field(at, "to"), j), t)
		}
	}
}

func (w *walker) authorizationTarget(path string, t any) {
	groups := map[string]string{Service.Name: Service.Group, ExternalServices.Name: ExternalServices.Group, Namespace.Name: Namespace.Group}
	group, known := groups[str(t, "kind")]
	if !known {
		w.oneOf(field(path, "kind"), str(t, "kind"), Service.Name, ExternalServices.Name, Namespace.Name)
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

// lists goes through lists of strings. One that is there and empty would ask for nothing, and whoever wrote it meant nobody.
func (w *walker) lists(path string, of any, names []string, check func(at, value string)) {
	for _, name := range names {
		if !has(of, name) {
			continue
		}
		values := items(of, name)
		w.between(field(path, name), "items", int64(len(values)), 1, maxAuthorizationValues)
		for i, v := range values {
			s, _ := v.(string)
			check(index(field(path, name), i), s)
		}
	}
}

func (w *walker) authorizationSource(path string, f any) {
	if m, ok := f.(map[string]any); !ok || len(m) == 0 {
		w.add(path, Required, "must say who: give services, namespaces, labels, trustDomains, nodes, or one of their opposites (a rule without from is for every caller)")
	}
	w.lists(path, f, []string{"services", "notServices"}, func(at, value string) {
		namespace, name, _ := strings.Cut(value, "/")
		if !isLabel(namespace) || !isLabel(name) {
			w.add(at, Invalid, "must be NAMESPACE/NAME of a calling service, is %q", value)
		}
	})
	w.lists(path, f, []string{"namespaces", "notNamespaces"}, func(at, value string) {
		if !isLabel(value) {
			w.add(at, Invalid, "must be the name of a namespace, is %q", value)
		}
	})
	w.authorizationLabels(path, f)
	if m, ok := f.(map[string]any); ok && has(m, "plaintext") {
		if m["plaintext"] != true || len(m) > 1 {
			w.add(field(path, "plaintext"), Invalid, "is true, and alone in its item: who shows no identity has no other")
		}
	}
	w.lists(path, f, []string{"nodes", "notNodes"}, func(at, value string) {
		if !isLabel(value) {
			w.add(at, Invalid, "must be the name of a node, is %q", value)
		}
	})
	w.lists(path, f, []string{"trustDomains", "notTrustDomains"}, func(at, value string) { w.form(at, value, subdomain) })
}

func (w *walker) authorizationOperation(path string, t any) {
	if m, ok := t.(map[string]any); !ok || len(m) == 0 {
		w.add(path, Required, "must say what: give methods, paths, grpcMethods, ports, headers, hosts, or one of their opposites (a rule without to is for everything)")
	}
	w.lists(path, t, []string{"methods", "notMethods"}, func(at, value string) {
		if value == "" || strings.ContainsFunc(value, func(r rune) bool { return (r < 'A' || r > 'Z') && r != '-' && r != '_' }) {
			w.add(at, Invalid, "must be a method in capitals, is %q", value)
		}
	})
	w.lists(path, t, []string{"grpcMethods"}, func(at, value string) {
		service, method, _ := strings.Cut(value, "/")
		if !isGRPCName(service, true) || method != "*" && !isGRPCName(method, false) {
			w.add(at, Invalid, `must be SERVICE/METHOD, or SERVICE/* for all of its methods, is %q`, value)
		}
	})
	for _, name := range []string{"paths", "notPaths"} {
		if !has(t, name) {
			continue
		}
		paths := items(t, name)
		w.between(field(path, name), "items", int64(len(paths)), 1, maxAuthorizationValues)
		for i, p := range paths {
			at := index(field(path, name), i)
			w.oneOf(field(at, "type"), str(p, "type"), AuthorizationExact, AuthorizationPrefix)
			if problem := oddPath(str(p, "value")); problem != "" {
				w.add(field(at, "value"), Invalid, "must be a path that every server reads alike: %s, is %q", problem, str(p, "value"))
			}
		}
	}
	w.authorizationHeaders(path, t)
	w.authorizationHosts(path, t)
	for _, name := range []string{"ports", "notPorts"} {
		if !has(t, name) {
			continue
		}
		ports := items(t, name)
		w.between(field(path, name), "items", int64(len(ports)), 1, maxAuthorizationValues)
		for i, p := range ports {
			if n, ok := p.(int64); !ok || n < 1 || n > 65535 {
				w.add(index(field(path, name), i), Invalid, "must be from 1 to 65535, is %v", p)
			}
		}
	}
}

// oddPath says what is wrong with a path of a rule. It is written as it is, and not encoded.
func oddPath(path string) string {
	switch {
	case !strings.HasPrefix(path, "/"):
		return "it begins with /"
	case strings.ContainsAny(path, "%;?#\\*") || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }):
		return `it holds none of % ; ? # \\ * and no control characters`
	case strings.Contains(path, "//") || slices.ContainsFunc(strings.Split(path, "/"), func(s string) bool { return s == "." || s == ".." }):
		return "it holds no empty segments, and no . or .. as one"
	}
	return ""
}

func isLabel(s string) bool {
	return s != "" && len(s) <= 63 && !strings.HasPrefix(s, "-") && !strings.HasSuffix(s, "-") &&
		!strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' })
}

func isGRPCName(s string, dots bool) bool {
	return s != "" && !strings.HasPrefix(s, ".") && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && (r != '.' || !dots)
	})
}

// DeepCopyObject implements runtime.Object.
func (p *AuthorizationPolicy) DeepCopyObject() runtime.Object {
	c := *p
	p.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Spec.TargetRefs = slices.Clone(p.Spec.TargetRefs)
	c.Spec.Rules = slices.Clone(p.Spec.Rules)
	for i, r := range c.Spec.Rules {
		r.From, r.To, r.When = slices.Clone(r.From), slices.Clone(r.To), slices.Clone(r.When)
		for j, f := range r.From {
			r.From[j] = f.clone()
		}
		for j, t := range r.To {
			r.To[j] = t.clone()
		}
		c.Spec.Rules[i] = r
	}
	c.Status.Conditions = slices.Clone(p.Status.Conditions)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (l *AuthorizationPolicyList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = make([]AuthorizationPolicy, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*AuthorizationPolicy)
	}
	return &c
}
