package exchange

import "strings"

// A Field is one header or trailer field line. Name has the case in which it was received; comparisons
// ignore case (RFC 9110 §5.1).
type Field struct {
	Name, Value string
}

// Fields are field lines in the order in which they were received.
type Fields []Field

// Get returns the value of the first field of that name.
func (f Fields) Get(name string) (value string, ok bool) {
	for i := range f {
		if EqualName(f[i].Name, name) {
			return f[i].Value, true
		}
	}
	return "", false
}

// Set replaces all fields of that name by one.
func (f *Fields) Set(name, value string) {
	f.Del(name)
	*f = append(*f, Field{name, value})
}

// Del removes all fields of that name.
func (f *Fields) Del(name string) {
	kept := (*f)[:0]
	for _, field := range *f {
		if !EqualName(field.Name, name) {
			kept = append(kept, field)
		}
	}
	*f = kept
}

// EqualName compares two field names without regard to ASCII case.
func EqualName(a, b string) bool {
	return len(a) == len(b) && (a == b || strings.EqualFold(a, b))
}
