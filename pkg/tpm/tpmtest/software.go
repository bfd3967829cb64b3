package tpmtest

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sennit-mesh/sennit/pkg/attest"
)

// A Software TPM does with keys in memory what pkg/tpm has a real one do. It is honest as NewSoftware makes it; what a
// host could lie about is in its fields.
type Software struct {
	Maker       *Maker
	Certificate []byte
	Node        tpm2.TPMTPublic // what node's keys are, by the word of the TPM
	Attestation tpm2.TPMTPublic // what attestation keys are
	// Said may change what the TPM says before the attestation key signs it. nil: nothing.
	Said func(*tpm2.TPMSAttest)
	// Told may change how that is written. nil: nothing.
	Told func(info []byte) []byte
	// Proved may change the proof. nil: nothing.
	Proved func(*attest.TPMProof)

	endorsement crypto.Decrypter  // RSA; nil: p256
	p256        *ecdsa.PrivateKey // nil: RSA
	public      []byte
}

// NewSoftware makes a TPM with an endorsement key of a kind, RSA where it is Bare, which a new maker certified.
func NewSoftware(t testing.TB, kind Kind) *Software {
	t.Helper()
	s := &Software{Maker: NewMaker(t), Node: attest.KeyPublic(), Attestation: attest.AttestationPublic()}
	var public crypto.PublicKey
	if kind == P256 {
		key, err := newP256()
		if err != nil {
			t.Fatal(err)
		}
		s.p256, public = key, key.Public()
	} else {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		s.endorsement, public = key, key.Public()
	}
	var err error
	if s.public, err = x509.MarshalPKIXPublicKey(public); err != nil {
		t.Fatal(err)
	}
	if kind != Bare {
		s.Certificate = s.Maker.Certify(t, public)
	}
	return s
}

func newP256() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// EndorsementKey is its SubjectPublicKeyInfo.
func (s *Software) EndorsementKey() []byte { return s.public }

// NewKey makes a key, which in truth is no secret of the TPM.
func (s *Software) NewKey() ([]byte, error) {
	key, err := newP256()
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKCS8PrivateKey(key)
}

// Key reads what NewKey returned.
func (s *Software) Key(stored []byte) (crypto.Signer, error) { return readKey(stored) }

func readKey(stored []byte) (*ecdsa.PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(stored)
	if err != nil {
		return nil, err
	}
	return key.(*ecdsa.PrivateKey), nil
}

// Attestor makes an attestation key.
func (s *Software) Attestor() (attest.Attestor, error) {
	key, err := newP256()
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return &softwareAttestor{s, key, &attest.Endorsement{Key: s.public, Certificate: s.Certificate, Attestation: public}}, nil
}

type softwareAttestor struct {
	tpm  *Software
	key  *ecdsa.PrivateKey
	says *attest.Endorsement
}

func (a *softwareAttestor) Endorsement() *attest.Endorsement { return a.says }

func (a *softwareAttestor) Prove(sealed *attest.SealedSecret, stored, nonce []byte) (*attest.TPMProof, error) {
	key, err := readKey(stored)
	if err != nil {
		return nil, err
	}
	attestation, err := objectName(a.tpm.Attestation, &a.key.PublicKey)
	if err != nil {
		return nil, err
	}
	proof := &attest.TPMProof{}
	if proof.Secret, err = a.tpm.open(sealed, attestation); err != nil {
		return nil, err
	}
	name, err := objectName(a.tpm.Node, &key.PublicKey)
	if err != nil {
		return nil, err
	}
	said := tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify,
		QualifiedSigner: tpm2.TPM2BName{Buffer: attestation}, ExtraData: tpm2.TPM2BData{Buffer: nonce},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: tpm2.TPM2BName{Buffer: name}, QualifiedName: tpm2.TPM2BName{Buffer: name}}),
	}
	if a.tpm.Said != nil {
		a.tpm.Said(&said)
	}
	proof.Info = tpm2.Marshal(said)
	if a.tpm.Told != nil {
		proof.Info = a.tpm.Told(proof.Info)
	}
	digest := sha256.Sum256(proof.Info)
	if proof.Signature, err = ecdsa.SignASN1(rand.Reader, a.key, digest[:]); err != nil {
		return nil, err
	}
	if a.tpm.Proved != nil {
		a.tpm.Proved(proof)
	}
	return proof, nil
}

func objectName(kind tpm2.TPMTPublic, key *ecdsa.PublicKey) ([]byte, error) {
	point, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	kind.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})
	name, err := tpm2.ObjectName(&kind)
	if err != nil {
		return nil, err
	}
	return name.Buffer, nil
}

// open is TPM2_ActivateCredential (TPM 2.0 Part 1 §24).
func (s *Software) open(sealed *attest.SealedSecret, name []byte) ([]byte, error) {
	seed, err := s.seed(sealed.Seed)
	if err != nil {
		return nil, err
	}
	if len(sealed.Credential) < 2+sha256.Size {
		return nil, errors.New("a credential that is cut")
	}
	sum, encrypted := sealed.Credential[2:2+sha256.Size], sealed.Credential[2+sha256.Size:]
	mac := hmac.New(sha256.New, tpm2.KDFa(crypto.SHA256, seed, "INTEGRITY", nil, nil, 256))
	mac.Write(encrypted)
	mac.Write(name)
	if !hmac.Equal(mac.Sum(nil), sum) {
		return nil, errors.New("the credential is for another attestation key")
	}
	block, err := aes.NewCipher(tpm2.KDFa(crypto.SHA256, seed, "STORAGE", name, nil, 128))
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(encrypted))
	cipher.NewCFBDecrypter(block, make([]byte, aes.BlockSize)).XORKeyStream(plain, encrypted) //nolint:staticcheck // what TPMs use, with a MAC
	secret, err := tpm2.Unmarshal[tpm2.TPM2BDigest](plain)
	if err != nil {
		return nil, err
	}
	return secret.Buffer, nil
}

func (s *Software) seed(encrypted []byte) ([]byte, error) {
	if s.p256 == nil {
		return s.endorsement.Decrypt(rand.Reader, encrypted, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("IDENTITY\x00")})
	}
	point, err := tpm2.Unmarshal[tpm2.TPMSECCPoint](encrypted)
	if err != nil {
		return nil, err
	}
	theirs, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, point.X.Buffer...), point.Y.Buffer...))
	if err != nil {
		return nil, err
	}
	public, err := theirs.ECDH()
	if err != nil {
		return nil, err
	}
	own, err := s.p256.ECDH()
	if err != nil {
		return nil, err
	}
	shared, err := own.ECDH(public)
	if err != nil {
		return nil, err
	}
	return tpm2.KDFe(crypto.SHA256, shared, "IDENTITY", point.X.Buffer, own.PublicKey().Bytes()[1:33], 256), nil
}
