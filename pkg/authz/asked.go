package authz

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// asked is what a clause asks for beside service, namespace, method, path and port. What is not known of a caller or a
// request counts against it: a clause that denies takes it for what it asks for, and one that allows does not.
type asked struct {
	frame               *frame // nil: nothing of it
	headers, notHeaders []header
	when                []*when
}

// A frame is what many clauses ask for alike. Each is looked at once for a request, however many clauses have it.
type frame struct {
	at                            int // of the policies' frames
	deny                          bool
	trustDomains, notTrustDomains []string
	nodes, notNodes               []string
	hosts, notHosts               []host
}

func (a *asked) matches(q *Request, deny bool, seen *heads) bool {
	if a.frame != nil && !seen.within(a.frame, q) {
		return false
	}
	if q.TCP && !deny && len(a.headers)+len(a.notHeaders) > 0 || !q.TCP && !a.headed(q, seen) {
		return false
	}
	for _, w := range a.when {
		if !seen.holds(w, q, deny) {
			return false
		}
	}
	return true
}

func (a *asked) headed(q *Request, seen *heads) bool {
	for i := range a.headers {
		if !a.headers[i].matches(q, seen) {
			return false
		}
	}
	for i := range a.notHeaders {
		if a.notHeaders[i].matches(q, seen) {
			return false
		}
	}
	return true
}

func (f *frame) matches(q *Request) bool {
	if !oneOf(q.TrustDomain, f.trustDomains, f.notTrustDomains, f.deny) || !oneOf(q.Node, f.nodes, f.notNodes, f.deny) {
		return false
	}
	if len(f.hosts)+len(f.notHosts) == 0 {
		return true
	}
	name := bareHost(q) // "" of a connection, too
	if name == "" {
		return f.deny
	}
	return (len(f.hosts) == 0 || anyHost(f.hosts, name)) && !anyHost(f.notHosts, name)
}

// oneOf reports whether a value is in one list, where that is not empty, and not in the other.
func oneOf(value string, in, notIn []string, deny bool) bool {
	if len(in)+len(notIn) == 0 {
		return true
	}
	if value == "" {
		return deny
	}
	return (len(in) == 0 || slices.Contains(in, value)) && !slices.Contains(notIn, value)
}

// A host is a name, or all names below one.
type host struct {
	name  string // "example.com"; of those below, ".example.com"
	below bool
}

func anyHost(hosts []host, name string) bool {
	for i := range hosts {
		h := &hosts[i]
		if h.below && len(name) > len(h.name) && strings.EqualFold(name[len(name)-len(h.name):], h.name) || !h.below && strings.EqualFold(name, h.name) {
			return true
		}
	}
	return false
}

// bareHost is the host of a request without its port, and without the dot that ends a name of DNS: servers
// take them for the same. It is empty, as what is not known, where more dots are at the end: some take these away too.
func bareHost(q *Request) string {
	host := strings.TrimSuffix((&exchange.Request{Authority: q.Host}).Host(), ".")
	if strings.HasSuffix(host, ".") {
		return ""
	}
	return host
}

// A header is about one field of a request's head. Strict ones are for who asks so that something is let in: there is
// exactly one field of the name, with this value. Loose ones are for who asks so that something is refused, and are true
// where any reader could take any of the fields for it: some read the first, some the last, some put all together with
// commas, and some take "_" and "." for "-" (grammar.SameName).
type header struct {
	name  string // in lower case
	at    int    // of the policies' names of headers
	kind  snapshot.AuthorizationHeader_Kind
	value string
	loose bool
}

func (h *header) matches(q *Request, seen *heads) bool {
	var room field
	of := seen.find(q, h, &room)
	if h.loose {
		if of.count == 0 {
			return false
		}
		for i := range q.Fields {
			if grammar.SameName(q.Fields[i].Name, h.name) && h.anyOf(q.Fields[i].Value) {
				return true
			}
		}
		return false
	}
	return of.count == 1 && !of.odd && h.is(of.value)
}

func (h *header) is(value string) bool {
	switch h.kind {
	case snapshot.AuthorizationHeader_EXACT:
		return value == h.value
	case snapshot.AuthorizationHeader_PREFIX:
		return strings.HasPrefix(value, h.value)
	case snapshot.AuthorizationHeader_SUFFIX:
		return strings.HasSuffix(value, h.value)
	}
	return true
}

// anyOf reports whether a value, or an item of the list that it may be, is the one.
func (h *header) anyOf(value string) bool {
	if h.is(value) {
		return true
	}
	for more := true; more; {
		var item string
		item, value, more = strings.Cut(value, ",")
		if h.is(strings.Trim(item, " \t")) {
			return true
		}
	}
	return false
}

