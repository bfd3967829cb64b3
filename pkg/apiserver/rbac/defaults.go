package rbac

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// The roles that are always there.
const (
	View         = "view"          // reads everything but Secrets, roles and what lets hosts join
	Edit         = "edit"          // and writes, reads Secrets, and taps
	Admin        = "admin"         // and gives roles in its namespace
	ClusterAdmin = "cluster-admin" // everything
)

var (
	reading = []string{"get", "list", "watch"}
	writing = []string{"create", "delete", "deletecollection", "patch", "update"}
)

// Defaults are the roles that are always there, made of the kinds that this version serves.
func Defaults() []rbacv1.ClusterRole {
	view := []rbacv1.PolicyRule{
		{Verbs: reading, APIGroups: []string{""}, Resources: []string{"namespaces", "namespaces/status"}},
		{Verbs: reading, APIGroups: []string{api.GatewayClass.Group}, Resources: []string{api.GatewayClass.Plural, api.GatewayClass.Plural + "/status"}},
		{Verbs: reading, APIGroups: []string{api.Nodes.Group}, Resources: []string{api.Nodes.Plural}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"services/explain", "services/access", "services/reports"}},
		{Verbs: []string{"get"}, NonResourceURLs: []string{"/sennit/v1/status", "/sennit/v1/edges", "/sennit/v1/quota", "/sennit/v1/bundle", "/sennit/v1/authz/denials", "/sennit/v1/authz/plaintext", "/sennit/v1/certificates", "/sennit/v1/revocations"}},
		{Verbs: []string{"post"}, NonResourceURLs: []string{"/sennit/v1/analyze"}},
	}
	view = append(view, rulesFor(reading, true, func(k *api.Kind) bool { return !k.Sealed })...)
	edit := append(slices.Clone(view), rulesFor(append(slices.Clone(reading), writing...), false, func(k *api.Kind) bool { return !k.Derived })...)
	edit = append(edit,
		rbacv1.PolicyRule{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"namespaces"}},
		rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"services/tap"}},
	)
	admin := append(slices.Clone(edit),
		rbacv1.PolicyRule{Verbs: append(slices.Clone(reading), writing...), APIGroups: []string{rbacv1.GroupName}, Resources: []string{api.Roles.Plural, api.RoleBindings.Plural}},
		rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/sennit/v1/audit", "/sennit/v1/audit/*"}},
	)
	var roles []rbacv1.ClusterRole
	for _, r := range []struct {
		name  string
		rules []rbacv1.PolicyRule
	}{{View, view}, {Edit, edit}, {Admin, admin}, {ClusterAdmin, everything}} {
		roles = append(roles, rbacv1.ClusterRole{
			TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: api.ClusterRoles.Name},
			ObjectMeta: metav1.ObjectMeta{
				Name: r.name, Labels: map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
				Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
			},
			Rules: r.rules,
		})
	}
	return roles
}

// rulesFor makes a rule for each group of the kinds with namespaces that are wanted. Kinds that say who may do what are none of them.
func rulesFor(verbs []string, status bool, want func(*api.Kind) bool) (rules []rbacv1.PolicyRule) {
	for _, k := range api.Kinds() {
		if !k.Namespaced || k.Group == rbacv1.GroupName || !want(k) {
			continue
		}
		at := slices.IndexFunc(rules, func(r rbacv1.PolicyRule) bool { return r.APIGroups[0] == k.Group })
		if at < 0 {
			at = len(rules)
			rules = append(rules, rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{k.Group}})
		}
		rules[at].Resources = append(rules[at].Resources, k.Plural)
		if status && k.HasStatus {
			rules[at].Resources = append(rules[at].Resources, k.Plural+"/status")
		}
	}
	return rules
}
