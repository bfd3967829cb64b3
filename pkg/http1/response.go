package http1

import (
	"strings"
	"unsafe"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// parseResponse reads a whole response head into r and c, which are empty, and returns how the body is framed.
// method is that of the request: the framing depends on it (RFC 9112 §6.3).
func parseResponse(section []byte, method string, limits Limits, r *exchange.Response, c *control) (framing, error) {
	s := unsafe.String(unsafe.SliceData(section), len(section))
	end := strings.IndexByte(s, '\n')
	line := s[:end-1]
	version, rest, _ := strings.Cut(line, " ")
	switch version {
	case "HTTP/1.1":
	case "HTTP/1.0":
		c.http10 = true
	default:
		return 0, malformed("a version other than HTTP/1.0 and HTTP/1.1 (RFC 9112 §2.3)")
	}
	// The space before an absent reason is often absent too; that is readable in one way only.
	code, reason, _ := strings.Cut(rest, " ")
	if len(code) != 3 || !grammar.All(code, grammar.Digit) || code[0] < '1' || code[0] > '5' {
		return 0, malformed("a status that is no number from 100 to 599 (RFC 9112 §4)")
	}
	if !grammar.All(reason, grammar.Value) {
		return 0, malformed("a control character in the reason phrase (RFC 9112 §4)")
	}
	r.Status = int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0')
	if err := parseFields(section[end+1:], limits.Fields, &r.Fields, c); err != nil {
		return 0, err
	}
	return frameResponse(method, r, c)
}

func frameResponse(method string, r *exchange.Response, c *control) (framing, error) {
	if r.Status < 200 || r.Status == 204 {
		// They have no body (RFC 9112 §6.3), but a service that announces one may send it as well.
		if c.chunked || c.length > 0 {
			return 0, malformed("a status that has no body, with one announced (RFC 9112 §6.1, RFC 9110 §8.6)")
		}
		if r.Status == 101 {
			if c.upgrade == "" || c.http10 {
				return 0, malformed("101 that switches to nothing (RFC 9110 §7.8)")
			}
			r.Upgrade = c.upgrade
			return otherProtocol, nil
		}
		return noBody, nil
	}
	if method == "CONNECT" && r.Status < 300 {
		return otherProtocol, nil // whatever the fields say (RFC 9112 §6.3)
	}
	if r.Status == 426 {
		r.Upgrade = c.upgrade
	}
	how := untilClose
	r.BodyLength = exchange.LengthUnknown
	switch {
	case c.chunked:
		how = inChunks
	case c.hasLength:
		how, r.BodyLength = byLength, c.length
	}
	if exchange.BodyForbidden(method, r.Status) {
		how = noBody
	}
	return how, nil
}
