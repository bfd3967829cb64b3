package authn

import (
	"fmt"
	"strings"
)

// A Refusal is why a request is not let in, and what its caller is told. It never changes.
type Refusal struct {
	Status    int    // 400 or 401
	Challenge string // of WWW-Authenticate (RFC 6750 §3); empty: none
	Detail    string // in words, for the log; nothing of the token
}

// refuse makes a refusal. What a caller hears is of the policy and this code, never of the token.
func refuse(status int, code, description, more, detail string) *Refusal {
	challenge := "Bearer"
	if code != "" {
		challenge = fmt.Sprintf(`Bearer error="%s", error_description="%s"%s`, code, description, more)
	}
	return &Refusal{Status: status, Challenge: challenge, Detail: detail}
}

var (
	// missing has no code: the caller did not know that a token is asked for (RFC 6750 §3.1).
	missing  = refuse(401, "", "", "", "the request has no token")
	several  = refuse(400, "invalid_request", "the request has more than one token", "", "the request has more than one token")
	overlong = refuse(400, "invalid_request", "the request's cookies or query are malformed", "", "the request's cookies or query are malformed")
)

// Missing reports whether a request was refused because it shows nothing at all.
func (r *Refusal) Missing() bool { return r == missing }

// quoted makes words of a quoted string (RFC 9110 §5.6.4), without what would end it.
func quoted(words []string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return -1
		}
		return r
	}, strings.Join(words, " "))
}
