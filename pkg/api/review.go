package api

import (
	"reflect"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
)

func review(group, name, plural, singular string, typ reflect.Type) *Kind {
	return &Kind{Group: group, Version: "v1", Name: name, Plural: plural, Singular: singular, Core: true, Derived: true, Verbs: []string{"create"}, typ: typ}
}

// Questions that are answered at once, and never stored: they are not among Kinds.
var (
	SelfSubjectAccessReviews = review(authorizationv1.GroupName, "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview",
		reflect.TypeFor[authorizationv1.SelfSubjectAccessReview]())
	SelfSubjectRulesReviews = review(authorizationv1.GroupName, "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview",
		reflect.TypeFor[authorizationv1.SelfSubjectRulesReview]())
	SubjectAccessReviews = review(authorizationv1.GroupName, "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview",
		reflect.TypeFor[authorizationv1.SubjectAccessReview]())
	SelfSubjectReviews = review(authenticationv1.GroupName, "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview",
		reflect.TypeFor[authenticationv1.SelfSubjectReview]())
)

// Reviews lists the kinds of questions.
func Reviews() []*Kind {
	return []*Kind{SelfSubjectAccessReviews, SelfSubjectRulesReviews, SubjectAccessReviews, SelfSubjectReviews}
}
