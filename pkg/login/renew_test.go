package login

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sennit-mesh/sennit/internal/tokentest"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// signIn is what a browser keeps after somebody has signed in, with an ID token of five minutes and something to renew it with.
func (i *issuer) signIn(l *Login, refresh string) (cookies []string) {
	i.Helper()
	began := l.Begin(i.Context(), get("/"), i.policy, start)
	asked := located(i.T, began).Query()
	i.claims = map[string]any{"iss": "https://id.example", "aud": "shop", "sub": "alice", "exp": start.Add(5 * time.Minute).Unix(), "nonce": asked.Get("nonce")}
	i.more = map[string]any{"refresh_token": refresh}
	a := l.Answer(i.Context(), get("/in?code=one&state="+asked.Get("state"), kept(began)...), i.policy, start)
	if a.Status != http.StatusFound {
		i.Fatalf("%+v", a)
	}
	i.posted = nil
	delete(i.claims, "nonce")
	return kept(a)
}

// renewal is the next ID token, which is good for five minutes from at on.
func (i *issuer) renewal(at time.Time) {
	i.claims["exp"], i.claims["n"] = at.Add(5*time.Minute).Unix(), at.Unix()
}

func TestRenewal(t *testing.T) {
	const (
		before  = "the one of before"
		another = "another one"
		none    = "none"
	)
	near, over := 4*time.Minute, 6*time.Minute // of five
	refuse := func(code string) func(*issuer, *Login) {
		return func(i *issuer, _ *Login) {
			i.answer = func() *http.Response { return says(400, fmt.Sprintf(`{"error": %q}`, code)) }
		}
	}
	for _, tt := range []struct {
		name  string
		after time.Duration
		spoil func(*issuer, *Login)
		token string
		asked int
		again int // in all, when it comes again six seconds later
	}{
		{"long before its end", near - 1, nil, before, 0, 1},
		{"shortly before its end", near, nil, another, 1, 1},
		{"after its end", over, nil, another, 1, 1},
		{"at the end of the session", time.Hour - time.Second, nil, another, 1, 1},
		{"after the session", time.Hour, nil, none, 0, 0},
		{"refused before its end", near, refuse("invalid_grant"), before, 1, 1},
		{"refused after its end", over, refuse("invalid_grant"), none, 1, 1},
		{"in trouble before its end", near, refuse("server_error"), before, 1, 2},
		{"in trouble after its end", over, refuse("server_error"), none, 1, 2},
		{"no ID token", over, func(i *issuer, _ *Login) { i.more["id_token"] = "" }, none, 1, 1},
		{"another user's", over, func(i *issuer, _ *Login) { i.claims["sub"] = "bob" }, none, 1, 1},
		{"another client's", over, func(i *issuer, _ *Login) { i.claims["aud"] = "bank" }, none, 1, 1},
		{"another issuer's", over, func(i *issuer, _ *Login) { i.claims["iss"] = "https://other.example" }, none, 1, 1},
		{"another attempt's", over, func(i *issuer, _ *Login) { i.claims["nonce"] = "x" }, none, 1, 1},
		{"another's signature", over, func(i *issuer, _ *Login) { i.key = tokentest.NewKey(i.T) }, none, 1, 1},
		{"over", over, func(i *issuer, _ *Login) { i.renewal(start) }, none, 1, 1},
		{"as many wait as may", over, func(_ *issuer, l *Login) {
			for range mostWaiting {
				l.slots <- struct{}{}
			}
		}, none, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i, l := newIssuer(t)
			cookies := i.signIn(l, "r1")
			now := start.Add(tt.after)
			had := l.Session(t.Context(), get("/", cookies...), i.policy, start).Token
			i.renewal(now)
			if tt.spoil != nil {
				tt.spoil(i, l)
			}
			req := get("/", append(slices.Clone(cookies), "mine=1")...)
			is := l.Session(t.Context(), req, i.policy, now)
			got := another
			switch is.Token {
			case "":
				got = none
			case had:
				got = before
			}
			if got != tt.token || len(i.posted) != tt.asked || len(req.Fields) != 1 {
				t.Errorf("%s, asked with %v, and the service sees %v", got, i.posted, req.Fields)
			}
			if renewed := got == another; renewed != (len(is.Fields) > 0) || (is.Detail == "") != (tt.asked == 0 || renewed) && len(l.slots) == 0 {
				t.Errorf("the browser is told %v, and the log %q", is.Fields, is.Detail)
			}
			if tt.asked > 0 && (i.posted[0].Get("grant_type") != "refresh_token" || i.posted[0].Get("refresh_token") != "r1") {
				t.Errorf("asked with %v", i.posted)
			}
			if got == another {
				if last := is.Fields[len(is.Fields)-1]; last != noStore {
					t.Errorf("a cache may keep it: %v", last)
				}
				if lives := fmt.Sprintf("; Max-Age=%d;", (time.Hour-tt.after).Truncate(time.Second)/time.Second); !strings.Contains(is.Fields[0].Value, lives) {
					t.Errorf("not until %s: %s", lives, is.Fields[0].Value)
				}
			}
			l.Session(t.Context(), get("/", cookies...), i.policy, now.Add(6*time.Second))
			if len(i.posted) != tt.again {
				t.Errorf("six seconds later it was asked %d times", len(i.posted))
			}
		})
	}
}

