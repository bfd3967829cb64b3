package login

import (
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func newLogin(t *testing.T, policy, client string, key byte) *Login {
	t.Helper()
	l, err := New(policy, &snapshot.Login{Issuer: "https://id.example", ClientId: client, Cookie: "s", CallbackPath: "/in", LogoutPath: "/out"},
		&snapshot.LoginSecrets{SessionKey: []byte(strings.Repeat(string(rune('a'+key)), 32))})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestSealsAreBound to what they are, to the policy, to the client and to the key.
func TestSealsAreBound(t *testing.T) {
	one := newLogin(t, "shop/a", "shop", 0)
	sealed, err := one.sealed(sealedSession, &session{Token: "t", Ends: 5})
	if err != nil {
		t.Fatal(err)
	}
	var got session
	if err := newLogin(t, "shop/a", "shop", 0).open(sealed, sealedSession, &got); err != nil || got.Token != "t" || got.Ends != 5 {
		t.Errorf("another node reads %+v, %v", got, err)
	}
	for name, open := range map[string]func() error{
		"an attempt":       func() error { return one.open(sealed, sealedAttempt, &got) },
		"another policy's": func() error { return newLogin(t, "shop/b", "shop", 0).open(sealed, sealedSession, &got) },
		"another client's": func() error { return newLogin(t, "shop/a", "bank", 0).open(sealed, sealedSession, &got) },
		"another key's":    func() error { return newLogin(t, "shop/a", "shop", 1).open(sealed, sealedSession, &got) },
		"nothing":          func() error { return one.open("", sealedSession, &got) },
		"too long":         func() error { return one.open(strings.Repeat("A", maxParts*partBytes+1), sealedSession, &got) },
	} {
		if open() == nil {
			t.Errorf("a session is taken for %s", name)
		}
	}
	if again, _ := one.sealed(sealedSession, &session{Token: "t", Ends: 5}); again == sealed {
		t.Error("the same is sealed to the same")
	}
	if _, err := New("a", &snapshot.Login{}, &snapshot.LoginSecrets{SessionKey: make([]byte, 16)}); err == nil {
		t.Error("a short key is taken")
	}
}

// TestSessionsOfManyParts are put together again in their order, whatever order a browser sends them in.
func TestSessionsOfManyParts(t *testing.T) {
	l := newLogin(t, "shop/a", "shop", 0)
	now := time.Unix(1000, 0)
	token := strings.Repeat("x", 6000)
	sealed, err := l.sealed(sealedSession, &session{Token: token, Ends: 2000})
	if err != nil {
		t.Fatal(err)
	}
	cookies, err := l.sessionCookies(sealed, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	req := &exchange.Request{Fields: exchange.Fields{{Name: "cookie", Value: "mine=1"}}}
	for i := len(cookies) - 1; i >= 0; i-- {
		pair, _, _ := strings.Cut(cookies[i].Value, ";")
		if len(cookies[i].Value) > 4096 {
			t.Errorf("a cookie has %d bytes", len(cookies[i].Value))
		}
		if !strings.HasSuffix(pair, "=") { // a browser keeps none that is over
			req.Fields = append(req.Fields, exchange.Field{Name: "cookie", Value: pair})
		}
	}
	if got := l.Session(t.Context(), req, nil, now).Token; got != token || len(req.Fields) != 1 || req.Fields[0].Value != "mine=1" {
		t.Errorf("%d bytes, and the service sees %v", len(got), req.Fields)
	}
	if _, err := l.sessionCookies(strings.Repeat("x", maxParts*partBytes+1), time.Minute); err == nil {
		t.Error("more than browsers keep is sent to one")
	}
}

// FuzzRequests has strangers write cookies and callbacks: none is a session, and nobody is led away by one.
func FuzzRequests(f *testing.F) {
	f.Add("__Host-s=AAAA; __Host-s-1=B", "/in?state=a&code=b")
	f.Add("__Secure-s-login-a=AAAA", "/in?state=a&state=b&error=%zz")
	f.Fuzz(func(t *testing.T, cookies, path string) {
		l := newLogin(t, "shop/a", "shop", 0)
		req := &exchange.Request{Method: "GET", Authority: "shop.example", Path: path, Fields: exchange.Fields{{Name: "Cookie", Value: cookies}}}
		if strings.HasPrefix(path, "/in") && l.Answers(path) {
			if a := l.Answer(t.Context(), req, nil, time.Unix(1000, 0)); a.Status < 400 {
				t.Errorf("%+v", a)
			}
		}
		if token := l.Session(t.Context(), req, nil, time.Unix(1000, 0)).Token; token != "" {
			t.Errorf("session %q", token)
		}
	})
}
