package attest_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sennit-mesh/sennit/pkg/attest"
	"github.com/sennit-mesh/sennit/pkg/tpm/tpmtest"
)

// A recording is what swtpm 0.7.1 with libtpms said (testdata/swtpm-*.json). Its maker of TPMs is the test's own. It is made
// anew by `go test ./pkg/tpm -args -record`, where swtpm is installed.
type recording struct {
	Endorsement *attest.Endorsement
	Authority   []byte
	Key, Nonce  []byte
	Proof       *attest.TPMProof
}

func recorded(t testing.TB, kind string) *recording {
	t.Helper()
	data, err := os.ReadFile("testdata/swtpm-" + kind + ".json")
	if err != nil {
		t.Fatal(err)
	}
	r := &recording{}
	if err := json.Unmarshal(data, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *recording) ours(t testing.TB) *attest.TPMs {
	t.Helper()
	authority, err := x509.ParseCertificate(r.Authority)
	if err != nil {
		t.Fatal(err)
	}
	return &attest.TPMs{Authorities: []*x509.Certificate{authority}}
}

func TestRecordedStatements(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"rsa", "p256"} {
		r, other := recorded(t, kind), recorded(t, map[string]string{"rsa": "p256", "p256": "rsa"}[kind])
		if _, err := r.ours(t).Accept(r.Endorsement, tpmtest.Now); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if _, err := other.ours(t).Accept(r.Endorsement, tpmtest.Now); !errors.Is(err, attest.ErrEvidence) {
			t.Errorf("%s: by another maker: %v", kind, err)
		}
		if err := r.Endorsement.VerifyCertify(r.Proof, r.Key, r.Nonce); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		for name, err := range map[string]error{
			"another nonce":           r.Endorsement.VerifyCertify(r.Proof, r.Key, []byte("noncf")),
			"no nonce":                r.Endorsement.VerifyCertify(r.Proof, r.Key, nil),
			"another key":             r.Endorsement.VerifyCertify(r.Proof, other.Key, r.Nonce),
			"the attestation key":     r.Endorsement.VerifyCertify(r.Proof, r.Endorsement.Attestation, r.Nonce),
			"another attestation key": other.Endorsement.VerifyCertify(r.Proof, r.Key, r.Nonce),
			"another statement":       r.Endorsement.VerifyCertify(&attest.TPMProof{Info: other.Proof.Info, Signature: r.Proof.Signature}, r.Key, r.Nonce),
		} {
			if !errors.Is(err, attest.ErrEvidence) {
				t.Errorf("%s: with %s: %v", kind, name, err)
			}
		}
		for n := range r.Proof.Info {
			flipped := bytes.Clone(r.Proof.Info)
			flipped[n] ^= 1
			for _, info := range [][]byte{flipped, r.Proof.Info[:n]} {
				if r.Endorsement.VerifyCertify(&attest.TPMProof{Info: info, Signature: r.Proof.Signature}, r.Key, r.Nonce) == nil {
					t.Fatalf("%s: byte %d is changed, or cut off", kind, n)
				}
			}
		}
	}
}

