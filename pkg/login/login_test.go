package login

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sennit-mesh/sennit/internal/tokentest"
	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// An issuer has one user, alice, who is signed in there.
type issuer struct {
	*testing.T
	key    *ecdsa.PrivateKey
	secret string
	policy *authn.Policy
	claims map[string]any        // of the ID tokens that it gives
	tokens string                // where it says that it gives them
	answer func() *http.Response // in their place
	posted []url.Values          // what it was asked for tokens with
	more   map[string]any        // what it gives beside an ID token
	config string                // that it says of itself beside where its parts are
	basic  bool                  // the client showed its secret apart from what it posted
	others []string              // what else was asked for
}

func newIssuer(t *testing.T) (*issuer, *Login) {
	t.Helper()
	i := &issuer{T: t, key: tokentest.NewKey(t), tokens: "https://id.example/token"}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	l := newLogin(t, "shop/a", "shop", 0)
	i.secret = "very secret"
	l.secret, l.body.Scopes, l.body.SessionMs = i.secret, []string{"openid"}, uint64(time.Hour.Milliseconds())
	audiences := []string{"shop", "bank"}
	i.policy, err = authn.Compile(&snapshot.Authentication{Login: l.body, Issuers: []*snapshot.Issuer{
		{Issuer: "https://id.example", Audiences: audiences, Keys: keys, LeewayMs: 30_000}, {Issuer: "https://other.example", Audiences: audiences, Keys: keys},
	}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.provider.client.Transport = bounded{web(i.serve)}
	return i, l
}

func (i *issuer) serve(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	switch r.URL.String() {
	case "https://id.example/.well-known/openid-configuration":
		return says(http.StatusOK, fmt.Sprintf(`{"issuer": "https://id.example", "authorization_endpoint": "https://id.example/authorize", "token_endpoint": %q%s}`, i.tokens, i.config)), nil
	case "https://id.example/token", "https://id.example/revoke":
		if err := r.ParseForm(); err != nil {
			return nil, err
		}
		i.posted = append(i.posted, r.PostForm)
		_, secret, basic := r.BasicAuth()
		if i.basic = basic; basic && secret != "very+secret" || !basic && r.PostForm.Get("client_secret") != i.secret {
			i.Errorf("the client shows %q and %v", secret, r.PostForm)
		}
		if r.URL.Path == "/revoke" {
			return says(http.StatusOK, ""), nil
		}
		if i.answer != nil {
			return i.answer(), nil
		}
		given := map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": i.sign()}
		maps.Copy(given, i.more)
		text, err := json.Marshal(given)
		return says(http.StatusOK, string(text)), err
	}
	i.others = append(i.others, r.URL.String())
	return says(http.StatusOK, `{}`), nil
}

func (i *issuer) sign() string { return tokentest.Sign(i, i.key, "a", i.claims) }

// get is a request of a browser's.
func get(path string, cookies ...string) *exchange.Request {
	req := &exchange.Request{Method: http.MethodGet, Authority: "shop.example", Path: path}
	for _, c := range cookies {
		req.Fields = append(req.Fields, exchange.Field{Name: "cookie", Value: c})
	}
	return req
}

// kept are the cookies that a browser keeps of an answer.
func kept(a *Answer) (cookies []string) {
	for _, f := range a.Fields {
		pair, attributes, _ := strings.Cut(f.Value, ";")
		if f.Name == "Set-Cookie" && !strings.Contains(attributes, "Max-Age=0;") {
			cookies = append(cookies, pair)
		}
	}
	return cookies
}

func located(t *testing.T, a *Answer) *url.URL {
	t.Helper()
	for _, f := range a.Fields {
		if f.Name == "Location" {
			u, err := url.Parse(f.Value)
			if err != nil {
				t.Fatal(err)
			}
			return u
		}
	}
	t.Fatalf("leads nowhere: %+v", a)
	return nil
}

var start = time.Unix(1_700_000_000, 0)

// A callback is what a browser brings from an issuer.
type callback struct {
	*issuer
	l   *Login
	req *exchange.Request
	now time.Time
}

// query adds to what the issuer had the browser say.
func (c *callback) query(more string) { c.req.Path += "&" + more }

// TestCallbacks that are as they must be begin a session, and no others.
func TestCallbacks(t *testing.T) {
	for _, tt := range []struct {
		name   string
		spoil  func(*callback)
		status int
	}{
		{"nothing is wrong", func(*callback) {}, 302},
		{"signing in took its time", func(c *callback) { c.now = start.Add(signInTime - 1) }, 302},
		{"signing in took too long", func(c *callback) { c.now = start.Add(signInTime) }, 403},
		{"a post", func(c *callback) { c.req.Method = http.MethodPost }, 405},
		{"a query that is read in several ways", func(c *callback) { c.query("%zz") }, 403},
		{"two states", func(c *callback) { c.query("state=x") }, 403},
		{"two codes", func(c *callback) { c.query("code=x") }, 403},
		{"an error beside the code", func(c *callback) { c.query("error=access_denied") }, 403},
		{"the issuer names itself", func(c *callback) { c.query("iss=https://id.example") }, 302},
		{"another issuer answers", func(c *callback) { c.query("iss=https://other.example") }, 403},
		{"another state that begins alike", func(c *callback) { c.req.Path = strings.Replace(c.req.Path, "&code=", "x&code=", 1) }, 403},
		{"no attempt", func(c *callback) { c.req.Fields = nil }, 403},
		{"the attempt twice", func(c *callback) { c.req.Fields = append(c.req.Fields, c.req.Fields[0]) }, 403},
		{"the attempt of another", func(c *callback) {
			_, other, _ := strings.Cut(kept(c.l.Begin(c.Context(), get("/"), c.policy, start))[0], "=")
			name, _, _ := strings.Cut(c.req.Fields[0].Value, "=")
			c.req.Fields[0].Value = name + "=" + other
		}, 403},
		{"no nonce", func(c *callback) { delete(c.claims, "nonce") }, 403},
		{"the nonce of another attempt", func(c *callback) { c.claims["nonce"] = "x" }, 403},
		{"an issuer that is trusted otherwise", func(c *callback) { c.claims["iss"] = "https://other.example" }, 403},
		{"an audience that is trusted otherwise", func(c *callback) { c.claims["aud"] = "bank" }, 403},
		{"several audiences", func(c *callback) { c.claims["aud"] = []string{"shop", "bank"} }, 403},
		{"several audiences, and this party", func(c *callback) { c.claims["aud"], c.claims["azp"] = []string{"shop", "bank"}, "shop" }, 302},
		{"another party", func(c *callback) { c.claims["azp"] = "bank" }, 403},
		{"nobody", func(c *callback) { delete(c.claims, "sub") }, 403},
		{"another's signature", func(c *callback) { c.key = tokentest.NewKey(c.T) }, 403},
		{"over, but for what clocks may differ", func(c *callback) { c.claims["exp"] = start.Unix() }, 403}, // it would be led around in a circle
		{"no ID token", func(c *callback) { c.answer = func() *http.Response { return says(200, `{"access_token": "x"}`) } }, 403},
		{"an answer without end", func(c *callback) {
			signed := c.sign()
			c.answer = func() *http.Response {
				return says(200, `{"access_token": "x", "id_token": "`+signed+`", "x": "`+strings.Repeat("x", maxIssuerBytes)+`"}`)
			}
		}, 403},
		{"the secret is sent elsewhere", func(c *callback) {
			c.answer = func() *http.Response {
				r := says(http.StatusTemporaryRedirect, "")
				r.Header.Set("Location", "https://evil.example/token")
				return r
			}
		}, 403},
		{"the secret is sent in the clear", func(c *callback) { c.l.provider.next, c.tokens = time.Time{}, "http://id.example/token" }, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i, l := newIssuer(t)
			began := l.Begin(t.Context(), get("/cart?a=b"), i.policy, start)
			asked := located(t, began).Query()
			i.claims = map[string]any{"iss": "https://id.example", "aud": "shop", "sub": "alice", "exp": start.Add(time.Hour).Unix(), "nonce": asked.Get("nonce")}
			c := &callback{i, l, get("/in?state="+asked.Get("state")+"&code=one", kept(began)...), start}
			tt.spoil(c)
			got := l.Answer(t.Context(), c.req, i.policy, c.now)
			if got.Status != tt.status || len(i.others) > 0 {
				t.Fatalf("%+v, and %v was asked for", got, i.others)
			}
			if tt.status != 302 {
				if cookies := kept(got); len(cookies) > 0 {
					t.Errorf("a session begins: %v", cookies)
				}
				return
			}
			if to := located(t, got).String(); to != "https://shop.example/cart?a=b" {
				t.Errorf("led to %s", to)
			}
			page := get("/cart", append(kept(got), kept(began)...)...)
			if token := l.Session(t.Context(), page, i.policy, start).Token; !strings.HasPrefix(token, "ey") || len(page.Fields) > 0 {
				t.Errorf("the session has %q, and the service sees %v", token, page.Fields)
			}
			// PKCE: what was asked for is the hash of what was shown for the code (RFC 7636 §4).
			hash := sha256.Sum256([]byte(i.posted[0].Get("code_verifier")))
			if asked.Get("code_challenge_method") != "S256" || asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(hash[:]) || i.posted[0].Get("code") != "one" {
				t.Errorf("asked for %v, shown %v", asked, i.posted[0])
			}
			if back := "https://shop.example/in"; asked.Get("redirect_uri") != back || i.posted[0].Get("redirect_uri") != back {
				t.Errorf("back to %q, %q", asked.Get("redirect_uri"), i.posted[0].Get("redirect_uri"))
			}
		})
	}
}

// TestHowPeopleMustSignIn: the issuer is asked for what the policy asks for.
func TestHowPeopleMustSignIn(t *testing.T) {
	for _, tt := range []struct {
		acr      []string
		maxAgeMs uint64
		want     string
	}{{nil, 0, ""}, {[]string{"mfa", "hw"}, 0, "acr_values=mfa+hw"}, {nil, 3_600_000, "max_age=3600"}} {
		i, l := newIssuer(t)
		policy, err := authn.Compile(&snapshot.Authentication{Login: l.body, AcrValues: tt.acr, MaxAgeMs: tt.maxAgeMs}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		asked := located(t, l.Begin(i.Context(), get("/"), policy, start)).Query()
		got := url.Values{}
		for _, name := range []string{"acr_values", "max_age"} {
			if asked.Has(name) {
				got[name] = asked[name]
			}
		}
		if got.Encode() != tt.want {
			t.Errorf("%v", asked)
		}
	}
}

// TestReturnPaths are of this host, and fit into a cookie.
func TestReturnPaths(t *testing.T) {
	for path, want := range map[string]string{
		"/cart?a=b": "/cart?a=b", "*": "/", "https://evil.example/": "/", "/" + strings.Repeat("x", longestReturn): "/",
	} {
		if got := returnPath(path); got != want {
			t.Errorf("%.40s: %.40s", path, got)
		}
	}
}

// FuzzIssuers: whatever an issuer says of itself and gives for a code, it breaks nothing, and nobody has a session but by the ID
// token that was made for the attempt, which TOKEN stands for.
func FuzzIssuers(f *testing.F) {
	const parts = `"authorization_endpoint": "https://id.example/authorize", "token_endpoint": "https://id.example/token"`
	f.Add(`{"issuer": "https://id.example", `+parts+`}`, 200, `{"access_token": "x", "token_type": "Bearer", "id_token": "TOKEN", "expires_in": 3600}`)
	f.Add(`{"issuer": "https://id.example", "token_endpoint_auth_methods_supported": ["client_secret_post"], "end_session_endpoint": ":", `+parts+`}`, 400, `{"error": "invalid_grant"}`)
	f.Add(`{"issuer": "https://id.example", `+parts+`}`, 200, `{"access_token": "x", "id_token": ["TOKEN"], "expires_in": "never", "refresh_token": 7}`)
	f.Add(`{"issuer": "https://other.example"}`, 302, ``)
	f.Fuzz(func(t *testing.T, configuration string, status int, given string) {
		if status < 200 || status > 599 {
			return
		}
		i, l := newIssuer(t)
		l.provider.client.Transport = bounded{web(func(r *http.Request) (*http.Response, error) {
			if strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration") {
				return says(http.StatusOK, configuration), nil
			}
			return says(status, strings.ReplaceAll(given, "TOKEN", i.sign())), nil
		})}
		began := l.Begin(t.Context(), get("/cart"), i.policy, start)
		if began.Status != http.StatusFound {
			return
		}
		to, err := url.Parse(began.Fields[0].Value)
		if err != nil {
			return
		}
		asked := to.Query()
		i.claims = map[string]any{"iss": "https://id.example", "aud": "shop", "sub": "alice", "exp": start.Add(time.Hour).Unix(), "nonce": asked.Get("nonce")}
		got := l.Answer(t.Context(), get("/in?state="+url.QueryEscape(asked.Get("state"))+"&code=one", kept(began)...), i.policy, start)
		if token := l.Session(t.Context(), get("/", kept(got)...), i.policy, start).Token; (token != "") != (got.Status == http.StatusFound) || token != "" && !strings.Contains(given, "TOKEN") {
			t.Errorf("%+v: the session has %q", got, token)
		}
		_ = l.Answer(t.Context(), get("/out", kept(got)...), i.policy, start)
	})
}
