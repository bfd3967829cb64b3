package transport

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// The first byte of a head says what it is.
const (
	formRequest  = 0x00
	formTCP      = 0x01
	formResponse = 0x02
	formUDP      = 0x03
)

// The second byte of a request's or response's head; bits without a name are zero.
const (
	flagHTTPS   = 1 << 0 // request: the scheme is https
	flagExpect  = 1 << 1 // request: the caller waits for a 100
	flagUpgrade = 1 << 2 // a protocol follows
	flagLength  = 1 << 3 // the length of the body follows
	flagCalled  = 1 << 4 // request, TCP: what is called follows the instance
)

// appendRequest appends the payload of a request's head.
func appendRequest(b []byte, r *exchange.Request) ([]byte, error) {
	if r.Kind != exchange.HTTP {
		form := byte(formTCP)
		if r.Kind == exchange.UDP {
			form = formUDP
		}
		b = append(b, form, calledFlag(&r.Target))
		return appendTarget(b, &r.Target), nil
	}
	flags := calledFlag(&r.Target)
	switch r.Scheme {
	case "http", "":
	case "https":
		flags |= flagHTTPS
	default:
		return b, fmt.Errorf("%w: scheme %q", ErrMalformed, r.Scheme)
	}
	if r.ExpectContinue {
		flags |= flagExpect
	}
	flags |= commonFlags(r.Upgrade, r.BodyLength)
	b = append(b, formRequest, flags)
	b = appendTarget(b, &r.Target)
	b = appendMethod(b, r.Method)
	b = appendString(b, r.Authority)
	b = appendString(b, r.Path)
	b = appendCommon(b, r.Upgrade, r.BodyLength)
	return appendFields(b, r.Fields), nil
}

func calledFlag(t *exchange.Target) byte {
	if t.Called != "" {
		return flagCalled
	}
	return 0
}

func appendTarget(b []byte, t *exchange.Target) []byte {
	b = appendString(binary.BigEndian.AppendUint16(b, t.Port), t.Instance)
	if t.Called != "" {
		b = appendString(b, t.Called)
	}
	return b
}

// appendResponse appends the payload of a response's head.
func appendResponse(b []byte, r *exchange.Response) []byte {
	b = append(b, formResponse, commonFlags(r.Upgrade, r.BodyLength))
	b = binary.BigEndian.AppendUint16(b, uint16(r.Status))
	b = appendCommon(b, r.Upgrade, r.BodyLength)
	return appendFields(b, r.Fields)
}

func commonFlags(upgrade string, length int64) (flags byte) {
	if upgrade != "" {
		flags |= flagUpgrade
	}
	if length >= 0 {
		flags |= flagLength
	}
	return flags
}

func appendCommon(b []byte, upgrade string, length int64) []byte {
	if upgrade != "" {
		b = appendString(b, upgrade)
	}
	if length >= 0 {
		b = appendVarint(b, uint64(length))
	}
	return b
}

func appendMethod(b []byte, method string) []byte {
	for i, m := range staticMethods {
		if m == method {
			return append(b, byte(i))
		}
	}
	return appendString(append(b, methodLiteral), method)
}

func appendString(b []byte, s string) []byte {
	return append(appendVarint(b, uint64(len(s))), s...)
}

// appendFields appends the number of fields and each of them.
func appendFields(b []byte, fields exchange.Fields) []byte {
	b = appendVarint(b, uint64(len(fields)))
next:
	for i := range fields {
		f := &fields[i]
		entry, ok := nameIndex[f.Name]
		if !ok {
			b = appendString(append(b, 0), f.Name)
			b = appendString(b, f.Value)
			continue
		}
		for _, pair := range entry.pairs {
			if staticPairs[pair-pairBase].Value == f.Value {
				b = appendVarint(b, pair)
				continue next
			}
		}
		b = appendString(appendVarint(b, entry.index), f.Value)
	}
	return b
}

// A headReader takes a payload apart. The strings that it returns point into b. After the first fault all
// further reads return zero values; err says what it was.
type headReader struct {
	b   []byte
	err error
}

func (h *headReader) fail(what string) {
	if h.err == nil {
		h.err = fmt.Errorf("%w: head: %s", ErrMalformed, what)
	}
	h.b = nil
}

func (h *headReader) byte() byte {
	if len(h.b) < 1 {
		h.fail("too short")
		return 0
	}
	v := h.b[0]
	h.b = h.b[1:]
	return v
}

func (h *headReader) uint16() uint16 {
	if len(h.b) < 2 {
		h.fail("too short")
		return 0
	}
	v := binary.BigEndian.Uint16(h.b)
	h.b = h.b[2:]
	return v
}

func (h *headReader) varint() uint64 {
	v, n := varint(h.b)
	if n <= 0 {
		h.fail("bad integer")
		return 0
	}
	h.b = h.b[n:]
	return v
}

// string reads a string all of whose bytes have one of the classes in allowed.
func (h *headReader) string(allowed byteClass, what string) string {
	n := h.varint()
	if h.err != nil || n > uint64(len(h.b)) {
		h.fail(what + " longer than the head")
		return ""
	}
	if n == 0 {
		return ""
	}
	s := unsafe.String(&h.b[0], int(n))
	h.b = h.b[n:]
	for i := range len(s) {
		if byteClasses[s[i]]&allowed == 0 {
			h.fail("forbidden byte in " + what)
			return ""
		}
	}
	return s
}

