package routing

import (
	"math"
	"strings"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// An index finds the first rule of a port that matches, in the order of the port's list, and looks only at
// rules whose path can match. Each list of it holds positions, ascending.
type index struct {
	exact    map[string][]int
	prefixes node  // by segments; the root has the rules that match every path
	regexps  []int // these are tried one by one
}

// A node stands for a prefix of whole segments.
type node struct {
	parent   *node
	children map[string]*node
	rules    []int
}

const none = math.MaxInt

func newIndex(rules []rule) index {
	x := index{exact: make(map[string][]int)}
	for i := range rules {
		m := &rules[i].match
		switch {
		case m.path == nil:
			x.prefixes.rules = append(x.prefixes.rules, i)
		case m.path.kind == snapshot.StringMatch_EXACT:
			x.exact[m.path.value] = append(x.exact[m.path.value], i)
		case m.path.kind == snapshot.StringMatch_REGEX:
			x.regexps = append(x.regexps, i)
		default:
			n := x.insert(m.path.value)
			n.rules = append(n.rules, i)
		}
	}
	return x
}

// insert returns the node of a prefix, which has no trailing slash.
func (x *index) insert(prefix string) *node {
	at := &x.prefixes
	for rest := prefix; rest != ""; {
		var segment string
		segment, rest = cutSegment(rest)
		next := at.children[segment]
		if next == nil {
			next = &node{parent: at}
			if at.children == nil {
				at.children = make(map[string]*node)
			}
			at.children[segment] = next
		}
		at = next
	}
	return at
}

// cutSegment cuts "/a" off "/a/b".
func cutSegment(path string) (segment, rest string) {
	path = path[1:]
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[:i], path[i:]
	}
	return path, ""
}

// anyPath reports whether all rules match every path.
func (x *index) anyPath() bool {
	return len(x.exact) == 0 && len(x.regexps) == 0 && len(x.prefixes.children) == 0
}

// first returns the position of the first rule that matches a request whose path reads as given, or none.
func (x *index) first(rules []rule, path string, req *exchange.Request, d *Decision) int {
	best := none
	if len(x.exact) > 0 {
		best = firstOf(x.exact[path], rules, best, req, d)
	}
	at := &x.prefixes
	if strings.HasPrefix(path, "/") {
		for rest := path; rest != "" && at.children != nil; {
			var segment string
			segment, rest = cutSegment(rest)
			next := at.children[segment]
			if next == nil {
				break
			}
			at = next
		}
	}
	// The longest prefix is usually first in the list, so that the others need no look at the request.
	for ; at != nil; at = at.parent {
		best = firstOf(at.rules, rules, best, req, d)
	}
	for _, i := range x.regexps {
		if i >= best {
			break
		}
		if rules[i].match.path.regexp.MatchString(path) && rules[i].match.rest(req, d) {
			best = i
		}
	}
	return best
}

func firstOf(list []int, rules []rule, best int, req *exchange.Request, d *Decision) int {
	for _, i := range list {
		if i >= best {
			break
		}
		if rules[i].match.rest(req, d) {
			return i
		}
	}
	return best
}