// A session goes on with what the issuer gave last, until the policy ends it.
func TestASessionIsRenewedAgainAndAgain(t *testing.T) {
	i, l := newIssuer(t)
	last := "r1"
	cookies := i.signIn(l, last)
	now := start
	for n := 2; ; n++ {
		now = now.Add(4*time.Minute + 30*time.Second)
		i.renewal(now)
		delete(i.more, "refresh_token") // that of before goes on
		with := last
		if n%2 == 0 {
			last = fmt.Sprint("r", n)
			i.more["refresh_token"] = last
		}
		is := l.Session(t.Context(), get("/", cookies...), i.policy, now)
		if is.Token == "" {
			break
		}
		if len(i.posted) != n-1 || i.posted[n-2].Get("refresh_token") != with {
			t.Errorf("renewal %d with %v, and not %s", n-1, i.posted, with)
		}
		cookies = kept(&Answer{Fields: is.Fields})
	}
	if lasted := now.Sub(start); lasted < time.Hour || lasted > time.Hour+5*time.Minute {
		t.Errorf("the session lasted for %s", lasted)
	}
}

// What renews a session that would not fit into cookies is left out, and so is it where the ID token outlives the session.
func TestWhatIsNotRenewed(t *testing.T) {
	for name, refresh := range map[string]string{"too large": strings.Repeat("x", maxParts*partBytes), "none": ""} {
		i, l := newIssuer(t)
		cookies := i.signIn(l, refresh)
		if len(cookies) != 1 || l.Session(t.Context(), get("/", cookies...), i.policy, start).Token == "" {
			t.Errorf("%s: %d cookies", name, len(cookies))
		}
		if is := l.Session(t.Context(), get("/", cookies...), i.policy, start.Add(5*time.Minute)); is.Token != "" || len(i.posted) > 0 {
			t.Errorf("%s: it goes on", name)
		}
	}
	i, l := newIssuer(t)
	l.body.SessionMs = uint64((3 * time.Minute).Milliseconds())
	cookies := i.signIn(l, "r1")
	for _, at := range []time.Duration{2*time.Minute + 59*time.Second, 3 * time.Minute} {
		if is := l.Session(t.Context(), get("/", cookies...), i.policy, start.Add(at)); (is.Token == "") != (at == 3*time.Minute) || len(i.posted) > 0 {
			t.Errorf("after %s: %t, asked %v", at, is.Token != "", i.posted)
		}
	}
}

