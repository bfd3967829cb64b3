package routing

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// filters are what a rule or a backend changes. They never change themselves.
type filters struct {
	request, response *fieldChanges
	authority         string
	path              *pathChange
	redirect          *redirect
	cors              *cors
	mirrors           []mirror
}

// A mirror is where a share of a rule's requests is sent too.
type mirror struct {
	backend                *backend
	numerator, denominator uint64
}

type fieldChanges struct {
	set, add exchange.Fields
	remove   []string
}

// A pathChange replaces the path, or of it the segments that the rule's prefix matched.
type pathChange struct {
	value    string
	segments int // wholePath, or how many of the path are replaced
}

const wholePath = -1

type redirect struct {
	scheme, hostname string
	port             uint16
	path             *pathChange
	status           int
}

// compileFilters makes the filters of a rule that matches m, or of one of its backends.
func compileFilters(s *snapshot.Filters, m *match) (*filters, error) {
	if s == nil {
		return nil, nil
	}
	f := &filters{request: compileChanges(s.Request), response: compileChanges(s.Response), authority: s.Authority, cors: compileCORS(s.Cors)}
	var err error
	if f.path, err = compilePathChange(s.Path, m); err != nil {
		return nil, err
	}
	if s.Redirect == nil {
		return f, nil
	}
	if s.Redirect.Status < 300 || s.Redirect.Status > 399 {
		return nil, fmt.Errorf("redirect has the status %d", s.Redirect.Status)
	}
	f.redirect = &redirect{
		scheme: s.Redirect.Scheme, hostname: s.Redirect.Hostname, port: uint16(s.Redirect.Port), status: int(s.Redirect.Status),
	}
	f.redirect.path, err = compilePathChange(s.Redirect.Path, m)
	return f, err
}

func compileChanges(s *snapshot.FieldChanges) *fieldChanges {
	if s == nil {
		return nil
	}
	c := &fieldChanges{remove: s.Remove}
	for _, f := range s.Set {
		c.set = append(c.set, exchange.Field{Name: f.Name, Value: f.Value})
	}
	for _, f := range s.Add {
		c.add = append(c.add, exchange.Field{Name: f.Name, Value: f.Value})
	}
	return c
}

func compilePathChange(s *snapshot.PathChange, m *match) (*pathChange, error) {
	if s == nil {
		return nil, nil
	}
	if !s.Prefix {
		return &pathChange{value: s.Value, segments: wholePath}, nil
	}
	if m.path == nil { // the prefix is "/"
		return &pathChange{value: strings.TrimRight(s.Value, "/")}, nil
	}
	if m.path.kind != snapshot.StringMatch_PREFIX {
		return nil, fmt.Errorf("a prefix is replaced by %q, and the rule matches none", s.Value)
	}
	return &pathChange{value: strings.TrimRight(s.Value, "/"), segments: strings.Count(m.path.value, "/")}, nil
}

func (p *pathChange) replacesPrefix() bool { return p != nil && p.segments != wholePath }

// admits reports whether the filters can be applied to a request, and else answers it. Of a path that servers read
// differently a part cannot be replaced: what is left might be another one than the rule means.
func (d *Decision) admits(f *filters, req *exchange.Request) bool {
	replaces := f.path.replacesPrefix() || f.redirect != nil && f.redirect.path.replacesPrefix()
	if !replaces {
		return true
	}
	path, _, _ := strings.Cut(req.Path, "?")
	if plain(path) {
		return true
	}
	d.reading = appendNormal(d.reading[:0], path)
	if !ambiguous(text(d.reading)) {
		return true
	}
	if d.reading = prune(d.reading); !ambiguous(text(d.reading)) {
		return true // only segments that are kept have parameters, for the others are those of the rule
	}
	d.answer(400, exchange.Malformed, "the path can be read in several ways, and the rule replaces a part of it")
	return false
}

// appendTo appends the path and query that a request's become.
func (p *pathChange) appendTo(dst []byte, target string) []byte {
	if p == nil || p.segments != wholePath && !strings.HasPrefix(target, "/") { // "*" of OPTIONS has no segments
		return append(dst, target...)
	}
	path, query := target, ""
	if i := strings.IndexByte(target, '?'); i >= 0 {
		path, query = target[:i], target[i:]
	}
	begin := len(dst)
	dst = append(dst, p.value...)
	if p.segments != wholePath {
		for range p.segments {
			_, path = cutSegment(path)
		}
		dst = append(dst, path...)
	}
	if len(dst) == begin {
		dst = append(dst, '/')
	}
	return append(dst, query...)
}

