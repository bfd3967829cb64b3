package rbac

import (
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func user(names ...string) (all []rbacv1.Subject) {
	for _, n := range names {
		all = append(all, rbacv1.Subject{Kind: "User", Name: n, APIGroup: rbacv1.GroupName})
	}
	return all
}

func ref(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

func policy() *Policy {
	return New(Documents{
		Roles: []rbacv1.Role{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "one"},
			Rules:      []rbacv1.PolicyRule{{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"tls"}}},
		}},
		ClusterRoles: append(Defaults(), rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: "statuses"},
			Rules: []rbacv1.PolicyRule{
				{Verbs: []string{"patch"}, APIGroups: []string{"*"}, Resources: []string{"*/status"}},
				{Verbs: []string{"get"}, NonResourceURLs: []string{"/sennit/v1/audit*"}},
			},
		}),
		RoleBindings: []rbacv1.RoleBinding{
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Subjects: user("viewer"), RoleRef: ref("ClusterRole", View)},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Subjects: user("operator"), RoleRef: ref("ClusterRole", Edit)},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Subjects: user("admin"), RoleRef: ref("ClusterRole", Admin)},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Subjects: user("one"), RoleRef: ref("Role", "one")},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "bank"}, Subjects: user("one"), RoleRef: ref("Role", "one")}, // of another namespace
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Subjects: user("masked"), RoleRef: ref("ClusterRole", "statuses")},
		},
		ClusterRoleBindings: []rbacv1.ClusterRoleBinding{
			{Subjects: []rbacv1.Subject{{Kind: "Group", Name: "oidc:watchers"}}, RoleRef: ref("ClusterRole", View)},
			{Subjects: user("status"), RoleRef: ref("ClusterRole", "statuses")},
			{Subjects: user("lost"), RoleRef: ref("ClusterRole", "gone")},
			{Subjects: []rbacv1.Subject{{Kind: "Group", Name: "root"}}, RoleRef: ref("ClusterRole", ClusterAdmin)},
		},
	})
}

func of(verb, group, resource, namespace, name string) Request {
	return Request{Verb: verb, Group: group, Resource: resource, Namespace: namespace, Name: name}
}

