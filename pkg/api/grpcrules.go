package api

import "regexp"

// What Gateway API's rules for the methods of GRPCRoutes need (rules).

var (
	callService = regexp.MustCompile(`^(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$`)
	callMethod  = regexp.MustCompile(`^[A-Za-z_][A-Za-z_0-9]*$`)
)

func callNamed(v any) bool { return has(v, "service") || has(v, "method") }

// callPart: the names of services and methods are those of protocol buffers, unless they are expressions.
func callPart(name string, form *regexp.Regexp) func(any) bool {
	return func(v any) bool {
		return str(v, "type") == "RegularExpression" || !has(v, name) || form.MatchString(str(v, name))
	}
}
