package compile

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// An entry is one match of one rule of a route, as it takes its place among those of all routes of a
// parent.
type entry struct {
	rule *snapshot.Rule

	pathKind   int // exactPath and so on: lower goes first
	pathLength int // of a GRPCRoute: of the service
	method     int // of an HTTPRoute: 1 where it asks for one; of a GRPCRoute: how long the name is
	headers    int
	query      int
	route      *routeDocument
	position   int // among the matches of its route, in the order of the document
}

// The order of kinds of path. Gateway API leaves regular expressions to the implementation: here they go
// before prefixes, since almost every Service has a rule for "/" that would hide them.
const (
	exactPath = iota
	regexPath
	prefixPath
)

// inPrecedence orders the rules of all routes of one parent as HTTPRouteRule.matches has it: an exact path,
// then the longest prefix, then a method, then the most headers, then the most query parameters; then the
// oldest route, then the first by "namespace/name", then the first in its document. For a GRPCRoute, with which no
// HTTPRoute is at one place, it is the longest service, the longest method, the most headers, and so on.
func inPrecedence(entries []*entry) []*snapshot.Rule {
	sorted := slices.Clone(entries)
	slices.SortStableFunc(sorted, func(a, b *entry) int {
		return cmp.Or(
			cmp.Compare(a.pathKind, b.pathKind),
			cmp.Compare(b.pathLength, a.pathLength),
			cmp.Compare(b.method, a.method),
			cmp.Compare(b.headers, a.headers),
			cmp.Compare(b.query, a.query),
			a.route.CreationTimestamp.Time.Compare(b.route.CreationTimestamp.Time),
			strings.Compare(a.route.Namespace+"/"+a.route.Name, b.route.Namespace+"/"+b.route.Name),
			cmp.Compare(a.position, b.position),
		)
	})
	rules := make([]*snapshot.Rule, len(sorted))
	for i, e := range sorted {
		rules[i] = e.rule
	}
	return rules
}
