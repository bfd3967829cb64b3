package signin

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sennit-mesh/sennit/internal/tokentest"
)

// An idp is an identity provider without a network, and the browser of somebody who is signed in there.
type idp struct {
	*testing.T
	key     *ecdsa.PrivateKey
	config  map[string]any // what it says of itself
	claims  map[string]any // of the ID tokens that it gives
	asked   url.Values     // what the browser brought
	posted  url.Values     // what it was last asked for tokens with
	basic   bool           // that came with a secret beside it
	answer  map[string]any // beside or in the place of tokens
	refuses string         // the error that it answers with
}

const issuer = "https://id.example"

func newIDP(t *testing.T) (*idp, *Provider) {
	t.Helper()
	i := &idp{T: t, key: tokentest.NewKey(t), answer: map[string]any{"access_token": "x", "token_type": "Bearer"}, config: map[string]any{
		"issuer": issuer, "authorization_endpoint": issuer + "/authorize", "token_endpoint": issuer + "/token", "jwks_uri": issuer + "/keys",
		"device_authorization_endpoint": issuer + "/device", "id_token_signing_alg_values_supported": []string{"ES256"},
	}, claims: map[string]any{"iss": issuer, "aud": "sennit", "sub": "dora", "exp": time.Now().Add(time.Hour).Unix()}}
	known := i.key
	return i, &Provider{Issuer: issuer, ClientID: "sennit", Scopes: []string{"email"}, HTTP: &http.Client{Transport: web(func(r *http.Request) (int, any) {
		switch r.URL.String() {
		case issuer + "/.well-known/openid-configuration":
			return http.StatusOK, i.config
		case issuer + "/keys":
			return http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: known.Public(), KeyID: "a"}}}
		case issuer + "/device":
			return http.StatusOK, map[string]any{"device_code": "d", "user_code": "ABCD", "verification_uri": issuer + "/type", "expires_in": 60}
		case issuer + "/token":
			return i.token(r)
		}
		t.Errorf("%s is asked", r.URL)
		return http.StatusNotFound, nil
	})}}
}

// A web answers requests with JSON.
type web func(*http.Request) (int, any)

func (w web) RoundTrip(r *http.Request) (*http.Response, error) {
	status, answer := w(r)
	text, err := json.Marshal(answer)
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(string(text))), Request: r}, err
}

// token gives tokens to who shows the secret whose hash was shown before (PKCE, RFC 7636 §4.6).
func (i *idp) token(r *http.Request) (int, any) {
	if err := r.ParseForm(); err != nil {
		i.Error(err)
	}
	i.posted = r.PostForm
	_, _, i.basic = r.BasicAuth()
	hash := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
	wrong := r.PostForm.Get("grant_type") == "authorization_code" && (i.asked.Get("code_challenge_method") != "S256" ||
		i.asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(hash[:]) || r.PostForm.Get("redirect_uri") != i.asked.Get("redirect_uri"))
	switch {
	case i.refuses != "":
		return http.StatusBadRequest, map[string]any{"error": i.refuses, "error_description": "no"}
	case wrong:
		return http.StatusBadRequest, map[string]any{"error": "invalid_grant", "error_description": "another verifier"}
	}
	if _, there := i.answer["id_token"]; !there {
		i.answer["id_token"] = i.sign()
	}
	return http.StatusOK, i.answer
}

func (i *idp) sign() string { return tokentest.Sign(i, i.key, "a", i.claims) }

// back is where the browser comes back to, with what it brings.
func (i *idp) back(with url.Values) int {
	res, err := http.Get(i.asked.Get("redirect_uri") + "?" + with.Encode())
	if err != nil {
		i.Error(err)
		return 0
	}
	defer res.Body.Close()
	return res.StatusCode
}

