package http2

import (
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// kind is what a block of fields is.
type kind uint8

const (
	unwanted kind = iota // of a stream that is gone: decoded, because the tables must stay the same at both ends
	ofRequest
	ofResponse
	ofTrailers
)

// Pseudo-header fields, a bit each.
const (
	pseudoMethod = 1 << iota
	pseudoScheme
	pseudoAuthority
	pseudoPath
	pseudoStatus
	pseudoProtocol // of an extended CONNECT (RFC 8441 §4)
)

// A decoder reads blocks of fields, one after the other. The strings that it hands out are the HPACK decoder's and
// never change. It is for the goroutine that reads.
type decoder struct {
	hpack  *hpack.Decoder
	limits Limits

	kind      kind
	size      int   // as RFC 9113 §6.5.2 counts
	encoded   int   // bytes of the block's fragments
	fragments int   // HEADERS and CONTINUATION
	err       error // the first fault
	fields    exchange.Fields
	seen      uint8 // pseudo-header fields
	regular   bool  // a field that is none was seen

	method, scheme, authority, path, status, protocol string

	host      string
	hasHost   bool
	length    int64
	hasLength bool
	expect    bool
	cookies   int
}

const (
	// hpackTable is the size of HPACK's tables, of both directions, in bytes.
	hpackTable = 4096
	// mostFragments is how many frames a block of fields may come in. The largest that is allowed fits six.
	mostFragments = 16
)

func (d *decoder) init(limits Limits) {
	d.limits = limits
	d.hpack = hpack.NewDecoder(hpackTable, d.field)
	d.hpack.SetMaxStringLength(2 * limits.Head)
}

func (d *decoder) begin(k kind) {
	*d = decoder{hpack: d.hpack, limits: d.limits, kind: k, fields: d.fields[:0]}
	d.hpack.SetEmitEnabled(k != unwanted)
}

// fragment reads a piece of the block. An error ends the connection: what comes next could not be understood, or this
// block is larger than anybody means it to be (CVE-2024-27316).
func (d *decoder) fragment(p []byte) error {
	d.encoded += len(p)
	d.fragments++
	if d.encoded > 2*d.limits.Head || d.fragments > mostFragments {
		return &connError{codeCalm, "a block of fields that does not end"}
	}
	if _, err := d.hpack.Write(p); err != nil {
		return &connError{codeCompression, err.Error()}
	}
	return nil
}

// end ends the block.
func (d *decoder) end() error {
	if err := d.hpack.Close(); err != nil {
		return &connError{codeCompression, err.Error()}
	}
	return nil
}

// fault notes why the block is refused. What follows is decoded, as far as the tables need it, and dropped.
func (d *decoder) fault(err error) {
	d.err = err
	d.hpack.SetEmitEnabled(false)
}

// field takes one field; it is the HPACK decoder's emit function.
func (d *decoder) field(f hpack.HeaderField) {
	if d.err != nil {
		return
	}
	if d.size += len(f.Name) + len(f.Value) + 32; d.size > d.limits.Head {
		d.fault(tooLarge("a head"))
		return
	}
	if !grammar.All(f.Value, grammar.Value) || f.Value != "" && (isBlank(f.Value[0]) || isBlank(f.Value[len(f.Value)-1])) {
		d.fault(malformed("a control character in a field's value, or a blank at its end (RFC 9113 §8.2.1)"))
		return
	}
	var err error
	if f.IsPseudo() {
		err = d.pseudo(f.Name, f.Value)
	} else {
		d.regular = true
		err = d.ordinary(f.Name, f.Value)
	}
	if err != nil {
		d.fault(err)
	}
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

func (d *decoder) pseudo(name, value string) error {
	var bit uint8
	var to *string
	switch name {
	case ":method":
		bit, to = pseudoMethod, &d.method
	case ":scheme":
		bit, to = pseudoScheme, &d.scheme
	case ":authority":
		bit, to = pseudoAuthority, &d.authority
	case ":path":
		bit, to = pseudoPath, &d.path
	case ":status":
		bit, to = pseudoStatus, &d.status
	case ":protocol":
		bit, to = pseudoProtocol, &d.protocol
	}
	switch {
	case bit == 0:
		return malformed("a pseudo-header field that is not known (RFC 9113 §8.3)")
	case d.kind == ofTrailers, (bit == pseudoStatus) != (d.kind == ofResponse):
		return malformed("a pseudo-header field where it has no place (RFC 9113 §8.3)")
	case d.regular:
		return malformed("a pseudo-header field behind others (RFC 9113 §8.3)")
	case d.seen&bit != 0:
		return malformed("a pseudo-header field twice (RFC 9113 §8.3)")
	}
	d.seen |= bit
	*to = value
	return nil
}

func (d *decoder) ordinary(name, value string) error {
	if name == "" {
		return malformed("a field without a name (RFC 9113 §8.2.1)")
	}
	for i := range len(name) {
		if c := name[i]; !grammar.Is(c, grammar.Token) || c >= 'A' && c <= 'Z' {
			return malformed("a field's name that is no token in lower case (RFC 9113 §8.2.1)")
		}
	}
	switch meaningOf(name) {
	case ofConnection:
		return malformed("a field of HTTP/1.1's connections (RFC 9113 §8.2.2)")
	case teField:
		if value != "trailers" {
			return malformed("a TE other than trailers (RFC 9113 §8.2.2)")
		}
		return nil // trailers are always passed on; ClientConn says so itself
	case framing:
		if d.kind == ofTrailers {
			return malformed("a trailer field that belongs into a head (RFC 9110 §6.5.1)")
		}
		return d.note(name, value)
	case cookieField:
		d.cookies++
	case endToEnd:
	}
	if len(d.fields) == d.limits.Fields {
		return tooLarge("more field lines than allowed")
	}
	d.fields = append(d.fields, exchange.Field{Name: name, Value: value})
	return nil
}

// note takes what is not handed on as a field.
func (d *decoder) note(name, value string) error {
	switch name {
	case "host":
		if d.hasHost {
			return malformed("more than one Host (RFC 9110 §7.2)")
		}
		d.host, d.hasHost = value, true
	case "content-length":
		n, ok := grammar.Length(value)
		if d.hasLength || !ok {
			return malformed("a Content-Length that is no single decimal number (RFC 9110 §8.6)")
		}
		d.length, d.hasLength = n, true
	case "expect":
		if d.expect || !grammar.IsName(value, "100-continue") {
			return malformed("an expectation other than one 100-continue (RFC 9110 §10.1.1)")
		}
		d.expect = true
	}
	return nil
}

// request makes a request of the block; ended says that no body follows. scheme is the connection's: what the peer says
// of that of a connection that it does not see counts for nothing.
func (d *decoder) request(r *exchange.Request, scheme string, ended bool) error {
	if d.err != nil {
		return d.err
	}
	const required = pseudoMethod | pseudoScheme | pseudoPath
	extended := d.seen&pseudoProtocol != 0
	connect := d.method == "CONNECT" && !extended
	switch {
	case !grammar.IsToken(d.method):
		return malformed("a method that is no token (RFC 9110 §9.1)")
	case connect && (d.seen != pseudoMethod|pseudoAuthority || d.hasLength):
		return malformed("CONNECT with more than a host (RFC 9113 §8.5)")
	case extended && (d.method != "CONNECT" || d.seen&pseudoAuthority == 0 || d.hasLength || d.path == "*" || !grammar.IsProtocol(d.protocol)):
		return malformed("an extended CONNECT of another method, to no host, or with a body (RFC 8441 §4)")
	case !connect && d.seen&required != required:
		return malformed("a request without method, scheme or path (RFC 9113 §8.3.1)")
	case !connect && d.scheme != "http" && d.scheme != "https":
		return malformed("a scheme other than http and https")
	case !connect && (!grammar.IsPath(d.path) || d.path == "*" && d.method != "OPTIONS"):
		return malformed("a path that no request has (RFC 9113 §8.3.1)")
	}
	authority := d.authority
	if d.seen&pseudoAuthority == 0 {
		authority = d.host
	}
	switch {
	case !grammar.IsAuthority(authority):
		return malformed("an authority that names no host (RFC 9113 §8.3.1)")
	case d.hasHost && !exchange.EqualName(authority, d.host):
		return malformed("an authority and a Host that differ (RFC 9113 §8.3.1)")
	case ended && d.length > 0:
		return malformed("a Content-Length, and no body (RFC 9113 §8.1.1)")
	}
	r.Reset()
	r.Method, r.Scheme, r.Authority, r.Path = d.method, scheme, authority, d.path
	if connect || extended { // what follows is no body, but the tunnel's
		r.BodyLength = 0
	} else {
		r.BodyLength = d.bodyLength(ended)
	}
	if extended { // as HTTP/1.1 has it, for which the registry of protocols was made (RFC 8441 §5)
		r.Method, r.Upgrade = "GET", d.protocol
	}
	r.ExpectContinue = d.expect && r.BodyLength != 0
	r.Fields = append(r.Fields, d.fields...)
	if d.cookies > 1 {
		joinCookies(&r.Fields)
	}
	return nil
}

func (d *decoder) bodyLength(ended bool) int64 {
	switch {
	case ended:
		return 0
	case d.hasLength:
		return d.length
	}
	return exchange.LengthUnknown
}

// joinCookies makes one field of those that HTTP/2 may split a Cookie into: HTTP/1.1 allows one (RFC 9113 §8.2.3).
func joinCookies(fields *exchange.Fields) {
	var all []string
	for _, f := range *fields {
		if f.Name == "cookie" {
			all = append(all, f.Value)
		}
	}
	fields.Set("cookie", strings.Join(all, "; "))
}

// response makes a response of the block. method is that of the request.
func (d *decoder) response(r *exchange.Response, method string, ended bool) error {
	if d.err != nil {
		return d.err
	}
	s := d.status
	if len(s) != 3 || !grammar.All(s, grammar.Digit) || s[0] < '1' || s[0] > '5' {
		return malformed("a status that is no number from 100 to 599 (RFC 9113 §8.3.2)")
	}
	r.Reset()
	r.Status = int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0')
	r.Fields = append(r.Fields, d.fields...)
	switch {
	case r.Status == 101:
		return malformed("101, which HTTP/2 does not have (RFC 9113 §8.6)")
	case r.Status < 200 && ended:
		return malformed("an informational response that ends the stream (RFC 9113 §8.1)")
	case (r.Status < 200 || r.Status == 204) && d.length > 0:
		return malformed("a status that has no body, with one announced (RFC 9110 §8.6)")
	case r.Status < 200, r.Status == 204:
		return nil
	}
	r.BodyLength = exchange.LengthUnknown
	if d.hasLength {
		r.BodyLength = d.length
	}
	if ended && !exchange.BodyForbidden(method, r.Status) {
		if d.length > 0 {
			return malformed("a Content-Length, and no body (RFC 9113 §8.1.1)")
		}
		r.BodyLength = 0
	}
	return nil
}

// meaning is what a field says about more than the message.
type meaning uint8

const (
	endToEnd meaning = iota
	ofConnection
	teField
	framing
	cookieField
)

// meaningOf takes a name in lower case.
func meaningOf(name string) meaning {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings":
		return ofConnection
	case "te":
		return teField
	case "host", "content-length", "expect":
		return framing
	case "cookie":
		return cookieField
	}
	return endToEnd
}
