package login

import (
	"cmp"
	"context"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A Login is how people sign in under one policy of a gateway. It is safe for concurrent use.
type Login struct {
	policy   string // "<ns>/<name>"
	body     *snapshot.Login
	seal     cipher.AEAD
	secret   string
	provider provider
	slots    chan struct{} // of those who wait for the issuer
	renewals renewals
}

// An Answer is what a request is answered with in the place of the service.
type Answer struct {
	Status int
	Fields []exchange.Field
	Detail string // for the log; empty: nothing is wrong
}

const (
	// signInTime is how long somebody may take to sign in at the issuer.
	signInTime = 10 * time.Minute
	// issuerTime bounds a conversation with the issuer.
	issuerTime = 10 * time.Second
	// mostWaiting is how many wait for the issuer at a time.
	mostWaiting = 64
	// longestReturn bounds the path that is kept over signing in, in bytes; who came with a longer one is led to "/".
	longestReturn = 1024
)

// New makes a Login of a policy, with the secrets that were sealed to this node.
func New(policy string, body *snapshot.Login, secrets *snapshot.LoginSecrets) (*Login, error) {
	seal, err := newSeal(secrets.GetSessionKey())
	if err != nil {
		return nil, fmt.Errorf("login of %s: %w", policy, err)
	}
	l := &Login{policy: policy, body: body, seal: seal, secret: secrets.GetClientSecret(), slots: make(chan struct{}, mostWaiting)}
	if l.provider, err = newProvider(body.GetIssuer(), body.GetCaBundle()); err != nil {
		return nil, fmt.Errorf("login of %s: %w", policy, err)
	}
	return l, nil
}

// A Session is that of a request.
type Session struct {
	Token  string           // the ID token; empty: there is no session
	Fields []exchange.Field // that the response takes to the browser, and no cache may keep
	Detail string           // for the log: why it was not renewed
}

// Session is the session of a request, whose ID token is renewed where it ends soon. Cookies of ours are removed from the
// request: they are for the gateway alone.
func (l *Login) Session(ctx context.Context, req *exchange.Request, policy *authn.Policy, now time.Time) Session {
	s := l.session(req)
	authn.RemoveCookies(req, func(name string) bool { return l.isSession(name) || strings.HasPrefix(name, l.attemptPrefix()) })
	if s == nil {
		return Session{}
	}
	is := Session{Token: s.Token}
	if s.Refresh != "" && !now.Before(time.Unix(s.Renew, 0)) && now.Before(time.Unix(s.Until, 0)) {
		if is = l.renewed(ctx, s, req, policy, now); is.Token != "" {
			return is
		}
		is.Token = s.Token
	}
	if !now.Before(time.Unix(s.Ends, 0)) {
		is.Token = ""
	}
	return is
}

// session is what the cookies of a request hold; nil: nothing that is whole.
func (l *Login) session(req *exchange.Request) *session {
	parts := map[string]string{}
	twice := false
	authn.Cookies(req, func(name, value string) {
		if l.isSession(name) {
			_, again := parts[name]
			twice = twice || again
			parts[name] = value
		}
	})
	if twice || len(parts) == 0 {
		return nil
	}
	var sealed strings.Builder
	for i := range maxParts {
		part, there := parts[l.sessionName(i)]
		if !there {
			break
		}
		sealed.WriteString(part)
	}
	var s session
	if l.open(sealed.String(), sealedSession, &s) != nil {
		return nil
	}
	return &s
}

// Answers reports whether a path is ours to answer.
func (l *Login) Answers(path string) bool {
	path, _, _ = strings.Cut(path, "?")
	return path == l.body.GetCallbackPath() || path == l.body.GetLogoutPath()
}

// Answer answers a request for such a path, with its cookies as they came: Session removes them.
func (l *Login) Answer(ctx context.Context, req *exchange.Request, policy *authn.Policy, now time.Time) *Answer {
	if req.Method != http.MethodGet {
		return &Answer{Status: http.StatusMethodNotAllowed, Fields: []exchange.Field{{Name: "Allow", Value: "GET"}}, Detail: "not a GET"}
	}
	if path, _, _ := strings.Cut(req.Path, "?"); path == l.body.GetLogoutPath() {
		return l.logout(ctx, req)
	}
	return l.callback(ctx, req, policy, now)
}

// Wants reports whether whoever sent a request is somebody who can sign in: a browser that goes to a page, and not what a page
// loads, or a program.
func Wants(req *exchange.Request) bool {
	if req.Method != http.MethodGet || req.Upgrade != "" {
		return false
	}
	if mode, says := req.Fields.Get("sec-fetch-mode"); says {
		return mode == "navigate"
	}
	accept, _ := req.Fields.Get("accept")
	return strings.Contains(accept, "text/html")
}

// Begin leads a browser to the issuer, to sign in as the policy asks.
func (l *Login) Begin(ctx context.Context, req *exchange.Request, policy *authn.Policy, now time.Time) *Answer {
	known, err := l.known(ctx)
	if err != nil {
		return unavailable(err)
	}
	a := attempt{State: random(), Nonce: random(), Verifier: oauth2.GenerateVerifier(), Return: returnPath(req.Path), Ends: now.Add(signInTime).Unix()}
	sealed, err := l.sealed(sealedAttempt, &a)
	if err != nil {
		return unavailable(err)
	}
	asks := []oauth2.AuthCodeOption{oauth2.SetAuthURLParam("nonce", a.Nonce), oauth2.S256ChallengeOption(a.Verifier)}
	acr, maxAge := policy.SignedIn()
	if len(acr) > 0 {
		asks = append(asks, oauth2.SetAuthURLParam("acr_values", strings.Join(acr, " ")))
	}
	if maxAge > 0 { // else the issuer sends who is signed in there back as he is, over and over
		asks = append(asks, oauth2.SetAuthURLParam("max_age", strconv.FormatInt(int64(maxAge/time.Second), 10)))
	}
	to := l.config(known, req).AuthCodeURL(a.State, asks...)
	return redirect(to, exchange.Field{Name: "Set-Cookie", Value: l.attemptCookie(a.State, sealed, signInTime)})
}

// callback takes what the issuer says of somebody who signed in, or did not.
func (l *Login) callback(ctx context.Context, req *exchange.Request, policy *authn.Policy, now time.Time) *Answer {
	_, text, _ := strings.Cut(req.Path, "?")
	query, err := url.ParseQuery(text)
	if err != nil {
		return refused("the query is malformed")
	}
	for _, name := range []string{"state", "code", "iss", "error"} {
		if len(query[name]) > 1 {
			return refused(name + " is there twice")
		}
	}
	var a attempt
	state := query.Get("state")
	sealed, n := "", 0
	authn.Cookies(req, func(name, value string) {
		if state != "" && name == l.attemptName(state) {
			sealed = value
			n++
		}
	})
	if n != 1 || l.open(sealed, sealedAttempt, &a) != nil || !now.Before(time.Unix(a.Ends, 0)) ||
		subtle.ConstantTimeCompare([]byte(a.State), []byte(state)) != 1 {
		return refused("nobody began to sign in here with this state, or too long ago")
	}
	over := exchange.Field{Name: "Set-Cookie", Value: l.attemptCookie(state, "", -1)}
	if iss := query.Get("iss"); iss != "" && iss != l.body.GetIssuer() { // RFC 9207 §2.4
		return refused("another issuer answers", over)
	}
	if query.Get("error") != "" || query.Get("code") == "" {
		return refused(fmt.Sprintf("the issuer says %.64q", query.Get("error")), over)
	}
	known, err := l.known(ctx)
	if err != nil {
		return unavailable(err)
	}
	got, err := l.ask(ctx, func(ctx context.Context) (*oauth2.Token, error) {
		return l.config(known, req).Exchange(ctx, query.Get("code"), oauth2.VerifierOption(a.Verifier))
	})
	if err != nil {
		return refused(err.Error(), over)
	}
	user, problem := l.check(policy, got.id, now)
	if problem != "" {
		return refused(problem, over)
	}
	if said, _ := user.Claim("nonce"); subtle.ConstantTimeCompare([]byte(said.Text()), []byte(a.Nonce)) != 1 {
		return refused("the ID token was made for another attempt", over)
	}
	cookies, _, err := l.begin(got, user, now.Add(time.Duration(l.body.GetSessionMs())*time.Millisecond), now)
	if err != nil {
		return refused(err.Error(), over)
	}
	return redirect("https://"+req.Authority+a.Return, append(cookies, over)...)
}

// check finds out whose ID token the issuer gave, as the policy has it and for this client (OpenID Connect Core §3.1.3.7).
func (l *Login) check(policy *authn.Policy, token string, now time.Time) (user *authn.User, problem string) {
	user, refusal := policy.Verify(token, now)
	if refusal != nil {
		return nil, "the ID token is not good: " + refusal.Detail
	}
	azp, there := user.Claim("azp")
	switch {
	case user.Issuer() != l.body.GetIssuer():
		return nil, "the ID token is of another issuer"
	case !slices.Contains(user.Audiences(), l.body.GetClientId()):
		return nil, "the ID token was made for another client"
	case user.Subject() == "":
		return nil, "the ID token has no subject"
	case there && !azp.Is(l.body.GetClientId()) || !there && len(user.Audiences()) > 1:
		return nil, "the ID token was made for another party"
	}
	return user, ""
}

// begin makes the cookies of a session, which ends with the ID token where nothing renews that, and at the latest at until.
func (l *Login) begin(got tokens, user *authn.User, until, now time.Time) ([]exchange.Field, *session, error) {
	exp, _ := user.Claim("exp")
	seconds, _ := exp.Number()
	ends := time.Unix(int64(seconds), 0)
	renewable := got.refresh != "" && ends.Before(until)
	if until.Before(ends) {
		ends = until
	}
	left := ends.Sub(now).Truncate(time.Second)
	if left <= 0 {
		return nil, nil, errors.New("the ID token has expired")
	}
	s, lives := &session{Token: got.id, Ends: now.Add(left).Unix()}, left
	if renewable {
		s.Refresh, s.Renew, s.Until = got.refresh, now.Add(left-min(left/4, mostEarly)).Unix(), until.Unix()
		lives = until.Sub(now)
	}
	sealed, err := l.sealed(sealedSession, s)
	if err != nil {
		return nil, nil, err
	}
	cookies, err := l.sessionCookies(sealed, lives)
	if renewable && errors.Is(err, errLarge) {
		return l.begin(tokens{id: got.id}, user, until, now)
	}
	return cookies, s, err
}

// logout ends the session of this browser, and that at the issuer where it can. What renews it is to be good no more, whoever
// has a copy.
func (l *Login) logout(ctx context.Context, req *exchange.Request) *Answer {
	var cookies []exchange.Field
	authn.Cookies(req, func(name, _ string) {
		if l.isSession(name) && len(cookies) < maxParts {
			cookies = append(cookies, exchange.Field{Name: "Set-Cookie", Value: l.cookie(name, "", "/", -1)})
		}
	})
	known, err := l.known(ctx)
	if s := l.session(req); s != nil && s.Refresh != "" && err == nil && known.revocation != "" {
		l.revoke(ctx, known, s.Refresh)
	}
	if err != nil || known.endSession == "" {
		return &Answer{Status: http.StatusNoContent, Fields: append(cookies, noStore)}
	}
	to := known.endSession + cmp.Or(map[bool]string{true: "&"}[strings.Contains(known.endSession, "?")], "?") + "client_id=" + url.QueryEscape(l.body.GetClientId())
	return redirect(to, cookies...)
}

// Forwards reports whether the service gets the ID token.
func (l *Login) Forwards() bool { return l.body.GetForward() }

var noStore = exchange.Field{Name: "Cache-Control", Value: "no-store"}

func redirect(to string, more ...exchange.Field) *Answer {
	return &Answer{Status: http.StatusFound, Fields: append([]exchange.Field{{Name: "Location", Value: to}, noStore}, more...)}
}

func refused(detail string, more ...exchange.Field) *Answer {
	return &Answer{Status: http.StatusForbidden, Fields: append(more, noStore), Detail: detail}
}

func unavailable(err error) *Answer {
	return &Answer{Status: http.StatusServiceUnavailable, Fields: []exchange.Field{{Name: "Retry-After", Value: "5"}, noStore}, Detail: err.Error()}
}

// returnPath is where somebody is led who has signed in: where he wanted to go, of this host.
func returnPath(path string) string {
	if !strings.HasPrefix(path, "/") || len(path) > longestReturn {
		return "/"
	}
	return path
}

func random() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // does not fail
	return base64.RawURLEncoding.EncodeToString(b[:])
}
