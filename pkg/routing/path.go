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
// What different servers read differently (dot segments, empty segments, backslashes, encoded slashes, parameters behind
// ";" and what ends a path where it is decoded too early) is no part of that. A path that holds any is read in every way that servers do, and routed only where
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
func ambiguous(path string) bool { return ambiguousAt(path) < len(path) }

// ambiguousAt is where the first segment begins, with its slash, that servers read differently; len(path) where none does.
func ambiguousAt(path string) int {
	segment := 0
	for i := 0; i < len(path); i++ {
		switch path[i] {
		case '/':
			segment = i
			if i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.' && dots(path[i+1:])) {
				return segment
			}
		case '\\', ';', '?', '#':
			return segment
		case '%':
			if kept := path[i:]; strings.HasPrefix(kept, "%2F") || strings.HasPrefix(kept, "%5C") || strings.HasPrefix(kept, encodedNUL) {
				return segment
			}
		}
	}
	return len(path)
}

// stableEnd is how much of a path that servers read differently every reading begins with: whole segments, that no dot
// segment behind them takes away. What follows in each reading begins with a slash.
func stableEnd(path string) int {
	end := ambiguousAt(path)
	if end == 0 || end == len(path) || path[end] != '/' {
		return 0
	}
	if !strings.Contains(path[end:], "..") {
		return end
	}
	taken := min(leastDepth(path[end:], false, false), leastDepth(path[end:], true, false), leastDepth(path[end:], true, true))
	for ; taken < 0 && end > 0; taken++ {
		end = strings.LastIndexByte(path[:end], '/')
	}
	return max(end, 0)
}

// leastDepth is how many segments are taken away of those before a path: 0, or less than that. A segment counts for the least
// that it is in any form with slashes decoded, or without, and with parameters taken away before that, or behind it: empty it
// adds nothing, and with parameters it may be dots.
func leastDepth(path string, decoded, before bool) int {
	least, depth := 0, 0
	for path != "" {
		_, path = cutSeparator(path, decoded)
		n := 0
		for n < len(path) {
			if cut, _ := cutSeparator(path[n:], decoded); cut {
				break
			}
			n++
		}
		kept := prunedAt(path[:n])
		if before && kept < n { // up to the next slash that is not encoded
			if slash := strings.IndexByte(path[n:], '/'); slash >= 0 {
				n += slash
			} else {
				n = len(path)
			}
		}
		switch path[:kept] {
		case "", ".":
		case "..":
			depth--
		default:
			depth++
		}
		least, path = min(least, depth), path[n:]
	}
	return least
}

// cutSeparator cuts a separator off the beginning of a path.
func cutSeparator(path string, decoded bool) (is bool, rest string) {
	if path[0] == '/' || decoded && path[0] == '\\' {
		return true, path[1:]
	}
	if decoded && (strings.HasPrefix(path, "%2F") || strings.HasPrefix(path, "%5C")) {
		return true, path[3:]
	}
	return false, path
}

// encodedNUL ends a path for servers that decode it into a string of C.
const encodedNUL = "%00"

// The ways in which servers read a path in normal form. There are five forms: with encoded slashes and backslashes as they
// are, or as slashes; and where a path has parameters, or what may end it, also without these, taken away before slashes are
// decoded, or behind that. Each form is read as it is; with slashes merged, dot segments removed, or both in either order.
const (
	forms       = 2
	formsPruned = 5
	readings    = 5 // of a form
)

// appendForm appends one of the forms of a path.
func appendForm(dst []byte, path string, form int) []byte {
	start := len(dst)
	dst = append(dst, path...)
	out := dst[start:]
	if form == 2 || form == 3 {
		out = prune(out)
	}
	if form == 1 || form >= 3 {
		out = decodeSlashes(out)
	}
	if form == 4 {
		out = prune(out)
	}
	return dst[:start+len(out)]
}

// appendReading appends one of the readings of a form.
func appendReading(dst []byte, form string, way int) []byte {
	start := len(dst)
	dst = append(dst, form...)
	out := dst[start:]
	switch way {
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

// winding reports whether a form has empty or dot segments.
func winding(form string) bool {
	for i := 0; i+1 < len(form); i++ {
		if form[i] == '/' && (form[i+1] == '/' || form[i+1] == '.' && dots(form[i+1:])) {
			return true
		}
	}
	return false
}

// prunedAt is where the first of what prune takes away begins; len(path) where there is nothing.
func prunedAt(path string) int {
	for i := 0; i < len(path); i++ {
		if path[i] == ';' || endsPath(path[i:]) {
			return i
		}
	}
	return len(path)
}

// endsPath reports whether some servers would take what a rest of a path begins with for its end.
func endsPath(rest string) bool {
	return rest[0] == '?' || rest[0] == '#' || rest[0] == '%' && strings.HasPrefix(rest, encodedNUL)
}

// These shorten a path in place.

// prune takes away the parameters of each segment, as servlet containers do, and what stands behind a "?", "#" or NUL that was
// encoded.
func prune(path []byte) []byte {
	out := path[:0]
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case endsPath(text(path[i:])):
			return out
		case c == ';':
			for i+1 < len(path) && path[i+1] != '/' && !endsPath(text(path[i+1:])) {
				i++
			}
		default:
			out = append(out, c)
		}
	}
	return out
}

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
