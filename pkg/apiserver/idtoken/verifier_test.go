package idtoken

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/sennit-mesh/sennit/internal/tokentest"
)

// An issuer is a provider's two documents, over HTTPS, and its keys.
type issuer struct {
	*testing.T
	web      *httptest.Server
	away     atomic.Bool
	asked    atomic.Int64 // for keys
	mu       sync.Mutex
	keys     map[string]*ecdsa.PrivateKey
	verifier *Verifier
	offset   atomic.Int64
}

func newIssuer(t *testing.T, edit func(*Config)) *issuer {
	i := &issuer{T: t, keys: map[string]*ecdsa.PrivateKey{}}
	i.key("one")
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": i.web.URL, "jwks_uri": i.web.URL + "/keys", "authorization_endpoint": i.web.URL + "/auth", "token_endpoint": i.web.URL + "/token",
		})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		i.asked.Add(1)
		i.mu.Lock()
		defer i.mu.Unlock()
		var set jose.JSONWebKeySet
		for id, key := range i.keys {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: id, Algorithm: "ES256", Use: "sig"})
		}
		_ = json.NewEncoder(w).Encode(set)
	})
	i.web = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if i.away.Load() {
			http.Error(w, "away", http.StatusBadGateway)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(i.web.Close)
	cfg := Config{
		Issuer: i.web.URL, ClientID: "sennit", UsernameClaim: "sub", UsernamePrefix: "oidc:", GroupsClaim: "groups", GroupsPrefix: "oidc:",
		Client: i.web.Client(), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Now: func() time.Time { return time.Now().Add(time.Duration(i.offset.Load())) },
	}
	if edit != nil {
		edit(&cfg)
	}
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	i.verifier = v
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = v.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return i
}

// ready waits until the verifier knows the issuer.
func (i *issuer) ready() *issuer {
	for i.verifier.provider.Load() == nil {
		select {
		case <-time.After(time.Millisecond):
		case <-i.Context().Done():
			i.Fatal("the issuer is not found")
		}
	}
	return i
}

// key makes, or replaces, a key of the issuer.
func (i *issuer) key(id string) *ecdsa.PrivateKey {
	key := tokentest.NewKey(i)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys[id] = key
	return key
}

// token signs good claims, changed by edit.
func (i *issuer) token(id string, edit map[string]any) string {
	i.Helper()
	claims := map[string]any{"iss": i.web.URL, "aud": "sennit", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(), "groups": []any{"sre"}}
	maps.Copy(claims, edit)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	i.mu.Lock()
	key := i.keys[id]
	i.mu.Unlock()
	return tokentest.Sign(i, key, id, claims)
}

