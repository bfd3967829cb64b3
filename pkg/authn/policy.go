package authn

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A Policy is how end users are known at one place: at a service, or at a rule of a gateway. It is safe for concurrent use.
// A nil Policy asks nobody.
type Policy struct {
	body     *snapshot.Authentication
	issuers  []issuer
	sources  []source
	unproven *Refusal // of a user who has not signed in as is asked for
	unknown  func(url string)
	proven   cache
}

type issuer struct {
	*snapshot.Issuer
	keys   []key
	leeway time.Duration
}

// A proof is what a token proves, and until when.
type proof struct {
	user             *User
	fields           exchange.Fields // that the service is told
	from, until      time.Time
	signedIn         time.Time // as far as the policy asks
	signedInAsWanted bool
}

// Compile makes a policy ready for reading. before is the one that was in force at the place until now, may be nil, and is
// returned where nothing changed, with the tokens that it has verified; whatever else changes, each token is verified anew,
// so that none outlives the key that signed it. unknown hears of URLs of key sets that lack a key which a token names, may
// be called often and at once, and must not block. A nil body has no policy.
func Compile(body *snapshot.Authentication, before *Policy, unknown func(url string)) (*Policy, error) {
	if body == nil {
		return nil, nil
	}
	if before != nil && proto.Equal(before.body, body) {
		return before, nil
	}
	p := &Policy{body: body, unknown: unknown}
	for _, i := range body.Issuers {
		one := issuer{Issuer: i, leeway: time.Duration(min(i.LeewayMs, uint64(maxLeeway.Milliseconds()))) * time.Millisecond}
		if len(i.Keys) > 0 {
			var err error
			if one.keys, _, err = readKeys(i.Keys); err != nil {
				return nil, fmt.Errorf("authentication %s: issuer %s: %w", body.Origin, i.Issuer, err)
			}
		}
		p.issuers = append(p.issuers, one)
	}
	p.sources = []source{{kind: snapshot.TokenSource_HEADER, name: "authorization", prefix: "bearer "}}
	if len(body.Sources) > 0 {
		p.sources = nil
	}
	for _, s := range body.Sources {
		if s.Kind > snapshot.TokenSource_QUERY {
			return nil, fmt.Errorf("authentication %s: tokens are in a place that is unknown here", body.Origin)
		}
		p.sources = append(p.sources, source{s.Kind, s.Name, strings.ToLower(s.Prefix)})
	}
	more := ""
	if len(body.AcrValues) > 0 {
		more += fmt.Sprintf(`, acr_values="%s"`, quoted(body.AcrValues))
	}
	if body.MaxAgeMs > 0 {
		more += fmt.Sprintf(`, max_age="%d"`, body.MaxAgeMs/1000)
	}
	p.unproven = refuse(401, "insufficient_user_authentication", "the user must sign in in another way, or again", more,
		"the user has not signed in as the policy asks")
	return p, nil
}

// maxLeeway bounds what clocks may differ.
const maxLeeway = 10 * time.Minute

// Origin is "<ns>/<name>" of the policy.
func (p *Policy) Origin() string { return p.body.GetOrigin() }

// Optional reports whether requests without a token pass.
func (p *Policy) Optional() bool { return p == nil || p.body.Optional }

// Admit finds out who the end user of a request is, or why the request is not let in. What the request says in the fields
// that tell claims is removed from it, whoever says so, and what is proven is put there. A nil User, without a refusal, is
// somebody who shows nothing, and need not. It allocates nothing for a token in a header that was seen before.
func (p *Policy) Admit(req *exchange.Request, now time.Time) (*User, *Refusal) {
	user, _, refusal := p.AdmitSession(req, "", now)
	return user, refusal
}

// Login says how people sign in; nil: they do not.
func (p *Policy) Login() *snapshot.Login { return p.body.GetLogin() }

// SignedIn is how users must have signed in: in one of these ways (acr), and no longer ago; nothing: it is not asked for.
func (p *Policy) SignedIn() (acr []string, maxAge time.Duration) {
	return p.body.AcrValues, time.Duration(p.body.MaxAgeMs) * time.Millisecond
}

// AdmitSession is Admit for a request whose session has a token, which counts where the request shows none by itself. A token
// of a session that is not good any more is none. by reports whether it was the session that counted.
func (p *Policy) AdmitSession(req *exchange.Request, session string, now time.Time) (user *User, by bool, refusal *Refusal) {
	if p == nil {
		return nil, false, nil
	}
	p.silence(&req.Fields)
	token, at, refusal := p.find(req)
	if refusal != nil {
		p.hide(req)
		return nil, false, refusal
	}
	if token == "" && session != "" {
		if proven, refusal := p.prove(session, now); refusal == nil {
			req.Fields = append(req.Fields, proven.fields...)
			return proven.user, true, nil
		}
	}
	if token == "" {
		if p.body.Optional {
			return nil, false, nil
		}
		return nil, false, missing
	}
	proven, refusal := p.prove(token, now)
	if refusal != nil {
		p.hide(req)
		return nil, false, refusal
	}
	if p.body.Remove || at.kind == snapshot.TokenSource_QUERY { // which too many write down
		at.remove(req)
	}
	req.Fields = append(req.Fields, proven.fields...)
	return proven.user, false, nil
}

