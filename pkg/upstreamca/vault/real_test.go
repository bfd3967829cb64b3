package vault

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/upstreamca/vault/vaulttest"
)

func request(t testing.TB) (csr []byte, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{Organization: []string{"Sennit"}, CommonName: "test c1"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "test.local"}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr, key
}

// A server is a real one, which is asked by our client.
type server struct{ *vaulttest.Server }

func serve(t *testing.T) server {
	t.Helper()
	return server{vaulttest.Serve(t)}
}

func (s server) appRole(policy string) *AppRole {
	s.Helper()
	mount, roleID, secretID := s.AppRole(policy)
	return &AppRole{Mount: mount, RoleIDFile: roleID, SecretIDFile: secretID}
}

func pemOf(certificate *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
}

const long = 90 * 24 * time.Hour

func (s server) certify(cfg Config) error {
	s.Helper()
	a, err := New(cfg)
	if err != nil {
		s.Fatal(err)
	}
	csr, key := request(s.TB)
	got, err := a.Certify(context.Background(), csr, key, long)
	if err != nil {
		return err
	}
	if err := got.Check(&key.PublicKey, "test.local", long-time.Hour, time.Now()); err != nil {
		return err
	}
	first := got.Chain[0]
	if len(got.Chain) != 2 || !first.MaxPathLenZero || first.MaxPathLen != 0 || first.Subject.CommonName != "test c1" || len(first.URIs) != 1 || len(first.DNSNames) != 0 {
		s.Errorf("a chain of %d; %s, %v, %v, path length %d", len(got.Chain), first.Subject, first.URIs, first.DNSNames, first.MaxPathLen)
	}
	return nil
}

// TestAppRole logs in by a role, with the root pinned or as the engine has it, and leaves no token behind.
func TestAppRole(t *testing.T) {
	s := serve(t)
	mount, root := s.Mounts()
	cfg := Config{URL: s.URL, CAFile: s.CAFile, Mount: mount, AppRole: s.appRole(mount)}
	before := s.Tokens()
	if err := s.certify(cfg); err == nil || !strings.Contains(err.Error(), "it leads to no root") {
		t.Errorf("without a root: %v", err)
	}
	pinned := cfg
	pinned.RootFile = s.File("root.crt", pemOf(root))
	if err := s.certify(pinned); err != nil {
		t.Error("with rootFile:", err)
	}
	s.Do("POST", mount+"/issuers/import/cert", map[string]any{"pem_bundle": pemOf(root)})
	if err := s.certify(cfg); err != nil {
		t.Error("with the root imported:", err)
	}
	if now := s.Tokens(); now != before {
		t.Errorf("%d tokens, and %d before", now, before)
	}
}

// TestIssuer asks one of several issuers by its name.
func TestIssuer(t *testing.T) {
	s := serve(t)
	mount, root := s.Mounts()
	issuers, _ := s.Do("LIST", mount+"/issuers", nil)["keys"].([]any)
	s.Do("POST", mount+"/issuer/"+vaulttest.Text(issuers[0]), map[string]any{"issuer_name": "for-the-mesh"})
	s.Do("POST", "sys/policies/acl/"+mount, map[string]any{"policy": `path "` + mount + `/issuer/for-the-mesh/sign-intermediate" { capabilities = ["create", "update"] }`})
	cfg := Config{URL: s.URL, CAFile: s.CAFile, Mount: mount, Issuer: "for-the-mesh", RootFile: s.File("root.crt", pemOf(root)), AppRole: s.appRole(mount)}
	if err := s.certify(cfg); err != nil {
		t.Error(err)
	}
	cfg.Issuer = ""
	if err := s.certify(cfg); err == nil || !strings.Contains(err.Error(), `path "`+mount+`/root/sign-intermediate" { capabilities`) {
		t.Errorf("the default issuer is not allowed: %v", err)
	}
}

