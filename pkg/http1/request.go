package http1

import (
	"strings"
	"unsafe"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// parseRequest reads a whole request head into r and c, which are empty. scheme is that of the connection.
func parseRequest(section []byte, scheme string, limits Limits, r *exchange.Request, c *control) error {
	s := unsafe.String(unsafe.SliceData(section), len(section))
	end := strings.IndexByte(s, '\n')
	line := s[:end-1]
	method, rest, ok := strings.Cut(line, " ")
	if !ok || !grammar.IsToken(method) {
		return malformed("the request line does not begin with a method and one space (RFC 9112 §3)")
	}
	target, version, ok := strings.Cut(rest, " ")
	if !ok {
		return malformed("the request line has no version (RFC 9112 §3)")
	}
	switch version {
	case "HTTP/1.1":
	case "HTTP/1.0":
		c.http10 = true
	default:
		return malformed("a version other than HTTP/1.0 and HTTP/1.1 (RFC 9112 §2.3)")
	}
	if err := parseFields(section[end+1:], limits.Fields, &r.Fields, c); err != nil {
		return err
	}
	if !c.hasHost && !c.http10 {
		return malformed("no Host (RFC 9112 §3.2)")
	}
	if c.hasHost && !grammar.IsAuthority(c.host) {
		return malformed("a Host that names none (RFC 9112 §3.2)")
	}
	r.Method, r.Scheme, r.Authority = method, scheme, c.host
	if err := parseTarget(target, r, c); err != nil {
		return err
	}
	switch {
	case c.chunked:
		r.BodyLength = exchange.LengthUnknown
	case c.hasLength:
		r.BodyLength = c.length
	}
	if method == "CONNECT" && (c.chunked || c.hasLength) {
		return malformed("CONNECT with a body (RFC 9110 §9.3.6)")
	}
	if !c.http10 { // a 1.0 client's Upgrade and Expect are ignored (RFC 9110 §7.8, §10.1.1)
		r.Upgrade = c.upgrade
		r.ExpectContinue = c.expect && r.BodyLength != 0
	}
	return nil
}

// parseTarget reads the four forms of a request target (RFC 9112 §3.2) into Path and Authority.
func parseTarget(target string, r *exchange.Request, c *control) error {
	switch {
	case r.Method == "CONNECT":
		if colon := strings.LastIndexByte(target, ':'); colon < 0 || target[colon:] == ":" || !grammar.IsAuthority(target) || strings.HasSuffix(target, "]") {
			return malformed("the target of CONNECT is no host and port (RFC 9112 §3.2.3)")
		}
		return agree(r, target, c)
	case target == "*":
		if r.Method != "OPTIONS" {
			return malformed(`the target "*" is for OPTIONS only (RFC 9112 §3.2.4)`)
		}
		r.Path = target
		return nil
	case strings.HasPrefix(target, "/"):
		r.Path = target
	default:
		scheme, rest, ok := strings.Cut(target, "://")
		if !ok || !grammar.IsName(scheme, r.Scheme) {
			return malformed("the target is neither a path nor a URI of the connection's scheme (RFC 9112 §3.2)")
		}
		end := strings.IndexAny(rest, "/?")
		if end < 0 {
			end = len(rest)
		}
		if err := agree(r, rest[:end], c); err != nil {
			return err
		}
		r.Path = rest[end:]
		if r.Path == "" && r.Method == "OPTIONS" {
			r.Path = "*" // RFC 9112 §3.2.4
			return nil
		}
		if !strings.HasPrefix(r.Path, "/") {
			r.Path = "/" + r.Path // allocates for "http://host?query", which nobody sends
		}
	}
	if !grammar.IsPath(r.Path) {
		return malformed("a character in the target that no path or query has (RFC 9112 §3.2.1)")
	}
	return nil
}

// agree takes the authority of the target, which wins over Host (RFC 9112 §3.2.2). Because not every reader knows
// that, a Host that says something else is refused.
func agree(r *exchange.Request, authority string, c *control) error {
	if !grammar.IsAuthority(authority) {
		return malformed("the target's authority names no host (RFC 9112 §3.2)")
	}
	if c.hasHost && !exchange.EqualName(authority, c.host) {
		return malformed("the target's authority and Host differ (RFC 9112 §3.2.2)")
	}
	r.Authority = authority
	return nil
}
