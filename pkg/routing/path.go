package routing

import (
	"strings"
	"unicode/utf8"
	"unsafe"
)

// What a path is. A request is forwarded with the path that it came with; to match it, the path is
// brought into a normal form in which every encoded byte is decoded (RFC 3986 §6.2.2), except an encoded
// slash, backslash, percent sign or control byte, which stay as "%2F" and so on: /%61dmin is /admin.
//
// What different servers read differently (dot segments, empty segments, backslashes and encoded slashes)
// is no part of that. A path that holds any is read in every way that servers do, and routed only where
// all of them lead to the same rule: a rule cannot be bypassed by a path that the service behind another
// one would understand as the first one's.

// appendNormal appends the normal form of a path without query.
func appendNormal(dst []byte, path string) []byte {
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c != '%' {
			dst = append(dst, c)
			continue
		}
		decoded, ok := hexByte(path[i:])
		if ok {
			i += 2
		} else {
			decoded = '%' // not an encoding: the sign itself
		}
		if decoded == '/' || decoded == '\\' || decoded == '%' || decoded < ' ' || decoded == 0x7f {
			const digits = "0123456789ABCDEF"
			dst = append(dst, '%', digits[decoded>>4], digits[decoded&15])
		} else {
			dst = append(dst, decoded)
		}
	}
	return dst
}

// PlainPath is the path of a request in normal form, without its query, for who must be certain what the service will take
// it for; false where servers read it differently. Beside what routing reads in several ways, that is a path with
// parameters after ";", with encoded delimiters, control bytes or percent signs, which some decode a second time, with a
// "%" that encodes nothing, or with what is no UTF-8. The result is path itself, or in dst, which grows where it is too short.
func PlainPath(dst []byte, path string) (string, bool) {
	if i := strings.IndexByte(path, '?'); i >= 0 {
		path = path[:i]
	}
	if path == "*" { // of OPTIONS, for the server as a whole
		return path, true
	}
	if path == "" || path[0] != '/' {
		return path, false
	}
	if strings.IndexByte(path, '%') >= 0 {
		path = text(appendNormal(dst[:0], path))
	}
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '%' || c == ';' || c == '?' || c == '#' || c == '\\' || c < ' ' || c == 0x7f:
			return path, false
		case c == '/' && i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.' && dots(path[i+1:])):
			return path, false
		}
	}
	return path, utf8.ValidString(path)
}

// dots reports whether a path without its first slash begins with a dot segment.
func dots(rest string) bool {
	after := strings.TrimPrefix(rest[1:], ".")
	return after == "" || after[0] == '/'
}

// hexByte reads "%41" at the beginning of s.
func hexByte(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	high, ok1 := unhex(s[1])
	low, ok2 := unhex(s[2])
	return high<<4 | low, ok1 && ok2
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// plain reports whether a path is its own normal form, and read in one way only.
func plain(path string) bool {
	return strings.IndexByte(path, '%') < 0 && !ambiguous(path)
}

// ambiguous reports whether servers read a path in normal form differently.
func ambiguous(path string) bool {
	if strings.Contains(path, "//") || strings.IndexByte(path, '\\') >= 0 ||
		strings.Contains(path, "%2F") || strings.Contains(path, "%5C") {
		return true
	}
	for rest := path; ; {
		i := strings.Index(rest, "/.")
		if i < 0 {
			return false
		}
		rest = rest[i+2:]
		if after := strings.TrimPrefix(rest, "."); after == "" || after[0] == '/' {
			return true
		}
	}
}

// The ways in which servers read a path in normal form: with encoded slashes and backslashes as slashes or
// as they are; with slashes merged, dot segments removed, both in either order, or neither.
const readings = 10

// appendReading appends one of the readings.
func appendReading(dst []byte, path string, way int) []byte {
	start := len(dst)
	dst = append(dst, path...)
	out := dst[start:]
	if way >= readings/2 {
		out = decodeSlashes(out)
	}
	switch way % (readings / 2) {
	case 1:
		out = mergeSlashes(out)
	case 2:
		out = removeDots(out)
	case 3:
		out = removeDots(mergeSlashes(out))
	case 4:
		out = mergeSlashes(removeDots(out))
	}
	return dst[:start+len(out)]
}

// These shorten a path in place.

func decodeSlashes(path []byte) []byte {
	out := path[:0]
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' && i+2 < len(path) && (path[i+1] == '2' && path[i+2] == 'F' || path[i+1] == '5' && path[i+2] == 'C') {
			c = '/'
			i += 2
		} else if c == '\\' {
			c = '/'
		}
		out = append(out, c)
	}
	return out
}

func mergeSlashes(path []byte) []byte {
	out := path[:0]
	for _, c := range path {
		if c != '/' || len(out) == 0 || out[len(out)-1] != '/' {
			out = append(out, c)
		}
	}
	return out
}

// removeDots is RFC 3986 §5.2.4 for a path that begins with a slash.
func removeDots(path []byte) []byte {
	if len(path) == 0 || path[0] != '/' {
		return path
	}
	out := path[:0]
	for i := 0; i < len(path); {
		end := i + 1
		for end < len(path) && path[end] != '/' {
			end++
		}
		segment := path[i+1 : end]
		last := end == len(path)
		switch {
		case len(segment) == 1 && segment[0] == '.':
			if last {
				out = append(out, '/')
			}
		case len(segment) == 2 && segment[0] == '.' && segment[1] == '.':
			for len(out) > 0 && out[len(out)-1] != '/' {
				out = out[:len(out)-1]
			}
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, '/')
			}
		default:
			out = append(out, path[i:end]...)
		}
		i = end
	}
	return out
}

// text is a buffer as a string, without a copy: valid until the buffer is written.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
