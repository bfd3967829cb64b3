package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// DefaultTTL is how long certificates live: nodes rotate them past half of it.
	DefaultTTL = 24 * time.Hour
	// minTTL leaves a node two seconds at the least to repeat a renewal that failed. So short a life is for
	// watching rotations: a controller that restarts takes about as long.
	minTTL = 10 * time.Second

	// backdate is how far before its issuing a certificate is valid, for hosts whose clocks are late.
	backdate = 5 * time.Minute

	rootLife         = 10 * 365 * 24 * time.Hour
	intermediateLife = 90 * 24 * time.Hour

	maxCSR = 4 << 10
)

// caTemplate follows X509-SVID §3.1, §4 and RFC 5280: a CA's SPIFFE ID is its trust
// domain's, without a path, and name constraints keep it from speaking for any other.
func caTemplate(trustDomain, name string, pathLength int, now time.Time, life time.Duration) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:                newSerial(),
		Subject:                     pkix.Name{Organization: []string{"Sennit"}, CommonName: name},
		NotBefore:                   now.Add(-backdate),
		NotAfter:                    now.Add(life),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLen:                  pathLength,
		MaxPathLenZero:              pathLength == 0,
		URIs:                        []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
		PermittedURIDomains:         []string{trustDomain},
		PermittedDNSDomainsCritical: true, // of all name constraints, whatever Go calls it
	}
}

// leafTemplate follows X509-SVID §2 and §4: one URI, no CA, digital signatures only.
func leafTemplate(id string, now time.Time, ttl time.Duration) (*x509.Certificate, error) {
	parsed, err := spiffeid.FromString(id)
	if err != nil || parsed.Path() == "" {
		return nil, fmt.Errorf("SPIFFE ID %q: not the name of a workload (%w)", id, err)
	}
	return &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{Organization: []string{"Sennit"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(ttl),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{parsed.URL()},
	}, nil
}

// addHosts lets a certificate be verified by host name and address as well.
func addHosts(template *x509.Certificate, hosts []string) {
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
}

// parseCSR reads a certificate request and checks that its sender has the key. Of what it asks for only
// the key is taken: names come from the registry.
func parseCSR(der []byte) (*ecdsa.PublicKey, error) {
	if len(der) > maxCSR {
		return nil, fmt.Errorf("certificate request of %d bytes: at most %d", len(der), maxCSR)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("read a certificate request: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return p256(request.PublicKey)
}

// newCSR asks for a certificate of key.
func newCSR(key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

func newKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// newSerial is 127 random bits, so that nobody can foresee one (CA/Browser Forum BR §7.1 asks for 64).
func newSerial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	b[15] |= 1 // not zero
	return new(big.Int).SetBytes(b[:])
}

// serialOf is a serial number as rosters and records write it: lower-case hexadecimal.
func serialOf(certificate *x509.Certificate) string { return certificate.SerialNumber.Text(16) }

// parseChain reads certificates, leaf first.
func parseChain(chain [][]byte) ([]*x509.Certificate, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return nil, fmt.Errorf("a chain of %d certificates", len(chain))
	}
	certificates := make([]*x509.Certificate, 0, len(chain))
	for _, der := range chain {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("read a certificate: %w", err)
		}
		certificates = append(certificates, certificate)
	}
	return certificates, nil
}

// errNotNow is returned for a certificate that is not valid yet or no more.
var errNotNow = errors.New("certificate has expired or is not valid yet")

// maxChain bounds a chain, leaf and root included.
const maxChain = 8

// verifyChain checks an X.509-SVID as X509-SVID §5 says, at a point of time, and returns its SPIFFE ID,
// which is of the trust domain.
func verifyChain(chain []*x509.Certificate, roots *x509.CertPool, trustDomain string, now time.Time) (spiffeid.ID, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return spiffeid.ID{}, fmt.Errorf("a chain of %d certificates", len(chain))
	}
	leaf := chain[0]
	if len(leaf.URIs) != 1 {
		return spiffeid.ID{}, fmt.Errorf("certificate has %d URIs: want one SPIFFE ID", len(leaf.URIs))
	}
	id, err := spiffeid.FromURI(leaf.URIs[0])
	if err != nil {
		return spiffeid.ID{}, err
	}
	switch {
	case id.TrustDomain().Name() != trustDomain:
		return spiffeid.ID{}, fmt.Errorf("%s is not of trust domain %s", id, trustDomain)
	case leaf.IsCA, leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return spiffeid.ID{}, fmt.Errorf("%s shows the certificate of an authority", id)
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return spiffeid.ID{}, fmt.Errorf("the certificate of %s is not for signatures", id)
	}
	intermediates := x509.NewCertPool()
	for _, certificate := range chain[1:] {
		intermediates.AddCert(certificate)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if invalid := (x509.CertificateInvalidError{}); errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return spiffeid.ID{}, fmt.Errorf("%w: that of %s is valid from %s to %s, and this host's clock says %s", errNotNow, id,
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return id, err
}

func keyHash(certificate *x509.Certificate) []byte {
	sum := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
	return sum[:]
}
