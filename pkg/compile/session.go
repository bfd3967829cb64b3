package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// tokenName is what a cookie or a field can be called (RFC 9110 §5.6.2).
var tokenName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")

// unsupportedSession names what of a session persistence (GEP-1619) cannot be executed.
func unsupportedSession(s *gatewayv1.SessionPersistence) string {
	if s == nil {
		return ""
	}
	header := false
	if s.Type != nil {
		switch *s.Type {
		case gatewayv1.CookieBasedSessionPersistence:
		case gatewayv1.HeaderBasedSessionPersistence:
			header = true
		default:
			return fmt.Sprintf(".type: must be Cookie or Header, is %s", *s.Type)
		}
	}
	if s.SessionName != nil {
		name := strings.ToLower(*s.SessionName)
		switch {
		case !tokenName.MatchString(name):
			return fmt.Sprintf(".sessionName: must be a token (RFC 9110 §5.6.2), is %q", *s.SessionName)
		case header && (framing[name] || name == "host" || name == "cookie" || name == "set-cookie" || strings.HasPrefix(name, "sennit-") || strings.Contains(name, "forwarded")):
			return fmt.Sprintf(".sessionName: %s is not the application's to set", *s.SessionName)
		}
	}
	timeout, err := duration(s.AbsoluteTimeout)
	if err != nil {
		return ".absoluteTimeout: " + err.Error()
	}
	if s.AbsoluteTimeout != nil && timeout < time.Second {
		return fmt.Sprintf(".absoluteTimeout: must be at least 1s, is %s", *s.AbsoluteTimeout)
	}
	if c := s.CookieConfig; c != nil && c.LifetimeType != nil {
		switch *c.LifetimeType {
		case gatewayv1.SessionCookieLifetimeType:
		case gatewayv1.PermanentCookieLifetimeType:
			if timeout == 0 {
				return ".absoluteTimeout: is required where cookieConfig.lifetimeType is Permanent"
			}
		default:
			return fmt.Sprintf(".cookieConfig.lifetimeType: must be Permanent or Session, is %s", *c.LifetimeType)
		}
	}
	return ""
}

// compileSession reads what was not refused. rule is the rule's name, which its sessions are of, or what is in the place
// of one. Tokens are made with a key that comes of the route's UID: it is random, the same in each compilation, and known to
// nobody outside.
func compileSession(s *gatewayv1.SessionPersistence, route *routeDocument, rule string) *snapshot.Session {
	if s == nil {
		return nil
	}
	of := strings.ToLower(route.kind.Name) + "/" + route.Namespace + "/" + route.Name + "#" + rule
	key := sha256.Sum256([]byte("sennit session\x00" + string(route.UID) + "\x00" + of))
	name := sha256.Sum256([]byte(of))
	c := &snapshot.Session{Key: key[:], Name: "session-" + hex.EncodeToString(name[:4])}
	if s.SessionName != nil {
		c.Name = *s.SessionName
	}
	c.Header = s.Type != nil && *s.Type == gatewayv1.HeaderBasedSessionPersistence
	timeout, _ := duration(s.AbsoluteTimeout)
	c.TimeoutMs = uint64(timeout.Milliseconds())
	c.Permanent = !c.Header && s.CookieConfig != nil && s.CookieConfig.LifetimeType != nil && *s.CookieConfig.LifetimeType == gatewayv1.PermanentCookieLifetimeType
	return c
}

// sessionRule names a rule for its sessions: by its own name, which stays where rules come and go before it, else by its
// position.
func sessionRule(rule *gatewayv1.HTTPRouteRule, index int) string {
	if rule.Name != nil && *rule.Name != "" {
		return string(*rule.Name)
	}
	return fmt.Sprint(index)
}
