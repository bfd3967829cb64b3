package grammar

import (
	"net/netip"
	"strings"
)

// IsAuthority reports whether s is a host with or without a port, and nothing that could be read as another:
// no user, no empty host or port, no list, no percent-encoding.
func IsAuthority(s string) bool {
	var port string
	var hasPort bool
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 || !isIPv6(s[1:end]) {
			return false
		}
		rest := s[end+1:]
		hasPort = strings.HasPrefix(rest, ":")
		if !hasPort && rest != "" {
			return false
		}
		port = strings.TrimPrefix(rest, ":")
	} else {
		var host string
		host, port, hasPort = strings.Cut(s, ":")
		if host == "" || !All(host, Host) {
			return false
		}
	}
	if !hasPort {
		return true
	}
	if port == "" || len(port) > 5 || !All(port, Digit) {
		return false
	}
	n := 0
	for i := range len(port) {
		n = n*10 + int(port[i]-'0')
	}
	return n <= 65535
}

func isIPv6(s string) bool {
	addr, err := netip.ParseAddr(s)
	return err == nil && addr.Is6() && addr.Zone() == ""
}

// IsPath reports whether s is a path with or without a query (RFC 9112 §3.2.1), or "*". In the path each "%" begins
// an encoded byte; readers differ about what else it would be.
func IsPath(s string) bool {
	if s == "*" {
		return true
	}
	if s == "" || s[0] != '/' {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '?' {
			return All(s[i+1:], Query)
		}
		if chars[c]&Path == 0 {
			return false
		}
		if c == '%' {
			if i+2 >= len(s) || chars[s[i+1]]&Hex == 0 || chars[s[i+2]]&Hex == 0 {
				return false
			}
		}
	}
	return true
}

// Length reads a Content-Length. Leading zeros are refused because some readers take them for octal.
func Length(s string) (n int64, ok bool) {
	if s == "" || len(s) > 18 || !All(s, Digit) || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	for i := range len(s) {
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// IsProtocol reports whether s is protocol-name ["/" protocol-version] (RFC 9110 §7.8).
func IsProtocol(s string) bool {
	name, version, found := strings.Cut(s, "/")
	return IsToken(name) && (!found || IsToken(version))
}
