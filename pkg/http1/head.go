package http1

import (
	"strings"
	"unsafe"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// What a field means to a connection. All but endToEnd are handled by the codec and not handed on.
type meaning uint8

const (
	endToEnd meaning = iota
	hopByHop         // means nothing beyond this connection and nothing to us: Keep-Alive, Proxy-Connection, TE
	hostField
	expectField
	upgradeField
	connectionField
	contentLength
	transferEncoding
)

func meaningOf(name string) meaning {
	switch len(name) {
	case 2:
		if grammar.IsName(name, "te") {
			return hopByHop
		}
	case 4:
		if grammar.IsName(name, "host") {
			return hostField
		}
	case 6:
		if grammar.IsName(name, "expect") {
			return expectField
		}
	case 7:
		if grammar.IsName(name, "upgrade") {
			return upgradeField
		}
	case 10:
		if grammar.IsName(name, "connection") {
			return connectionField
		}
		if grammar.IsName(name, "keep-alive") {
			return hopByHop
		}
	case 14:
		if grammar.IsName(name, "content-length") {
			return contentLength
		}
	case 16:
		if grammar.IsName(name, "proxy-connection") {
			return hopByHop
		}
	case 17:
		if grammar.IsName(name, "transfer-encoding") {
			return transferEncoding
		}
	}
	return endToEnd
}

// mostConnectionLines bounds the Connection fields of a head; one is usual.
const mostConnectionLines = 8

// control is what a head's fields say about its connection and its framing.
type control struct {
	http10    bool // the version of the start line
	host      string
	hasHost   bool
	length    int64
	hasLength bool
	chunked   bool
	upgrade   string // protocols offered or switched to, if Connection names Upgrade
	expect    bool   // of a 100
	close     bool
	keepAlive bool

	hasUpgrade  bool // Connection names Upgrade
	connections [mostConnectionLines]string
	lines       int  // Connection fields seen
	named       bool // Connection names more than close, keep-alive, upgrade and te
}

// parseFields reads the field lines of section, which ends in an empty line, appends those that are end to end
// to fields, and notes the others in c. The strings point into section.
func parseFields(section []byte, limit int, fields *exchange.Fields, c *control) error {
	s := unsafe.String(unsafe.SliceData(section), len(section))
	for count := 0; len(s) > 2; count++ { // what is left at the end is the CRLF of the empty line
		if count == limit {
			return tooLarge("more field lines than allowed")
		}
		end := strings.IndexByte(s, '\n')
		line := s[:end-1]
		s = s[end+1:]
		name, value, err := parseField(line)
		if err != nil {
			return err
		}
		m := meaningOf(name)
		if m == endToEnd {
			*fields = append(*fields, exchange.Field{Name: name, Value: value})
			continue
		}
		if err := c.note(m, value); err != nil {
			return err
		}
	}
	if c.lines > 0 {
		if err := c.readConnection(); err != nil {
			return err
		}
		if c.named {
			c.strip(fields)
		}
	}
	if !c.hasUpgrade {
		c.upgrade = ""
	}
	if c.chunked && c.hasLength {
		return malformed("both Content-Length and Transfer-Encoding (RFC 9112 §6.1)")
	}
	if c.chunked && c.http10 {
		return malformed("Transfer-Encoding in HTTP/1.0 (RFC 9112 §6.1)")
	}
	return nil
}

func parseField(line string) (name, value string, err error) {
	colon := 0
	for colon < len(line) && grammar.Is(line[colon], grammar.Token) {
		colon++
	}
	if colon == len(line) || line[colon] != ':' || colon == 0 {
		if line[0] == ' ' || line[0] == '\t' {
			return "", "", malformed("a folded field line (RFC 9112 §5.2)")
		}
		return "", "", malformed("a field's name is not a token followed by a colon (RFC 9112 §5.1)")
	}
	value = grammar.Trim(line[colon+1:])
	if !grammar.All(value, grammar.Value) {
		return "", "", malformed("a control character in a field's value (RFC 9110 §5.5)")
	}
	return line[:colon], value, nil
}

func (c *control) note(m meaning, value string) error {
	switch m {
	case endToEnd, hopByHop:
	case hostField:
		if c.hasHost {
			return malformed("more than one Host (RFC 9112 §3.2)")
		}
		c.host, c.hasHost = value, true
	case expectField:
		if c.expect || !grammar.IsName(value, "100-continue") {
			return malformed("an expectation other than one 100-continue (RFC 9110 §10.1.1)")
		}
		c.expect = true
	case contentLength:
		if c.hasLength {
			return malformed("more than one Content-Length (RFC 9112 §6.3)")
		}
		n, ok := grammar.Length(value)
		if !ok {
			return malformed("a Content-Length that is no single decimal number (RFC 9112 §6.2)")
		}
		c.length, c.hasLength = n, true
	case transferEncoding:
		if c.chunked || !grammar.IsName(value, "chunked") {
			return malformed("a Transfer-Encoding other than one chunked (RFC 9112 §6.1)")
		}
		c.chunked = true
	case connectionField:
		if c.lines == mostConnectionLines {
			return tooLarge("more Connection fields than allowed")
		}
		c.connections[c.lines] = value
		c.lines++
	case upgradeField:
		// The first protocol is the one preferred (RFC 9110 §7.8). HTTP/2 is not for us: it is obsolete (RFC
		// 9113 §3.1) and would carry requests that nobody looks at.
		for list := value; list != "" && c.upgrade == ""; {
			var protocol string
			protocol, list = grammar.NextElement(list)
			if grammar.IsName(protocol, "h2c") || grammar.IsName(protocol, "h2") {
				continue
			}
			if protocol != "" && !grammar.IsProtocol(protocol) {
				return malformed("an Upgrade that names no protocol (RFC 9110 §7.8)")
			}
			c.upgrade = protocol
		}
	}
	return nil
}

// readConnection reads the options of the Connection fields (RFC 9110 §7.6.1).
func (c *control) readConnection() error {
	for _, list := range c.connections[:c.lines] {
		for list != "" {
			var option string
			option, list = grammar.NextElement(list)
			switch {
			case option == "":
			case grammar.IsName(option, "close"):
				c.close = true
			case grammar.IsName(option, "keep-alive"):
				c.keepAlive = true
			case grammar.IsName(option, "upgrade"):
				c.hasUpgrade = true
			case grammar.IsName(option, "te"):
			case grammar.IsToken(option):
				c.named = true
			default:
				return malformed("a Connection option that is no token (RFC 9110 §7.6.1)")
			}
		}
	}
	return nil
}

// strip removes the fields that Connection names.
func (c *control) strip(fields *exchange.Fields) {
	kept := (*fields)[:0]
	for _, f := range *fields {
		if !c.names(f.Name) {
			kept = append(kept, f)
		}
	}
	*fields = kept
}

func (c *control) names(field string) bool {
	for _, list := range c.connections[:c.lines] {
		for list != "" {
			var option string
			option, list = grammar.NextElement(list)
			if exchange.EqualName(option, field) {
				return true
			}
		}
	}
	return false
}

// persistent reports whether the sender of the head means to keep the connection (RFC 9112 §9.3).
func (c *control) persistent() bool {
	return !c.close && (!c.http10 || c.keepAlive)
}
