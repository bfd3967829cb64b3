package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// What a signature is for comes before what is signed, so that no signature can be shown where another
// kind is expected.
const (
	joinDomain         snapshot.Domain = "sennit join v1\x00"          // by a token's seed and by the node's key
	renewDomain        snapshot.Domain = "sennit renew v1\x00"         // by both keys of the node
	workloadDomain     snapshot.Domain = "sennit workload v1\x00"      // by the node's key
	registrationDomain snapshot.Domain = "sennit registration v1\x00"  // by the node's key
	replyDomain        snapshot.Domain = "sennit reply v1\x00"         // by a controller's key
	challengeDomain    snapshot.Domain = "sennit tpm challenge v1\x00" // by a controller's key; hashed, what a TPM certifies for
	attestDomain       snapshot.Domain = "sennit attest v1\x00"        // hashed, not signed: what a cloud's evidence is made for
	receiptDomain      snapshot.Domain = "sennit receipt v1\x00"       // by a controller's key
)

var errSignature = errors.New("the signature does not verify")

// signECDSA signs domain and message with a node's key: ECDSA P-256 over SHA-256, ASN.1.
func signECDSA(key crypto.Signer, domain snapshot.Domain, message []byte) ([]byte, error) {
	return key.Sign(rand.Reader, digest(domain, message), crypto.SHA256)
}

// verifyECDSA checks what signECDSA made; key is a SubjectPublicKeyInfo.
func verifyECDSA(key []byte, domain snapshot.Domain, message, signature []byte) error {
	public, err := parsePublic(key)
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(public, digest(domain, message), signature) {
		return errSignature
	}
	return nil
}

func digest(domain snapshot.Domain, message []byte) []byte {
	h := sha256.New()
	h.Write([]byte(domain))
	h.Write(message)
	return h.Sum(nil)
}

// parsePublic reads a SubjectPublicKeyInfo with a P-256 key, the only kind that nodes and services have.
func parsePublic(der []byte) (*ecdsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("read a public key: %w", err)
	}
	return p256(parsed)
}

func p256(key any) (*ecdsa.PublicKey, error) {
	public, ok := key.(*ecdsa.PublicKey)
	if !ok || public.Curve.Params().Name != "P-256" {
		return nil, fmt.Errorf("public key of type %T: want ECDSA P-256", key)
	}
	return public, nil
}

// KeyFingerprint names a certificate's key for people.
func KeyFingerprint(certificate *x509.Certificate) string {
	return fingerprint(certificate.RawSubjectPublicKeyInfo)
}

// fingerprint names a public key for people: the first 8 bytes of its SHA-256.
func fingerprint(publicKey []byte) string {
	sum := sha256.Sum256(publicKey)
	return hex.EncodeToString(sum[:8])
}