// TestStatementsOfAnotherKind are signed by the attestation key itself, so that nothing but the statement is wrong.
func TestStatementsOfAnotherKind(t *testing.T) {
	t.Parallel()
	nonce := []byte("nonce")
	leaves := attest.KeyPublic()
	leaves.ObjectAttributes.FixedParent = false
	for _, tt := range []struct {
		name   string
		change func(*tpmtest.Software)
		proved func(*attest.TPMProof)
		says   string // empty: it is good
	}{
		{"as it should be", func(*tpmtest.Software) {}, nil, ""},
		{"of no TPM", func(s *tpmtest.Software) { s.Said = func(a *tpm2.TPMSAttest) { a.Magic = 0 } }, nil, "no TPM said it"},
		{"of a key that can be moved", func(s *tpmtest.Software) { s.Node = leaves }, nil, "can leave it"},
		{"of a restricted key", func(s *tpmtest.Software) { s.Node = attest.AttestationPublic() }, nil, "can leave it"},
		{"about a hash", func(s *tpmtest.Software) {
			s.Said = func(a *tpm2.TPMSAttest) {
				a.Type = tpm2.TPMSTAttestQuote
				a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{})
			}
		}, nil, "of the kind"},
		{"of another nonce", func(s *tpmtest.Software) { s.Said = func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = []byte("old") } }, nil, "another request"},
		{"with a name that is too long", func(s *tpmtest.Software) {
			s.Said = func(a *tpm2.TPMSAttest) { a.QualifiedSigner.Buffer = make([]byte, 69) }
		}, nil, "cut, or goes on"},
		{"that goes on", func(s *tpmtest.Software) { s.Told = func(info []byte) []byte { return append(info, 0) } }, nil, "cut, or goes on"},
		{"that is cut", func(s *tpmtest.Software) { s.Told = func(info []byte) []byte { return info[:len(info)-1] } }, nil, "cut, or goes on"},
		{"that is too long", nil, func(p *attest.TPMProof) { p.Info = make([]byte, 513) }, "513 bytes"},
	} {
		software := tpmtest.NewSoftware(t, tpmtest.P256)
		if tt.change != nil {
			tt.change(software)
		}
		software.Proved = tt.proved
		err := verify(t, software, nonce)
		if (tt.says == "") != (err == nil) || tt.says != "" && (!errors.Is(err, attest.ErrEvidence) || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// verify has a TPM prove a key of its own.
func verify(t *testing.T, software *tpmtest.Software, nonce []byte) error {
	t.Helper()
	attestor, err := software.Attestor()
	if err != nil {
		t.Fatal(err)
	}
	stored, err := software.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := software.Key(stored)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	secret := sha256.Sum256(nonce)
	sealed, err := attestor.Endorsement().Seal(secret[:])
	if err != nil {
		t.Fatal(err)
	}
	proof, err := attestor.Prove(sealed, stored, nonce)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(proof.Secret, secret[:]) {
		t.Error("another secret")
	}
	return attestor.Endorsement().VerifyCertify(proof, public, nonce)
}

func TestEndorsementKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	der := func(key any, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		switch private := key.(type) {
		case *rsa.PrivateKey:
			key = private.Public()
		case *ecdsa.PrivateKey:
			key = private.Public()
		}
		data, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	p256 := func() (any, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }
	attestation := der(p256())
	e := &attest.Endorsement{Key: attestation, Attestation: der(rsa.GenerateKey(rand.Reader, 2048))}
	if _, err := (&attest.TPMs{Keys: []string{attest.EndorsementHash([]byte("another"))}}).Accept(e, tpmtest.Now); !errors.Is(err, attest.ErrEvidence) {
		t.Errorf("another than the one that was named: %v", err)
	}
	for name, key := range map[string][]byte{
		"RSA of 3,072 bits": der(func() (any, error) { return rsa.GenerateKey(rand.Reader, 3072) }()),
		"P-384":             der(func() (any, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) }()),
		"nothing":           nil,
		"too long":          make([]byte, 513),
	} {
		e := &attest.Endorsement{Key: key, Attestation: attestation}
		if _, err := (&attest.TPMs{Keys: []string{attest.EndorsementHash(key)}}).Accept(e, tpmtest.Now); !errors.Is(err, attest.ErrEvidence) {
			t.Errorf("%s is accepted: %v", name, err)
		}
		if _, err := e.Seal([]byte("secret")); !errors.Is(err, attest.ErrEvidence) {
			t.Errorf("%s is sealed to: %v", name, err)
		} else if name == "too long" && !strings.Contains(err.Error(), "513 bytes") {
			t.Errorf("%s was read: %v", name, err)
		}
	}
	if _, err := e.Seal([]byte("secret")); !errors.Is(err, attest.ErrEvidence) {
		t.Errorf("an attestation key of RSA: %v", err)
	}
}

func TestCertificatesOfEndorsementKeys(t *testing.T) {
	t.Parallel()
	software := tpmtest.NewSoftware(t, tpmtest.P256)
	key, err := x509.ParsePKIXPublicKey(software.EndorsementKey())
	if err != nil {
		t.Fatal(err)
	}
	ours := &attest.TPMs{Authorities: []*x509.Certificate{software.Maker.Certificate}}
	e := &attest.Endorsement{Key: software.EndorsementKey(), Certificate: software.Certificate}
	if _, err := ours.Accept(e, tpmtest.Now); err != nil {
		t.Error(err)
	}
	if _, err := ours.Accept(e, tpmtest.Now.AddDate(11, 0, 0)); !errors.Is(err, attest.ErrEvidence) {
		t.Errorf("after its end: %v", err)
	}
	for name, certificate := range map[string][]byte{
		"for another use":  software.Maker.CertifyAs(t, key, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1, 1}),
		"by another maker": tpmtest.NewMaker(t).Certify(t, key),
		"of another key":   tpmtest.NewSoftware(t, tpmtest.P256).Certificate,
		"cut":              software.Certificate[:40],
		"missing":          nil,
		"too long":         append(bytes.Clone(software.Certificate), make([]byte, attest.MaxCertificate)...),
	} {
		if _, err := ours.Accept(&attest.Endorsement{Key: e.Key, Certificate: certificate}, tpmtest.Now); !errors.Is(err, attest.ErrEvidence) {
			t.Errorf("%s: %v", name, err)
		} else if name == "too long" && !strings.Contains(err.Error(), "bytes") {
			t.Errorf("%s was read: %v", name, err)
		}
	}
}

// FuzzTPM reads what a host sends of its TPM. None of it may be believed, but for what an emulator said.
func FuzzTPM(f *testing.F) {
	for _, kind := range []string{"rsa", "p256"} {
		r := recorded(f, kind)
		f.Add(r.Endorsement.Key, r.Endorsement.Certificate, r.Endorsement.Attestation, r.Key, r.Proof.Info, r.Proof.Signature)
	}
	rsaRecording, p256Recording := recorded(f, "rsa"), recorded(f, "p256")
	ours := &attest.TPMs{Authorities: append(rsaRecording.ours(f).Authorities, p256Recording.ours(f).Authorities...)}
	f.Fuzz(func(t *testing.T, key, certificate, attestation, node, info, signature []byte) {
		e := &attest.Endorsement{Key: key, Certificate: certificate, Attestation: attestation}
		if _, err := ours.Accept(e, tpmtest.Now); err == nil && !bytes.Equal(key, rsaRecording.Endorsement.Key) && !bytes.Equal(key, p256Recording.Endorsement.Key) {
			t.Error("a TPM of nobody is ours")
		}
		if sealed, err := e.Seal(make([]byte, 32)); err == nil && (len(sealed.Credential) != 68 || len(sealed.Seed) > 256) {
			t.Errorf("a challenge of %d and %d bytes", len(sealed.Credential), len(sealed.Seed))
		}
		err := e.VerifyCertify(&attest.TPMProof{Info: info, Signature: signature}, node, rsaRecording.Nonce)
		if err == nil && !bytes.Equal(info, rsaRecording.Proof.Info) && !bytes.Equal(info, p256Recording.Proof.Info) {
			t.Error("a statement of nobody is believed")
		}
	})
}
