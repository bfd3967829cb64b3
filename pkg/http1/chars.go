package http1

// Which bytes may stand where. They are tables because every byte of a head is looked at once.
const (
	tokenChar = 1 << iota // a method, a field's name, an option (RFC 9110 §5.6.2)
	valueChar             // within a field's value or a reason phrase (RFC 9110 §5.5): no CR, LF, NUL nor other controls
	pathChar              // of a path: visible ASCII without "#", "?" and "\", which some readers take for "/"
	queryChar             // of a query: visible ASCII without "#"
	hostChar              // of a host name: unreserved (RFC 3986 §2.3); see docs/decisions/0010
	digitChar             //
	hexChar               //
)

var chars = func() (t [256]uint8) {
	for c := range 256 {
		digit := c >= '0' && c <= '9'
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		visible := c > ' ' && c < 0x7f
		mark := func(is bool, as uint8) {
			if is {
				t[c] |= as
			}
		}
		in := func(set string) bool {
			for i := range len(set) {
				if int(set[i]) == c {
					return true
				}
			}
			return false
		}
		mark(digit || letter || in("!#$%&'*+-.^_`|~"), tokenChar)
		mark(visible || c == ' ' || c == '\t' || c >= 0x80, valueChar)
		mark(visible && !in(`#?\`), pathChar)
		mark(visible && c != '#', queryChar)
		mark(digit || letter || in("-._~"), hostChar)
		mark(digit, digitChar)
		mark(digit || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F', hexChar)
	}
	return t
}()

// all reports whether every byte of s is of the class.
func all(s string, class uint8) bool {
	for i := range len(s) {
		if chars[s[i]]&class == 0 {
			return false
		}
	}
	return true
}

func isToken(s string) bool { return s != "" && all(s, tokenChar) }

// isName compares s, in any case, to a name in lower case.
func isName(s, lower string) bool {
	if len(s) != len(lower) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// trim cuts optional whitespace off both ends (RFC 9110 §5.6.3).
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// nextElement cuts the first element off a comma-separated list (RFC 9110 §5.6.1).
func nextElement(list string) (element, rest string) {
	for i := range len(list) {
		if list[i] == ',' {
			return trim(list[:i]), list[i+1:]
		}
	}
	return trim(list), ""
}