func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	const gateway, sennit, auth = "gateway.networking.k8s.io", "sennit.dev", rbacv1.GroupName
	for _, tt := range []struct {
		name string
		who  Who
		want Request
		may  bool
	}{
		{"nobody in particular", Who{User: "stranger", Groups: []string{Authenticated}}, of("get", "", "services", "shop", "a"), false},
		{"nobody waits", Who{User: "stranger", Groups: []string{Authenticated}}, Request{Verb: "get", Path: "/sennit/v1/wait"}, false},
		{"a viewer reads", Who{User: "viewer"}, of("list", gateway, "httproutes", "shop", ""), true},
		{"a viewer reads statuses", Who{User: "viewer"}, Request{Verb: "get", Group: gateway, Resource: "httproutes", Subresource: "status", Namespace: "shop"}, true},
		{"a viewer reads his namespace", Who{User: "viewer"}, of("get", "", "namespaces", "shop", "shop"), true},
		{"a viewer waits", Who{User: "viewer"}, Request{Verb: "get", Path: "/sennit/v1/wait"}, true},
		{"a viewer reads no other namespace", Who{User: "viewer"}, of("list", gateway, "httproutes", "bank", ""), false},
		{"a viewer does not read all namespaces", Who{User: "viewer"}, of("list", gateway, "httproutes", "", ""), false},
		{"a viewer reads no Secret", Who{User: "viewer"}, of("get", "", "secrets", "shop", "a"), false},
		{"a viewer lists no Secret", Who{User: "viewer"}, of("list", "", "secrets", "shop", ""), false},
		{"a viewer writes nothing", Who{User: "viewer"}, of("update", gateway, "httproutes", "shop", "a"), false},
		{"a viewer does not tap", Who{User: "viewer"}, Request{Verb: "get", Resource: "services", Subresource: "tap", Namespace: "shop"}, false},
		{"a viewer of one namespace has no paths", Who{User: "viewer"}, Request{Verb: "get", Path: "/sennit/v1/status"}, false},
		{"an operator writes", Who{User: "operator"}, of("create", sennit, "quotapolicies", "shop", ""), true},
		{"an operator reads Secrets", Who{User: "operator"}, of("get", "", "secrets", "shop", "a"), true},
		{"an operator taps", Who{User: "operator"}, Request{Verb: "get", Resource: "services", Subresource: "tap", Namespace: "shop"}, true},
		{"an operator does not tap elsewhere", Who{User: "operator"}, Request{Verb: "get", Resource: "services", Subresource: "tap", Namespace: "bank"}, false},
		{"an operator writes no status", Who{User: "operator"}, Request{Verb: "update", Group: gateway, Resource: "httproutes", Subresource: "status", Namespace: "shop"}, false},
		{"an operator gives no roles", Who{User: "operator"}, of("create", auth, "rolebindings", "shop", ""), false},
		{"an operator lets no host in", Who{User: "operator"}, of("create", sennit, "jointokens", "", ""), false},
		{"an operator ends no node", Who{User: "operator"}, Request{Verb: "create", Group: sennit, Resource: "nodes", Subresource: "remove", Name: "web1"}, false},
		{"an operator does not delete his namespace", Who{User: "operator"}, of("delete", "", "namespaces", "shop", "shop"), false},
		{"an admin gives roles", Who{User: "admin"}, of("create", auth, "rolebindings", "shop", ""), true},
		{"an admin gives no roles elsewhere", Who{User: "admin"}, of("create", auth, "rolebindings", "bank", ""), false},
		{"an admin of a namespace is none of the cluster", Who{User: "admin"}, of("create", auth, "clusterrolebindings", "", ""), false},
		{"an admin of a namespace makes no operator's token", Who{User: "admin"}, of("create", sennit, "operatortokens", "", ""), false},
		{"a group", Who{User: "x", Groups: []string{"oidc:watchers"}}, of("list", "", "services", "", ""), true},
		{"a group has paths", Who{User: "x", Groups: []string{"oidc:watchers"}}, Request{Verb: "get", Path: "/sennit/v1/status"}, true},
		{"a group does not read the audit", Who{User: "x", Groups: []string{"oidc:watchers"}}, Request{Verb: "get", Path: "/sennit/v1/audit"}, false},
		{"a user is no group", Who{User: "oidc:watchers"}, of("list", "", "services", "", ""), false},
		{"a group is no user", Who{User: "x", Groups: []string{"viewer"}}, of("list", "", "services", "shop", ""), false},
		{"one name", Who{User: "one"}, of("get", "", "secrets", "shop", "tls"), true},
		{"another name", Who{User: "one"}, of("get", "", "secrets", "shop", "other"), false},
		{"all names", Who{User: "one"}, of("list", "", "secrets", "shop", ""), false},
		{"a Role stays in its namespace", Who{User: "one"}, of("get", "", "secrets", "bank", "tls"), false},
		{"a subresource of all", Who{User: "status"}, Request{Verb: "patch", Resource: "services", Subresource: "status", Namespace: "bank"}, true},
		{"a subresource is not the resource", Who{User: "status"}, of("patch", "", "services", "bank", ""), false},
		{"a path that begins so", Who{User: "status"}, Request{Verb: "get", Path: "/sennit/v1/audit/verify"}, true},
		{"a path that does not", Who{User: "status"}, Request{Verb: "get", Path: "/sennit/v1/backup"}, false},
		{"paths of a binding in a namespace", Who{User: "masked"}, Request{Verb: "get", Path: "/sennit/v1/audit"}, false},
		{"a role that is gone", Who{User: "lost"}, of("get", "", "services", "shop", "a"), false},
		{"everything", Who{User: "x", Groups: []string{"root"}}, Request{Verb: "post", Path: "/sennit/v1/anything"}, true},
		{"masters need no document", Who{User: "x", Groups: []string{Masters}}, of("delete", "", "secrets", "bank", "a"), true},
	} {
		if got := policy().Allows(tt.who, tt.want); got != tt.may {
			t.Errorf("%s: %s is allowed: %t", tt.name, tt.want, got)
		}
	}
}

