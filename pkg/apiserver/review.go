package apiserver

import (
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
)

// reviewed returns the question that a path stands for, or nil.
func reviewed(path string) *api.Kind {
	for _, k := range api.Reviews() {
		if strings.TrimSuffix(path, "/") == root(k)+"/"+k.Plural {
			return k
		}
	}
	return nil
}

// review answers who may do what: everybody may ask about himself, about others who may see the roles of all.
func (s *Server) review(w http.ResponseWriter, r *request) error {
	if r.Method != http.MethodPost {
		return methodNotAllowed(r)
	}
	if err := s.awaitReady(r.Context()); err != nil {
		return err
	}
	u, _, err := r.document()
	if err != nil {
		return err
	}
	question := r.kind.New()
	if err := api.As(u, question); err != nil {
		return badRequest("%v", err)
	}
	policy, who := s.policy(), r.caller.who()
	switch q := question.(type) {
	case *authorizationv1.SelfSubjectAccessReview:
		q.Status, err = answered(policy, who, q.Spec.ResourceAttributes, q.Spec.NonResourceAttributes)
	case *authorizationv1.SubjectAccessReview:
		if err := s.allow(r.caller, rbac.Request{Verb: "create", Group: r.kind.Group, Resource: r.kind.Plural}); err != nil {
			return err
		}
		if slices.Contains(q.Spec.Groups, rbac.Masters) || q.Spec.User == "" && len(q.Spec.Groups) == 0 {
			return badRequest("spec must name a user or groups, and not %s", rbac.Masters)
		}
		q.Status, err = answered(policy, rbac.Who{User: q.Spec.User, Groups: q.Spec.Groups}, q.Spec.ResourceAttributes, q.Spec.NonResourceAttributes)
	case *authorizationv1.SelfSubjectRulesReview:
		for _, rule := range policy.Rules(who, q.Spec.Namespace) {
			if len(rule.NonResourceURLs) > 0 {
				q.Status.NonResourceRules = append(q.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
				continue
			}
			q.Status.ResourceRules = append(q.Status.ResourceRules, authorizationv1.ResourceRule{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
			})
		}
	case *authenticationv1.SelfSubjectReview:
		q.Status.UserInfo = authenticationv1.UserInfo{Username: r.caller.User, Groups: r.caller.Groups}
	}
	if err != nil {
		return err
	}
	return s.answerReview(w, r, question)
}

func (s *Server) answerReview(w http.ResponseWriter, r *request, o runtime.Object) error {
	u, err := api.From(r.kind, o)
	if err != nil {
		return err
	}
	return s.answer(w, r, http.StatusCreated, u)
}

func answered(p *rbac.Policy, who rbac.Who, of *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) (st authorizationv1.SubjectAccessReviewStatus, err error) {
	var want rbac.Request
	switch {
	case (of == nil) == (path == nil):
		return st, badRequest("spec must have one of resourceAttributes and nonResourceAttributes")
	case path != nil:
		want = rbac.Request{Verb: path.Verb, Path: path.Path}
		if want.Path == "" {
			return st, badRequest("spec.nonResourceAttributes.path must be given")
		}
	default:
		want = rbac.Request{Verb: of.Verb, Group: of.Group, Resource: of.Resource, Subresource: of.Subresource, Name: of.Name, Namespace: of.Namespace}
		if want.Group == "" && want.Resource == api.Namespace.Plural {
			want.Namespace = want.Name
		}
	}
	st.Allowed = p.Allows(who, want)
	if !st.Allowed {
		st.Reason = "no role that is bound to this operator allows it"
	}
	return st, nil
}
