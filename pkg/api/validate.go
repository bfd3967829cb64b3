package api

import (
	"fmt"
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	vfield "k8s.io/apimachinery/pkg/util/validation/field"
)

// Check sets the defaults of a document and returns all that is wrong with it: against the schema of its kind,
// and by the rules that schemas cannot say. u is changed in place; where a problem is returned its content is
// of no use. Whether what it refers to exists is not looked at.
func Check(k *Kind, u *unstructured.Unstructured) []Problem {
	w := &walker{defs: Definitions()}
	w.walk(w.defs[k.model], u.Object, "")
	if len(w.problems) > 0 {
		return w.problems // the rest relies on the shape
	}
	w.meta(k, u)
	switch k {
	case Service:
		w.service(u)
	case Secret:
		w.secret(u)
	case ConfigMap:
		w.configMap(u)
	case JoinTokens:
		w.joinToken(u)
	case OperatorTokens:
		w.operatorToken(u)
	case QuotaPolicies:
		w.quotaPolicy(u)
	case Gateway:
		w.gateway(u)
	case ExternalServices:
		w.externalService(u)
	case ResiliencePolicies:
		w.resiliencePolicy(u)
	case AuthenticationPolicies:
		w.authenticationPolicy(u)
	case AuthorizationPolicies:
		w.authorizationPolicy(u)
	case FederatedTrustDomains:
		w.federatedTrustDomain(u)
	case FaultPolicies:
		w.faultPolicy(u)
	case LoadBalancingPolicies:
		w.loadBalancingPolicy(u)
	case Roles, ClusterRoles:
		w.role(k, u)
	case RoleBindings, ClusterRoleBindings:
		w.binding(k, u)
	}
	if len(w.problems) == 0 {
		if err := As(u, k.New()); err != nil {
			w.add("", Invalid, "%v", err)
		}
	}
	return w.problems
}

// CompleteLists sets the defaults inside of u's lists that are replaced as a whole, and no others: whoever writes
// such a list owns all of it, and what is owned elsewhere must not grow by defaults.
func CompleteLists(k *Kind, u *unstructured.Unstructured) {
	w := &walker{defs: Definitions(), atomicOnly: true}
	w.walk(w.defs[k.model], u.Object, "")
}

// Strict tells whether the problem is one that fieldValidation=Warn and Ignore tolerate.
func (p Problem) Strict() bool { return p.Reason == UnknownField || p.Reason == DuplicateField }

// Prune removes from u what the problems name as unknown.
func Prune(u *unstructured.Unstructured, problems []Problem) {
	for _, p := range problems {
		if p.Reason == UnknownField {
			prune(u.Object, "", p.Path)
		}
	}
}

func prune(v any, at, path string) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if p := field(at, k); p == path {
				delete(v, k)
			} else if strings.HasPrefix(path, p) {
				prune(e, p, path)
			}
		}
	case []any:
		for i, e := range v {
			if p := index(at, i); strings.HasPrefix(path, p) {
				prune(e, p, path)
			}
		}
	}
}

// Warnings names what a valid document asks for and this mesh does not do.
func Warnings(k *Kind, u *unstructured.Unstructured) []string {
	if k != Service && k != ExternalServices {
		return nil
	}
	var out []string
	if _, given := u.GetAnnotations()[balanceAnnotation]; given {
		out = append(out, fmt.Sprintf("%s has no effect: a LoadBalancingPolicy says how instances share requests", field("metadata.annotations", balanceAnnotation)))
	}
	spec := u.Object["spec"]
	if t := str(spec, "type"); t == "NodePort" || t == "LoadBalancer" {
		out = append(out, fmt.Sprintf("spec.type: %s is treated as ClusterIP: the service is reached through the mesh only", t))
	}
	if str(spec, "sessionAffinity") == "ClientIP" {
		out = append(out, "spec.sessionAffinity: ClientIP has no effect")
	}
	return out
}

// A form is how names of some kind must look.
type form struct {
	check func(string) []string
	says  string
}

var (
	subdomain = form{validation.IsDNS1123Subdomain, "must be at most 253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends"}
	label     = form{validation.IsDNS1123Label, "must be at most 63 lower-case letters, digits and '-', with a letter or digit at both ends"}
	hostLabel = form{validation.IsDNS1035Label, "must be at most 63 lower-case letters, digits and '-', beginning with a letter and not ending in '-'"}
	portName  = form{validation.IsValidPortName, "must be at most 15 lower-case letters, digits and '-', one of them a letter"}
)

func (w *walker) form(path, value string, f form) {
	if len(f.check(value)) > 0 {
		w.add(path, Invalid, "%s, is %q", f.says, value)
	}
}

