// Package upstreamca asks certificate authorities outside of the mesh to certify the intermediates of its controllers.
//
// Through it pass a certificate request, and the chain that answers it. What an authority answers is believed in nothing
// until Certified.Check has approved it; the private key never leaves the controller. Which authorities there are is in the
// packages below this one; when one is asked, and who trusts its roots, is pkg/ca's and the controller's.
//
// Start reading at Authority.
package upstreamca

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// An Authority is a CA outside of the mesh that certifies the intermediates of its controllers. Its methods may be called
// from several goroutines.
type Authority interface {
	// Certify returns a certificate of the CA kind for the key of csr (DER, PKCS #10), valid for about life, with what
	// leads from it to a root. The key signs, here, what an authority wants proved beyond csr, and is never sent. The
	// caller checks the answer. Errors say who was asked, and what to do about it, and hold no secret.
	Certify(ctx context.Context, csr []byte, key crypto.Signer, life time.Duration) (Certified, error)
	// String names the authority for people: its kind and its URL.
	String() string
}

// Certified is what an authority answers.
type Certified struct {
	Chain []*x509.Certificate // the intermediate first, without a root
	Roots []*x509.Certificate // at least one, each signed by itself
}

// Limits of an answer. All of its certificates are shown in each handshake, or are in every node's roster.
const (
	MaxChain       = 3
	MaxRoots       = 4
	MaxCertificate = 8 << 10 // bytes, DER
	// MaxAnswer bounds what is read of an authority, in bytes.
	MaxAnswer = 256 << 10
)

// clockSkew is how far an authority's clock may be ahead.
const clockSkew = time.Minute

// ErrAnswer is returned for an answer that cannot be used.
var ErrAnswer = errors.New("the authority's answer cannot be used")

// Check makes sure that an answer is what was asked for: a certificate of this key that may sign others, of this SPIFFE
// trust domain or of none, that lives for atLeast from now, and whose chain leads to one of the roots. It returns ErrAnswer.
func (c Certified) Check(key crypto.PublicKey, trustDomain string, atLeast time.Duration, now time.Time) error {
	if err := c.check(key, trustDomain, atLeast, now); err != nil {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return nil
}

func (c Certified) check(key crypto.PublicKey, trustDomain string, atLeast time.Duration, now time.Time) error {
	if n := len(c.Chain); n == 0 || n > MaxChain {
		return fmt.Errorf("a chain of %d certificates: want 1 to %d, without the root", n, MaxChain)
	}
	if n := len(c.Roots); n == 0 || n > MaxRoots {
		return fmt.Errorf("%d roots: want 1 to %d", n, MaxRoots)
	}
	for _, one := range c.Chain {
		if err := checkSigner(one); err != nil {
			return fmt.Errorf("%w: the authority must be told to make it one, as by a template", err)
		}
	}
	intermediate := c.Chain[0]
	if intermediate.MaxPathLen != 0 || !intermediate.MaxPathLenZero {
		return fmt.Errorf("%s may certify further authorities: the authority must be told to allow none, as by maxPathLen 0 in a template", intermediate.Subject)
	}
	if public, ok := intermediate.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key) {
		return fmt.Errorf("%s is of another key than was asked for", intermediate.Subject)
	}
	for _, uri := range intermediate.URIs {
		if uri.String() != "spiffe://"+trustDomain {
			return fmt.Errorf("%s is of %s, and not of trust domain %s", intermediate.Subject, uri, trustDomain)
		}
	}
	if intermediate.NotBefore.After(now.Add(clockSkew)) {
		return fmt.Errorf("%s is valid from %s only: compare the clocks", intermediate.Subject, intermediate.NotBefore.UTC().Format(time.RFC3339))
	}
	for _, one := range c.Chain {
		if left := one.NotAfter.Sub(now); left < atLeast {
			return fmt.Errorf("%s lives %s more: want %s at least, so let the authority certify for longer", one.Subject, left.Round(time.Second), atLeast)
		}
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range c.Roots {
		if err := CheckRoot(root); err != nil {
			return err
		}
		roots.AddCert(root)
	}
	for _, one := range c.Chain[1:] {
		between.AddCert(one)
	}
	at := now
	if intermediate.NotBefore.After(at) {
		at = intermediate.NotBefore
	}
	chains, err := intermediate.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("the chain leads to none of the roots: %w", err)
	}
	for _, chain := range chains {
		if chain[len(chain)-1].NotAfter.Sub(now) >= atLeast {
			return nil
		}
	}
	return fmt.Errorf("the root ends within %s: the authority needs another", atLeast)
}

// CheckRoot makes sure that a certificate can be an authority's root.
func CheckRoot(root *x509.Certificate) error {
	if err := checkSigner(root); err != nil {
		return err
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("root %s is not signed by itself: %w", root.Subject, err)
	}
	return nil
}

func checkSigner(one *x509.Certificate) error {
	switch {
	case len(one.Raw) > MaxCertificate:
		return fmt.Errorf("a certificate of %d bytes (%s): at most %d", len(one.Raw), one.Subject, MaxCertificate)
	case !one.BasicConstraintsValid || !one.IsCA || one.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("%s is not the certificate of an authority", one.Subject)
	}
	return nil
}
