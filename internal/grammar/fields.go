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

// MeansBody reports whether a request of the method says that its body is empty (RFC 9110 §8.6).
func MeansBody(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}
