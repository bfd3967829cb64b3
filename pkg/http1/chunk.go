package http1

import (
	"unsafe"

	"github.com/sennit-mesh/sennit/internal/grammar"
)

// longestSizeLine bounds a chunk's size with its extensions.
const longestSizeLine = 256

// parseSizeLine reads chunk-size and checks its extensions, which are dropped (RFC 9112 §7.1.1). Whitespace, which
// the grammar calls bad, is refused, as is what could hide the end of the line.
func parseSizeLine(line []byte) (size int64, err error) {
	s := unsafe.String(unsafe.SliceData(line), len(line))
	digits := 0
	for digits < len(s) && grammar.Is(s[digits], grammar.Hex) {
		c := s[digits]
		switch {
		case c <= '9':
			c -= '0'
		case c <= 'F':
			c -= 'A' - 10
		default:
			c -= 'a' - 10
		}
		if digits == 15 {
			return 0, malformed("a chunk's size has more than 15 digits (RFC 9112 §7.1)")
		}
		size = size<<4 | int64(c)
		digits++
	}
	if digits == 0 {
		return 0, malformed("a chunk without a size in hexadecimal (RFC 9112 §7.1)")
	}
	if !areExtensions(s[digits:]) {
		return 0, malformed("what follows a chunk's size is no extension (RFC 9112 §7.1.1)")
	}
	return size, nil
}

// areExtensions reports whether s is *( ";" token [ "=" ( token / quoted-string ) ] ).
func areExtensions(s string) bool {
	for s != "" {
		if s[0] != ';' {
			return false
		}
		n := tokenLength(s[1:])
		if n == 0 {
			return false
		}
		s = s[1+n:]
		if s == "" || s[0] != '=' {
			continue
		}
		if n = tokenLength(s[1:]); n == 0 {
			n = quotedLength(s[1:])
		}
		if n == 0 {
			return false
		}
		s = s[1+n:]
	}
	return true
}

func tokenLength(s string) int {
	n := 0
	for n < len(s) && grammar.Is(s[n], grammar.Token) {
		n++
	}
	return n
}

// quotedLength returns the length of the quoted-string that s begins with (RFC 9110 §5.6.4), or 0.
func quotedLength(s string) int {
	if s == "" || s[0] != '"' {
		return 0
	}
	for i := 1; i < len(s); i++ {
		switch {
		case !grammar.Is(s[i], grammar.Value):
			return 0
		case s[i] == '"':
			return i + 1
		case s[i] == '\\':
			if i++; i == len(s) || !grammar.Is(s[i], grammar.Value) {
				return 0
			}
		}
	}
	return 0
}
