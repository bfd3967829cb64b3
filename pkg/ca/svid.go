package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	// DefaultTTL is how long certificates live: nodes rotate them past half of it.
	DefaultTTL = 24 * time.Hour
	// minTTL leaves a node two seconds at the least to repeat a renewal that failed. So short a life is for
	// watching rotations: a controller that restarts takes about as long.
	minTTL = 10 * time.Second

	// backdate is how far before its issuing a certificate is valid, for hosts whose clocks are late.
	backdate = 5 * time.Minute

	// Backdate is how long before their issuing certificates say that they are valid.
	Backdate = backdate

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

// rootPathLength is how many authorities may stand between a root and a leaf: the roots that followed on it, each as the
// one before certifies it, and an intermediate.
const rootPathLength = snapshot.MaxSuccessions + 1

// newRoot makes a root and its key.
func newRoot(trustDomain, name string, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	template := caTemplate(trustDomain, name, rootPathLength, now, rootLife)
	certificate, err := certify(template, &key.PublicKey, template, key)
	return certificate, key, err
}

// certify signs a certificate by an authority, which it does not outlive.
func certify(template *x509.Certificate, key *ecdsa.PublicKey, by *x509.Certificate, byKey *ecdsa.PrivateKey) (*x509.Certificate, error) {
	if template.NotAfter.After(by.NotAfter) {
		template.NotAfter = by.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key, byKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// leafTemplate follows X509-SVID §2 and §4: one URI, no CA, digital signatures only. node: "" of what no node holds.
func leafTemplate(id, node string, now time.Time, ttl time.Duration) (*x509.Certificate, error) {
	parsed, err := spiffeid.FromString(id)
	if err != nil || parsed.Path() == "" {
		return nil, fmt.Errorf("SPIFFE ID %q: not the name of a workload (%w)", id, err)
	}
	return &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               subjectOf(node),
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
func newCSR(key crypto.Signer) ([]byte, error) {
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

// notNow is errNotNow, and what the standard library said, by which the bus knows it too.
type notNow struct {
	invalid x509.CertificateInvalidError
	text    string
}

func (n *notNow) Error() string   { return n.text }
func (n *notNow) Unwrap() []error { return []error{errNotNow, n.invalid} }

// maxChain bounds a chain: leaf, intermediate and root, and the way to the roots before (serverChain).
const maxChain = 3 + 2*snapshot.MaxSuccessions

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
	if id.TrustDomain().Name() != trustDomain {
		return spiffeid.ID{}, fmt.Errorf("%s is not of trust domain %s", id, trustDomain)
	}
	if err := checkLeaf(leaf); err != nil {
		return spiffeid.ID{}, fmt.Errorf("%s: %w", id, err)
	}
	err = leadsTo(chain, roots, now)
	if invalid := (x509.CertificateInvalidError{}); errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return spiffeid.ID{}, &notNow{invalid, fmt.Sprintf("%v: that of %s is valid from %s to %s, and this host's clock says %s", errNotNow, id,
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))}
	}
	return id, err
}

// checkLeaf refuses certificates that are no leaves (X509-SVID §5.2).
func checkLeaf(leaf *x509.Certificate) error {
	switch {
	case leaf.IsCA, leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return errors.New("it shows the certificate of an authority")
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("the certificate is not for signatures")
	case len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0 && slices.ContainsFunc(leaf.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(extKeyUsage) }):
		return errors.New("the certificate says that it is for nothing") // which Go takes for everything
	}
	return nil
}

var extKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}

// leastRSA is the shortest key of RSA, in bits, that a peer's chain may have: this authority makes none, and others, whose roots
// are trusted, might.
const leastRSA = 2048

// leadsTo checks the way from the first certificate of a chain to a root, by RFC 5280 §6.
func leadsTo(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	intermediates := x509.NewCertPool()
	for i, certificate := range chain {
		if key, ok := certificate.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < leastRSA {
			return fmt.Errorf("a certificate of the chain has an RSA key of %d bits, and less than %d are too few", key.N.BitLen(), leastRSA)
		}
		if i > 0 {
			intermediates.AddCert(certificate)
		}
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, // one of them; SVIDs are for both
	})
	return err
}

func keyHash(certificate *x509.Certificate) []byte {
	sum := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
	return sum[:]
}