// heads is what was found out about one request: each name of a field is looked for once, however many clauses ask.
type heads struct {
	path   string // the request's, in normal form
	found  [maxHeads]field
	frames [maxFrames]verdictOf
	whens  [maxWhens]outcome
}

// verdictOf is what is known of a frame.
type verdictOf uint8

const (
	notLookedAt verdictOf = iota
	matched
	missed
)

// maxFrames is how many frames are looked at once; others each time that a clause asks.
const maxFrames = 32

func (s *heads) within(f *frame, q *Request) bool {
	if f.at >= maxFrames {
		return f.matches(q)
	}
	if s.frames[f.at] == notLookedAt {
		s.frames[f.at] = missed
		if f.matches(q) {
			s.frames[f.at] = matched
		}
	}
	return s.frames[f.at] == matched
}

// maxHeads is how many names of headers are looked for once; others each time that a clause asks.
const maxHeads = 8

type field struct {
	known bool
	odd   bool // one is spelt so that only some readers take it for the name
	count int
	value string // of the first
}

// find returns what is known of a header; room is for those beyond maxHeads.
func (s *heads) find(q *Request, h *header, room *field) *field {
	f := room
	if h.at < maxHeads {
		if f = &s.found[h.at]; f.known {
			return f
		}
	}
	*f = field{}
	f.read(q, h.name)
	return f
}

// read finds out about a header; name is in lower case.
func (f *field) read(q *Request, name string) {
	f.known = true
	for i := range q.Fields {
		if !grammar.SameName(q.Fields[i].Name, name) {
			continue
		}
		if f.count++; f.count == 1 {
			f.value = q.Fields[i].Value
		}
		f.odd = f.odd || !exchange.EqualName(q.Fields[i].Name, name)
	}
}

// askedOf reads what a source and an operation ask for; nil: nothing more than every clause has.
func (r *Rules) askedOf(f *snapshot.AuthorizationSource, t *snapshot.AuthorizationOperation, conditions []string, deny bool) (*asked, error) {
	a := &asked{frame: r.frameOf(f, t, deny)}
	var err error
	if a.when, err = r.whenOf(conditions); err != nil {
		return nil, err
	}
	if a.headers, err = r.headersOf(t.Headers, deny); err != nil {
		return nil, err
	}
	if a.notHeaders, err = r.headersOf(t.NotHeaders, !deny); err != nil {
		return nil, err
	}
	if a.frame == nil && len(a.headers)+len(a.notHeaders)+len(a.when) == 0 {
		return nil, nil
	}
	return a, nil
}

func (r *Rules) frameOf(f *snapshot.AuthorizationSource, t *snapshot.AuthorizationOperation, deny bool) *frame {
	lists := [][]string{f.TrustDomains, f.NotTrustDomains, f.Nodes, f.NotNodes, t.Hosts, t.NotHosts}
	if !slices.ContainsFunc(lists, func(l []string) bool { return len(l) > 0 }) {
		return nil
	}
	key := fmt.Sprintf("%t%q", deny, lists)
	if known := r.frames[key]; known != nil {
		return known
	}
	made := &frame{
		at: len(r.frames), deny: deny,
		trustDomains: f.TrustDomains, notTrustDomains: f.NotTrustDomains, nodes: f.Nodes, notNodes: f.NotNodes,
		hosts: hostsOf(t.Hosts), notHosts: hostsOf(t.NotHosts),
	}
	if r.frames == nil {
		r.frames = map[string]*frame{}
	}
	r.frames[key] = made
	return made
}

func hostsOf(names []string) []host {
	var all []host
	for _, name := range names {
		rest, below := strings.CutPrefix(name, "*")
		all = append(all, host{rest, below})
	}
	return all
}

func (r *Rules) headersOf(sources []*snapshot.AuthorizationHeader, loose bool) ([]header, error) {
	var all []header
	for _, s := range sources {
		if _, known := snapshot.AuthorizationHeader_Kind_name[int32(s.Kind)]; !known || s.Name == "" {
			return nil, fmt.Errorf("header %q is compared in a way that is unknown here", s.Name)
		}
		name := strings.ToLower(s.Name)
		at := slices.Index(r.names, name)
		if at < 0 {
			at = len(r.names)
			r.names = append(r.names, name)
		}
		all = append(all, header{name, at, s.Kind, s.Value, loose})
	}
	return all, nil
}
