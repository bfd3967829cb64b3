package grammar

import "github.com/sennit-mesh/sennit/pkg/exchange"

// WrongField says why one of the fields would not be read as what it is, and nothing where all would.
func WrongField(fields exchange.Fields) string {
	for i := range fields {
		if !IsToken(fields[i].Name) {
			return "a field's name is no token (RFC 9110 §5.1)"
		}
		if !All(fields[i].Value, Value) {
			return "a control character in a field's value (RFC 9110 §5.5)"
		}
	}
	return ""
}

// SameName compares names of fields as the loosest reader does: in any case, and with whatever is no letter or digit as one,
// as programs have it that put fields into variables (RFC 3875 §4.1.18). To them X_User and X.User are X-User.
func SameName(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if loose[a[i]] != loose[b[i]] {
			return false
		}
	}
	return true
}

// Loosest is a name as SameName compares it.
func Loosest(name string) string {
	b := []byte(name)
	for i, c := range b {
		b[i] = loose[c]
	}
	return string(b)
}

var loose = func() (t [256]byte) {
	for c := range 256 {
		switch {
		case c >= 'A' && c <= 'Z':
			t[c] = byte(c) + 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			t[c] = byte(c)
		default:
			t[c] = '-'
		}
	}
	return t
}()

// MeansBody reports whether a request of the method says that its body is empty (RFC 9110 §8.6).
func MeansBody(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}
