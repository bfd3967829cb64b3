package exchange

import (
	"errors"
	"fmt"
	"strings"
)

// ErrServiceName is returned for what is not a service's name.
var ErrServiceName = errors.New("not a service's name")

// A ServiceName names a service within a cluster; written "namespace/name".
type ServiceName struct {
	Namespace, Name string
}

// ParseServiceName reads "namespace/name", or "name" for the namespace "default". Both parts are DNS labels
// (RFC 1123): at most 63 of a-z, 0-9 and "-", with a letter or digit at each end.
func ParseServiceName(s string) (ServiceName, error) {
	namespace, name, found := strings.Cut(s, "/")
	if !found {
		namespace, name = "default", s
	}
	if !IsLabel(namespace) || !IsLabel(name) {
		return ServiceName{}, fmt.Errorf("%w: %q (want namespace/name, each of a-z, 0-9 and -)", ErrServiceName, s)
	}
	return ServiceName{namespace, name}, nil
}

// String returns "namespace/name".
func (s ServiceName) String() string { return s.Namespace + "/" + s.Name }

// IsZero reports whether s names nothing.
func (s ServiceName) IsZero() bool { return s == ServiceName{} }

// MarshalText and UnmarshalText write and read "namespace/name", so that documents and JSON hold it so.
func (s ServiceName) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParseServiceName.
func (s *ServiceName) UnmarshalText(text []byte) (err error) {
	*s, err = ParseServiceName(string(text))
	return err
}

// IsLabel reports whether s is a DNS label in lower case (RFC 1123 §2.1).
func IsLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// hostOf cuts the port off an authority, and the brackets off an IPv6 address.
func hostOf(authority string) string {
	if strings.HasPrefix(authority, "[") {
		if end := strings.IndexByte(authority, ']'); end > 0 {
			return authority[1:end]
		}
	}
	if colon := strings.LastIndexByte(authority, ':'); colon >= 0 && strings.IndexByte(authority, ':') == colon {
		return authority[:colon]
	}
	return authority
}
