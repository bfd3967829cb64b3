package attest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// TPM is the provider of machines that prove which TPM 2.0 they have. It is none of Providers: a controller asks back for
// it, and no document says it.
//
// A TPM shows that a node's key is in it with three keys: its endorsement key, which it has for life and which can only
// open what is sealed to it; an attestation key, which signs only what the TPM itself says; and the node's key. What is
// sealed to the endorsement key opens only where the attestation key that it names is loaded (TPM 2.0 Part 1 §24), so
// that both are in one TPM, and the attestation key then certifies the node's (Part 3 §18.2).
//
// NO DESCRIPTION OF A KEY IS READ FROM THE HOST. A TPM names a key by the hash of all that it is: here the description is
// built, from the key's point and the only one that is accepted, and its name has to be the one that the TPM used. So a
// key that can leave the TPM, or that was made outside of it, has another name, whatever its host says.
const TPM Provider = "tpm"

// Sizes of what a host sends, in bytes. Endorsement keys are RSA-2048 or P-256.
const (
	maxPublicKey   = 512
	MaxCertificate = 8 << 10 // of an endorsement key; real ones have 1 to 2 KB
	maxCertifyInfo = 512
)

// A SealedSecret is what only one TPM can open, while it has the attestation key that the secret is for loaded.
type SealedSecret struct {
	Credential []byte // TPMS_ID_OBJECT
	Seed       []byte // the encrypted seed: for RSA a ciphertext, for P-256 a TPMS_ECC_POINT
}

// A TPMProof is what a TPM shows for a node's key.
type TPMProof struct {
	Secret    []byte // that was sealed
	Info      []byte // TPMS_ATTEST
	Signature []byte // of it, by the attestation key: ECDSA over SHA-256, ASN.1
}

// An Endorsement is what a host says of its TPM. Keys are SubjectPublicKeyInfos.
type Endorsement struct {
	Key         []byte // RSA-2048 or P-256
	Certificate []byte // of Key by who made the TPM, DER; nil: there is none
	Attestation []byte // P-256
}

// An Attestor is a TPM that is about to prove that it has a key.
type Attestor interface {
	// Endorsement is what it shows of itself.
	Endorsement() *Endorsement
	// Prove opens what was sealed for it, and says for a nonce of at most 32 bytes that it has a key.
	Prove(sealed *SealedSecret, stored, nonce []byte) (*TPMProof, error)
}

// KeyPublic is the only kind of key of a node that a TPM has to certify: P-256, signing anything, made in the TPM and
// never to leave it.
func KeyPublic() tpm2.TPMTPublic { return signingPublic(false) }

// AttestationPublic is the only kind of attestation key that is accepted: as KeyPublic, but signing nothing except what
// the TPM itself says.
func AttestationPublic() tpm2.TPMTPublic { return signingPublic(true) }

func signingPublic(restricted bool) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true, Restricted: restricted,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

// nameOf is what a TPM calls a key of a kind whose public part is der.
func nameOf(kind tpm2.TPMTPublic, der []byte) ([]byte, error) {
	key, err := parseTPMKey(der)
	if err != nil {
		return nil, err
	}
	public, is := key.(*ecdsa.PublicKey)
	if !is {
		return nil, refused("a key of type %T where P-256 is wanted", key)
	}
	point, err := pointOf(public)
	if err != nil {
		return nil, err
	}
	kind.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, point)
	name, err := tpm2.ObjectName(&kind)
	if err != nil {
		return nil, err
	}
	return name.Buffer, nil
}

func pointOf(key *ecdsa.PublicKey) (*tpm2.TPMSECCPoint, error) {
	point, err := key.Bytes() // 4, x, y
	if err != nil {
		return nil, refused("a point that is not on the curve: %w", err)
	}
	return &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}}, nil
}

// parseTPMKey reads a public key of one of the two kinds that are accepted.
func parseTPMKey(der []byte) (any, error) {
	if len(der) > maxPublicKey {
		return nil, refused("a public key of %d bytes", len(der))
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, refused("read a public key: %w", err)
	}
	switch key := parsed.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() {
			return key, nil
		}
	case *rsa.PublicKey:
		if key.N.BitLen() == 2048 && key.E == 65537 {
			return key, nil
		}
	}
	return nil, refused("a key of type %T that is neither RSA-2048 nor P-256", parsed)
}

// EndorsementHash is what an endorsement key is known by: the SHA-256 of its SubjectPublicKeyInfo, in hexadecimal.
func EndorsementHash(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}

// TPMInstance is the machine that has an endorsement key. It is named for half of the key's hash: nobody finds another
// key with the same half.
func TPMInstance(key []byte) *Instance {
	return &Instance{Provider: TPM, ID: EndorsementHash(key)[:sha256.Size]}
}

// Seal seals a secret of at most 32 bytes for who has the endorsement and the attestation key of e in one TPM.
func (e *Endorsement) Seal(secret []byte) (*SealedSecret, error) {
	name, err := nameOf(AttestationPublic(), e.Attestation)
	if err != nil {
		return nil, fmt.Errorf("attestation key: %w", err)
	}
	key, err := parseTPMKey(e.Key)
	if err != nil {
		return nil, fmt.Errorf("endorsement key: %w", err)
	}
	var kind tpm2.TPMTPublic
	switch key := key.(type) {
	case *rsa.PublicKey:
		kind = tpm2.RSAEKTemplate
		kind.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
	case *ecdsa.PublicKey:
		point, err := pointOf(key)
		if err != nil {
			return nil, err
		}
		kind = tpm2.ECCEKTemplate
		kind.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, point)
	}
	to, err := tpm2.ImportEncapsulationKey(&kind)
	if err != nil {
		return nil, fmt.Errorf("endorsement key: %w", err)
	}
	credential, seed, err := tpm2.CreateCredential(rand.Reader, to, name, slices.Clone(secret))
	if err != nil {
		return nil, fmt.Errorf("seal a secret to an endorsement key: %w", err)
	}
	return &SealedSecret{Credential: credential, Seed: seed}, nil
}
