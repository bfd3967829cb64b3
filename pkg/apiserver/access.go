package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
)

// accessKinds are what says who may do what.
var accessKinds = []*api.Kind{api.Roles, api.ClusterRoles, api.RoleBindings, api.ClusterRoleBindings}

// A policies makes the policy of the documents that the cache has, anew where they have changed.
type policies struct {
	mu    sync.Mutex
	at    [4]uint64 // how many events of each kind went in
	known *rbac.Policy
}

// events is how many changes of a kind the cache has seen, and what is closed at the next one.
func (c *cache) events(k *api.Kind) (uint64, <-chan struct{}) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	col := c.kinds[k]
	return col.first + uint64(len(col.events)), col.changed
}

// policy is what the cache says of who may do what.
func (s *Server) policy() *rbac.Policy {
	p := &s.policies
	p.mu.Lock()
	defer p.mu.Unlock()
	var at [4]uint64
	for i, k := range accessKinds { // before the documents are read: what comes meanwhile makes it anew
		at[i], _ = s.cache.events(k)
	}
	if p.known == nil || at != p.at {
		p.known, p.at = rbac.New(s.accessDocuments()), at
	}
	return p.known
}

// accessDocuments reads what the policy is made of. A document that cannot be read gives nobody anything.
func (s *Server) accessDocuments() (d rbac.Documents) {
	d.Roles = decodeAll[rbacv1.Role](s, api.Roles)
	d.ClusterRoles = decodeAll[rbacv1.ClusterRole](s, api.ClusterRoles)
	d.RoleBindings = decodeAll[rbacv1.RoleBinding](s, api.RoleBindings)
	d.ClusterRoleBindings = decodeAll[rbacv1.ClusterRoleBinding](s, api.ClusterRoleBindings)
	return d
}

func decodeAll[T any](s *Server, k *api.Kind) (all []T) {
	list, _ := s.cache.list(k, filter{})
	for _, u := range list {
		var one T
		if err := api.As(u, &one); err != nil {
			s.cfg.Log.Error("a document that says who may do what cannot be read", "kind", k.Name, "name", u.GetName(), "err", err)
			continue
		}
		all = append(all, one)
	}
	return all
}

func (c Caller) who() rbac.Who { return rbac.Who{User: c.User, Groups: c.Groups} }

// allow answers nil where somebody may do something, else a 403.
func (s *Server) allow(c Caller, want rbac.Request) error {
	if s.policy().Allows(c.who(), want) {
		return nil
	}
	if want.Path != "" {
		return failure(http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf("forbidden: operator %q cannot %s", c.User, want))
	}
	e := apierrors.NewForbidden(groupResource(want), want.Name, fmt.Errorf("operator %q cannot %s", c.User, want))
	return e
}

func groupResource(r rbac.Request) schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.Resource}
}

// Authorize answers nil where the caller of a request that Authenticated or Local let through may do something, else a
// 403, which it records as refused. Until all documents are read it waits.
func (s *Server) Authorize(r *http.Request, want rbac.Request) error {
	if err := s.awaitReady(r.Context()); err != nil {
		return err
	}
	c, _ := CallerOf(r.Context())
	err := s.allow(c, want)
	if err != nil {
		s.forbid(c, r.Method, r.URL.Path, err)
	}
	return err
}

// Scope is where the caller of a request may do something.
func (s *Server) Scope(r *http.Request, want rbac.Request) rbac.Scope {
	c, _ := CallerOf(r.Context())
	return s.policy().Scope(c.who(), want)
}

// AuthorizePart is Authorize for what has parts of namespaces: who may not do whole gets those of the scope in which he may
// do part, and a 403 where there is none.
func (s *Server) AuthorizePart(r *http.Request, whole, part rbac.Request) (rbac.Scope, error) {
	if err := s.awaitReady(r.Context()); err != nil {
		return rbac.Scope{}, err
	}
	c, _ := CallerOf(r.Context())
	if s.policy().Allows(c.who(), whole) {
		return rbac.Scope{Everywhere: true}, nil
	}
	if scope := s.Scope(r, part); scope.Everywhere || len(scope.Namespaces) > 0 {
		return scope, nil
	}
	return rbac.Scope{}, s.Authorize(r, whole)
}

