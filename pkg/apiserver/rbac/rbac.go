// Package rbac decides what an operator may do, as Kubernetes' role-based access control does: roles are lists of what is
// allowed, bindings give them to operators and groups, in one namespace or everywhere. Nothing is allowed that no rule
// allows, and no rule denies.
//
// It is pure: a Policy is made of documents and never changes. Who somebody is was found out before; an attacker may
// choose every field of a Request. Start reading at Policy.Allows.
package rbac

import (
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

const (
	// Masters is the group of those who may do everything, whatever documents say: it lets somebody in where all roles
	// are gone. No document and no identity provider can put anybody into it.
	Masters = "system:masters"
	// Authenticated is the group of everybody who showed who he is.
	Authenticated = "system:authenticated"
	// ReservedPrefix is what names of users and groups begin with that only the controller gives.
	ReservedPrefix = "system:"
)

// Who is somebody that was recognised.
type Who struct {
	User   string
	Groups []string
}

// A Request is what somebody wants to do: something to documents, or to a path where Path is not empty.
type Request struct {
	Verb        string // get, list, watch, create, update, patch, delete, deletecollection; of a path the method in lower case
	Group       string // of the API
	Resource    string // the plural: "httproutes"
	Subresource string // "status", or ""
	Name        string // "": all, or not known yet
	Namespace   string // "": all, or documents that are in none
	Path        string // "/sennit/v1/status"
}

// String says what is wanted, for messages.
func (r Request) String() string {
	if r.Path != "" {
		return fmt.Sprintf("%s path %q", r.Verb, r.Path)
	}
	resource := r.Resource
	if r.Subresource != "" {
		resource += "/" + r.Subresource
	}
	text := fmt.Sprintf("%s resource %q in API group %q", r.Verb, resource, r.Group)
	if r.Namespace != "" {
		return text + fmt.Sprintf(" in the namespace %q", r.Namespace)
	}
	return text + " at the cluster scope"
}

// Documents are what a Policy is made of.
type Documents struct {
	Roles               []rbacv1.Role
	ClusterRoles        []rbacv1.ClusterRole
	RoleBindings        []rbacv1.RoleBinding
	ClusterRoleBindings []rbacv1.ClusterRoleBinding
}

// A Policy answers who may do what. It never changes, and is safe for concurrent use.
type Policy struct {
	roles   map[string][]rbacv1.PolicyRule // by namespace and name
	cluster map[string][]rbacv1.PolicyRule // by name
	users   map[string][]grant             // by who is bound
	groups  map[string][]grant
}

// A grant is what one binding gives. A role that is not there gives nothing.
type grant struct {
	namespace string // "": everywhere
	rules     []rbacv1.PolicyRule
}

// New makes a policy of all documents that there are.
func New(d Documents) *Policy {
	p := &Policy{
		roles: map[string][]rbacv1.PolicyRule{}, cluster: map[string][]rbacv1.PolicyRule{},
		users: map[string][]grant{}, groups: map[string][]grant{},
	}
	for _, r := range d.Roles {
		p.roles[r.Namespace+"/"+r.Name] = r.Rules
	}
	for _, r := range d.ClusterRoles {
		p.cluster[r.Name] = r.Rules
	}
	for _, b := range d.RoleBindings {
		p.bind(b.Subjects, grant{b.Namespace, p.RulesOf(b.RoleRef, b.Namespace)})
	}
	for _, b := range d.ClusterRoleBindings {
		p.bind(b.Subjects, grant{"", p.RulesOf(b.RoleRef, "")})
	}
	return p
}

func (p *Policy) bind(subjects []rbacv1.Subject, g grant) {
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			p.users[s.Name] = append(p.users[s.Name], g)
		case rbacv1.GroupKind:
			p.groups[s.Name] = append(p.groups[s.Name], g)
		}
	}
}

// RulesOf are the rules of the role that a binding of a namespace names; none where there is no such role.
func (p *Policy) RulesOf(ref rbacv1.RoleRef, namespace string) []rbacv1.PolicyRule {
	switch {
	case ref.Kind == "ClusterRole":
		return p.cluster[ref.Name]
	case ref.Kind == "Role" && namespace != "":
		return p.roles[namespace+"/"+ref.Name]
	}
	return nil
}

