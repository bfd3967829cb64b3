package authz

import (
	"strings"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// An index finds the clauses that a request may match, by who calls and what path is called. It holds each clause once
// for each name and path that the clause asks for.
type index struct {
	services   map[exchange.ServiceName]*bucket
	namespaces map[string]*bucket
	anybody    bucket
}

// A bucket has the clauses of one caller by their paths.
type bucket struct {
	exact    map[string][]*clause
	prefixes map[string][]*clause // without the last slash
	deepest  int                  // of prefixes, in bytes
	pathless []*clause
}

func (x *index) add(c clause) {
	switch {
	case len(c.services) > 0:
		for _, s := range c.services {
			if x.services == nil {
				x.services = make(map[exchange.ServiceName]*bucket)
			}
			if x.services[s] == nil {
				x.services[s] = &bucket{}
			}
			x.services[s].add(&c)
		}
	case len(c.namespaces) > 0:
		for _, n := range c.namespaces {
			if x.namespaces == nil {
				x.namespaces = make(map[string]*bucket)
			}
			if x.namespaces[n] == nil {
				x.namespaces[n] = &bucket{}
			}
			x.namespaces[n].add(&c)
		}
	default:
		x.anybody.add(&c)
	}
}

func (b *bucket) add(c *clause) {
	if len(c.paths) == 0 {
		b.pathless = append(b.pathless, c)
		return
	}
	for _, p := range c.paths {
		to := &b.exact
		if p.prefix {
			to = &b.prefixes
			b.deepest = max(b.deepest, len(p.value))
		}
		if *to == nil {
			*to = make(map[string][]*clause)
		}
		(*to)[p.value] = append((*to)[p.value], c)
	}
}

// find visits each clause that may be for a request, some twice.
func (x *index) find(q *Request, path string, visit func(*clause)) {
	if b := x.services[q.Caller]; b != nil {
		b.find(q, path, visit)
	}
	if b := x.namespaces[q.Caller.Namespace]; b != nil {
		b.find(q, path, visit)
	}
	x.anybody.find(q, path, visit)
}

func (b *bucket) find(q *Request, path string, visit func(*clause)) {
	each(b.pathless, visit)
	if q.TCP { // for which no path rules anything out
		for _, all := range b.exact {
			each(all, visit)
		}
		for _, all := range b.prefixes {
			each(all, visit)
		}
		return
	}
	if len(b.exact) > 0 {
		each(b.exact[path], visit)
		if bare, slash := strings.CutSuffix(path, "/"); slash {
			each(b.exact[bare], visit)
		}
	}
	if len(b.prefixes) == 0 {
		return
	}
	for end := 0; end <= min(len(path), b.deepest); end++ {
		if end == 0 || end == len(path) || path[end] == '/' {
			each(b.prefixes[path[:end]], visit)
		}
	}
}

func each(clauses []*clause, visit func(*clause)) {
	for _, c := range clauses {
		visit(c)
	}
}
