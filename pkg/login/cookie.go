package login

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A session is what a browser keeps of somebody who has signed in.
type session struct {
	Token   string `json:"t"`           // the ID token
	Ends    int64  `json:"e"`           // when the token does, or the session; times are Unix seconds
	Refresh string `json:"r,omitempty"` // the refresh token; empty: the session ends with its ID token
	Renew   int64  `json:"n,omitempty"` // from when on the ID token is renewed
	Until   int64  `json:"u,omitempty"` // when the session ends, however often it is renewed
}

// An attempt is what it keeps while somebody signs in.
type attempt struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"`
	Return   string `json:"r"`
	Ends     int64  `json:"e"`
}

const (
	// Browsers keep cookies of up to 4,096 bytes, name and attributes among them (RFC 6265 §6.1).
	partBytes = 3600
	maxParts  = 4
)

// What is sealed says for what it is, so that none of it is taken for the other.
const (
	sealedSession = "session"
	sealedAttempt = "attempt"
)

var (
	errSeal  = errors.New("a cookie is not one of ours")
	errLarge = fmt.Errorf("the ID token is too large: its session would need more than %d cookies", maxParts)
)

func newSeal(key []byte) (cipher.AEAD, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("the key of sessions has %d bytes, and must have 32", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// bound is what a seal is bound to beside its key.
func (l *Login) bound(kind string) []byte {
	return []byte("sennit login v1 " + kind + " " + l.policy + " " + l.body.GetClientId())
}

func (l *Login) sealed(kind string, v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(l.seal.Seal(nil, nil, text, l.bound(kind))), nil
}

func (l *Login) open(sealed, kind string, into any) error {
	if len(sealed) > maxParts*partBytes {
		return errSeal
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil {
		return errSeal
	}
	text, err := l.seal.Open(nil, nil, data, l.bound(kind))
	if err != nil {
		return errSeal
	}
	return json.Unmarshal(text, into)
}

// sessionName is the name of a part of a session's cookie. A browser takes one that begins with __Host- only from this very
// host, over TLS, for all of its paths (RFC 6265bis §4.1.3.2): no other host of the domain can set it.
func (l *Login) sessionName(part int) string {
	if part == 0 {
		return "__Host-" + l.body.GetCookie()
	}
	return "__Host-" + l.body.GetCookie() + "-" + strconv.Itoa(part)
}

func (l *Login) isSession(name string) bool {
	for i := range maxParts {
		if name == l.sessionName(i) {
			return true
		}
	}
	return false
}

func (l *Login) attemptPrefix() string { return "__Secure-" + l.body.GetCookie() + "-login-" }

// attemptName is that of the cookie of one attempt: somebody may sign in in several windows at once.
func (l *Login) attemptName(state string) string {
	return l.attemptPrefix() + state[:min(len(state), 12)]
}

func (l *Login) attemptCookie(state, value string, lives time.Duration) string {
	return l.cookie(l.attemptName(state), value, l.body.GetCallbackPath(), lives)
}

// cookie is a Set-Cookie. It is sent back over TLS alone, shown to no script, and goes along when somebody follows a link to
// this host, as the issuer's answer is, but not with what other sites load or post.
func (l *Login) cookie(name, value, path string, lives time.Duration) string {
	age := int64(0)
	if lives > 0 {
		age = int64(lives / time.Second)
	}
	return fmt.Sprintf("%s=%s; Path=%s; Max-Age=%d; Secure; HttpOnly; SameSite=Lax", name, value, path, age)
}

// sessionCookies are those that hold a session, and that end what an earlier one had more.
func (l *Login) sessionCookies(sealed string, lives time.Duration) (fields []exchange.Field, err error) {
	for i := range maxParts {
		part := sealed[:min(len(sealed), partBytes)]
		sealed = sealed[len(part):]
		left := lives
		if part == "" {
			left = -1
		}
		fields = append(fields, exchange.Field{Name: "Set-Cookie", Value: l.cookie(l.sessionName(i), part, "/", left)})
	}
	if strings.TrimSpace(sealed) != "" {
		return nil, errLarge
	}
	return fields, nil
}
