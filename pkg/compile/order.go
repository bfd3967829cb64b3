package compile

import (
	"slices"
	"strings"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// byName returns documents in the order of "namespace/name".
func byName[T v1.Object](documents []T) []T {
	return slices.SortedStableFunc(slices.Values(documents), func(a, b T) int { return compareDocuments(a, b) })
}

// oldestFirst returns documents in the order of their ages, and of "namespace/name" where these are the same: who comes
// first has precedence (GEP-713, "Conflict Resolution").
func oldestFirst[T v1.Object](documents []T) []T {
	return slices.SortedStableFunc(slices.Values(documents), func(a, b T) int {
		if c := a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time); c != 0 {
			return c
		}
		return compareDocuments(a, b)
	})
}

func compareDocuments(a, b v1.Object) int {
	return strings.Compare(a.GetNamespace()+"/"+a.GetName(), b.GetNamespace()+"/"+b.GetName())
}
