package authz

import (
	"slices"
	"strings"

	"cel.dev/cel-go/common/operators"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// An index finds the clauses that a request may match, by who calls and what path is called. It holds each clause once
// for each name and path that the clause asks for.
type index struct {
	services   map[exchange.ServiceName]*bucket
	namespaces map[string]*bucket
	anybody    bucket
	deny       []*clause // all that refuse: of who shows no identity nobody knows who it is not
}

// A bucket has the clauses of one caller by their paths.
type bucket struct {
	exact    map[string][]*clause
	prefixes map[string][]*clause // without the last slash
	deepest  int                  // of prefixes, in bytes
	headed   []*headed
	texts    []*texts             // of those that are not by header either
	guarded  []guarded            // of those that are not by a text either
	methods  map[string][]*clause // of those that are not by a condition either
	pathless []*clause            // of those that are not by a method either
}

// headed are the clauses that ask for no path, and for a header, by what its value is to be.
type headed struct {
	header       *header // any of those with the name; all are loose, or none is
	exact        map[string][]*clause
	starts, ends affixes
	any          []*clause
}

// affixes have clauses by what values begin with, or end in.
type affixes struct {
	clauses map[string][]*clause
	lengths []int // that there are
}

// texts are the clauses that ask for no path and no header, and in a condition for a text, which a variable is or has.
type texts struct {
	of      *plain // any of the conditions: they differ by their texts alone
	clauses map[string][]*clause
	deny    []*clause // of these those that refuse: for them a variable of which nothing is known has every text
}

// guarded are the clauses that ask for no path and no header, and for one condition first.
type guarded struct {
	when    *when
	deny    bool
	clauses []*clause
}

func (x *index) add(c clause) {
	if c.deny {
		x.deny = append(x.deny, &c)
	}
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
		switch {
		case c.more != nil && len(c.more.headers) > 0:
			b.addHeaded(c)
		case c.more != nil && b.addText(c):
		case c.more != nil && len(c.more.when) > 0:
			b.addGuarded(c)
		case len(c.methods) > 0:
			if b.methods == nil {
				b.methods = map[string][]*clause{}
			}
			for _, m := range c.methods {
				b.methods[m] = append(b.methods[m], c)
			}
		default:
			b.pathless = append(b.pathless, c)
		}
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

// addHeaded adds a clause by one of the headers that it asks for: one with a whole value, if there is any.
func (b *bucket) addHeaded(c *clause) {
	h := &c.more.headers[0]
	for i := range c.more.headers {
		if c.more.headers[i].kind == snapshot.AuthorizationHeader_EXACT {
			h = &c.more.headers[i]
			break
		}
	}
	at := slices.IndexFunc(b.headed, func(of *headed) bool { return of.header.at == h.at && of.header.loose == h.loose })
	if at < 0 {
		at = len(b.headed)
		b.headed = append(b.headed, &headed{header: h, exact: map[string][]*clause{}})
	}
	switch of := b.headed[at]; h.kind {
	case snapshot.AuthorizationHeader_EXACT:
		of.exact[h.value] = append(of.exact[h.value], c)
	case snapshot.AuthorizationHeader_PREFIX:
		of.starts.add(h.value, c)
	case snapshot.AuthorizationHeader_SUFFIX:
		of.ends.add(h.value, c)
	default:
		of.any = append(of.any, c)
	}
}

func (a *affixes) add(value string, c *clause) {
	if a.clauses == nil {
		a.clauses = map[string][]*clause{}
	}
	a.clauses[value] = append(a.clauses[value], c)
	if !slices.Contains(a.lengths, len(value)) {
		a.lengths = append(a.lengths, len(value))
	}
}

// addText adds a clause by a text that one of its conditions asks for, and reports whether one does.
func (b *bucket) addText(c *clause) bool {
	for _, w := range c.more.when {
		p := w.plain.wanted()
		if p == nil {
			continue
		}
		at := slices.IndexFunc(b.texts, func(t *texts) bool { return t.of.op == p.op && t.of.of == p.of && slices.Equal(t.of.names, p.names) })
		if at < 0 {
			at = len(b.texts)
			b.texts = append(b.texts, &texts{of: p, clauses: map[string][]*clause{}})
		}
		t := b.texts[at]
		if t.clauses[p.text] = append(t.clauses[p.text], c); c.deny {
			t.deny = append(t.deny, c)
		}
		return true
	}
	return false
}

func (b *bucket) addGuarded(c *clause) {
	w := c.more.when[0]
	at := slices.IndexFunc(b.guarded, func(of guarded) bool { return of.when == w && of.deny == c.deny })
	if at < 0 {
		at = len(b.guarded)
		b.guarded = append(b.guarded, guarded{when: w, deny: c.deny})
	}
	b.guarded[at].clauses = append(b.guarded[at].clauses, c)
}

// find visits each clause that may be for a request with the header. Of loose ones every reading counts: any field of the
// name, whole or an item of a list.
func (h *headed) find(q *Request, first string, visit func(*clause)) {
	each(h.any, visit)
	if !h.header.loose {
		h.look(first, visit)
		return
	}
	for i := range q.Fields {
		if !grammar.SameName(q.Fields[i].Name, h.header.name) {
			continue
		}
		value := q.Fields[i].Value
		h.look(value, visit)
		if strings.IndexByte(value, ',') < 0 {
			continue
		}
		for more := true; more; {
			var item string
			item, value, more = strings.Cut(value, ",")
			h.look(strings.Trim(item, " \t"), visit)
		}
	}
}

// look visits the clauses of one value.
func (h *headed) look(value string, visit func(*clause)) {
	if len(h.exact) > 0 {
		each(h.exact[value], visit)
	}
	for _, n := range h.starts.lengths {
		if n <= len(value) {
			each(h.starts.clauses[value[:n]], visit)
		}
	}
	for _, n := range h.ends.lengths {
		if n <= len(value) {
			each(h.ends.clauses[value[len(value)-n:]], visit)
		}
	}
}

// find visits each clause that may be for a request, of which path is the normal form.
func (t *texts) find(q *Request, path string, visit func(*clause)) {
	told := false
	if t.of.op == operators.Equals {
		text, is := t.of.value(q, path)
		if told = is != untold; is == isTrue {
			each(t.clauses[text], visit)
		}
	} else {
		told = t.of.texts(q, func(text string) { each(t.clauses[text], visit) })
	}
	if !told {
		each(t.deny, visit)
	}
}

// find visits each clause that may be for a request, some twice.
func (x *index) find(q *Request, path string, seen *heads, visit func(*clause)) {
	if q.Plaintext {
		each(x.deny, visit)
		x.anybody.find(q, path, seen, visit)
		return
	}
	if b := x.services[q.Caller]; b != nil {
		b.find(q, path, seen, visit)
	}
	if b := x.namespaces[q.Caller.Namespace]; b != nil {
		b.find(q, path, seen, visit)
	}
	x.anybody.find(q, path, seen, visit)
}

func (b *bucket) find(q *Request, path string, seen *heads, visit func(*clause)) {
	each(b.pathless, visit)
	for _, t := range b.texts {
		t.find(q, path, visit)
	}
	for i := range b.guarded {
		g := &b.guarded[i]
		for _, c := range g.clauses { // the first of which nothing else rules out evaluates the condition
			if seen.ruledOut(g.when, g.deny) {
				break
			}
			visit(c)
		}
	}
	if q.TCP { // for which no method or path rules anything out, and no header that who refuses asks for
		for _, by := range []map[string][]*clause{b.methods, b.exact, b.prefixes} {
			for _, all := range by {
				each(all, visit)
			}
		}
		for _, h := range b.headed {
			h.all(visit)
		}
		return
	}
	if len(b.methods) > 0 {
		each(b.methods[q.Method], visit)
	}
	for _, h := range b.headed {
		var room field
		if f := seen.find(q, h.header, &room); f.count > 0 {
			h.find(q, f.value, visit)
		}
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

// all visits every clause of who refuses.
func (h *headed) all(visit func(*clause)) {
	if !h.header.loose {
		return
	}
	each(h.any, visit)
	for _, of := range []map[string][]*clause{h.exact, h.starts.clauses, h.ends.clauses} {
		for _, clauses := range of {
			each(clauses, visit)
		}
	}
}

func each(clauses []*clause, visit func(*clause)) {
	for _, c := range clauses {
		visit(c)
	}
}