func (c *fieldChanges) apply(fields *exchange.Fields) {
	if c == nil {
		return
	}
	for _, f := range c.set {
		fields.Set(f.Name, f.Value)
	}
	*fields = append(*fields, c.add...)
	for _, name := range c.remove {
		fields.Del(name)
	}
}

// Rewrites reports whether a filter changes the request.
func (d *Decision) Rewrites() bool {
	return d.rule != nil || d.backend != nil && d.backend.filters != nil
}

// Rewrite changes a request as the filters of its rule and backend say, once, before it is sent. The path belongs
// to the Decision and is valid for as long.
func (d *Decision) Rewrite(req *exchange.Request) {
	d.rewrite(d.rule, req)
	if d.backend != nil {
		d.rewrite(d.backend.filters, req)
	}
}

func (d *Decision) rewrite(f *filters, req *exchange.Request) {
	if f == nil {
		return
	}
	f.request.apply(&req.Fields)
	if f.authority != "" {
		req.Authority = f.authority
	}
	if f.path != nil {
		d.reading = f.path.appendTo(d.reading[:0], req.Path)
		req.Path = text(d.reading)
	}
}

// RewriteResponse changes the final response as the filters of the backend and of the rule say.
func (d *Decision) RewriteResponse(response *exchange.Response) {
	if d.rule != nil && d.rule.cors != nil {
		for _, name := range ofCORS {
			response.Fields.Del(name)
		}
		response.Fields = append(response.Fields, d.Fields...)
	}
	if d.backend != nil && d.backend.filters != nil {
		d.backend.filters.response.apply(&response.Fields)
	}
	if d.rule != nil {
		d.rule.response.apply(&response.Fields)
	}
	d.tell(response)
}

// answered reports whether a filter of the rule answers, so that no backend is asked.
func (d *Decision) answered(f *filters, port uint16, req *exchange.Request) bool {
	if f.cors != nil && d.cross(f.cors, req) {
		return true
	}
	if f.redirect != nil {
		d.redirect(f.redirect, port, req)
	}
	return f.redirect != nil
}

// redirect makes the decision an answer that sends the caller elsewhere (RFC 9110 §10.2.2).
func (d *Decision) redirect(r *redirect, port uint16, req *exchange.Request) {
	d.answer(r.status, exchange.Completed, "")
	scheme, authority := r.scheme, req.Authority
	if scheme == "" {
		scheme = req.Scheme
	}
	if r.hostname != "" || r.port != 0 || r.scheme != "" {
		host := r.hostname
		if host == "" {
			host = req.Host()
		}
		if strings.IndexByte(host, ':') >= 0 {
			host = "[" + host + "]" // an IPv6 address
		}
		authority = host
		if r.port != 0 {
			port = r.port
		} else if r.scheme != "" {
			port = wellKnown(r.scheme)
		}
		if port != wellKnown(scheme) {
			authority = host + ":" + strconv.Itoa(int(port))
		}
	}
	location := r.path.appendTo([]byte(scheme+"://"+authority), req.Path)
	d.say("Location", string(location))
}

func wellKnown(scheme string) uint16 {
	if scheme == "https" {
		return 443
	}
	return 80
}

// Mirrors is how many mirrors the rule of the decision has.
func (d *Decision) Mirrors() int {
	if d.rule == nil {
		return 0
	}
	return len(d.rule.mirrors)
}

// PickMirror decides whether a request that d was decided for goes to the i-th mirror of its rule too. Where it
// does, and the mirror has an instance, out is as of Pick; where that is chosen by hash, of the request as it is by now.
func (d *Decision) PickMirror(i int, call *Call, req *exchange.Request, out *Decision) bool {
	out.reset()
	m := &d.rule.mirrors[i]
	if m.backend.answer != 0 || below(call.Random.Uint64(), m.denominator) >= m.numerator {
		return false
	}
	out.Rule, out.Service, out.backend = d.Rule, m.backend.service, m.backend
	out.Port, _ = snapshot.Port(m.backend.port)
	out.key(call, req)
	out.take(call)
	return out.Instance != nil
}
