// Package pebble opens accounts, and orders certificates, at a real ACME server that requires external account binding.
package pebble

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pebbleca "github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"

	"github.com/sennit-mesh/sennit/pkg/upstreamca"
	"github.com/sennit-mesh/sennit/pkg/upstreamca/acme"
	"github.com/sennit-mesh/sennit/pkg/upstreamca/settings"
)

// TestMain takes the dice out of Pebble: it neither refuses good nonces nor sleeps, and what an account proved it knows.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{"PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "100"} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	m.Run()
}

// keyID is the one key that the server gave out.
const keyID = "controllers of example.com"

// A server is a Pebble that runs, and what it wrote down.
type server struct {
	*testing.T
	dir       string
	directory string
	hmac      string // the key of keyID, in base64url
	listen    string // where it asks hosts that prove their names
	accounts  *db.MemoryStore

	mu      sync.Mutex
	written strings.Builder
}

func (s *server) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written.Write(p)
}

// bound is how many accounts were bound to the key.
func (s *server) bound() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.written.String(), fmt.Sprintf("Successful newAccount Binding with CA using kid %q", keyID))
}

// start runs a Pebble, behind a handler that may change what it answers.
func start(t *testing.T, behind func(http.Handler) http.Handler) *server {
	t.Helper()
	s := &server{T: t, dir: t.TempDir(), hmac: random(t), accounts: db.NewMemoryStore()}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.listen = listener.Addr().String()
	listener.Close()
	_, text, err := net.SplitHostPort(s.listen)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.accounts.AddExternalAccountKeyByID(keyID, s.hmac); err != nil {
		t.Fatal(err)
	}
	logger := log.New(s, "", 0)
	ca := pebbleca.New(logger, s.accounts, "", "ecdsa", 0, 1, map[string]pebbleca.Profile{"default": {}})
	const strict, requireEAB = true, true
	front := wfe.New(logger, s.accounts, va.New(logger, port, 0, strict, "", s.accounts), ca, nil, strict, requireEAB, 1, 1)
	handler := front.Handler()
	if behind != nil {
		handler = behind(handler)
	}
	web := httptest.NewTLSServer(handler)
	t.Cleanup(web.Close)
	s.directory = web.URL + wfe.DirectoryPath
	s.file("root.crt", ca.GetRootCert(0).PEM())
	s.file("server.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}))
	s.file("hmac", []byte(s.hmac+"\n"))
	return s
}

func random(t *testing.T) string {
	t.Helper()
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(key)
}

func (s *server) file(name string, data []byte) string {
	s.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		s.Fatal(err)
	}
	return path
}

// host is how a controller asks that proves this host's address.
func (s *server) host() acme.Config {
	return acme.Config{
		Directory: s.directory, RootFile: filepath.Join(s.dir, "root.crt"), CAFile: filepath.Join(s.dir, "server.crt"),
		AccountKeyFile: filepath.Join(s.dir, "account.key"), EAB: &acme.EAB{KeyID: keyID, HMACKeyFile: filepath.Join(s.dir, "hmac")},
		HTTP: &acme.HTTP{Name: "127.0.0.1", Listen: s.listen},
	}
}

// device is how a controller asks that proves that it is a device.
func (s *server) device() acme.Config {
	s.Helper()
	key, der := newKey(s.T)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "controller one"}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		s.Fatal(err)
	}
	cfg := s.host()
	cfg.HTTP, cfg.Device = nil, &acme.Device{
		Identifier: "controller-1",
		CertFile:   s.file("device.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})),
		KeyFile:    s.file("device.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}
	return cfg
}

func newKey(t *testing.T) (key *ecdsa.PrivateKey, pkcs8 []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if pkcs8, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		t.Fatal(err)
	}
	return key, pkcs8
}

// certify asks as a configuration has it, for the certificate of a new key.
func certify(t *testing.T, cfg acme.Config) (upstreamca.Certified, *ecdsa.PrivateKey, error) {
	t.Helper()
	a, err := acme.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ask(t, a)
}

func ask(t *testing.T, a upstreamca.Authority) (upstreamca.Certified, *ecdsa.PrivateKey, error) {
	t.Helper()
	key, _ := newKey(t)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "test c1"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Certify(t.Context(), csr, key, life)
	return got, key, err
}

const life = 90 * 24 * time.Hour

// accountKey is the public key of a file that an account was opened with.
func accountKey(t *testing.T, file string) crypto.PublicKey {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s: no PEM", file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		t.Fatalf("a %T", key)
	}
	return signer.Public()
}

