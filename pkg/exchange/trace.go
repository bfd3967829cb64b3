package exchange

import "encoding/hex"

// TraceparentLen is the length of a traceparent of version 00, in bytes.
const TraceparentLen = 55

// A Trace is where an exchange stands in a distributed trace, as the field "traceparent" carries it from process to
// process (W3C Trace Context §3.2).
type Trace struct {
	ID      [16]byte // of the whole trace; zero: the exchange is part of none
	Span    [8]byte  // the part of it that is the parent of what comes next
	Sampled bool     // who began the trace wants it recorded
}

// ParseTraceparent reads the value of a traceparent. It is false for what the standard has receivers ignore.
func ParseTraceparent(s string) (t Trace, ok bool) {
	if len(s) < TraceparentLen || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return Trace{}, false
	}
	var version, flags [1]byte
	if !fromHex(version[:], s[:2]) || !fromHex(t.ID[:], s[3:35]) || !fromHex(t.Span[:], s[36:52]) || !fromHex(flags[:], s[53:55]) {
		return Trace{}, false
	}
	switch {
	case version[0] == 0xff, version[0] == 0 && len(s) > TraceparentLen, len(s) > TraceparentLen && s[TraceparentLen] != '-':
		return Trace{}, false // later versions may only add behind a dash (§3.2.4)
	case t.ID == [16]byte{} || t.Span == [8]byte{}:
		return Trace{}, false
	}
	t.Sampled = flags[0]&1 != 0
	return t, true
}

// fromHex reads lower-case digits, which are the only ones that the standard allows. s is twice as long as to.
func fromHex(to []byte, s string) bool {
	for i := range to {
		high, low := hexDigit(s[2*i]), hexDigit(s[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		to[i] = high<<4 | low
	}
	return true
}

func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// AppendTraceparent appends the value of a traceparent of version 00.
func (t *Trace) AppendTraceparent(b []byte) []byte {
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, t.ID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, t.Span[:])
	if t.Sampled {
		return append(b, "-01"...)
	}
	return append(b, "-00"...)
}