// Of requests that come at once with the same session one asks the issuer, and while the ID token is good the others wait for
// nothing.
func TestOneRequestRenews(t *testing.T) {
	for name, after := range map[string]time.Duration{"before its end": 4 * time.Minute, "after its end": 6 * time.Minute} {
		i, l := newIssuer(t)
		cookies := i.signIn(l, "r1")
		had := l.Session(t.Context(), get("/", cookies...), i.policy, start).Token
		now := start.Add(after)
		i.renewal(now)
		synctest.Test(t, func(t *testing.T) {
			answers := make(chan struct{})
			signed := i.sign()
			i.answer = func() *http.Response {
				<-answers
				return says(200, `{"access_token": "x", "refresh_token": "r2", "id_token": "`+signed+`"}`)
			}
			var all sync.WaitGroup
			var mu sync.Mutex
			told := map[string]int{}
			for range 50 {
				all.Go(func() {
					is := l.Session(t.Context(), get("/", cookies...), i.policy, now)
					mu.Lock()
					defer mu.Unlock()
					told[is.Token]++
				})
			}
			synctest.Wait()
			mu.Lock()
			early := told[had]
			mu.Unlock()
			close(answers)
			all.Wait()
			if want := map[bool]int{true: 49}[after < 5*time.Minute]; len(i.posted) != 1 || early != want || told[signed] != 50-want {
				t.Errorf("%s: asked %d times, %d did not wait, and %d have the new one", name, len(i.posted), early, told[signed])
			}
			// Who comes with the cookies of before gets the new ones too.
			if is := l.Session(t.Context(), get("/", cookies...), i.policy, now.Add(renewedFor-time.Second)); is.Token != signed || len(is.Fields) == 0 || len(i.posted) != 1 {
				t.Errorf("%s: late: %+v", name, is)
			}
		})
	}
}

// When a session is renewed, and how long a browser keeps it.
func TestWhenSessionsEnd(t *testing.T) {
	i, l := newIssuer(t)
	for _, tt := range []struct {
		lives, until   time.Duration
		refresh        string
		ends, renew    time.Duration // 0: it is not renewed
		browserSeconds int
	}{
		{time.Hour, 12 * time.Hour, "r", time.Hour, 59 * time.Minute, 12 * 3600},
		{time.Minute, time.Hour, "r", time.Minute, 45 * time.Second, 3600},
		{time.Minute, time.Hour, "", time.Minute, 0, 60},
		{time.Hour, time.Hour, "r", time.Hour, 0, 3600},
		{time.Hour, time.Minute, "r", time.Minute, 0, 60},
	} {
		i.claims = map[string]any{"iss": "https://id.example", "aud": "shop", "sub": "alice", "exp": start.Add(tt.lives).Unix()}
		user, problem := l.check(i.policy, i.sign(), start)
		if problem != "" {
			t.Fatal(problem)
		}
		cookies, s, err := l.begin(tokens{i.sign(), tt.refresh}, user, start.Add(tt.until), start)
		renew := time.Duration(0)
		if err == nil && s.Refresh != "" {
			renew = time.Unix(s.Renew, 0).Sub(start)
		}
		if err != nil || s.Ends != start.Add(tt.ends).Unix() || renew != tt.renew || !strings.Contains(cookies[0].Value, fmt.Sprintf("; Max-Age=%d;", tt.browserSeconds)) {
			t.Errorf("%+v: %+v in %v, %v", tt, s, cookies, err)
		}
	}
}