func TestWhereSomebodyMay(t *testing.T) {
	t.Parallel()
	p := New(Documents{
		ClusterRoles: append(Defaults(), rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"services/reports"}, ResourceNames: []string{"orders"}},
		}}),
		RoleBindings: []rbacv1.RoleBinding{
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Subjects: user("vera", "both"), RoleRef: ref("ClusterRole", View)},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "bank"}, Subjects: user("vera"), RoleRef: ref("ClusterRole", View)},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "bank"}, Subjects: []rbacv1.Subject{{Kind: "Group", Name: "bankers"}}, RoleRef: ref("ClusterRole", Edit)},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Subjects: user("named"), RoleRef: ref("ClusterRole", "one")},
		},
		ClusterRoleBindings: []rbacv1.ClusterRoleBinding{{Subjects: user("both"), RoleRef: ref("ClusterRole", View)}},
	})
	want := Request{Verb: "get", Resource: "services", Subresource: "reports"}
	for _, tt := range []struct {
		name       string
		who        Who
		everywhere bool
		has        string // of shop and bank
	}{
		{"in two", Who{User: "vera", Groups: []string{"bankers"}}, false, "bank shop"},
		{"by a group", Who{User: "x", Groups: []string{"bankers"}}, false, "bank"},
		{"in one, and everywhere", Who{User: "both"}, true, "bank shop"},
		{"a name alone", Who{User: "named"}, false, ""},
		{"nobody", Who{User: "x"}, false, ""},
		{"masters", Who{User: "x", Groups: []string{Masters}}, true, "bank shop"},
	} {
		got := p.Scope(tt.who, want)
		has := []string{}
		for _, ns := range []string{"bank", "shop"} {
			if got.Has(ns) {
				has = append(has, ns)
			}
		}
		if got.Everywhere != tt.everywhere || strings.Join(has, " ") != tt.has || got.Has("") != tt.everywhere || !got.Everywhere && !slices.Equal(got.Namespaces, has) {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
	if got := p.Scope(Who{User: "vera"}, Request{Verb: "get", Resource: "services", Subresource: "tap"}); got.Everywhere || got.Namespaces != nil {
		t.Errorf("what a viewer may not: %+v", got)
	}
}

func TestNobodyGivesMoreThanHeHas(t *testing.T) {
	t.Parallel()
	rule := func(verbs, resources, names, paths []string) rbacv1.PolicyRule {
		r := rbacv1.PolicyRule{Verbs: verbs, Resources: resources, ResourceNames: names, NonResourceURLs: paths}
		if len(resources) > 0 {
			r.APIGroups = []string{""}
		}
		return r
	}
	list := func(v ...string) []string { return v }
	for _, tt := range []struct {
		name        string
		has, wanted rbacv1.PolicyRule
		ok          bool
	}{
		{"the same", rule(list("get"), list("services"), nil, nil), rule(list("get"), list("services"), nil, nil), true},
		{"less", rule(list("get", "list"), list("services", "secrets"), nil, nil), rule(list("list"), list("secrets"), nil, nil), true},
		{"one more verb", rule(list("get"), list("services"), nil, nil), rule(list("get", "update"), list("services"), nil, nil), false},
		{"one more resource", rule(list("get"), list("services"), nil, nil), rule(list("get"), list("services", "secrets"), nil, nil), false},
		{"all verbs", rule(list("get"), list("services"), nil, nil), rule(list("*"), list("services"), nil, nil), false},
		{"all resources", rule(list("get"), list("services"), nil, nil), rule(list("get"), list("*"), nil, nil), false},
		{"all names of one", rule(list("get"), list("secrets"), list("tls"), nil), rule(list("get"), list("secrets"), nil, nil), false},
		{"one name of all", rule(list("get"), list("secrets"), nil, nil), rule(list("get"), list("secrets"), list("tls"), nil), true},
		{"another name", rule(list("get"), list("secrets"), list("tls"), nil), rule(list("get"), list("secrets"), list("tls", "x"), nil), false},
		{"a subresource", rule(list("get"), list("services"), nil, nil), rule(list("get"), list("services/status"), nil, nil), false},
		{"all subresources of one by one of all", rule(list("get"), list("*/status"), nil, nil), rule(list("get"), list("services/*"), nil, nil), false},
		{"one of all", rule(list("get"), list("*/status"), nil, nil), rule(list("get"), list("services/status"), nil, nil), true},
		{"everything has it", everything[0], rule(list("get"), list("services/status"), nil, nil), true},
		{"a path below", rule(list("get"), nil, nil, list("/sennit/v1/audit*")), rule(list("get"), nil, nil, list("/sennit/v1/audit/verify")), true},
		{"more paths", rule(list("get"), nil, nil, list("/sennit/v1/audit/*")), rule(list("get"), nil, nil, list("/sennit/v1/*")), false},
		{"all paths by resources", everything[0], rule(list("get"), nil, nil, list("/sennit/v1/audit")), false},
	} {
		if what, ok := Missing([]rbacv1.PolicyRule{tt.has}, []rbacv1.PolicyRule{tt.wanted}); ok != tt.ok {
			t.Errorf("%s: covered: %t, missing %v", tt.name, ok, what)
		}
	}
	// Each role that is always there covers those before it.
	all := Defaults()
	for i := 1; i < len(all); i++ {
		if what, ok := Missing(all[i].Rules, all[i-1].Rules); !ok {
			t.Errorf("%s does not cover %s: %v", all[i].Name, all[i-1].Name, what)
		}
		if what, ok := Missing(all[i-1].Rules, all[i].Rules); ok {
			t.Errorf("%s is no more than %s: %v", all[i].Name, all[i-1].Name, what)
		}
	}
}
