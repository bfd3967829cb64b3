package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestPeersOfOtherAuthorities have certificates as no authority of this kind issues them, and another might whose root is
// trusted.
func TestPeersOfOtherAuthorities(t *testing.T) {
	t.Parallel()
	now := time.Now()
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "other"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	issue := func(of *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
		t.Helper()
		der, err := x509.CreateCertificate(rand.Reader, of, authority, key, root)
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return certificate
	}
	roots := x509.NewCertPool()
	roots.AddCert(issue(authority, root.Public()))
	short, err := rsa.GenerateKey(rand.Reader, 1536)
	if err != nil {
		t.Fatal(err)
	}
	nothing := pkix.Extension{Id: extKeyUsage, Value: []byte{0x30, 0}}
	for _, tt := range []struct {
		name    string
		key     crypto.PublicKey
		purpose []x509.ExtKeyUsage
		extra   []pkix.Extension
		refused string
	}{
		{"as it should be", root.Public(), []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, nil, ""},
		{"without a purpose", root.Public(), nil, nil, ""},
		{"for nothing", root.Public(), nil, []pkix.Extension{nothing}, "it is for nothing"},
		{"for something else", root.Public(), []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, nil, "incompatible key usage"},
		{"a short key", short.Public(), nil, nil, "RSA key of 1536 bits"},
	} {
		leaf := issue(&x509.Certificate{
			SerialNumber: big.NewInt(2), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
			URIs: []*url.URL{{Scheme: "spiffe", Host: "other.example", Path: "/ns/shop/svc/web"}}, ExtKeyUsage: tt.purpose, ExtraExtensions: tt.extra,
		}, tt.key)
		_, err := verifyChain([]*x509.Certificate{leaf}, roots, "other.example", now)
		if tt.refused == "" && err != nil || tt.refused != "" && (err == nil || !strings.Contains(err.Error(), tt.refused)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.refused)
		}
	}
}