// Of renewals as many are remembered as may, for as long as that is of use.
func TestRenewalsThatAreRemembered(t *testing.T) {
	var r renewals
	for n := range 2 * mostRenewals {
		one, run := r.enter(fmt.Sprint(n), start)
		if !run {
			t.Fatalf("%d is known", n)
		}
		one.until = start.Add(renewedFor)
		close(one.done)
	}
	if len(r.known) != mostRenewals || len(r.order) != mostRenewals {
		t.Errorf("%d are remembered", len(r.known))
	}
	for _, tt := range []struct {
		n     int
		after time.Duration
		run   bool
	}{{2*mostRenewals - 1, 0, false}, {mostRenewals, renewedFor - 1, false}, {2*mostRenewals - 1, renewedFor, true}, {mostRenewals - 1, 0, true}} {
		if _, run := r.enter(fmt.Sprint(tt.n), start.Add(tt.after)); run != tt.run || len(r.known) != mostRenewals || len(r.order) != mostRenewals {
			t.Errorf("%d is to run after %s: %t, of %d and %d", tt.n, tt.after, run, len(r.known), len(r.order))
		}
	}
}

// A refresh token is used up whether or not the browser waits: what came of it is there when it comes again.
func TestTheBrowserThatRenewsGoes(t *testing.T) {
	i, l := newIssuer(t)
	cookies := i.signIn(l, "r1")
	now := start.Add(6 * time.Minute)
	i.renewal(now)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	l.Session(gone, get("/", cookies...), i.policy, now)
	if is := l.Session(t.Context(), get("/", cookies...), i.policy, now); is.Token == "" || len(i.posted) != 1 {
		t.Errorf("%+v, asked %d times", is, len(i.posted))
	}
}

// Who signs out takes back what renews his session, and whoever has nothing to take back asks for nothing.
func TestLogoutRevokes(t *testing.T) {
	for name, tt := range map[string]struct{ config, refresh, cookies, want string }{
		"a session":            {`, "revocation_endpoint": "https://id.example/revoke"`, "r1", "", "r1"},
		"nothing renews it":    {`, "revocation_endpoint": "https://id.example/revoke"`, "", "", ""},
		"a cookie of nobody's": {`, "revocation_endpoint": "https://id.example/revoke"`, "r1", "__Host-s=AAAA", ""},
		"nothing takes back":   {"", "r1", "", ""},
	} {
		for _, methods := range []string{"", `, "token_endpoint_auth_methods_supported": ["client_secret_post"]`} {
			i, l := newIssuer(t)
			i.config = tt.config + methods
			cookies := i.signIn(l, tt.refresh)
			if tt.cookies != "" {
				cookies = []string{tt.cookies}
			}
			a := l.Answer(t.Context(), get("/out", cookies...), i.policy, start)
			if a.Status != http.StatusNoContent || len(kept(a)) > 0 || len(a.Fields) != 2 {
				t.Errorf("%s: %+v", name, a)
			}
			got := ""
			if len(i.posted) > 0 {
				got = i.posted[0].Get("token")
			}
			if got != tt.want || len(i.posted) > 0 && tt.want == "" {
				t.Errorf("%s: took back %v", name, i.posted)
			}
		}
	}
}

// How the client shows its secret is not tried out: a trial could use a code or refresh token up.
func TestHowTheSecretIsShown(t *testing.T) {
	for _, tt := range []struct {
		config, secret string
		basic          bool
	}{
		{"", "very secret", true},
		{`, "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"]`, "very secret", true},
		{`, "token_endpoint_auth_methods_supported": ["client_secret_post"]`, "very secret", false},
		{"", "", false},
	} {
		i, l := newIssuer(t)
		i.config, i.secret, l.secret = tt.config, tt.secret, tt.secret
		i.signIn(l, "r1")
		if i.basic != tt.basic {
			t.Errorf("%q: basic: %t", tt.config, i.basic)
		}
		i.answer = func() *http.Response { return says(400, `{"error": "invalid_grant"}`) }
		if _, err := l.renew(t.Context(), &session{Refresh: "r1"}, &exchange.Request{}, i.policy, start); !errors.As(err, &errRefused{}) || len(i.posted) != 1 {
			t.Errorf("%q: %v, asked %d times", tt.config, err, len(i.posted))
		}
	}
}
