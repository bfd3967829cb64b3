package compile

import (
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// intersection is the closer of two hostnames where all hosts that fit it fit the other too; false where none fits
// both. A hostname is exact, "*.example.com" for what is below example.com, or empty for every host; lower case.
func intersection(a, b string) (string, bool) {
	switch {
	case a == b || b == "":
		return a, true
	case a == "":
		return b, true
	case covers(a, b):
		return b, true
	case covers(b, a):
		return a, true
	}
	return "", false
}

// covers reports whether all hosts that fit b fit the wildcard a.
func covers(a, b string) bool {
	suffix, wild := strings.CutPrefix(a, "*")
	return wild && len(b) > len(suffix) && strings.HasSuffix(b, suffix)
}

// commonHostnames are what a route's hostnames and a listener's have in common, each once. A route without hostnames
// has all of the listener's.
func commonHostnames(route []gatewayv1.Hostname, listener string) []string {
	if len(route) == 0 {
		return []string{listener}
	}
	var common []string
	seen := map[string]bool{}
	for _, h := range route {
		if both, ok := intersection(listener, strings.ToLower(string(h))); ok && !seen[both] {
			seen[both] = true
			common = append(common, both)
		}
	}
	return common
}
