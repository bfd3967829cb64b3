package authz

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A clause is one source and one operation of a rule: a policy is for a request where one of its clauses is. Empty
// lists ask for nothing.
type clause struct {
	policy uint32
	deny   bool

	services, notServices     []exchange.ServiceName
	namespaces, notNamespaces []string
	methods, notMethods       []string
	paths, notPaths           []pattern
	ports, notPorts           []uint32
	more                      *asked // nil: no more is asked
	plaintext                 bool   // it is for callers without an identity alone
}

// A pattern is a path, or a prefix of whole segments.
type pattern struct {
	value  string // of a prefix without its last slash; empty: every path
	prefix bool
	// loose takes a slash at the end for nothing, as many servers do: for who asks so that something is refused.
	loose bool
}

func (p *pattern) matches(path string) bool {
	if p.prefix {
		return strings.HasPrefix(path, p.value) && (len(path) == len(p.value) || path[len(p.value)] == '/') || p.value == ""
	}
	return path == p.value || p.loose && len(path) == len(p.value)+1 && path[len(p.value)] == '/' && path[:len(p.value)] == p.value
}

func matchesAny(patterns []pattern, path string) bool {
	for i := range patterns {
		if patterns[i].matches(path) {
			return true
		}
	}
	return false
}

// matches reports whether a clause that the index finds for its caller is for a request, of which path is the normal form.
// Of a TCP connection nobody knows what it is for: a clause that allows and asks is not for it, and one that denies is.
func (c *clause) matches(q *Request, path string, seen *heads) bool {
	if c.plaintext != q.Plaintext && (c.plaintext || !c.deny && len(c.services)+len(c.notServices)+len(c.namespaces)+len(c.notNamespaces) > 0) {
		return false // nobody knows who that is
	}
	if !q.Plaintext && c.misses(q) || len(c.ports) > 0 && !slices.Contains(c.ports, uint32(q.Port)) || slices.Contains(c.notPorts, uint32(q.Port)) {
		return false
	}
	if q.TCP {
		return (c.deny || len(c.methods)+len(c.notMethods)+len(c.paths)+len(c.notPaths) == 0) && (c.more == nil || c.more.matches(q, c.deny, seen))
	}
	return (len(c.methods) == 0 || slices.Contains(c.methods, q.Method)) && !slices.Contains(c.notMethods, q.Method) &&
		(len(c.paths) == 0 || matchesAny(c.paths, path)) && !matchesAny(c.notPaths, path) &&
		(c.more == nil || c.more.matches(q, c.deny, seen))
}

// misses reports whether a caller is another one. That it is of one of the services is known by the index.
func (c *clause) misses(q *Request) bool {
	return len(c.services) > 0 && len(c.namespaces) > 0 && !slices.Contains(c.namespaces, q.Caller.Namespace) ||
		slices.Contains(c.notServices, q.Caller) || slices.Contains(c.notNamespaces, q.Caller.Namespace)
}

func (r *Rules) clausesOf(policy uint32, deny bool, rule *snapshot.AuthorizationRule) ([]clause, error) {
	from, to := rule.From, rule.To
	if len(from) == 0 {
		from = []*snapshot.AuthorizationSource{{}}
	}
	if len(to) == 0 {
		to = []*snapshot.AuthorizationOperation{{}}
	}
	var all []clause
	for _, f := range from {
		for _, t := range to {
			c := clause{
				policy: policy, deny: deny, plaintext: f.Plaintext, namespaces: f.Namespaces, notNamespaces: f.NotNamespaces,
				methods: t.Methods, notMethods: t.NotMethods, ports: t.Ports, notPorts: t.NotPorts,
			}
			var err error
			if c.services, err = servicesOf(f.Services); err != nil {
				return nil, err
			}
			if c.notServices, err = servicesOf(f.NotServices); err != nil {
				return nil, err
			}
			if c.paths, err = patternsOf(t.Paths, deny); err != nil {
				return nil, err
			}
			if c.notPaths, err = patternsOf(t.NotPaths, !deny); err != nil {
				return nil, err
			}
			if c.more, err = r.askedOf(f, t, rule.When, deny); err != nil {
				return nil, err
			}
			all = append(all, c)
		}
	}
	return all, nil
}

func servicesOf(names []string) ([]exchange.ServiceName, error) {
	var all []exchange.ServiceName
	for _, s := range names {
		name, err := exchange.ParseServiceName(s)
		if err != nil {
			return nil, err
		}
		all = append(all, name)
	}
	return all, nil
}

func patternsOf(sources []*snapshot.StringMatch, loose bool) ([]pattern, error) {
	var all []pattern
	for _, s := range sources {
		value, plain := routing.PlainPath(nil, s.Value)
		p := pattern{value: value, loose: loose}
		switch s.Kind {
		case snapshot.StringMatch_EXACT:
		case snapshot.StringMatch_PREFIX:
			p.prefix, p.value = true, strings.TrimSuffix(value, "/")
		default:
			return nil, fmt.Errorf("path %q is compared in a way that is unknown here", s.Value)
		}
		if !plain || strings.Contains(s.Value, "?") {
			return nil, fmt.Errorf("path %q: no request with it gets here, for servers read it differently", s.Value)
		}
		all = append(all, p)
	}
	return all, nil
}
