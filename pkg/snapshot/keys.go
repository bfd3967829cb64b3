package snapshot

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

var (
	// ErrKey is returned for what a key signed that the roster does not list. The roster may be old: ask for
	// a newer one.
	ErrKey = errors.New("signed by a key that the roster does not list")
	// ErrSignature is returned for what is not what the key signed.
	ErrSignature = errors.New("signature does not verify")
)

// A Domain keeps a signature for one purpose from being shown for another.
type Domain string

// The purposes of a controller's key. They are part of the format.
const (
	batchDomain  Domain = "sennit batch v1\x00"
	AnswerDomain Domain = "sennit answer v1\x00" // answers to one node's request
	TapDomain    Domain = "sennit tap v1\x00"    // who taps one node, in answer to its request
)

// A Signer is a controller's signing key. ID is SigningKeyID of its public part.
type Signer struct {
	ID  string
	key ed25519.PrivateKey
}

// NewSigner returns the signer of a key.
func NewSigner(key ed25519.PrivateKey) Signer {
	return Signer{ID: SigningKeyID(key.Public().(ed25519.PublicKey)), key: key}
}

// Public returns the key as it stands in a roster.
func (s Signer) Public() *SigningKey {
	return &SigningKey{Id: s.ID, Ed25519: s.key.Public().(ed25519.PublicKey)}
}

// Sign signs a message for one purpose.
func (s Signer) Sign(domain Domain, message []byte) []byte {
	return ed25519.Sign(s.key, append([]byte(domain), message...))
}

// SigningKeyID names a key: the first 8 bytes of its SHA-256, in hexadecimal.
func SigningKeyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:8])
}

// Keys are the controllers' signing keys by their id, as the roster lists them.
type Keys map[string]ed25519.PublicKey

// A Verify reports whether a key signed a message, as ed25519.Verify does.
type Verify func(public ed25519.PublicKey, message, signature []byte) bool

// Verify checks a signature for one purpose: ErrKey for a key that is not listed, ErrSignature otherwise.
func (k Keys) Verify(domain Domain, id string, message, signature []byte) error {
	return k.verify(ed25519.Verify, domain, id, message, signature)
}

func (k Keys) verify(by Verify, domain Domain, id string, message, signature []byte) error {
	key, ok := k[id]
	if !ok {
		return fmt.Errorf("%w (key %q)", ErrKey, id)
	}
	if !by(key, append([]byte(domain), message...), signature) {
		return ErrSignature
	}
	return nil
}