// noDevices is what Pebble says of an order of a device, once it knows the account: it certifies names and addresses.
const noDevices = `order a certificate of controller-1: the authority answers 400 Bad Request: "urn:ietf:params:acme:error:malformed: Order includes unknown identifier type permanent-identifier"`

// TestBound: an account is bound to the key that the server gave out, once, and is used again, with the key and without.
func TestBound(t *testing.T) {
	s := start(t, nil)
	cfg := s.device()
	file := s.file("upstream.yaml", fmt.Appendf(nil,
		"acme:\n  directory: %s\n  rootFile: %s\n  caFile: %s\n  accountKeyFile: %s\n  device: {identifier: %s, certFile: %s, keyFile: %s}\n  eab: {keyID: %s, hmacKeyFile: %s}\n",
		cfg.Directory, cfg.RootFile, cfg.CAFile, cfg.AccountKeyFile, cfg.Device.Identifier, cfg.Device.CertFile, cfg.Device.KeyFile, keyID, cfg.EAB.HMACKeyFile))
	a, err := settings.Open(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, _, err := ask(t, a); err == nil || err.Error() != noDevices {
			t.Errorf("%v, want %s", err, noDevices)
		}
	}
	account, err := s.accounts.GetAccountByKey(accountKey(t, cfg.AccountKeyFile))
	if err != nil || account == nil || account.ExternalAccountBinding == nil {
		t.Fatalf("the account: %+v, %v", account, err)
	}
	text, err := base64.RawURLEncoding.DecodeString(account.ExternalAccountBinding.Protected)
	if err != nil {
		t.Fatal(err)
	}
	var header map[string]string
	if err := json.Unmarshal(text, &header); err != nil {
		t.Fatal(err)
	}
	if len(header) != 3 || header["alg"] != "HS256" || header["kid"] != keyID || !strings.HasSuffix(header["url"], "/sign-me-up") {
		t.Errorf("the binding's header: %s", text)
	}
	cfg.EAB = nil
	if _, _, err := certify(t, cfg); err == nil || err.Error() != noDevices {
		t.Errorf("the key is no longer set: %v, want %s", err, noDevices)
	}
	if n := s.bound(); n != 1 {
		t.Errorf("%d accounts are bound", n)
	}
}

// TestRefused: what is wrong with a binding is said, with what to do about it, and no account is opened.
func TestRefused(t *testing.T) {
	s := start(t, nil)
	stranger := s.file("stranger", []byte(random(t)))
	for name, tt := range map[string]struct {
		eab  *acme.EAB
		want string // Pebble's word for it
		todo string
	}{
		"another key": {&acme.EAB{KeyID: keyID, HMACKeyFile: stranger},
			"error:unauthorized: external account binding JWS verification error", "compare eab.keyID and the key in eab.hmacKeyFile with what its operator gave out"},
		"another key's name": {&acme.EAB{KeyID: "nobody's", HMACKeyFile: filepath.Join(s.dir, "hmac")},
			"error:unauthorized: the field 'kid' references a key that is not known", "compare eab.keyID and the key in eab.hmacKeyFile with what its operator gave out"},
		"none": {nil, "error:externalAccountRequired", "have its operator make a key for this account, and set eab"},
	} {
		cfg := s.device()
		cfg.EAB, cfg.AccountKeyFile = tt.eab, filepath.Join(s.dir, name+".key")
		_, _, err := certify(t, cfg)
		switch {
		case err == nil || !strings.HasPrefix(err.Error(), "open an account: the authority answers 403 Forbidden") || !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		case !strings.Contains(err.Error(), tt.todo) || strings.Contains(err.Error(), "provisioner"):
			t.Errorf("%s: %v, want %q", name, err, tt.todo)
		}
		if account, err := s.accounts.GetAccountByKey(accountKey(t, cfg.AccountKeyFile)); err != nil || account != nil {
			t.Errorf("%s: an account is opened: %+v, %v", name, account, err)
		}
	}
	if n := s.bound(); n != 0 {
		t.Errorf("%d accounts are bound", n)
	}
}

