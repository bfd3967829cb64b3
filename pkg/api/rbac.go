package api

import (
	"reflect"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The kinds that say what operators may do.
var (
	Roles = &Kind{
		Group: rbacv1.GroupName, Version: "v1", Name: "Role", Plural: "roles", Singular: "role",
		Namespaced: true, Core: true, Verbs: stored, model: "io.k8s.api.rbac.v1.Role", typ: reflect.TypeFor[rbacv1.Role](),
	}
	ClusterRoles = &Kind{
		Group: rbacv1.GroupName, Version: "v1", Name: "ClusterRole", Plural: "clusterroles", Singular: "clusterrole",
		Core: true, Verbs: stored, model: "io.k8s.api.rbac.v1.ClusterRole", typ: reflect.TypeFor[rbacv1.ClusterRole](),
	}
	RoleBindings = &Kind{
		Group: rbacv1.GroupName, Version: "v1", Name: "RoleBinding", Plural: "rolebindings", Singular: "rolebinding",
		Namespaced: true, Core: true, Verbs: stored, model: "io.k8s.api.rbac.v1.RoleBinding", typ: reflect.TypeFor[rbacv1.RoleBinding](),
	}
	ClusterRoleBindings = &Kind{
		Group: rbacv1.GroupName, Version: "v1", Name: "ClusterRoleBinding", Plural: "clusterrolebindings", Singular: "clusterrolebinding",
		Core: true, Verbs: stored, model: "io.k8s.api.rbac.v1.ClusterRoleBinding", typ: reflect.TypeFor[rbacv1.ClusterRoleBinding](),
	}
)

// Limits on what one document may hold: every request goes through the rules of who sent it.
const (
	maxRoleRules    = 256
	maxRoleValues   = 256 // of one list of a rule
	maxRoleSubjects = 256
)

// role checks a Role or ClusterRole.
func (w *walker) role(k *Kind, u *unstructured.Unstructured) {
	if has(u.Object, "aggregationRule") {
		w.add("aggregationRule", NotSupported, "is not supported: write the rules themselves")
	}
	rules := items(u.Object, "rules")
	w.between("rules", "items", int64(len(rules)), 0, maxRoleRules)
	for i, r := range rules {
		at := index("rules", i)
		for _, list := range []string{"verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"} {
			w.between(field(at, list), "items", int64(len(items(r, list))), 0, maxRoleValues)
		}
		if len(items(r, "verbs")) == 0 {
			w.add(field(at, "verbs"), Required, "must name what may be done, or be [\"*\"]")
		}
		paths := items(r, "nonResourceURLs")
		switch {
		case len(paths) == 0 && (len(items(r, "apiGroups")) == 0 || len(items(r, "resources")) == 0):
			w.add(at, Required, "must name apiGroups and resources, or nonResourceURLs (the group of core kinds is \"\")")
		case len(paths) > 0 && (len(items(r, "apiGroups")) > 0 || len(items(r, "resources")) > 0 || len(items(r, "resourceNames")) > 0):
			w.add(field(at, "nonResourceURLs"), Invalid, "cannot stand in one rule with resources")
		case len(paths) > 0 && k.Namespaced:
			w.add(field(at, "nonResourceURLs"), Invalid, "paths have no namespace: only a ClusterRole may name them")
		}
		for j, p := range paths {
			if s, _ := p.(string); s != "*" && (!strings.HasPrefix(s, "/") || strings.Contains(strings.TrimSuffix(s, "*"), "*")) {
				w.add(index(field(at, "nonResourceURLs"), j), Invalid, "must begin with / and may end with *, is %q", s)
			}
		}
	}
}

// binding checks a RoleBinding or ClusterRoleBinding.
func (w *walker) binding(k *Kind, u *unstructured.Unstructured) {
	ref, _ := u.Object["roleRef"].(map[string]any)
	if !has(ref, "apiGroup") || str(ref, "apiGroup") == "" {
		ref["apiGroup"] = rbacv1.GroupName
	}
	if str(ref, "apiGroup") != rbacv1.GroupName {
		w.add("roleRef.apiGroup", NotSupported, "must be %s, is %q", rbacv1.GroupName, str(ref, "apiGroup"))
	}
	kinds := []string{ClusterRoles.Name}
	if k.Namespaced {
		kinds = append(kinds, Roles.Name)
	}
	if !slices.Contains(kinds, str(ref, "kind")) {
		w.add("roleRef.kind", NotSupported, "must be %s, is %q", strings.Join(kinds, " or "), str(ref, "kind"))
	}
	if str(ref, "name") == "" {
		w.add("roleRef.name", Required, "must name the role")
	}
	subjects := items(u.Object, "subjects")
	w.between("subjects", "items", int64(len(subjects)), 0, maxRoleSubjects)
	for i, s := range subjects {
		at := index("subjects", i)
		switch str(s, "kind") {
		case rbacv1.UserKind, rbacv1.GroupKind:
			m := s.(map[string]any)
			if str(m, "apiGroup") == "" {
				m["apiGroup"] = rbacv1.GroupName
			}
			if str(m, "apiGroup") != rbacv1.GroupName {
				w.add(field(at, "apiGroup"), NotSupported, "must be %s, is %q", rbacv1.GroupName, str(m, "apiGroup"))
			}
			if str(m, "namespace") != "" {
				w.add(field(at, "namespace"), Invalid, "operators and groups of them have no namespace")
			}
			if str(m, "name") == "" {
				w.add(field(at, "name"), Required, "must name who is bound")
			}
		default:
			w.add(field(at, "kind"), NotSupported, "must be %s or %s, is %q: there are no service accounts", rbacv1.UserKind, rbacv1.GroupKind, str(s, "kind"))
		}
	}
}