func TestWhomTokensStandFor(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, nil).ready()
	now := time.Now()
	good := map[string]any{"iss": i.web.URL, "aud": "sennit", "sub": "alice", "exp": now.Add(time.Hour).Unix()}
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"one"}`)) + "." + base64.RawURLEncoding.EncodeToString(must(json.Marshal(good))) + "."
	public := i.web.Certificate().Raw // anything that an attacker knows
	for _, tt := range []struct {
		name, token string
		want        string // user and groups, or what the error says
	}{
		{"as it should be", i.token("one", nil), "oidc:alice [oidc:sre]"},
		{"for others too", i.token("one", map[string]any{"aud": []any{"other", "sennit"}}), "oidc:alice [oidc:sre]"},
		{"one group", i.token("one", map[string]any{"groups": "sre"}), "oidc:alice [oidc:sre]"},
		{"no groups", i.token("one", map[string]any{"groups": nil}), "oidc:alice []"},
		{"groups that are numbers", i.token("one", map[string]any{"groups": []any{1}}), `its claim "groups" holds what is no name`},
		{"groups that are a map", i.token("one", map[string]any{"groups": map[string]any{}}), "neither a group nor a list"},
		{"too many groups", i.token("one", map[string]any{"groups": slices.Repeat([]any{"a"}, maxGroups+1)}), "more than 256"},
		{"no user", i.token("one", map[string]any{"sub": ""}), `no claim "sub"`},
		{"a user who is a list", i.token("one", map[string]any{"sub": []any{"alice"}}), "cannot be read|not signed"},
		{"a user with a line break", i.token("one", map[string]any{"sub": "al\nice"}), "names nobody"},
		{"for another client", i.token("one", map[string]any{"aud": "other"}), "not for this client"},
		{"for nobody", i.token("one", map[string]any{"aud": nil}), "not for this client"},
		{"another issuer", i.token("one", map[string]any{"iss": "https://evil.example"}), ErrNotOurs.Error()},
		{"expired", i.token("one", map[string]any{"exp": now.Add(-time.Second).Unix()}), "it expired at"},
		{"without end", i.token("one", map[string]any{"exp": nil}), "it expired at"},
		{"not yet", i.token("one", map[string]any{"nbf": now.Add(time.Hour).Unix()}), "not signed"},
		{"signed by somebody else", tokentest.Sign(t, tokentest.NewKey(t), "one", good), "not signed by a key"},
		{"signed by nobody", none, "not signed by a key"},
		{"signed with what is public", tokentest.SignBy(t, jose.SigningKey{Algorithm: jose.HS256, Key: public}, "one", good), "not signed by a key"},
		{"too large", i.token("one", map[string]any{"pad": strings.Repeat("a", maxToken)}), "more than the 16384"},
		{"no token", "garbage", ErrNotOurs.Error()},
		{"three parts of nothing", "..", ErrNotOurs.Error()},
		{"empty", "", ErrNotOurs.Error()},
	} {
		p, err := i.verifier.Identify(t.Context(), tt.token)
		got := fmt.Sprint(p.User, " ", p.Groups)
		if err != nil {
			got = err.Error()
		}
		if !slices.ContainsFunc(strings.Split(tt.want, "|"), func(want string) bool { return strings.Contains(got, want) }) {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	// What was signed, with one letter changed: also after the good one was seen.
	token := i.token("one", nil)
	if _, err := i.verifier.Identify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	changed := parts[0] + "." + base64.RawURLEncoding.EncodeToString(must(json.Marshal(good))) + "." + parts[2]
	if p, err := i.verifier.Identify(t.Context(), changed); err == nil {
		t.Errorf("a token that was changed is %+v", p)
	}
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

func TestNamesOfOtherAuthoritiesAreNotTaken(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, func(c *Config) { c.UsernamePrefix, c.GroupsPrefix, c.UsernameClaim = "", "", "email" }).ready()
	ask := func(edit map[string]any) (Person, error) {
		return i.verifier.Identify(t.Context(), i.token("one", edit))
	}
	if p, err := ask(map[string]any{"email": "a@example.com", "groups": []any{"system:masters", "sre"}}); err != nil || !slices.Equal(p.Groups, []string{"sre"}) {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := ask(map[string]any{"email": "system:controller"}); err == nil {
		t.Errorf("is %+v", p)
	}
	if p, err := ask(map[string]any{"email": "a@example.com", "email_verified": false}); err == nil {
		t.Errorf("an address that was not verified is %+v", p)
	}
	if p, err := ask(map[string]any{"email": "a@example.com", "email_verified": true}); err != nil || p.User != "a@example.com" {
		t.Errorf("%+v, %v", p, err)
	}
}

// While the issuer is away, what was seen is good until it ends, and so is what known keys signed. A key that is new is
// known when the issuer is back.
func TestIssuerAway(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, nil).ready()
	seen := i.token("one", nil)
	if _, err := i.verifier.Identify(t.Context(), seen); err != nil {
		t.Fatal(err)
	}
	i.away.Store(true)
	i.key("two")
	i.offset.Store(int64(refetch))
	for name, token := range map[string]string{"seen": seen, "of a known key": i.token("one", map[string]any{"sub": "bob"})} {
		if _, err := i.verifier.Identify(t.Context(), token); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p, err := i.verifier.Identify(t.Context(), i.token("two", nil)); err == nil {
		t.Errorf("a key that nobody has seen: %+v", p)
	}
	i.away.Store(false)
	i.offset.Store(int64(2 * refetch))
	if _, err := i.verifier.Identify(t.Context(), i.token("two", nil)); err != nil {
		t.Errorf("the issuer is back, and its new key is not known: %v", err)
	}
	i.offset.Store(int64(2 * time.Hour))
	if _, err := i.verifier.Identify(t.Context(), seen); err == nil || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("a token that was seen before it ended: %v", err)
	}
}

// Tokens of keys that nobody has seen, which anybody can send, ask the issuer once in a while, and are not remembered.
func TestAStrangerDoesNotAskTheIssuer(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, nil).ready()
	if _, err := i.verifier.Identify(t.Context(), i.token("one", nil)); err != nil {
		t.Fatal(err)
	}
	key := tokentest.NewKey(t)
	before := i.asked.Load()
	claims := map[string]any{"iss": i.web.URL, "aud": "sennit", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	for n := range 50 {
		if _, err := i.verifier.Identify(t.Context(), tokentest.Sign(t, key, fmt.Sprint("guess", n), claims)); err == nil {
			t.Fatal("a key that the issuer has not was believed")
		}
	}
	if asked := i.asked.Load() - before; asked > 1 {
		t.Errorf("the issuer was asked %d times", asked)
	}
	if n := len(i.verifier.known) + len(i.verifier.old); n != 1 {
		t.Errorf("%d tokens are remembered", n)
	}
	for n := range 2 * maxKnown {
		i.verifier.remember([32]byte{byte(n), byte(n >> 8)}, Person{})
	}
	if n := len(i.verifier.known) + len(i.verifier.old); n > maxKnown {
		t.Errorf("%d tokens are remembered", n)
	}
}

func TestIssuersThatAreNone(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Config{
		{Issuer: "http://login.example.com", ClientID: "a", UsernameClaim: "sub"},
		{Issuer: "https://", ClientID: "a", UsernameClaim: "sub"},
		{Issuer: "https://login.example.com?a=b", ClientID: "a", UsernameClaim: "sub"},
		{Issuer: "https://login.example.com", UsernameClaim: "sub"},
		{Issuer: "https://login.example.com", ClientID: "a"},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// FuzzPeople: whatever a token that was proven says, nobody is called what this mesh calls its own, or what cannot be written
// down.
func FuzzPeople(f *testing.F) {
	for _, claims := range []string{
		`{"email": "a@example.com", "email_verified": true, "groups": ["sre", "", "a\nb"]}`, `{"email": "system:x", "groups": "system:masters"}`,
		`{"email": "a", "email_verified": "true"}`, `{"email": ["a"], "groups": {"a": 1}}`, `{"email": "\u202e", "groups": [null]}`, `[]`,
	} {
		f.Add(claims, "oidc:")
		f.Add(claims, "")
	}
	believing := oidc.NewVerifier("", nil, &oidc.Config{SkipClientIDCheck: true, SkipExpiryCheck: true, SkipIssuerCheck: true, InsecureSkipSignatureCheck: true})
	f.Fuzz(func(t *testing.T, claims, prefix string) {
		token, err := believing.Verify(t.Context(), "eyJhbGciOiJSUzI1NiJ9."+base64.RawURLEncoding.EncodeToString([]byte(claims))+".AA")
		if err != nil || !utf8.ValidString(prefix) {
			return
		}
		v := &Verifier{cfg: Config{UsernameClaim: "email", UsernamePrefix: prefix, GroupsClaim: "groups", GroupsPrefix: prefix}}
		p, err := v.person(token)
		if err != nil {
			return
		}
		if len(p.Groups) > maxGroups {
			t.Errorf("%d groups", len(p.Groups))
		}
		for _, name := range append([]string{p.User}, p.Groups...) {
			if len(name) <= len(prefix) || len(name) > maxNameSize || !strings.HasPrefix(name, prefix) || strings.HasPrefix(name, reserved) || strings.ContainsAny(name, "\r\n\x00") || !utf8.ValidString(name) {
				t.Errorf("somebody is called %q", name)
			}
		}
	})
}