// TestCertifies: Pebble certifies an address that is proved, which is all that it does: no authority, so that it is refused.
// What an account has proved it need not prove again.
func TestCertifies(t *testing.T) {
	s := start(t, nil)
	cfg := s.host()
	certified := func(what string) {
		t.Helper()
		got, key, err := certify(t, cfg)
		if err != nil {
			t.Fatal(what, err)
		}
		if len(got.Chain) != 2 || len(got.Roots) != 1 {
			t.Fatalf("%s: %d certificates under %d roots", what, len(got.Chain), len(got.Roots))
		}
		leaf := got.Chain[0]
		if !key.PublicKey.Equal(leaf.PublicKey) || len(leaf.IPAddresses) != 1 || leaf.IPAddresses[0].String() != "127.0.0.1" || leaf.IsCA {
			t.Errorf("%s: of %v, an authority: %v", what, leaf.IPAddresses, leaf.IsCA)
		}
		if left := time.Until(leaf.NotAfter); left > life || left < life-time.Hour {
			t.Errorf("%s: it lives %s", what, left)
		}
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(got.Roots[0])
		between.AddCert(got.Chain[1])
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		err = got.Check(&key.PublicKey, "test.local", life-24*time.Hour, time.Now())
		if !errors.Is(err, upstreamca.ErrAnswer) || !strings.Contains(err.Error(), "is not the certificate of an authority") {
			t.Errorf("%s is not refused: %v", what, err)
		}
	}
	certified("the first")
	listener, err := net.Listen("tcp", s.listen) // so that whoever would prove it again could not
	if err != nil {
		t.Fatal("the port is still in use:", err)
	}
	defer listener.Close()
	certified("the second")
	if n := s.bound(); n != 1 {
		t.Errorf("%d accounts are bound", n)
	}
}

// TestNotBelieved: where another answers in the host's place Pebble does not believe it, and its reason is told as it is.
func TestNotBelieved(t *testing.T) {
	s := start(t, nil)
	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		t.Fatal(err)
	}
	another := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "another") })}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = another.Serve(listener) // ends with Close
	}()
	defer func() {
		_ = another.Close()
		<-done
	}()
	cfg := s.host()
	cfg.HTTP.Listen = "127.0.0.1:0"
	_, _, err = certify(t, cfg)
	want := `prove by http-01: it is not believed: "urn:ietf:params:acme:error:unauthorized: The key authorization file from the server did not match`
	if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "accountKeyFile") {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestNonces: a nonce that Pebble does not know, as one that got too old, is replaced by another.
func TestNonces(t *testing.T) {
	var spoilt atomic.Bool
	s := start(t, func(pebble http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead && spoilt.CompareAndSwap(false, true) {
				w.Header().Set("Replay-Nonce", "b2xk")
				return
			}
			pebble.ServeHTTP(w, r)
		})
	})
	if _, _, err := certify(t, s.device()); err == nil || err.Error() != noDevices || !spoilt.Load() {
		t.Errorf("%v, want %s; spoilt: %v", err, noDevices, spoilt.Load())
	}
}
