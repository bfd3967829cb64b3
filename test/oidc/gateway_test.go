package oidc

import (
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/login"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	shopSecret   = "shop's secret: ä+%"
	shopCallback = "https://shop.example/callback"
)

// gateway is how people sign in at one, without the gateway.
func (w *world) gateway() (*login.Login, *authn.Policy) {
	w.Helper()
	res, err := w.web.Client().Get(w.issuer + "/keys")
	if err != nil {
		w.Fatal(err)
	}
	defer res.Body.Close()
	keys, err := io.ReadAll(res.Body)
	if err != nil {
		w.Fatal(err)
	}
	body := &snapshot.Login{
		Issuer: w.issuer, ClientId: "shop", Scopes: []string{"openid", "offline_access"}, CallbackPath: "/callback", LogoutPath: "/logout", Cookie: "s",
		SessionMs: uint64((3 * time.Hour).Milliseconds()), CaBundle: w.ca(),
	}
	policy, err := authn.Compile(&snapshot.Authentication{Login: body, Issuers: []*snapshot.Issuer{{Issuer: w.issuer, Audiences: []string{"shop"}, Keys: keys, LeewayMs: 30_000}}}, nil, nil)
	if err != nil {
		w.Fatal(err)
	}
	l, err := login.New("shop/people", body, &snapshot.LoginSecrets{SessionKey: make([]byte, 32), ClientSecret: shopSecret})
	if err != nil {
		w.Fatal(err)
	}
	return l, policy
}

// get is a request of a browser's to the gateway.
func get(path string, cookies ...string) *exchange.Request {
	return &exchange.Request{Method: http.MethodGet, Authority: "shop.example", Path: path, Fields: exchange.Fields{{Name: "Cookie", Value: strings.Join(cookies, "; ")}}}
}

// kept are the cookies that a browser keeps of fields.
func kept(fields []exchange.Field) (cookies []string) {
	for _, f := range fields {
		pair, attributes, _ := strings.Cut(f.Value, ";")
		if f.Name == "Set-Cookie" && !strings.Contains(attributes, "Max-Age=0;") {
			cookies = append(cookies, pair)
		}
	}
	return cookies
}

// visit signs the person in at the provider, to which a gateway led him, and returns where he is led back to.
func (w *world) visit(address string) (*url.URL, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	var back *url.URL
	b := &http.Client{Transport: w.web.Client().Transport, Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Host == "shop.example" {
			back = r.URL
			return http.ErrUseLastResponse
		}
		return nil
	}}
	res, err := b.Get(address)
	if err != nil {
		return nil, err
	}
	res.Body.Close()
	res, err = b.PostForm(w.issuer+"/login/username", url.Values{"id": {res.Request.URL.Query().Get("authRequestID")}, "username": {username}, "password": {password}})
	if err != nil {
		return nil, err
	}
	res.Body.Close()
	if back == nil {
		return nil, errors.New("the person is not led back: " + res.Status)
	}
	return back, nil
}

// A person signs in at a gateway, and stays signed in for as long as the policy says by what the provider renews, which takes each
// refresh token once.
func TestSessionAtAGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l, policy := w.gateway()
	now := time.Now()
	began := l.Begin(t.Context(), get("/cart"), policy, now)
	var to string
	for _, f := range began.Fields {
		if f.Name == "Location" {
			to = f.Value
		}
	}
	back, err := w.visit(to)
	if err != nil {
		t.Fatal(err)
	}
	a := l.Answer(t.Context(), get(back.RequestURI(), kept(began.Fields)...), policy, now)
	if a.Status != http.StatusFound {
		t.Fatalf("%+v", a)
	}
	first := kept(a.Fields)
	now = time.Now() // what the provider says of times is of its clock, which is this one
	is := l.Session(t.Context(), get("/", first...), policy, now)
	if is.Token == "" || len(is.Fields) > 0 {
		t.Fatalf("no session: %+v", is)
	}
	// The provider's ID tokens live for an hour.
	soon := time.Now().Add(59*time.Minute + 30*time.Second)
	next := l.Session(t.Context(), get("/", first...), policy, soon)
	if next.Token == "" || next.Token == is.Token || len(next.Fields) == 0 || next.Detail != "" {
		t.Fatalf("not renewed: %+v", next)
	}
	user, refusal := policy.Verify(next.Token, soon)
	if refusal != nil || user.Subject() != subject {
		t.Errorf("renewed for %q, %v", user.Subject(), refusal)
	}
	second := kept(next.Fields)
	if is := l.Session(t.Context(), get("/", second...), policy, soon); is.Token != next.Token || len(is.Fields) > 0 {
		t.Errorf("the new session: %+v", is)
	}
	// Another node of the gateway, that knows nothing of this, is refused what was used; the browser's session goes on.
	other, policy := w.gateway()
	if late := other.Session(t.Context(), get("/", first...), policy, soon); late.Token != is.Token || len(late.Fields) > 0 || !strings.Contains(late.Detail, "invalid_grant") {
		t.Errorf("what was used: %+v", late)
	}
	if late := other.Session(t.Context(), get("/", first...), policy, now.Add(61*time.Minute)); late.Token != "" {
		t.Errorf("what was used, and is over: %+v", late)
	}
	again := other.Session(t.Context(), get("/", second...), policy, time.Now().Add(59*time.Minute+57*time.Second))
	if again.Token == "" || again.Token == next.Token {
		t.Errorf("not renewed again: %+v", again)
	}
	// Once he has signed out, who has a copy of the cookies renews them nowhere.
	third := kept(again.Fields)
	if a := other.Answer(t.Context(), get("/logout", third...), policy, now); a.Status != http.StatusFound || len(kept(a.Fields)) > 0 {
		t.Errorf("signed out: %+v", a)
	}
	another, policy := w.gateway()
	if stolen := another.Session(t.Context(), get("/", third...), policy, time.Now().Add(59*time.Minute+59*time.Second)); len(stolen.Fields) > 0 || !strings.Contains(stolen.Detail, "invalid_grant") {
		t.Errorf("a copy is renewed: %+v", stolen)
	}
}
