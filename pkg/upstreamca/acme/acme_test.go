package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// place is a server, and a configuration of a device that asks it.
func place(t *testing.T, handler http.HandlerFunc) (cfg Config, csr []byte, key *ecdsa.PrivateKey) {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key); err != nil {
		t.Fatal(err)
	}
	return Config{
		Directory: server.URL + "/directory", RootFile: write("root.crt", "CERTIFICATE", der), CAFile: write("server.crt", "CERTIFICATE", server.Certificate().Raw),
		AccountKeyFile: filepath.Join(dir, "account.key"),
		Device:         &Device{Identifier: "one", CertFile: write("device.crt", "CERTIFICATE", der), KeyFile: write("device.key", "PRIVATE KEY", sealed)},
	}, csr, key
}

// TestWrongAnswers: whoever answers in the authority's place sends nobody elsewhere, and fills no memory and no log.
func TestWrongAnswers(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("another host is asked") }))
	defer elsewhere.Close()
	directory := func(w http.ResponseWriter, r *http.Request, base string) bool {
		w.Header().Set("Replay-Nonce", "nonce")
		if r.URL.Path != "/directory" {
			return false
		}
		_, _ = w.Write([]byte(`{"newNonce": "` + base + `/nonce", "newAccount": "` + base + `/account", "newOrder": "` + base + `/order"}`))
		return true
	}
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"another host": {func(w http.ResponseWriter, r *http.Request) { directory(w, r, elsewhere.URL) }, "which is not asked"},
		"not encrypted": {func(w http.ResponseWriter, r *http.Request) { directory(w, r, "http://"+r.Host) },
			"which is not asked"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, "302"},
		"without end": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"newNonce": "`))
			_, _ = w.Write([]byte(strings.Repeat("n", upstreamca.MaxAnswer)))
		}, "more than"},
		"many words": {func(w http.ResponseWriter, r *http.Request) {
			if !directory(w, r, "https://"+r.Host) {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusForbidden)
				_, _ = w.Write([]byte(`{"type": "urn:ietf:params:acme:error:externalAccountRequired", "detail": "` + strings.Repeat(`no\n`, 1000) + `"}`))
			}
		}, "and set eab"},
	} {
		cfg, csr, key := place(t, tt.answer)
		a, err := New(cfg, nil)
		if err != nil {
			t.Fatal(name, err)
		}
		_, err = a.Certify(context.Background(), csr, key, time.Hour)
		if err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 700 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestDirectory is asked for as it is written: with a slash at its end it is another.
func TestDirectory(t *testing.T) {
	t.Parallel()
	p := &peer{}
	p.instead = map[string]http.HandlerFunc{
		"/directory": http.NotFound,
		"/directory/": func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path = "/directory"
			p.usual(w, r)
		},
	}
	cfg, csr, key := p.start(t)
	cfg.Directory += "/"
	a, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Certify(context.Background(), csr, key, time.Hour); err != nil {
		t.Error(err)
	}
}

// TestIdentity: an address is ordered in the form that the standard has (RFC 8738 §3), however it is written.
func TestIdentity(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct{ kind, value string }{
		"c1.example.com":     {"dns", "c1.example.com"},
		"192.0.2.1":          {"ip", "192.0.2.1"},
		"2001:0DB8:0:0::0:1": {"ip", "2001:db8::1"},
		"::ffff:192.0.2.1":   {"ip", "192.0.2.1"},
	} {
		a := &Authority{cfg: Config{HTTP: &HTTP{Name: name}}}
		id, request := a.identity(nil)
		if id.Type != want.kind || id.Value != want.value || request.Subject.CommonName != want.value {
			t.Errorf("%s: %+v, %s", name, id, request.Subject)
		}
		if len(request.DNSNames)+len(request.IPAddresses) != 1 || want.kind == "dns" && request.DNSNames[0] != name || want.kind == "ip" && request.IPAddresses[0].String() != want.value {
			t.Errorf("%s: %v, %v", name, request.DNSNames, request.IPAddresses)
		}
	}
}

