package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/attest"
	"github.com/sennit-mesh/sennit/pkg/tpm"
	"github.com/sennit-mesh/sennit/pkg/tpm/tpmtest"
)

var record = flag.Bool("record", false, "write the recorded statements of TPMs in pkg/attest/testdata anew")

// A recording is what an emulator said, for tests where there is none.
type recording struct {
	Endorsement *attest.Endorsement
	Authority   []byte // that certified the endorsement key
	Key, Nonce  []byte
	Proof       *attest.TPMProof
}

func write(t *testing.T, kind tpmtest.Kind, r *recording) {
	t.Helper()
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	name := map[tpmtest.Kind]string{tpmtest.RSA: "rsa", tpmtest.P256: "p256"}[kind]
	if err := os.WriteFile(filepath.Join("../attest/testdata", "swtpm-"+name+".json"), append(data, '\n'), 0o644); err != nil { //nolint:gosec // nothing in it is secret
		t.Fatal(err)
	}
}

func TestKeysSignAndSurvive(t *testing.T) {
	t.Parallel()
	e := tpmtest.Start(t, tpmtest.Bare)
	device := tpm.New(e.Socket)
	stored, err := device.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("text"))
	for _, device := range []*tpm.Device{device, tpm.New(e.Socket)} { // more uses than a TPM has places
		for range 4 {
			key, err := device.Key(stored)
			if err != nil {
				t.Fatal(err)
			}
			signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
			if err != nil || !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], signature) {
				t.Fatalf("signature: %v", err)
			}
		}
	}
	other := tpm.New(tpmtest.Start(t, tpmtest.Bare).Socket)
	key, err := other.Key(stored)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.Sign(rand.Reader, digest[:], crypto.SHA256); !errors.Is(err, tpm.ErrKey) {
		t.Errorf("another TPM: %v", err)
	}
	if _, err := key.Sign(rand.Reader, digest[:20], crypto.SHA1); err == nil {
		t.Error("signs a SHA-1")
	}
}

func TestHostsWithoutOne(t *testing.T) {
	t.Parallel()
	device := tpm.New(filepath.Join(t.TempDir(), "tpm"))
	if err := device.Check(); !errors.Is(err, tpm.ErrNone) {
		t.Error(err)
	}
	for _, stored := range []string{"", "\x00", "\x00\x00\x00\x00", "\x00\x01a\x00\x01b", "\x00\x01a\x00\x01bc"} {
		if _, err := device.Key([]byte(stored)); !errors.Is(err, tpm.ErrKey) {
			t.Errorf("%q: %v", stored, err)
		}
	}
}

// TestProofs has an emulator prove, and what it says verified, with each kind of endorsement key.
func TestProofs(t *testing.T) {
	t.Parallel()
	for name, ek := range map[string]tpmtest.Kind{"RSA with a certificate": tpmtest.RSA, "P-256 with a certificate": tpmtest.P256, "RSA without": tpmtest.Bare} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := tpmtest.Start(t, ek)
			device := tpm.New(e.Socket)
			stored, err := device.NewKey()
			if err != nil {
				t.Fatal(err)
			}
			key, err := device.Key(stored)
			if err != nil {
				t.Fatal(err)
			}
			public, err := x509.MarshalPKIXPublicKey(key.Public())
			if err != nil {
				t.Fatal(err)
			}
			attestor, err := device.Attestor()
			if err != nil {
				t.Fatal(err)
			}
			says := attestor.Endorsement()
			ours := &attest.TPMs{Keys: []string{attest.EndorsementHash(says.Key)}}
			if e.Authority != nil {
				ours = &attest.TPMs{Authorities: e.Authority}
			}
			if _, err := ours.Accept(says, tpmtest.Now); err != nil {
				t.Error(err)
			}
			secret, nonce := make([]byte, 32), []byte("nonce")
			_, _ = rand.Read(secret)
			sealed, err := says.Seal(secret)
			if err != nil {
				t.Fatal(err)
			}
			proof, err := attestor.Prove(sealed, stored, nonce)
			if err != nil {
				t.Fatal(err)
			}
			if string(proof.Secret) != string(secret) {
				t.Error("another secret")
			}
			if err := says.VerifyCertify(proof, public, nonce); err != nil {
				t.Error(err)
			}
			if *record && e.Authority != nil {
				write(t, ek, &recording{says, e.Authority[0].Raw, public, nonce, proof})
			}
			other, err := device.Attestor()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := other.Prove(sealed, stored, nonce); err == nil {
				t.Error("a secret that was sealed for another attestation key opens")
			}
		})
	}
}
