// Package grammar says which bytes the parts of an HTTP message may have (RFC 9110), whichever version carries it. The
// codecs share it, so that what one of them refuses the other cannot let through.
//
// Functions allocate nothing. Start reading at IsToken.
package grammar

// A Class is a set of bytes. They are in a table because every byte of a head is looked at once.
type Class uint8

// The classes.
const (
	Token Class = 1 << iota // a method, a field's name, an option (RFC 9110 §5.6.2)
	Value                   // within a field's value or a reason phrase (RFC 9110 §5.5): no CR, LF, NUL nor other controls
	Path                    // of a path: visible ASCII without "#", "?" and "\", which some readers take for "/"
	Query                   // of a query: visible ASCII without "#"
	Host                    // of a host name: unreserved (RFC 3986 §2.3); see docs/decisions/0010
	Digit
	Hex
)

var chars = func() (t [256]Class) {
	for c := range 256 {
		digit := c >= '0' && c <= '9'
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		visible := c > ' ' && c < 0x7f
		mark := func(is bool, as Class) {
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
		mark(digit || letter || in("!#$%&'*+-.^_`|~"), Token)
		mark(visible || c == ' ' || c == '\t' || c >= 0x80, Value)
		mark(visible && !in(`#?\`), Path)
		mark(visible && c != '#', Query)
		mark(digit || letter || in("-._~"), Host)
		mark(digit, Digit)
		mark(digit || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F', Hex)
	}
	return t
}()

// Is reports whether c is of the class.
func Is(c byte, class Class) bool { return chars[c]&class != 0 }

// All reports whether every byte of s is of the class.
func All(s string, class Class) bool {
	for i := range len(s) {
		if chars[s[i]]&class == 0 {
			return false
		}
	}
	return true
}

// IsToken reports whether s is a token: a method, or the name of a field (RFC 9110 §5.6.2).
func IsToken(s string) bool { return s != "" && All(s, Token) }

// IsName compares s, in any case, to a name in lower case.
func IsName(s, lower string) bool {
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

// Trim cuts optional whitespace off both ends (RFC 9110 §5.6.3).
func Trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// NextElement cuts the first element off a comma-separated list (RFC 9110 §5.6.1).
func NextElement(list string) (element, rest string) {
	for i := range len(list) {
		if list[i] == ',' {
			return Trim(list[:i]), list[i+1:]
		}
	}
	return Trim(list), ""
}
