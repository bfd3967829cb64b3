package api

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// gateway checks what the schema says in alternatives, which the walker does not look at.
func (w *walker) gateway(u *unstructured.Unstructured) {
	for i, a := range items(u.Object["spec"], "addresses") {
		value := str(a, "value")
		if _, err := netip.ParseAddr(value); str(a, "type") == "IPAddress" && value != "" && err != nil {
			w.add(field(index("spec.addresses", i), "value"), Invalid, "must be an IP address, is %q", value)
		}
	}
}

// What Gateway API's rules for Gateways need (rules).

var (
	gatewayHostname = regexp.MustCompile(`^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	prefixedKey     = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$`)
)

func annotationKey(key string) bool { return prefixedKey.MatchString(key) }

func shortPrefix(key string) bool {
	prefix, _, _ := strings.Cut(key, "/")
	return len(prefix) < 253
}

func keysMatch(ok func(string) bool) func(any) bool {
	return func(v any) bool {
		m, _ := v.(map[string]any)
		for key := range m {
			if !ok(key) {
				return false
			}
		}
		return true
	}
}

// unique: no two of a list have the same in all of these fields.
func unique(fields ...string) func(any) bool {
	return func(v any) bool {
		seen := map[string]bool{}
		for _, e := range v.([]any) {
			var key strings.Builder
			for _, f := range fields {
				fmt.Fprintf(&key, "%q ", fmt.Sprint(at(e, f)))
			}
			if seen[key.String()] {
				return false
			}
			seen[key.String()] = true
		}
		return true
	}
}

func addressesUnique(kind string) func(any) bool {
	return func(v any) bool {
		seen := map[string]bool{}
		for _, a := range v.([]any) {
			if str(a, "type") != kind || !has(a, "value") {
				continue
			}
			if seen[str(a, "value")] {
				return false
			}
			seen[str(a, "value")] = true
		}
		return true
	}
}

func hostnameAddress(mayBeAbsent bool) func(any) bool {
	return func(v any) bool {
		if str(v, "type") != "Hostname" || mayBeAbsent && !has(v, "value") {
			return true
		}
		return gatewayHostname.MatchString(str(v, "value"))
	}
}

func everyListener(ok func(any) bool) func(any) bool {
	return func(v any) bool { return !some(v.([]any), func(l any) bool { return !ok(l) }) }
}

func plainProtocol(l any) bool { p := str(l, "protocol"); return p == "TCP" || p == "UDP" }
