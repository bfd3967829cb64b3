package api

import (
	"reflect"
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// OperatorTokens are the kind of the tokens by which operators are recognised.
var OperatorTokens = &Kind{
	Group: "sennit.dev", Version: "v1alpha1", Name: "OperatorToken", Plural: "operatortokens", Singular: "operatortoken",
	Derived: true, Verbs: []string{"create", "delete", "get", "list", "watch"},
	model: "dev.sennit.v1alpha1.OperatorToken", typ: reflect.TypeFor[OperatorToken](),
}

// An OperatorToken (sennit.dev/v1alpha1) lets its holder use the API as an operator, until it ends or is deleted.
type OperatorToken struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   OperatorTokenSpec   `json:"spec,omitempty"`
	Status OperatorTokenStatus `json:"status,omitempty"`
}

// OperatorTokenSpec is whom the token stands for.
type OperatorTokenSpec struct {
	Operator string           `json:"operator"`
	Groups   []string         `json:"groups,omitempty"`
	TTL      *metav1.Duration `json:"ttl,omitempty"`
}

// OperatorTokenStatus is what the controllers know of the token.
type OperatorTokenStatus struct {
	Token      string       `json:"token,omitempty"`      // these two only in the answer to the request that created it
	Kubeconfig string       `json:"kubeconfig,omitempty"` //
	Expires    *metav1.Time `json:"expires,omitempty"`
	MadeBy     string       `json:"madeBy,omitempty"`
}

// OperatorTokenList is what listing answers.
type OperatorTokenList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []OperatorToken `json:"items"`
}

// SwaggerDoc says what the fields mean, for `kubectl explain`.
func (OperatorToken) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "OperatorToken lets its holder use the API as an operator, until it ends or is deleted. The token itself is shown only in the answer to the request that creates it. What the operator may do, roles say.",
		"spec":   "Whom the token stands for.",
		"status": "What the controllers know of the token.",
	}
}

// SwaggerDoc says what the fields mean.
func (OperatorTokenSpec) SwaggerDoc() map[string]string {
	return map[string]string{
		"":         "OperatorTokenSpec is whom the token stands for.",
		"operator": "Name of the operator, as roles are bound to it.",
		"groups":   "Groups that the operator is of, as roles are bound to them.",
		"ttl":      "How long the token is good, such as 12h, which it is where it is not given; at most 8760h.",
	}
}

// SwaggerDoc says what the fields mean.
func (OperatorTokenStatus) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "OperatorTokenStatus is what the controllers know of the token.",
		"token":      "What to send as bearer token. Only in the answer to the request that created the token.",
		"kubeconfig": "A kubeconfig with the token. Only in the answer to the request that created the token.",
		"expires":    "When the token ends.",
		"madeBy":     "The operator who made the token.",
	}
}

// DeepCopyObject implements runtime.Object.
func (t *OperatorToken) DeepCopyObject() runtime.Object {
	c := *t
	t.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Spec.Groups = append([]string(nil), t.Spec.Groups...)
	if t.Spec.TTL != nil {
		d := *t.Spec.TTL
		c.Spec.TTL = &d
	}
	c.Status.Expires = t.Status.Expires.DeepCopy()
	return &c
}

// DeepCopyObject implements runtime.Object.
func (l *OperatorTokenList) DeepCopyObject() runtime.Object {
	c := *l
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	c.Items = make([]OperatorToken, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*OperatorToken)
	}
	return &c
}

// Limits of an operator's token.
const maxOperatorGroups = 32

// operatorName has no colon: names that another authority gives have a prefix that ends with one, and no token may stand
// for one of them, nor for a part of the system.
var operatorName = regexp.MustCompile(`^[A-Za-z0-9][-A-Za-z0-9._@+]{0,252}$`)

// IsOperatorName tells whether an operator with a token may be called so.
func IsOperatorName(name string) bool { return operatorName.MatchString(name) }

func (w *walker) operatorToken(u *unstructured.Unstructured) {
	spec := u.Object["spec"]
	const form = "must begin with a letter or digit, and have at most 253 of these and of - . _ @ +, is %q"
	if !IsOperatorName(str(spec, "operator")) {
		w.add("spec.operator", Invalid, form, str(spec, "operator"))
	}
	groups := items(spec, "groups")
	w.between("spec.groups", "items", int64(len(groups)), 0, maxOperatorGroups)
	for i, g := range groups {
		if name, _ := g.(string); !operatorName.MatchString(name) {
			w.add(index("spec.groups", i), Invalid, form, name)
		}
	}
	if ttl := str(spec, "ttl"); ttl != "" {
		var d metav1.Duration
		if err := d.UnmarshalJSON([]byte(`"` + ttl + `"`)); err != nil || d.Duration <= 0 {
			w.add("spec.ttl", Invalid, "must be longer than 0, is %q", strings.TrimSpace(ttl))
		}
	}
}
