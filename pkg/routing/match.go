package routing

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A match is what a rule asks of a request. The zero match takes everything.
type match struct {
	path    *matcher // nil: every path
	method  string   // empty: every method
	headers []fieldMatcher
	query   []fieldMatcher
}

// A matcher compares one string, whole: with a value, or with a regular expression of RE2.
type matcher struct {
	kind   snapshot.StringMatch_Kind
	value  string
	regexp *regexp.Regexp
}

type fieldMatcher struct {
	name string
	matcher
}

func compileMatch(s *snapshot.Match) (match, error) {
	var m match
	if s == nil {
		return m, nil
	}
	m.method = s.Method
	if s.Path != nil {
		path, err := compileMatcher(s.Path)
		if err != nil {
			return m, fmt.Errorf("path: %w", err)
		}
		if path.kind != snapshot.StringMatch_REGEX {
			path.value = string(appendNormal(nil, path.value))
		}
		if path.kind == snapshot.StringMatch_PREFIX {
			path.value = strings.TrimRight(path.value, "/")
			if path.value != "" && path.value[0] != '/' {
				return m, fmt.Errorf("path: prefix %q does not begin with /", s.Path.Value)
			}
		}
		if path.kind != snapshot.StringMatch_PREFIX || path.value != "" {
			m.path = &path
		}
	}
	var err error
	if m.headers, err = compileFields(s.Headers); err != nil {
		return m, fmt.Errorf("header %w", err)
	}
	if m.query, err = compileFields(s.Query); err != nil {
		return m, fmt.Errorf("query parameter %w", err)
	}
	return m, nil
}

func compileFields(sources []*snapshot.FieldMatch) ([]fieldMatcher, error) {
	var fields []fieldMatcher
	for _, s := range sources {
		m, err := compileMatcher(s.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
		fields = append(fields, fieldMatcher{s.Name, m})
	}
	return fields, nil
}

func compileMatcher(s *snapshot.StringMatch) (matcher, error) {
	m := matcher{kind: s.GetKind(), value: s.GetValue()}
	switch m.kind {
	case snapshot.StringMatch_EXACT, snapshot.StringMatch_PREFIX:
		return m, nil
	case snapshot.StringMatch_REGEX:
		if _, err := regexp.Compile(m.value); err != nil { // alone, so that "a)|(b" is no expression
			return m, err
		}
		var err error
		m.regexp, err = regexp.Compile(`\A(?:` + m.value + `)\z`)
		return m, err
	}
	return m, fmt.Errorf("kind of match %v is not known", m.kind)
}

func (m *matcher) matches(s string) bool {
	if m.regexp != nil {
		return m.regexp.MatchString(s)
	}
	return s == m.value
}

// rest reports whether a request whose path matches has the rest as well.
func (m *match) rest(req *exchange.Request, d *Decision) bool {
	if req == nil {
		return m.method == "" && len(m.headers) == 0 && len(m.query) == 0
	}
	if m.method != req.Method && (m.method != "" || req.Method == "CONNECT") {
		return false // a tunnel is for rules that name it: what passes through it passes by all others
	}
	for i := range m.headers {
		if !m.headers[i].matchesHeader(req, d) {
			return false
		}
	}
	if len(m.query) > 0 {
		_, query, _ := strings.Cut(req.Path, "?")
		for i := range m.query {
			if !m.query[i].matchesQuery(query, d) {
				return false
			}
		}
	}
	return true
}

// matchesHeader compares the value of a field; of one that came several times, all values joined by ", "
// (RFC 9110 §5.3). Host is the authority, of which case does not matter.
func (m *fieldMatcher) matchesHeader(req *exchange.Request, d *Decision) bool {
	if exchange.EqualName(m.name, "host") {
		if m.regexp == nil {
			return strings.EqualFold(req.Authority, m.value)
		}
		return req.Authority != "" && m.matches(req.Authority)
	}
	first, found := 0, 0
	for i := range req.Fields {
		if exchange.EqualName(req.Fields[i].Name, m.name) {
			if found == 0 {
				first = i
			}
			found++
		}
	}
	switch found {
	case 0:
		return false
	case 1:
		return m.matches(req.Fields[first].Value)
	}
	d.value = append(d.value[:0], req.Fields[first].Value...)
	for _, f := range req.Fields[first+1:] {
		if exchange.EqualName(f.Name, m.name) {
			d.value = append(append(d.value, ", "...), f.Value...)
		}
	}
	return m.matches(text(d.value))
}

// matchesQuery compares the first parameter of that name. Names and values are decoded as forms are: "+"
// is a space, and "%" with two hexadecimal digits a byte; any other "%" stands for itself.
func (m *fieldMatcher) matchesQuery(query string, d *Decision) bool {
	for query != "" {
		var parameter string
		parameter, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(parameter, "=")
		if parameter == "" || !formEqual(name, m.name) {
			continue
		}
		if m.regexp == nil {
			return formEqual(value, m.value)
		}
		if !strings.ContainsAny(value, "%+") {
			return m.matches(value)
		}
		d.value = d.value[:0]
		for value != "" {
			var c byte
			c, value = formByte(value)
			d.value = append(d.value, c)
		}
		return m.matches(text(d.value))
	}
	return false
}

// formEqual compares an encoded name or value with a plain one.
func formEqual(encoded, plain string) bool {
	for encoded != "" {
		var c byte
		c, encoded = formByte(encoded)
		if plain == "" || plain[0] != c {
			return false
		}
		plain = plain[1:]
	}
	return plain == ""
}

// formByte cuts the first byte off what an encoded string means.
func formByte(encoded string) (c byte, rest string) {
	switch encoded[0] {
	case '+':
		return ' ', encoded[1:]
	case '%':
		if c, ok := hexByte(encoded); ok {
			return c, encoded[3:]
		}
	}
	return encoded[0], encoded[1:]
}
