package login

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

const (
	// mostEarly is how long before its end an ID token is renewed at most; of a short one it is a quarter of its life.
	mostEarly = time.Minute
	// renewedFor is how long what became of a renewal is remembered: a browser sends the cookies of before until it has
	// read a response with those that are new, and a refresh token that was refused is not tried with each request.
	renewedFor = time.Minute
	// renewAgain is the same of an issuer that could not be asked.
	renewAgain = 5 * time.Second
	// mostRenewals bounds how many are remembered; what is new takes the place of what is oldest.
	mostRenewals = 1024
)

// renewals are those of late, by the refresh token: it is used once, however many requests come with it. Many issuers take a
// second use for theft, and end all that came of the token.
type renewals struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]*renewal
	order [][sha256.Size]byte // oldest first
}

// A renewal runs until done is closed, and says from then on what became of it.
type renewal struct {
	done  chan struct{}
	is    Session   // without a token where it failed
	until time.Time // that it is remembered
}

// enter returns the renewal with a refresh token; run: it is the caller's to run.
func (r *renewals) enter(token string, now time.Time) (_ *renewal, run bool) {
	id := sha256.Sum256([]byte(token))
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.known[id]
	if one != nil && (!one.over() || now.Before(one.until)) {
		return one, false
	}
	if r.known == nil {
		r.known = map[[sha256.Size]byte]*renewal{}
	}
	if one == nil {
		if len(r.order) == mostRenewals {
			delete(r.known, r.order[0])
			r.order = r.order[1:]
		}
		r.order = append(r.order, id)
	}
	one = &renewal{done: make(chan struct{})}
	r.known[id] = one
	return one, true
}

func (r *renewal) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// renewed is a session with another ID token, which the issuer gives for its refresh token; one without a token, where it does
// not. While the ID token of before is good, nobody but the first request waits.
func (l *Login) renewed(ctx context.Context, s *session, req *exchange.Request, policy *authn.Policy, now time.Time) Session {
	one, run := l.renewals.enter(s.Refresh, now)
	if !run {
		if !one.over() && now.Before(time.Unix(s.Ends, 0)) {
			return Session{}
		}
		select {
		case <-one.done:
			return Session{Token: one.is.Token, Fields: one.is.Fields} // who ran it says what was wrong
		case <-ctx.Done():
			return Session{}
		}
	}
	defer close(one.done)
	began, keep := time.Now(), renewedFor
	var err error
	// The token is used up when the browser has gone too.
	one.is, err = l.renew(context.WithoutCancel(ctx), s, req, policy, now)
	if err != nil {
		if refused := (errRefused{}); !errors.As(err, &refused) {
			keep = renewAgain
		}
		one.is = Session{Detail: err.Error()}
	}
	one.until = now.Add(time.Since(began) + keep)
	return one.is
}

// renew asks the issuer. What it gives must be as what it gave before (OpenID Connect Core §12.2).
func (l *Login) renew(ctx context.Context, s *session, req *exchange.Request, policy *authn.Policy, now time.Time) (Session, error) {
	known, err := l.known(ctx)
	if err != nil {
		return Session{}, err
	}
	got, err := l.ask(ctx, func(ctx context.Context) (*oauth2.Token, error) {
		return l.config(known, req).TokenSource(ctx, &oauth2.Token{RefreshToken: s.Refresh}).Token()
	})
	if err != nil {
		return Session{}, err
	}
	user, problem := l.check(policy, got.id, now)
	if problem != "" {
		return Session{}, errRefused{problem}
	}
	before, err := userOf(s.Token)
	if err != nil {
		return Session{}, err
	}
	was, _ := before.Claim("nonce")
	if said, there := user.Claim("nonce"); user.Subject() != before.Subject() || there && said.Text() != was.Text() {
		return Session{}, errRefused{"the ID token is of another session"}
	}
	cookies, next, err := l.begin(got, user, time.Unix(s.Until, 0), now)
	if err != nil {
		return Session{}, errRefused{err.Error()}
	}
	return Session{Token: next.Token, Fields: append(cookies, noStore)}, nil
}

// userOf reads an ID token that was verified when it came, and may have expired.
func userOf(token string) (*authn.User, error) {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	claims, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return nil, err
	}
	return authn.ParseUser(claims)
}