// Verify is what a token proves here, apart from any request.
func (p *Policy) Verify(token string, now time.Time) (*User, *Refusal) {
	proven, refusal := p.prove(token, now)
	if refusal != nil {
		return nil, refusal
	}
	return proven.user, nil
}

func (p *Policy) prove(token string, now time.Time) (*proof, *Refusal) {
	id := tokenID(token)
	proven := p.proven.get(&id)
	if proven == nil {
		var err error
		if proven, err = p.verify(token); err != nil {
			return nil, refuse(401, "invalid_token", described(err), "", err.Error())
		}
		if now.Before(proven.until) && len(token) <= maxKeptBytes {
			p.proven.put(&id, proven)
		}
	}
	switch maxAge := time.Duration(p.body.MaxAgeMs) * time.Millisecond; {
	case !now.Before(proven.until):
		return nil, expired
	case now.Before(proven.from):
		return nil, early
	case !proven.signedInAsWanted || maxAge > 0 && now.Sub(proven.signedIn) > maxAge:
		return nil, p.unproven
	}
	return proven, nil
}

var (
	errIssuer   = errors.New("the token is of an issuer that is not accepted")
	errAudience = errors.New("the token was made for somebody else")
	errClaims   = errors.New("the token's claims are malformed")

	expired = refuse(401, "invalid_token", "the token has expired", "", "the token has expired")
	early   = refuse(401, "invalid_token", "the token is not valid yet", "", "the token is not valid yet")
)

// described is what a caller hears of an error: which kind it is.
func described(err error) string {
	for _, one := range []error{errMalformed, errAlgorithm, errUnknownKey, errSignature, errIssuer, errAudience, errClaims} {
		if errors.Is(err, one) {
			return one.Error()
		}
	}
	return errMalformed.Error()
}

// verify finds out what a token proves, but for the time.
func (p *Policy) verify(token string) (*proof, error) {
	t, err := split(token)
	if err != nil {
		return nil, err
	}
	user, err := ParseUser(t.payload) // of whom nothing is believed before the signature is verified
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errClaims, err)
	}
	i := slices.IndexFunc(p.issuers, func(i issuer) bool { return i.Issuer.Issuer == user.issuer })
	if i < 0 || user.issuer == "" {
		return nil, errIssuer
	}
	of := &p.issuers[i]
	if err := t.verify(of.keys, of.Algorithms); err != nil {
		if p.unknown != nil && of.Url != "" && (errors.Is(err, errUnknownKey) || t.keyID == "" && errors.Is(err, errSignature)) {
			p.unknown(of.Url)
		}
		return nil, err
	}
	if len(of.Audiences) > 0 && !slices.ContainsFunc(user.audiences, func(a string) bool { return slices.Contains(of.Audiences, a) }) {
		return nil, errAudience
	}
	out := &proof{user: user, fields: p.tell(user), signedInAsWanted: true}
	if err := out.bound(of.leeway); err != nil {
		return nil, err
	}
	if len(p.body.AcrValues) > 0 {
		acr, _ := user.claims.Member("acr")
		out.signedInAsWanted = acr.kind == String && slices.Contains(p.body.AcrValues, acr.text)
	}
	if p.body.MaxAgeMs > 0 {
		var there bool
		if out.signedIn, there, err = user.time("auth_time"); err != nil {
			return nil, err
		}
		out.signedInAsWanted = out.signedInAsWanted && there
	}
	return out, nil
}

// bound finds out when the proof holds. A token that never expires is none: nobody could take it back.
func (out *proof) bound(leeway time.Duration) error {
	until, there, err := out.user.time("exp")
	if err != nil {
		return err
	}
	if !there {
		return fmt.Errorf("%w: there is no exp", errClaims)
	}
	out.until = until.Add(leeway)
	for _, name := range []string{"nbf", "iat"} {
		from, there, err := out.user.time(name)
		if err != nil {
			return err
		}
		if from = from.Add(-leeway); there && from.After(out.from) {
			out.from = from
		}
	}
	return nil
}

// maxTime is the end of the year 9999, in seconds since 1970: what is beyond is no time.
const maxTime = 253402300799

// time is a claim that is a NumericDate (RFC 7519 §2).
func (u *User) time(name string) (at time.Time, there bool, err error) {
	v, there := u.claims.Member(name)
	if !there {
		return time.Time{}, false, nil
	}
	seconds, is := v.Number()
	if !is || seconds < 0 || seconds > maxTime {
		return time.Time{}, false, fmt.Errorf("%w: %s is no time", errClaims, name)
	}
	return time.UnixMilli(int64(seconds * 1000)), true, nil
}
