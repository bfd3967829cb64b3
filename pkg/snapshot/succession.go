package snapshot

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
)

const (
	successionDomain Domain = "sennit succession v1\x00"

	// MaxSuccessions is how many roots back a reader may be and still come to the newest by itself.
	MaxSuccessions = 8
)

// Succeed is a root's word that another takes its place; key is that of the certificate root.
func Succeed(key crypto.Signer, root, next *x509.Certificate) (*Succession, error) {
	hash := RootHash(next)
	signature, err := signByRoot(key, successionDomain, hash[:])
	if err != nil {
		return nil, fmt.Errorf("sign the succession of a root: %w", err)
	}
	return &Succession{Root: root.Raw, Next: hash[:], Signature: signature}, nil
}

// Follows returns nil where the succession is root's word that next takes its place.
func (x *Succession) Follows(root, next *x509.Certificate) error {
	return follows([]*Succession{x}, RootHash(root), RootHash(next))
}

// follows returns nil where root is the pinned one, or where successions lead from it to root. Who sends them may list
// what he likes: each counts for what the key of the root before signed, and none is verified twice.
func follows(successions []*Succession, pinned, root [32]byte) error {
	at := pinned
	for _, s := range successions[:min(len(successions), MaxSuccessions)] {
		if at == root {
			break
		}
		certificate, err := x509.ParseCertificate(s.GetRoot())
		if err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if RootHash(certificate) != at || len(s.GetNext()) != sha256.Size {
			continue // of a root before the pinned one
		}
		key, err := rootKey(certificate.PublicKey)
		if err != nil {
			return err
		}
		if err := verifyByRoot(key, successionDomain, s.GetNext(), s.GetSignature()); err != nil {
			return fmt.Errorf("succession of a root: %w", err)
		}
		at = [32]byte(s.GetNext())
	}
	if at != root {
		return ErrRoot
	}
	return nil
}

// rootKey is a public key of the only kind that roots have.
func rootKey(public any) (*ecdsa.PublicKey, error) {
	key, ok := public.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: the root's key is not ECDSA P-256", ErrRoot)
	}
	return key, nil
}

func signByRoot(key crypto.Signer, domain Domain, message []byte) ([]byte, error) {
	digest := rootDigest(domain, message)
	return key.Sign(rand.Reader, digest[:], crypto.SHA256)
}

func verifyByRoot(key *ecdsa.PublicKey, domain Domain, message, signature []byte) error {
	digest := rootDigest(domain, message)
	if !ecdsa.VerifyASN1(key, digest[:], signature) {
		return ErrSignature
	}
	return nil
}

func rootDigest(domain Domain, message []byte) [32]byte {
	return sha256.Sum256(append([]byte(domain), message...))
}
