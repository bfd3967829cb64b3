package snapshot

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"fmt"
)

// What is sealed to a node is sealed by HPKE (RFC 9180): DHKEM(X25519), HKDF-SHA256, AES-256-GCM. The info names the
// gateway, so that a node that runs two cannot be given one's key as the other's.
const sealedKeyInfo = "sennit gateway key v1 "

// SealKey encrypts a private key of a gateway's ("<ns>/<name>") to the holder of an X25519 key, 32 bytes.
func SealKey(recipient []byte, gateway string, key []byte) ([]byte, error) {
	public, err := ecdh.X25519().NewPublicKey(recipient)
	if err != nil {
		return nil, fmt.Errorf("seal key of gateway %s: %w", gateway, err)
	}
	to, err := hpke.NewDHKEMPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("seal key of gateway %s: %w", gateway, err)
	}
	return hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sealedKeyInfo+gateway), key)
}

// LoginOf is the gateway as which what signing in needs is sealed, so that it is not taken for the key of a certificate, nor
// for that of another policy ("<ns>/<name>").
func LoginOf(gateway, policy string) string { return gateway + " login " + policy }

// OpenKey is what the holder of the private key reads.
func OpenKey(private *ecdh.PrivateKey, gateway string, sealed []byte) ([]byte, error) {
	from, err := hpke.NewDHKEMPrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("open key of gateway %s: %w", gateway, err)
	}
	key, err := hpke.Open(from, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sealedKeyInfo+gateway), sealed)
	if err != nil {
		return nil, fmt.Errorf("open key of gateway %s: it was sealed to another node's key, or for another gateway: %w", gateway, err)
	}
	return key, nil
}

// NewSealingKey makes the key of a node that others seal to.
func NewSealingKey() (*ecdh.PrivateKey, error) { return ecdh.X25519().GenerateKey(rand.Reader) }