func TestBrowser(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(*idp, *Provider)
		want  string // in the error; "": the person is signed in
	}{
		{"nothing is wrong", func(*idp, *Provider) {}, ""},
		{"no nonce", func(i *idp, _ *Provider) { i.claims["nonce"] = "" }, "of another sign-in"},
		{"another sign-in's nonce", func(i *idp, _ *Provider) { i.claims["nonce"] = "x" }, "of another sign-in"},
		{"another audience", func(i *idp, _ *Provider) { i.claims["aud"] = "shop" }, "expected audience"},
		{"another issuer", func(i *idp, _ *Provider) { i.claims["iss"] = "https://evil.example" }, "different provider"},
		{"over", func(i *idp, _ *Provider) { i.claims["exp"] = time.Now().Add(-time.Minute).Unix() }, "expired"},
		{"another's signature", func(i *idp, _ *Provider) { i.key = tokentest.NewKey(i.T) }, "signature"},
		{"no ID token", func(i *idp, _ *Provider) { i.answer["id_token"] = "" }, "gave no ID token"},
		{"the provider refuses", func(i *idp, _ *Provider) { i.refuses = "access_denied" }, "the identity provider says access_denied: no"},
		{"an issuer in the clear", func(_ *idp, p *Provider) { p.Issuer = "http://id.example" }, "must be a URL as https://"},
		{"tokens in the clear", func(i *idp, _ *Provider) { i.config["token_endpoint"] = "http://id.example/token" }, "not reached by https"},
		{"a form in the clear", func(i *idp, _ *Provider) { i.config["authorization_endpoint"] = "http://id.example/authorize" }, "not reached by https"},
		{"devices in the clear", func(i *idp, _ *Provider) { i.config["device_authorization_endpoint"] = "http://id.example/device" }, "not reached by https"},
		{"a provider that is another", func(i *idp, _ *Provider) { i.config["issuer"] = "https://evil.example" }, "did not match"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			i, p := newIDP(t)
			tt.spoil(i, p)
			got, err := p.Browser(t.Context(), "127.0.0.1:0", func(to string) error {
				u, err := url.Parse(to)
				if err != nil || u.Host != "id.example" || u.Path != "/authorize" {
					t.Errorf("led to %s, %v", to, err)
				}
				i.asked = u.Query()
				if _, spoilt := i.claims["nonce"]; !spoilt {
					i.claims["nonce"] = i.asked.Get("nonce")
				}
				if !strings.HasPrefix(i.asked.Get("redirect_uri"), "http://127.0.0.1:") || !slices.Equal(strings.Fields(i.asked.Get("scope")), []string{"openid", "email"}) {
					t.Errorf("asked for %v", i.asked)
				}
				if len(i.asked.Get("nonce")) < 20 || len(i.asked.Get("state")) < 20 {
					t.Errorf("asked for %v, which somebody may guess", i.asked)
				}
				i.back(url.Values{"code": {"one"}, "state": {i.asked.Get("state")}})
				return nil
			})
			if tt.want == "" {
				if err != nil || got.IDToken != i.answer["id_token"] || got.Expires.Unix() != i.claims["exp"] {
					t.Errorf("%+v, %v", got, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) || got.IDToken != "" {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// Any page can send the browser to the port that waits: what does not belong to the sign-in changes nothing.
func TestAnswersOfOthers(t *testing.T) {
	t.Parallel()
	i, p := newIDP(t)
	_, err := p.Browser(t.Context(), "127.0.0.1:0", func(to string) error {
		u, _ := url.Parse(to)
		i.asked = u.Query()
		i.claims["nonce"] = i.asked.Get("nonce")
		state := i.asked.Get("state")
		for name, with := range map[string]url.Values{
			"no state": {"code": {"evil"}}, "another state": {"code": {"evil"}, "state": {state + "x"}}, "an error": {"error": {"x"}, "state": {"x"}},
		} {
			if status := i.back(with); status != http.StatusBadRequest {
				t.Errorf("%s: %d", name, status)
			}
		}
		i.back(url.Values{"code": {"one"}, "state": {state}})
		i.back(url.Values{"code": {"evil"}, "state": {state}}) // a second one, whoever sends it
		return nil
	})
	if err != nil || i.posted.Get("code") != "one" {
		t.Errorf("%v with %v", err, i.posted)
	}
	_, err = p.Browser(t.Context(), "127.0.0.1:0", func(to string) error {
		u, _ := url.Parse(to)
		i.asked = u.Query()
		i.back(url.Values{"code": {"one"}, "error": {"access_denied"}, "state": {i.asked.Get("state")}})
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), `did not let you in: "access_denied"`) {
		t.Errorf("an error of the provider: %v", err)
	}
	for _, listen := range []string{"0.0.0.0:0", "[::]:0", ":0"} {
		if _, err := p.Browser(t.Context(), listen, func(string) error { return errors.New("led away") }); err == nil || strings.Contains(err.Error(), "led away") {
			t.Errorf("%s: %v", listen, err)
		}
	}
}

func TestDevice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // it is asked every five seconds
		for _, tt := range []struct {
			name    string
			methods []string
			secret  string
			basic   bool
		}{
			{"a public client", nil, "", false},
			{"nothing is said of secrets", nil, "s", true},
			{"secrets in the form alone", []string{"client_secret_post"}, "s", false},
		} {
			i, p := newIDP(t)
			i.config["token_endpoint_auth_methods_supported"], p.ClientSecret = tt.methods, tt.secret
			if tt.methods == nil {
				delete(i.config, "token_endpoint_auth_methods_supported")
			}
			told := ""
			got, err := p.Device(t.Context(), func(uri, code string) { told = uri + " " + code })
			if err != nil || got.IDToken == "" || told != issuer+"/type ABCD" || i.basic != tt.basic {
				t.Errorf("%s: %+v, %v, told %q, basic %t", tt.name, got, err, told, i.basic)
			}
		}
		i, p := newIDP(t)
		i.claims["aud"] = "shop"
		if got, err := p.Device(t.Context(), func(string, string) {}); err == nil {
			t.Errorf("an ID token for another: %+v", got)
		}
		delete(i.config, "device_authorization_endpoint")
		if _, err := p.Device(t.Context(), func(string, string) {}); err == nil || !strings.Contains(err.Error(), "leave --device out") {
			t.Error(err)
		}
	})
}

func TestRenew(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		had     string
		spoil   func(*idp)
		signIn  bool // the person must
		refresh string
		fails   bool
	}{
		{"it gives nothing new to renew with", "r1", func(*idp) {}, false, "r1", false},
		{"it gives something new", "r1", func(i *idp) { i.answer["refresh_token"] = "r2" }, false, "r2", false},
		{"nothing to renew with", "", func(*idp) {}, true, "", true},
		{"it renews no more", "r1", func(i *idp) { i.refuses = "invalid_grant" }, true, "", true},
		{"it is in trouble", "r1", func(i *idp) { i.refuses = "server_error" }, false, "", true},
		{"an ID token for another", "r1", func(i *idp) { i.claims["aud"] = "shop" }, false, "", true},
	} {
		i, p := newIDP(t)
		tt.spoil(i)
		got, err := p.Renew(t.Context(), Tokens{Refresh: tt.had})
		if (err != nil) != tt.fails || errors.Is(err, ErrSignIn) != tt.signIn || err == nil && (got.Refresh != tt.refresh || i.posted.Get("refresh_token") != "r1") {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
}
