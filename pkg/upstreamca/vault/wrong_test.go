package vault

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// TestWrongAnswers: whoever answers in Vault's place, or a Vault that errs, learns no more and gets nothing taken.
func TestWrongAnswers(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	login := func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/login") {
			_, _ = w.Write([]byte(`{"auth": {"client_token": "` + theToken + `"}}`))
			return true
		}
		return strings.HasSuffix(r.URL.Path, "/revoke-self")
	}
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"another host": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
			"points to another host, which is not followed"},
		"sealed": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, "is it sealed?"},
		"it repeats the secret": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"errors": ["no such secret: ` + secretID + ` of ` + roleID + `"]}`))
		}, "no such secret: … of …"},
		"it repeats the token": {func(w http.ResponseWriter, r *http.Request) {
			if !login(w, r) {
				w.WriteHeader(http.StatusForbidden)
				_, _ = w.Write([]byte(`{"errors": ["bad token ` + theToken + `"]}`))
			}
		}, "bad token …"},
		"no token":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"auth": null}`)) }, "it gives no token"},
		"not JSON":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`<html>` + secretID)) }, "it is not JSON"},
		"without end": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, upstreamca.MaxAnswer+1)) }, "more than"},
		"no data":     {func(w http.ResponseWriter, r *http.Request) { login(w, r) }, "it is not what was asked for"},
		"no certificate": {func(w http.ResponseWriter, r *http.Request) {
			if !login(w, r) {
				_, _ = w.Write([]byte(`{"data": {"certificate": ""}}`))
			}
		}, "no certificate in PEM"},
		"a long chain": {func(w http.ResponseWriter, r *http.Request) {
			if !login(w, r) {
				_, _ = w.Write([]byte(`{"data": {"certificate": "", "ca_chain": [` + strings.Repeat(`"",`, 100) + `""]}}`))
			}
		}, "a chain of 10"},
		"no such engine": {func(w http.ResponseWriter, r *http.Request) {
			if !login(w, r) {
				w.WriteHeader(http.StatusNotFound)
			}
		}, `is the PKI engine at "pki"`},
	} {
		url, caFile := inFront(t, tt.answer)
		a, err := New(Config{URL: url, CAFile: caFile, AppRole: exampleRole(t)})
		if err != nil {
			t.Fatal(name, err)
		}
		csr, key := request(t)
		_, err = a.Certify(context.Background(), csr, key, time.Hour)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
			continue
		}
		for _, secret := range []string{roleID, secretID, theToken} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: it shows %s: %v", name, secret, err)
			}
		}
	}
}

// TestSlow: who asks may cease to wait, and is not sent what a stranger's certificate asks for.
func TestSlow(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	once := sync.OnceFunc(func() { close(asked) })
	ctx, cancel := context.WithCancel(context.Background())
	url, caFile := inFront(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not see that who asked has gone
		once()
		<-r.Context().Done()
	})
	a, err := New(Config{URL: url, CAFile: caFile, AppRole: exampleRole(t)})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-asked
		cancel()
	}()
	csr, key := request(t)
	if _, err := a.Certify(ctx, csr, key, time.Hour); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	stranger, err := New(Config{URL: url, AppRole: exampleRole(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Certify(context.Background(), csr, key, time.Hour); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}

// TestConfig: what cannot be asked is said at the start.
func TestConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	notPEM := filepath.Join(dir, "not.pem")
	if err := os.WriteFile(notPEM, []byte("no"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"good":                 {func(*Config) {}, ""},
		"a namespace":          {func(c *Config) { c.Namespace = "team/a/" }, ""},
		"plain":                {func(c *Config) { c.URL = "http://vault.example.com:8200" }, "want https://"},
		"nobody":               {func(c *Config) { c.TokenFile = "" }, "want one of tokenFile"},
		"two":                  {func(c *Config) { c.AppRole = &AppRole{RoleIDFile: "a", SecretIDFile: "b"} }, "want one of tokenFile"},
		"half a role":          {func(c *Config) { c.AppRole = &AppRole{RoleIDFile: "a"} }, "appRole: want"},
		"half a certificate":   {func(c *Config) { c.Certificate = &Certificate{CertFile: "a"} }, "certificate: want"},
		"a mount up":           {func(c *Config) { c.Mount = "pki/../sys" }, "mount"},
		"a mount with a query": {func(c *Config) { c.Mount = "pki?x=" }, "mount"},
		"an issuer up":         {func(c *Config) { c.Issuer = ".." }, "issuer"},
		"a header in a name":   {func(c *Config) { c.Namespace = "a\r\nX-Vault-Token: b" }, "namespace"},
		"no roots":             {func(c *Config) { c.RootFile = notPEM }, "rootFile"},
		"no authority":         {func(c *Config) { c.CAFile = notPEM }, "caFile"},
	} {
		cfg := Config{URL: "https://vault.example.com:8200", TokenFile: "token"}
		tt.change(&cfg)
		a, err := New(cfg)
		switch {
		case tt.want == "" && (err != nil || a.String() != "Vault https://vault.example.com:8200/v1/pki"):
			t.Errorf("%s: %v, %v", name, a, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNamespace is in a header, of the login too.
func TestNamespace(t *testing.T) {
	t.Parallel()
	var seen []string
	url, caFile := inFront(t, func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.URL.Path+" "+r.Header.Get("X-Vault-Namespace"))
		_, _ = w.Write([]byte(`{"auth": {"client_token": "` + theToken + `"}}`))
	})
	a, err := New(Config{URL: url, CAFile: caFile, Namespace: "team", Mount: "/mesh/pki/", Issuer: "two", AppRole: exampleRole(t)})
	if err != nil {
		t.Fatal(err)
	}
	csr, key := request(t)
	if _, err := a.Certify(context.Background(), csr, key, time.Hour); !errors.Is(err, upstreamca.ErrAnswer) {
		t.Error(err)
	}
	if got, want := strings.Join(seen, ", "), "/v1/auth/approle/login team, /v1/mesh/pki/issuer/two/sign-intermediate team, /v1/auth/token/revoke-self team"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
