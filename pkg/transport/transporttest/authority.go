// Package transporttest makes real certificates for tests of lanes: an authority that issues SVIDs, and
// wallets that hold them as a node's credentials.
package transporttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// An Authority issues SVIDs of the trust domain "test".
type Authority struct {
	tb   testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

// NewAuthority makes an authority with a root of its own.
func NewAuthority(tb testing.TB) *Authority {
	tb.Helper()
	a := &Authority{tb: tb, key: newKey(tb), pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true,
	}
	a.cert = a.create(template, template, &a.key.PublicKey)
	a.pool.AddCert(a.cert)
	return a
}

// Issue makes an SVID of a service that ends after lifetime.
func (a *Authority) Issue(service exchange.ServiceName, lifetime time.Duration) *tls.Certificate {
	a.tb.Helper()
	return a.IssueOn("", service, lifetime)
}

// IssueOn is Issue, for a node.
func (a *Authority) IssueOn(node string, service exchange.ServiceName, lifetime time.Duration) *tls.Certificate {
	a.tb.Helper()
	key := newKey(a.tb)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.tb.Fatal(err)
	}
	leaf := a.create(&x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: node},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: "test", Path: fmt.Sprintf("/ns/%s/svc/%s", service.Namespace, service.Name)}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(lifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.cert, &key.PublicKey)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func (a *Authority) create(template, parent *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
	a.tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	if err != nil {
		a.tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.tb.Fatal(err)
	}
	return cert
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// A Wallet holds SVIDs and trusts one authority: the credentials of a node. It is safe for concurrent use.
type Wallet struct {
	authority *Authority

	mu       sync.Mutex
	certs    map[exchange.ServiceName]*tls.Certificate
	revoked  map[exchange.ServiceName]bool
	then     func()
	verified int
	resumed  int
}

// ErrRevoked is what Verify answers for a service that was revoked.
var ErrRevoked = errors.New("revoked")

// Wallet returns credentials for the services, which last for an hour.
func (a *Authority) Wallet(services ...exchange.ServiceName) *Wallet {
	a.tb.Helper()
	w := &Wallet{authority: a, certs: map[exchange.ServiceName]*tls.Certificate{}, revoked: map[exchange.ServiceName]bool{}}
	for _, s := range services {
		w.Rotate(s, time.Hour)
	}
	return w
}

// Certificate returns the SVID of a service.
func (w *Wallet) Certificate(s exchange.ServiceName) (*tls.Certificate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c, ok := w.certs[s]; ok {
		return c, nil
	}
	return nil, fmt.Errorf("no certificate for %s", s)
}

// Verify returns whose SVID the peer shows.
func (w *Wallet) Verify(state tls.ConnectionState) (exchange.ServiceName, error) {
	s, err := w.verify(state)
	w.mu.Lock()
	then := w.then
	w.then = nil
	w.mu.Unlock()
	if then != nil {
		then()
	}
	return s, err
}

// Then calls fn once, when the next peer was judged and before anybody is told.
func (w *Wallet) Then(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.then = fn
}

func (w *Wallet) verify(state tls.ConnectionState) (exchange.ServiceName, error) {
	leaf := state.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: w.authority.pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return exchange.ServiceName{}, err
	}
	parts := strings.Split(leaf.URIs[0].Path, "/")
	s := exchange.ServiceName{Namespace: parts[2], Name: parts[4]}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.verified++
	if state.DidResume {
		w.resumed++
	}
	if w.revoked[s] {
		return exchange.ServiceName{}, ErrRevoked
	}
	return s, nil
}

// Home is the trust domain of the peer, and the node that its SVID names (IssueOn).
func (w *Wallet) Home(state tls.ConnectionState) (trustDomain, node string) {
	leaf := state.PeerCertificates[0]
	return leaf.URIs[0].Host, leaf.Subject.CommonName
}

// Rotate gives a service a new SVID.
func (w *Wallet) Rotate(s exchange.ServiceName, lifetime time.Duration) {
	w.Put(s, w.authority.Issue(s, lifetime))
}

// Put makes cert what Certificate returns for a service, whoever it was issued to.
func (w *Wallet) Put(s exchange.ServiceName, cert *tls.Certificate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.certs[s] = cert
}

// Revoke makes Verify refuse a service from now on.
func (w *Wallet) Revoke(s exchange.ServiceName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.revoked[s] = true
}

// Handshakes counts the calls of Verify.
func (w *Wallet) Handshakes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.verified
}

// Resumptions counts the handshakes among them that resumed an earlier one.
func (w *Wallet) Resumptions() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.resumed
}