// While returns a context that ends with the request's, and when its caller may no longer do what want says. It is for
// answers that last.
func (s *Server) While(ctx context.Context, want rbac.Request) (context.Context, context.CancelFunc) {
	c, _ := CallerOf(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			var changed [4]<-chan struct{}
			for i, k := range accessKinds {
				_, changed[i] = s.cache.events(k)
			}
			if err := s.allow(c, want); err != nil {
				cancel(err)
				return
			}
			select {
			case <-changed[0]:
			case <-changed[1]:
			case <-changed[2]:
			case <-changed[3]:
			case <-ctx.Done():
			}
		}
	}()
	return ctx, func() {
		cancel(context.Canceled)
		<-done
	}
}

// wants is what a request needs to be allowed.
func (r *request) wants() rbac.Request {
	want := rbac.Request{Group: r.kind.Group, Resource: r.kind.Plural, Namespace: r.namespace, Name: r.name}
	if r.status {
		want.Subresource = "status"
	}
	if r.kind == api.Namespace { // whoever may do something in a namespace may do it to the namespace
		want.Namespace = r.name
	}
	if r.name == "" { // somebody may be allowed to list one by its name
		if sel, err := fields.ParseSelector(r.query("fieldSelector")); err == nil {
			want.Name, _ = sel.RequiresExactMatch("metadata.name")
		}
	}
	switch {
	case r.Method == http.MethodGet && r.name == "" && isTrue(r.query("watch")):
		want.Verb = "watch"
	case r.Method == http.MethodGet && r.name == "":
		want.Verb = "list"
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		want.Verb = "get"
	case r.Method == http.MethodPost:
		want.Verb, want.Name = "create", ""
	case r.Method == http.MethodPut:
		want.Verb = "update"
	case r.Method == http.MethodPatch:
		want.Verb = "patch"
	case r.Method == http.MethodDelete && r.name == "":
		want.Verb, want.Name = "deletecollection", ""
	case r.Method == http.MethodDelete:
		want.Verb = "delete"
	}
	return want
}

// mayCreate is asked where a request that changes documents makes one that was not there.
func (s *Server) mayCreate(r *request) error {
	want := r.wants()
	want.Verb, want.Name = "create", ""
	return s.allow(r.caller, want)
}

// mayGrant keeps callers from giving anybody, themselves too, what they may not do: by a role that allows more than they
// may, or by binding somebody to one. Who may "escalate" roles, or "bind" one, may.
func (s *Server) mayGrant(r *request, was, u *unstructured.Unstructured) error {
	var (
		wanted  []rbacv1.PolicyRule
		by      string
		related rbac.Request
		policy  = s.policy()
	)
	switch r.kind {
	case api.Roles, api.ClusterRoles:
		if was != nil && equality.Semantic.DeepEqual(was.Object["rules"], u.Object["rules"]) {
			return nil
		}
		var role rbacv1.ClusterRole // both have their rules in the same place
		if err := api.As(u, &role); err != nil {
			return err
		}
		wanted, by = role.Rules, "escalate"
		related = rbac.Request{Verb: by, Group: r.kind.Group, Resource: r.kind.Plural, Namespace: u.GetNamespace(), Name: u.GetName()}
	case api.RoleBindings, api.ClusterRoleBindings:
		if was != nil && equality.Semantic.DeepEqual(was.Object["subjects"], u.Object["subjects"]) && equality.Semantic.DeepEqual(was.Object["roleRef"], u.Object["roleRef"]) {
			return nil
		}
		var binding rbacv1.RoleBinding
		if err := api.As(u, &binding); err != nil {
			return err
		}
		wanted, by = policy.RulesOf(binding.RoleRef, u.GetNamespace()), "bind"
		of := api.ClusterRoles
		if binding.RoleRef.Kind == api.Roles.Name {
			of = api.Roles
		}
		related = rbac.Request{Verb: by, Group: of.Group, Resource: of.Plural, Namespace: u.GetNamespace(), Name: binding.RoleRef.Name}
		if len(wanted) == 0 && !policy.Allows(r.caller.who(), related) { // who makes the role later would say what it gives
			return forbidden(r.kind, u.GetName(), fmt.Errorf("there is no role %s with rules, and only who may bind any role may bind to one that comes later", binding.RoleRef.Name))
		}
	default:
		return nil
	}
	missing, ok := rbac.Missing(policy.Rules(r.caller.who(), u.GetNamespace()), wanted)
	if ok || policy.Allows(r.caller.who(), related) {
		return nil
	}
	return forbidden(r.kind, u.GetName(), fmt.Errorf("operator %q would give what he may not do himself: verbs %q of apiGroups %q, resources %q, paths %q (who may %q the role could)",
		r.caller.User, missing.Verbs, missing.APIGroups, missing.Resources, missing.NonResourceURLs, by))
}
