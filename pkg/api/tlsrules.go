package api

import (
	"net/netip"
	"regexp"
	"strings"
)

// What Gateway API's rules for the hostnames of TLSRoutes need (rules).

var serverName = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)$`)

func notAddress(name string) bool {
	_, err := netip.ParseAddr(name)
	return err != nil
}

func exactName(name string) bool { return strings.Contains(name, "*") || serverName.MatchString(name) }

func wildName(name string) bool {
	rest, ok := strings.CutPrefix(name, "*.")
	return !strings.Contains(name, "*") || ok && serverName.MatchString(rest)
}

// serverNames: each hostname of a list is one.
func serverNames(is func(string) bool) func(any) bool {
	return func(v any) bool {
		return !some(v.([]any), func(h any) bool { s, _ := h.(string); return !is(s) })
	}
}
