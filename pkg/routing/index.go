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
	root    node             // of paths, by segments; it has the rules that match every path
	others  map[string][]int // of whole paths that begin with no slash
	regexps []int            // these are tried one by one
	// parameters says that a path of a rule has a ";": whoever wrote that tells segments with parameters from those without.
	parameters bool
}

// A node stands for whole segments.
type node struct {
	parent   *node
	children map[string]*node
	prefixed []int // rules for these segments, and what is below
	exact    []int // rules for this path alone
}

const none = math.MaxInt

func newIndex(rules []rule) index {
	x := index{}
	for i := range rules {
		m := &rules[i].match
		x.parameters = x.parameters || m.path != nil && strings.Contains(m.path.value, ";")
		switch {
		case m.path == nil:
			x.root.prefixed = append(x.root.prefixed, i)
		case m.path.kind == snapshot.StringMatch_EXACT && strings.HasPrefix(m.path.value, "/"):
			n := x.insert(m.path.value)
			n.exact = append(n.exact, i)
		case m.path.kind == snapshot.StringMatch_EXACT:
			if x.others == nil {
				x.others = make(map[string][]int)
			}
			x.others[m.path.value] = append(x.others[m.path.value], i)
		case m.path.kind == snapshot.StringMatch_REGEX:
			x.regexps = append(x.regexps, i)
		default:
			n := x.insert(m.path.value)
			n.prefixed = append(n.prefixed, i)
		}
	}
	return x
}

// insert returns the node of a path, or of a prefix, which has no trailing slash.
func (x *index) insert(path string) *node {
	at := &x.root
	for rest := path; rest != ""; {
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
	return len(x.others) == 0 && len(x.regexps) == 0 && len(x.root.children) == 0
}

// descend goes to the node of as many segments of rest as have one, and returns what is left.
func (n *node) descend(rest string) (*node, string) {
	for rest != "" && n.children != nil {
		segment, more := cutSegment(rest)
		next := n.children[segment]
		if next == nil {
			break
		}
		n, rest = next, more
	}
	return n, rest
}

// tellsApart reports whether a reading of what stands behind the node's segments, and begins with a slash, may lead below the
// node: whether a segment of any reading has a node there. In all of them a segment stands between separators, without its
// parameters or with them.
func (n *node) tellsApart(rest string) bool {
	leads := func(segment string) bool {
		pruned := prunedAt(segment)
		return n.children[segment] != nil || pruned < len(segment) && n.children[segment[:pruned]] != nil
	}
	if len(n.children) == 0 {
		return false
	}
	for rest != "" {
		var segment string
		segment, rest = cutSegment(rest)
		start := 0
		for i := 0; i < len(segment); {
			cut, more := cutSeparator(segment[i:], true)
			if !cut {
				i++
				continue
			}
			if leads(segment[start:i]) {
				return true
			}
			start = len(segment) - len(more)
			i = start
		}
		if start > 0 && leads(segment[start:]) || leads(segment) {
			return true
		}
	}
	return n.children[""] != nil // dots and parameters at the end may leave that
}

// first returns the position of the first rule that matches a request whose path reads as given, or none.
func (x *index) first(rules []rule, path string, req *exchange.Request, d *Decision) int {
	if strings.HasPrefix(path, "/") {
		return x.firstAt(&x.root, path, rules, path, req, d)
	}
	best := none
	if len(x.others) > 0 {
		best = firstOf(x.others[path], rules, best, req, d)
	}
	return x.climb(&x.root, best, rules, path, req, d)
}

// firstAt is first of a path with a slash, of which the node's segments are known, and rest is what stands behind them.
func (x *index) firstAt(at *node, rest string, rules []rule, path string, req *exchange.Request, d *Decision) int {
	best := none
	if at, rest = at.descend(rest); rest == "" {
		best = firstOf(at.exact, rules, best, req, d)
	}
	return x.climb(at, best, rules, path, req, d)
}

// climb looks at the rules for prefixes that end at a node or above it, and at expressions.
func (x *index) climb(at *node, best int, rules []rule, path string, req *exchange.Request, d *Decision) int {
	// The longest prefix is usually first in the list, so that the others need no look at the request.
	for ; at != nil; at = at.parent {
		best = firstOf(at.prefixed, rules, best, req, d)
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