// TestLimits: an authority has only so much proved, and nothing signed or shown but tokens.
func TestLimits(t *testing.T) {
	t.Parallel()
	order := func(authorizations int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "https://"+r.Host+"/order")
			w.WriteHeader(http.StatusCreated)
			one := `"https://` + r.Host + `/authorization"`
			fmt.Fprintf(w, `{"status": "pending", "authorizations": [%s], "finalize": "https://%s/finalize"}`, strings.Join(slices.Repeat([]string{one}, authorizations), ","), r.Host)
		}
	}
	for name, tt := range map[string]struct {
		authorizations int
		token          string
		want           string
	}{
		"as much as is allowed": {maxAuthorizations, strings.Repeat("-_aZ09", maxToken/6), ""},
		"too much":              {maxAuthorizations + 1, "dG9rZW4", "has 11 things proved"},
		"no token":              {1, "", "a token that is none"},
		"a long token":          {1, strings.Repeat("t", maxToken+1), "a token that is none"},
		"a path":                {1, "../index", "a token that is none"},
		"a page":                {1, "<script>", "a token that is none"},
		"a padded token":        {1, "dG9rZQ==", "a token that is none"},
	} {
		p := &peer{}
		p.instead = map[string]http.HandlerFunc{"/orders": order(tt.authorizations)}
		p.token = strconv.Quote(tt.token)
		cfg, csr, key := p.start(t)
		a, err := New(cfg, nil)
		if err != nil {
			t.Fatal(name, err)
		}
		_, err = a.Certify(context.Background(), csr, key, time.Hour)
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, upstreamca.ErrAnswer) || !strings.Contains(err.Error(), tt.want) || p.count("/challenge") != 0 {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestSlow: who asks may cease to wait, and a server with a certificate of another authority is asked nothing.
func TestSlow(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	once := sync.OnceFunc(func() { close(asked) })
	cfg, csr, key := place(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		once()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-asked
		cancel()
	}()
	a, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Certify(ctx, csr, key, time.Hour); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	cfg.CAFile = ""
	if a, err = New(cfg, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Certify(context.Background(), csr, key, time.Hour); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}

// TestAccountKey is made once, for its owner alone, and is refused where others can read it.
func TestAccountKey(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "account.key")
	first, err := accountKey(file)
	if err != nil {
		t.Fatal(err)
	}
	second, err := accountKey(file)
	if err != nil {
		t.Fatal(err)
	}
	one, ok := first.(*ecdsa.PrivateKey)
	if !ok || !one.Equal(second) {
		t.Error("another key is made")
	}
	left, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := accountKey(file); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Error(err)
	}
}

// TestConfig: what cannot be asked is said at the start.
func TestConfig(t *testing.T) {
	t.Parallel()
	good, _, _ := place(t, func(http.ResponseWriter, *http.Request) { t.Error("it is asked") })
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"good":              {func(*Config) {}, ""},
		"a host's name":     {func(c *Config) { c.Device, c.HTTP = nil, &HTTP{Name: "c1.example.com"} }, ""},
		"plain":             {func(c *Config) { c.Directory = "http://ca.example.com" }, "want https://"},
		"no root":           {func(c *Config) { c.RootFile = "" }, "want rootFile"},
		"no account":        {func(c *Config) { c.AccountKeyFile = "" }, "want rootFile and accountKeyFile"},
		"nothing proved":    {func(c *Config) { c.Device = nil }, "want one of device and http"},
		"two are proved":    {func(c *Config) { c.HTTP = &HTTP{Name: "c1.example.com"} }, "want one of device and http"},
		"half a device":     {func(c *Config) { c.Device = &Device{Identifier: "one"} }, "device: want"},
		"a host of no name": {func(c *Config) { c.Device, c.HTTP = nil, &HTTP{} }, "http: want"},
		"half a binding":    {func(c *Config) { c.EAB = &EAB{KeyID: "one"} }, "eab: want"},
	} {
		cfg := good
		tt.change(&cfg)
		if _, err := New(cfg, nil); tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestFinalize: an authority that certifies later need not say again where the order is (RFC 8555 §7.4).
func TestFinalize(t *testing.T) {
	t.Parallel()
	p := &peer{}
	p.instead = map[string]http.HandlerFunc{"/finalize": func(w http.ResponseWriter, r *http.Request) {
		p.usual(httptest.NewRecorder(), r)
		fmt.Fprint(w, `{"status": "processing"}`)
	}}
	cfg, csr, key := p.start(t)
	a, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Certify(context.Background(), csr, key, time.Hour)
	if err != nil || len(got.Chain) != 1 || !key.PublicKey.Equal(got.Chain[0].PublicKey) || got.Chain[0].Subject.CommonName != "one" {
		t.Errorf("%+v, %v", got.Chain, err)
	}
}