// Names of documents become tokens of subjects, parts of identities and of host names.
func (w *walker) meta(k *Kind, u *unstructured.Unstructured) {
	name, generate := u.GetName(), u.GetGenerateName()
	form := subdomain
	switch k {
	case Namespace, Gateway: // whose name is that of the identity that runs it
		form = label
	case Service, ExternalServices:
		form = hostLabel
	}
	switch {
	case name == "" && generate == "":
		w.add("metadata.name", Required, "is required")
	case name == "":
		if len(form.check(strings.TrimSuffix(generate, "-")+"x")) > 0 {
			w.add("metadata.generateName", Invalid, "%s, is %q", form.says, generate)
		}
	default:
		w.form("metadata.name", name, form)
	}
	if ns := u.GetNamespace(); ns != "" {
		if !k.Namespaced {
			w.add("metadata.namespace", Invalid, "must not be given: a %s belongs to no namespace", k.Name)
		} else {
			w.form("metadata.namespace", ns, label)
		}
	}
	root := vfield.NewPath("metadata")
	errs := metavalidation.ValidateLabels(u.GetLabels(), root.Child("labels"))
	size := 0
	for key, value := range u.GetAnnotations() {
		size += len(key) + len(value)
		for _, msg := range validation.IsQualifiedName(strings.ToLower(key)) {
			w.add(field("metadata.annotations", key), Invalid, "%s", msg)
		}
	}
	if size > 256<<10 {
		w.add("metadata.annotations", TooMany, "must have at most %d bytes, has %d", 256<<10, size)
	}
	for _, e := range errs {
		w.add(e.Field, Invalid, "%s, is %q", e.Detail, e.BadValue)
	}
	if len(u.GetFinalizers()) > 0 {
		w.add("metadata.finalizers", NotSupported, "finalizers are not served: a deletion takes effect at once")
	}
}

// balanceAnnotation on a Service chose an algorithm in the first versions. Ignored in silence it would be missed.
const balanceAnnotation = "sennit.dev/balance"

// laneAnnotation on a Service says what the lanes to its instances run over.
const laneAnnotation = "sennit.dev/lane"

// plaintextAnnotation on a Service says whether callers without an identity are taken.
const plaintextAnnotation = "sennit.dev/plaintext"

func (w *walker) service(u *unstructured.Unstructured) {
	spec := u.Object["spec"]
	if spec == nil {
		spec = map[string]any{}
		u.Object["spec"] = spec
	}
	s := spec.(map[string]any)
	if !has(s, "type") {
		s["type"] = "ClusterIP"
	}
	if !has(s, "sessionAffinity") {
		s["sessionAffinity"] = "None"
	}
	if lane, given := u.GetAnnotations()[laneAnnotation]; given {
		w.oneOf(field("metadata.annotations", laneAnnotation), lane, "auto", "quic", "tcp")
	}
	if mode, given := u.GetAnnotations()[plaintextAnnotation]; given {
		w.oneOf(field("metadata.annotations", plaintextAnnotation), mode, "permissive", "strict")
	}
	w.oneOf("spec.type", str(s, "type"), "ClusterIP", "NodePort", "LoadBalancer")
	w.oneOf("spec.sessionAffinity", str(s, "sessionAffinity"), "None", "ClientIP")
	ports := items(s, "ports")
	if len(ports) == 0 && str(s, "clusterIP") != "None" {
		w.add("spec.ports", Required, "is required: list at least one port")
	}
	names := map[string]int{}
	for i, p := range ports {
		at := index("spec.ports", i)
		w.port(field(at, "port"), p, "port")
		m := p.(map[string]any)
		switch t := m["targetPort"].(type) {
		case int64:
			if t != 0 {
				w.port(field(at, "targetPort"), p, "targetPort")
			}
		case string:
			if t != "" {
				w.form(field(at, "targetPort"), t, portName)
			}
		}
		if t := m["targetPort"]; t == nil || t == int64(0) || t == "" { // clients with Go types send 0 for nothing
			m["targetPort"] = m["port"]
		}
		w.oneOf(field(at, "protocol"), str(p, "protocol"), "TCP", "UDP", "SCTP")
		name := str(p, "name")
		switch first, have := names[name]; {
		case name == "" && len(ports) > 1:
			w.add(field(at, "name"), Required, "is required where there is more than one port")
		case name == "":
		case have:
			w.add(field(at, "name"), DuplicateValue, "must be unique, but %s is already the name of item %d", name, first)
		default:
			names[name] = i
			w.form(field(at, "name"), name, label)
		}
	}
	for _, e := range metavalidation.ValidateLabels(stringMap(s["selector"]), vfield.NewPath("spec", "selector")) {
		w.add(e.Field, Invalid, "%s, is %q", e.Detail, e.BadValue)
	}
}

func (w *walker) port(path string, v any, name string) {
	if n := num(v, name); n < 1 || n > 65535 {
		w.add(path, Invalid, "must be from 1 to 65535, is %d", n)
	}
}

func (w *walker) oneOf(path, v string, options ...string) {
	for _, o := range options {
		if v == o {
			return
		}
	}
	w.add(path, NotSupported, "must be one of %s, is %q", strings.Join(options, ", "), v)
}

func stringMap(v any) map[string]string {
	m, _ := v.(map[string]any)
	out := make(map[string]string, len(m))
	for k, e := range m {
		out[k], _ = e.(string)
	}
	return out
}

var serviceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)

func (w *walker) joinToken(u *unstructured.Unstructured) {
	w.form("spec.node", str(u.Object["spec"], "node"), subdomain)
	for i, s := range items(u.Object["spec"], "services") {
		if !serviceName.MatchString(s.(string)) {
			w.add(index("spec.services", i), Invalid, "must be namespace/name, is %q", s)
		}
	}
	if ttl := str(u.Object["spec"], "ttl"); ttl != "" {
		var d metav1.Duration
		if err := d.UnmarshalJSON([]byte(`"` + ttl + `"`)); err != nil || d.Duration <= 0 {
			w.add("spec.ttl", Invalid, "must be longer than 0, is %q", ttl)
		}
	}
}