// TestToken: one of a file is used, and renewed; one that ended or may not is told of, and is in no error.
func TestToken(t *testing.T) {
	s := serve(t)
	mount, root := s.Mounts()
	given := s.Do("POST", "auth/token/create", map[string]any{"policies": []string{mount}, "period": "1h", "no_parent": true})
	token := vaulttest.Text(given["client_token"])
	cfg := Config{URL: s.URL, CAFile: s.CAFile, Mount: mount, RootFile: s.File("root.crt", pemOf(root)), TokenFile: s.File("token", token+"\n")}
	if err := s.certify(cfg); err != nil {
		t.Fatal(err)
	}
	if about := s.Do("POST", "auth/token/lookup", map[string]any{"token": token}); about["last_renewal"] == nil {
		t.Errorf("the token is not renewed: %v", about)
	}
	other := vaulttest.Text(s.Do("POST", "auth/token/create", map[string]any{"policies": []string{"default"}, "no_parent": true})["client_token"])
	s.Do("POST", "auth/token/revoke", map[string]any{"token": token})
	for name, value := range map[string]string{"it ended": token, "it may not": other} {
		cfg.TokenFile = s.File("token", value)
		err := s.certify(cfg)
		if err == nil || !strings.Contains(err.Error(), "answers 403") || !strings.Contains(err.Error(), "the token of tokenFile has ended, or its policies lack") || strings.Contains(err.Error(), value) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCertificate logs in by TLS.
func TestCertificate(t *testing.T) {
	s := serve(t)
	mount, root := s.Mounts()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "controller"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if der, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		t.Fatal(err)
	}
	path := strings.ToLower(t.Name()) + "-cert"
	s.Do("POST", "sys/auth/"+path, map[string]any{"type": "cert"})
	t.Cleanup(func() { s.Do("DELETE", "sys/auth/"+path, nil) })
	cfg := Config{URL: s.URL, CAFile: s.CAFile, Mount: mount, RootFile: s.File("root.crt", pemOf(root)), Certificate: &Certificate{
		Mount: path, Role: "sennit", CertFile: s.File("client.crt", certificate), KeyFile: s.File("client.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))),
	}}
	if err := s.certify(cfg); err == nil || !strings.Contains(err.Error(), "must name the authority of certFile") {
		t.Errorf("before there is a role: %v", err)
	}
	s.Do("POST", "auth/"+path+"/certs/sennit", map[string]any{"certificate": certificate, "token_policies": mount})
	before := s.Tokens()
	if err := s.certify(cfg); err != nil {
		t.Error(err)
	}
	if now := s.Tokens(); now != before {
		t.Errorf("%d tokens, and %d before", now, before)
	}
}

// TestRefused: what is wrong is told in Vault's words, with what to do about it, and no secret is.
func TestRefused(t *testing.T) {
	s := serve(t)
	mount, root := s.Mounts()
	cfg := Config{URL: s.URL, CAFile: s.CAFile, Mount: mount, RootFile: s.File("root.crt", pemOf(root)), AppRole: s.appRole(mount)}
	role := func(change func(*AppRole)) *AppRole {
		one := *cfg.AppRole
		change(&one)
		return &one
	}
	wrong := "11111111-2222-3333-4444-555555555555"
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"another secret":  {func(c *Config) { c.AppRole = role(func(r *AppRole) { r.SecretIDFile = s.File("wrong", wrong) }) }, "write another with"},
		"no such login":   {func(c *Config) { c.AppRole = role(func(r *AppRole) { r.Mount = "nowhere" }) }, "log in: POST /v1/auth/nowhere/login"},
		"another engine":  {func(c *Config) { c.Mount = mount + "-root" }, "its policies lack"},
		"another root":    {func(c *Config) { c.RootFile = s.CAFile }, "the chain leads to none of the roots"},
		"not Vault's own": {func(c *Config) { c.CAFile = c.RootFile }, "certificate signed by unknown authority"},
	} {
		one := cfg
		tt.change(&one)
		if err := s.certify(one); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}
