package controller

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/attest"
	"github.com/sennit-mesh/sennit/pkg/jwks"
)

// TestKeysOfClouds reads them as operators give them: roots and what is below them in one file.
func TestKeysOfClouds(t *testing.T) {
	dir := t.TempDir()
	root, key := selfSigned(t, "root")
	below := certificateBelow(t, root, key)
	file := func(name string, blocks ...*x509.Certificate) string {
		var data []byte
		for _, c := range blocks {
			data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c := &Controller{cfg: Config{AttestAWS: file("aws", root, below), AttestAzure: file("azure", root, below), Now: time.Now}}
	v, err := c.attestVerifier()
	if err != nil {
		t.Fatal(err)
	}
	if !v.Has(attest.Amazon) || !v.Has(attest.Azure) || v.Has(attest.Google) || len(v.Amazon) != 2 || len(v.AzureIntermediates) != 1 {
		t.Errorf("%+v", v)
	}
	for name, cfg := range map[string]Config{
		"no file":           {AttestAWS: filepath.Join(dir, "none")},
		"no certificate":    {AttestAzure: file("empty")},
		"keys in the clear": {AttestGCP: "http://keys.example.com/"},
	} {
		if _, err := (&Controller{cfg: cfg}).attestVerifier(); err == nil || !strings.HasPrefix(err.Error(), "--attest-") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestGooglesKeysAreTakenAnew has them change, and then their place fail.
func TestGooglesKeysAreTakenAnew(t *testing.T) {
	now, kid, status := time.Now(), "k1", http.StatusOK
	_, key := selfSigned(t, "k")
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: kid}}})
	}))
	t.Cleanup(server.Close)
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	keys := &googleKeys{from: jwks.Source{URL: server.URL, CABundle: string(authority)}, now: func() time.Time { return now }}
	is := func(want string) {
		t.Helper()
		got, err := keys.get()
		if err != nil || len(got.Key(want)) != 1 {
			t.Errorf("want %s: %+v, %v", want, got, err)
		}
	}
	is("k1")
	kid = "k2"
	is("k1")
	now = now.Add(googleFresh)
	is("k2")
	now, status = now.Add(googleFresh), http.StatusServiceUnavailable
	if got, err := keys.get(); err == nil {
		t.Errorf("old keys are believed: %+v", got)
	}
}

func selfSigned(t *testing.T, name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	return created(t, template, template, key, key), key
}

func certificateBelow(t *testing.T, root *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	return created(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "below"}, NotAfter: time.Now().Add(time.Hour)}, root, key, key)
}

func created(t *testing.T, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// TestTPMsOfTokens reads and shows which TPMs a token is for.
func TestTPMsOfTokens(t *testing.T) {
	root, key := selfSigned(t, "maker")
	below := certificateBelow(t, root, key)
	file := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})) + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: below.Raw}))
	hash := strings.Repeat("0", 64)
	for _, document := range []*api.JoinTokenAttest{{Provider: "tpm", EndorsementKeys: []string{hash}}, {Provider: "tpm", Authorities: file}} {
		a, err := attestOf(document)
		if err != nil {
			t.Fatal(err)
		}
		if again := attestDocument(a); again.Authorities != document.Authorities || !slices.Equal(again.EndorsementKeys, document.EndorsementKeys) || again.Provider != "tpm" {
			t.Errorf("%+v is shown as %+v", document, again)
		}
	}
	for name, document := range map[string]*api.JoinTokenAttest{
		"no certificate": {Provider: "tpm", Authorities: "text"},
		"both":           {Provider: "tpm", Authorities: file, EndorsementKeys: []string{hash}},
		"neither":        {Provider: "tpm"},
	} {
		if a, err := attestOf(document); err == nil {
			t.Errorf("%s: %+v", name, a)
		}
	}
}
