package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Missing returns the first thing that the rules of wanted allow and those of has do not; ok: there is none. It is how
// nobody gives others, or himself, more than he has. A thing that several rules of has allow only together counts as
// missing: one rule must allow it whole.
func Missing(has, wanted []rbacv1.PolicyRule) (what rbacv1.PolicyRule, ok bool) {
	for _, rule := range wanted {
		for one := range single(rule) {
			if !slices.ContainsFunc(has, func(h rbacv1.PolicyRule) bool { return covers(h, one) }) {
				return one, false
			}
		}
	}
	return what, true
}

// single goes through a rule thing by thing: one verb of one resource, of one name, or of one path.
func single(rule rbacv1.PolicyRule) func(func(rbacv1.PolicyRule) bool) {
	return func(yield func(rbacv1.PolicyRule) bool) {
		names := rule.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, verb := range rule.Verbs {
			for _, path := range rule.NonResourceURLs {
				if !yield(rbacv1.PolicyRule{Verbs: []string{verb}, NonResourceURLs: []string{path}}) {
					return
				}
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, name := range names {
						one := rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}}
						if name != "" {
							one.ResourceNames = []string{name}
						}
						if !yield(one) {
							return
						}
					}
				}
			}
		}
	}
}

// covers tells whether a rule allows all that one allows, which single has made.
func covers(h, one rbacv1.PolicyRule) bool {
	if !holds(h.Verbs, one.Verbs[0]) {
		return false
	}
	if len(one.NonResourceURLs) > 0 {
		return slices.ContainsFunc(h.NonResourceURLs, func(p string) bool { return pathCovers(p, one.NonResourceURLs[0]) })
	}
	return holds(h.APIGroups, one.APIGroups[0]) &&
		slices.ContainsFunc(h.Resources, func(p string) bool { return resourceCovers(p, one.Resources[0]) }) &&
		(len(h.ResourceNames) == 0 || len(one.ResourceNames) > 0 && slices.Contains(h.ResourceNames, one.ResourceNames[0]))
}

func pathCovers(has, wanted string) bool {
	begin, open := strings.CutSuffix(has, "*")
	return has == wanted || open && strings.HasPrefix(strings.TrimSuffix(wanted, "*"), begin)
}

func resourceCovers(has, wanted string) bool {
	if has == "*" || has == wanted {
		return true
	}
	hasResource, hasSub, _ := strings.Cut(has, "/")
	wantResource, wantSub, _ := strings.Cut(wanted, "/")
	return hasSub != "" && wantSub != "" && (hasResource == "*" || hasResource == wantResource) && (hasSub == "*" || hasSub == wantSub)
}