// grants calls fn with each grant of somebody, until it returns false.
func (p *Policy) grants(who Who, fn func(grant) bool) {
	for _, g := range p.users[who.User] {
		if !fn(g) {
			return
		}
	}
	for i, name := range who.Groups {
		if slices.Contains(who.Groups[:i], name) {
			continue
		}
		for _, g := range p.groups[name] {
			if !fn(g) {
				return
			}
		}
	}
}

// everything is what masters may do.
var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

// bound is what everybody may do who is bound to anything: without it, no client works.
var bound = []rbacv1.PolicyRule{
	{Verbs: []string{"get"}, NonResourceURLs: []string{"/sennit/v1/wait", "/sennit/v1/revisions"}},
}

// Rules are the rules that hold for somebody in a namespace; "" asks for those that hold everywhere.
func (p *Policy) Rules(who Who, namespace string) (rules []rbacv1.PolicyRule) {
	if slices.Contains(who.Groups, Masters) {
		return everything
	}
	known := false
	p.grants(who, func(g grant) bool {
		known = true
		if g.namespace == "" || g.namespace == namespace {
			rules = append(rules, g.rules...)
		}
		return true
	})
	if known {
		rules = append(rules, bound...)
	}
	return rules
}

// Allows tells whether somebody may do something.
func (p *Policy) Allows(who Who, r Request) bool {
	if slices.Contains(who.Groups, Masters) {
		return true
	}
	allowed, known := false, false
	p.grants(who, func(g grant) bool {
		known = true
		if g.namespace == "" || r.Path == "" && g.namespace == r.Namespace {
			allowed = slices.ContainsFunc(g.rules, r.allowedBy)
		}
		return !allowed
	})
	return allowed || known && slices.ContainsFunc(bound, r.allowedBy)
}

// A Scope is where somebody may do something.
type Scope struct {
	Everywhere bool
	Namespaces []string // in the order of names, where it is not everywhere
}

// Has tells whether a namespace is in the scope.
func (s Scope) Has(namespace string) bool {
	return s.Everywhere || slices.Contains(s.Namespaces, namespace)
}

// Scope is where somebody may do something to resources, whatever they are named: that a role gives for some names alone
// does not count.
func (p *Policy) Scope(who Who, r Request) (s Scope) {
	if slices.Contains(who.Groups, Masters) {
		return Scope{Everywhere: true}
	}
	p.grants(who, func(g grant) bool {
		if slices.ContainsFunc(g.rules, r.allowedBy) {
			s.Everywhere = s.Everywhere || g.namespace == ""
			s.Namespaces = append(s.Namespaces, g.namespace)
		}
		return !s.Everywhere
	})
	if s.Everywhere {
		return Scope{Everywhere: true}
	}
	slices.Sort(s.Namespaces)
	s.Namespaces = slices.Compact(s.Namespaces)
	return s
}

func (r Request) allowedBy(rule rbacv1.PolicyRule) bool {
	if !holds(rule.Verbs, r.Verb) {
		return false
	}
	if r.Path != "" {
		return slices.ContainsFunc(rule.NonResourceURLs, func(p string) bool { return pathMatches(p, r.Path) })
	}
	return holds(rule.APIGroups, r.Group) && slices.ContainsFunc(rule.Resources, func(pattern string) bool {
		return resourceMatches(pattern, r.Resource, r.Subresource)
	}) && (len(rule.ResourceNames) == 0 || r.Name != "" && slices.Contains(rule.ResourceNames, r.Name))
}

func holds(list []string, v string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, v)
}

// pathMatches: a pattern that ends with * stands for all that begin with what is before it.
func pathMatches(pattern, path string) bool {
	if begin, open := strings.CutSuffix(pattern, "*"); open {
		return strings.HasPrefix(path, begin)
	}
	return pattern == path
}

// resourceMatches: "*" is every resource with every subresource, "*/status" that subresource of each, "services" has no
// subresources with it.
func resourceMatches(pattern, resource, sub string) bool {
	if pattern == "*" {
		return true
	}
	wantResource, wantSub, _ := strings.Cut(pattern, "/")
	return (wantResource == resource || wantResource == "*" && wantSub != "") && (wantSub == sub || wantSub == "*" && sub != "")
}