// parseRequest reads the payload of a request's head into r, which it overwrites.
func parseRequest(payload []byte, r *exchange.Request, maxFields int) error {
	r.Reset()
	h := headReader{b: payload}
	form, flags := h.byte(), h.byte()
	r.Target.Port = h.uint16()
	r.Target.Instance = h.string(classVisible, "instance")
	if flags&flagCalled != 0 {
		if r.Target.Called = h.string(classVisible, "called"); r.Target.Called == "" {
			h.fail("empty called")
		}
	}
	if form == formTCP || form == formUDP {
		r.Kind = exchange.TCP
		if form == formUDP {
			r.Kind, r.Target.UDP = exchange.UDP, true
		}
		if flags&^flagCalled != 0 {
			h.fail("unknown flags")
		}
		return h.finish()
	}
	if form != formRequest || flags&^(flagHTTPS|flagExpect|flagUpgrade|flagLength|flagCalled) != 0 {
		h.fail("unknown form or flags")
	}
	r.Scheme = "http"
	if flags&flagHTTPS != 0 {
		r.Scheme = "https"
	}
	r.ExpectContinue = flags&flagExpect != 0
	if m := h.byte(); int(m) < len(staticMethods) {
		r.Method = staticMethods[m]
	} else if m == methodLiteral {
		r.Method = h.string(classToken, "method")
	} else {
		h.fail("unknown method")
	}
	if h.err == nil && r.Method == "" {
		h.fail("no method")
	}
	r.Authority = h.string(classVisible, "authority")
	r.Path = h.string(classVisible|classHigh, "path")
	r.Upgrade, r.BodyLength = h.common(flags)
	r.Fields = h.fields(r.Fields, maxFields)
	return h.finish()
}

// parseResponse reads the payload of a response's head into r, which it overwrites.
func parseResponse(payload []byte, r *exchange.Response, maxFields int) error {
	r.Reset()
	h := headReader{b: payload}
	form, flags := h.byte(), h.byte()
	if form != formResponse || flags&^(flagUpgrade|flagLength) != 0 {
		h.fail("unknown form or flags")
	}
	r.Status = int(h.uint16())
	if h.err == nil && (r.Status < 100 || r.Status > 599) {
		h.fail("status out of range")
	}
	r.Upgrade, r.BodyLength = h.common(flags)
	r.Fields = h.fields(r.Fields, maxFields)
	return h.finish()
}

// parseTrailers reads the payload of a trailers frame.
func parseTrailers(payload []byte, fields exchange.Fields, maxFields int) (exchange.Fields, error) {
	h := headReader{b: payload}
	fields = h.fields(fields[:0], maxFields)
	return fields, h.finish()
}

func (h *headReader) common(flags byte) (upgrade string, length int64) {
	if flags&flagUpgrade != 0 {
		if upgrade = h.string(classVisible, "upgrade"); upgrade == "" {
			h.fail("empty upgrade")
		}
	}
	length = exchange.LengthUnknown
	if flags&flagLength != 0 {
		length = int64(h.varint()) // a varint is below 2^62
	}
	return upgrade, length
}

func (h *headReader) fields(fields exchange.Fields, most int) exchange.Fields {
	n := h.varint()
	if n > uint64(most) {
		if h.err == nil {
			h.err = fmt.Errorf("%w: %d fields, at most %d", ErrTooLarge, n, most)
		}
		return fields
	}
	for range n {
		var f exchange.Field
		switch i := h.varint(); {
		case h.err != nil:
			return fields
		case i == 0:
			if f.Name = h.string(classToken, "field name"); f.Name == "" {
				h.fail("empty field name")
			}
			if framingName(f.Name) {
				h.fail("field that frames or belongs to a connection")
			}
			f.Value = h.string(classValue, "field value")
		case i <= uint64(len(staticNames)):
			f.Name = staticNames[i-1]
			f.Value = h.string(classValue, "field value")
		case i >= lowerBase && i < lowerBase+uint64(len(lowerNames)):
			f.Name = lowerNames[i-lowerBase]
			f.Value = h.string(classValue, "field value")
		case i >= pairBase && i < pairBase+uint64(len(staticPairs)):
			f = staticPairs[i-pairBase]
		default:
			h.fail("index that is not in the table")
		}
		if h.err != nil {
			return fields
		}
		fields = append(fields, f)
	}
	return fields
}

// framingName reports names that exchange.Fields never hold: a codec that wrote one out would let two
// readers see two different messages (RFC 9112 §6.3, RFC 9110 §7.6.1).
func framingName(name string) bool {
	switch len(name) {
	case 4:
		return exchange.EqualName(name, "Host")
	case 7:
		return exchange.EqualName(name, "Upgrade")
	case 10:
		return exchange.EqualName(name, "Connection") || exchange.EqualName(name, "Keep-Alive")
	case 14:
		return exchange.EqualName(name, "Content-Length")
	case 16:
		return exchange.EqualName(name, "Proxy-Connection")
	case 17:
		return exchange.EqualName(name, "Transfer-Encoding")
	}
	return false
}

func (h *headReader) finish() error {
	if h.err == nil && len(h.b) != 0 {
		h.fail("bytes behind its end")
	}
	return h.err
}

// A byteClass is a set of bytes that may stand in a string. What an HTTP/1.1 codec would write out as it is
// must not contain anything that ends a line.
type byteClass byte

const (
	classToken   byteClass = 1 << iota // token characters (RFC 9110 §5.6.2)
	classVisible                       // 0x21 to 0x7e
	classHigh                          // 0x80 and above
	classValue                         // visible, high, space and tab (RFC 9110 §5.5)
)

var byteClasses = func() (t [256]byteClass) {
	for i := range t {
		c := byte(i)
		if c > 0x20 && c < 0x7f {
			t[i] |= classVisible | classValue
		}
		if c >= 0x80 {
			t[i] |= classHigh | classValue
		}
		if c == ' ' || c == '\t' {
			t[i] |= classValue
		}
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			t[i] |= classToken
		}
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		t[c] |= classToken
	}
	return t
}()
