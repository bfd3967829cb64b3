package authn

import (
	"net/url"
	"slices"
	"strings"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A source is where a token may stand in a request.
type source struct {
	kind   snapshot.TokenSource_Kind
	name   string
	prefix string // of a header, in lower case
}

// find is the token of a request, and where it stands; empty: there is none. With two nobody knows which one the service
// would take, and RFC 6750 §2 forbids it.
func (p *Policy) find(req *exchange.Request) (token string, at *source, refusal *Refusal) {
	for i := range p.sources {
		s := &p.sources[i]
		found, n, well := s.look(req)
		if !well {
			return "", nil, overlong
		}
		if n > 1 || found != "" && token != "" {
			return "", nil, several
		}
		if found != "" {
			token, at = found, s
		}
	}
	return token, at, nil
}

// look finds what stands in one place, and how often something does. It reports false where that cannot be read.
func (s *source) look(req *exchange.Request) (token string, n int, well bool) {
	switch s.kind {
	case snapshot.TokenSource_HEADER:
		for i := range req.Fields {
			if f := &req.Fields[i]; exchange.EqualName(f.Name, s.name) {
				n++
				if len(f.Value) > len(s.prefix) && strings.EqualFold(f.Value[:len(s.prefix)], s.prefix) {
					token = strings.Trim(f.Value[len(s.prefix):], " \t")
				}
			}
		}
	case snapshot.TokenSource_COOKIE:
		cookies(req, func(_ *exchange.Field, _, name, value string) {
			if name == s.name {
				token = value
				n++
			}
		})
	case snapshot.TokenSource_QUERY:
		_, query, _ := strings.Cut(req.Path, "?")
		for query != "" {
			var pair string
			pair, query, _ = strings.Cut(query, "&")
			name, value, _ := strings.Cut(pair, "=")
			name, err := url.QueryUnescape(name)
			if err != nil || name != s.name {
				continue
			}
			if token, err = url.QueryUnescape(value); err != nil {
				return "", 0, false
			}
			n++
		}
	}
	return token, n, true
}

// cookies calls visit with each cookie of a request, as it stands in a field and as what it is.
func cookies(req *exchange.Request, visit func(f *exchange.Field, pair, name, value string)) {
	for i := range req.Fields {
		f := &req.Fields[i]
		if !exchange.EqualName(f.Name, "cookie") {
			continue
		}
		for rest := f.Value; rest != ""; {
			var pair string
			pair, rest, _ = strings.Cut(rest, ";")
			pair = strings.Trim(pair, " \t")
			name, value, _ := strings.Cut(pair, "=")
			visit(f, pair, strings.Trim(name, " \t"), strings.Trim(value, " \t"))
		}
	}
}

// remove takes the token away from where it stands.
func (s *source) remove(req *exchange.Request) {
	switch s.kind {
	case snapshot.TokenSource_HEADER:
		req.Fields.Del(s.name)
	case snapshot.TokenSource_COOKIE:
		RemoveCookies(req, func(name string) bool { return name == s.name })
	case snapshot.TokenSource_QUERY:
		path, query, asks := strings.Cut(req.Path, "?")
		if !asks {
			return
		}
		var kept []string
		for _, pair := range strings.Split(query, "&") {
			name, _, _ := strings.Cut(pair, "=")
			if name, err := url.QueryUnescape(name); err != nil || name != s.name {
				kept = append(kept, pair)
			}
		}
		if req.Path = path; len(kept) > 0 {
			req.Path += "?" + strings.Join(kept, "&")
		}
	}
}

// Cookies calls visit with each cookie of a request, in order.
func Cookies(req *exchange.Request, visit func(name, value string)) {
	cookies(req, func(_ *exchange.Field, _, name, value string) { visit(name, value) })
}

// hide takes tokens out of the query of a request that is refused, which is written down.
func (p *Policy) hide(req *exchange.Request) {
	for i := range p.sources {
		if s := &p.sources[i]; s.kind == snapshot.TokenSource_QUERY {
			s.remove(req)
		}
	}
}

// RemoveCookies removes those of a request whose names are wanted so.
func RemoveCookies(req *exchange.Request, wanted func(name string) bool) {
	kept := map[*exchange.Field]string{}
	cookies(req, func(f *exchange.Field, pair, name, _ string) {
		if before := kept[f]; wanted(name) {
			kept[f] = before
		} else if before == "" {
			kept[f] = pair
		} else {
			kept[f] = before + "; " + pair
		}
	})
	for f, value := range kept {
		f.Value = value
	}
	req.Fields = slices.DeleteFunc(req.Fields, func(f exchange.Field) bool { return f.Value == "" && exchange.EqualName(f.Name, "cookie") })
}

// silence removes the fields that tell claims: whoever sent them knew nothing. Names are compared as the loosest reader does.
func (p *Policy) silence(fields *exchange.Fields) {
	if len(p.body.Headers) == 0 {
		return
	}
	kept := (*fields)[:0]
	for _, f := range *fields {
		if !p.tells(f.Name) {
			kept = append(kept, f)
		}
	}
	*fields = kept
}

// Tells reports whether a field tells the service a claim, so that nobody else may send it.
func (p *Policy) Tells(name string) bool { return p != nil && p.tells(name) }

func (p *Policy) tells(name string) bool {
	for _, h := range p.body.Headers {
		if grammar.SameName(h.Name, name) {
			return true
		}
	}
	return false
}

// tell makes the fields that tell claims. A claim that a field cannot hold as it is, in one way, is not told.
func (p *Policy) tell(u *User) (fields exchange.Fields) {
	for _, h := range p.body.Headers {
		v, _ := u.Claim(h.Claim...)
		if text, can := v.field(); can {
			fields = append(fields, exchange.Field{Name: h.Name, Value: text})
		}
	}
	return fields
}

// field is a value as a field has it: a text, or those of a list with commas between.
func (v Value) field() (string, bool) {
	switch v.kind {
	case Bool, Number, String:
		return v.text, v.text != "" && grammar.All(v.text, grammar.Value) && strings.Trim(v.text, " \t") == v.text
	case List:
		texts := make([]string, 0, len(v.items))
		for _, item := range v.items {
			text, can := item.field()
			if item.kind == List || !can || strings.Contains(text, ",") {
				return "", false
			}
			texts = append(texts, text)
		}
		return strings.Join(texts, ","), len(texts) > 0
	}
	return "", false
}
