package tpm

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/sennit-mesh/sennit/pkg/attest"
)

// Where who made the TPM left the certificates of endorsement keys (TCG EK Credential Profile §2.2.1.4).
const (
	rsaCertificate tpm2.TPMHandle = 0x01c00002 // of RSA-2048
	eccCertificate tpm2.TPMHandle = 0x01c0000a // of P-256
)

// nvPart is how much of a certificate is read at once; a TPM reads 512 bytes or more.
const nvPart = 512

// An Attestor is an attestation key of this TPM, made for one proof, and the endorsement key beside it.
type Attestor struct {
	device      *Device
	says        attest.Endorsement
	endorsement tpm2.TPMTPublic // template of the endorsement key
	attestation wrapped
}

// Endorsement says which TPM this is, without a key to attest with: what operators make join tokens for.
func (d *Device) Endorsement() (e attest.Endorsement, err error) {
	err = d.use(func(t *session) (err error) {
		e, _, err = t.endorsement()
		return err
	})
	return e, err
}

// Attestor makes an attestation key, and returns an *Attestor. Which endorsement key is taken does not change: that which has a certificate, RSA
// before P-256, and RSA where neither has one.
func (d *Device) Attestor() (attest.Attestor, error) {
	a := &Attestor{device: d}
	err := d.use(func(t *session) (err error) {
		if a.says, a.endorsement, err = t.endorsement(); err != nil {
			return err
		}
		if a.attestation, err = t.create(attest.AttestationPublic()); err != nil {
			return fmt.Errorf("make an attestation key: %w", err)
		}
		public, err := publicOf(a.attestation.public)
		if err == nil {
			a.says.Attestation, err = x509.MarshalPKIXPublicKey(public)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Endorsement is what the TPM shows of itself. The caller changes nothing in it.
func (a *Attestor) Endorsement() *attest.Endorsement { return &a.says }

// Prove opens what was sealed for this attestor, and has the TPM say for nonce that it has the key that NewKey returned.
func (a *Attestor) Prove(sealed *attest.SealedSecret, stored, nonce []byte) (*attest.TPMProof, error) {
	key, err := a.device.key(stored)
	if err != nil {
		return nil, err
	}
	proof := &attest.TPMProof{}
	err = a.device.use(func(t *session) error {
		attestation, err := t.load(a.attestation)
		if err != nil {
			return fmt.Errorf("attestation key: %w", err)
		}
		if proof.Secret, err = t.activate(attestation, a.endorsement, sealed); err != nil {
			return fmt.Errorf("open what the controller sealed: %w", err)
		}
		loaded, err := t.load(key.wrapped)
		if err != nil {
			return err
		}
		said, err := tpm2.Certify{
			ObjectHandle: loaded, SignHandle: attestation, QualifyingData: tpm2.TPM2BData{Buffer: nonce},
			InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(t.conn)
		if err != nil {
			return fmt.Errorf("certify the node's key: %w", err)
		}
		proof.Info = said.CertifyInfo.Bytes()
		proof.Signature, err = encodeSignature(&said.Signature)
		return err
	})
	if err != nil {
		return nil, err
	}
	return proof, nil
}

// activate opens a credential with the endorsement key, which may only be used by a policy that every TPM starts with: who
// can use the endorsement hierarchy. It leaves places for other keys.
func (t *session) activate(attestation tpm2.NamedHandle, template tpm2.TPMTPublic, sealed *attest.SealedSecret) ([]byte, error) {
	key, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(t.conn)
	if err != nil {
		return nil, err
	}
	policy := func(tpm transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement, PolicySession: session, NonceTPM: nonce}.Execute(tpm)
		return err
	}
	opened, err := tpm2.ActivateCredential{
		ActivateHandle: attestation,
		KeyHandle:      tpm2.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, policy)},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: sealed.Credential}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: sealed.Seed},
	}.Execute(t.conn)
	_, failed := tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(t.conn)
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	return opened.CertInfo.Buffer, nil
}

// endorsement finds the TPM's endorsement key and its certificate.
func (t *session) endorsement() (e attest.Endorsement, template tpm2.TPMTPublic, err error) {
	template = tpm2.RSAEKTemplate
	if e.Certificate = t.certificate(rsaCertificate); e.Certificate == nil {
		if e.Certificate = t.certificate(eccCertificate); e.Certificate != nil {
			template = tpm2.ECCEKTemplate
		}
	}
	made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(t.conn)
	if err != nil {
		return e, template, fmt.Errorf("make the endorsement key: %w", err)
	}
	t.loaded = append(t.loaded, made.ObjectHandle)
	public, err := made.OutPublic.Contents()
	if err != nil {
		return e, template, err
	}
	var key any
	if template.Type == tpm2.TPMAlgRSA {
		key, err = rsaOf(public)
	} else {
		key, err = publicOf(made.OutPublic)
	}
	if err == nil {
		e.Key, err = x509.MarshalPKIXPublicKey(key)
	}
	return e, template, err
}

func rsaOf(public *tpm2.TPMTPublic) (*rsa.PublicKey, error) {
	parameters, err := public.Parameters.RSADetail()
	if err != nil {
		return nil, err
	}
	modulus, err := public.Unique.RSA()
	if err != nil {
		return nil, err
	}
	return tpm2.RSAPub(parameters, modulus)
}

// certificate reads one from the TPM's storage; nil where there is none. Behind it may be filling.
func (t *session) certificate(index tpm2.TPMHandle) []byte {
	about, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t.conn)
	if err != nil {
		return nil
	}
	public, err := about.NVPublic.Contents()
	if err != nil || public.DataSize > attest.MaxCertificate {
		return nil
	}
	var all []byte
	for len(all) < int(public.DataSize) {
		part, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: about.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: about.NVName},
			Size:       uint16(min(nvPart, int(public.DataSize)-len(all))), Offset: uint16(len(all)),
		}.Execute(t.conn)
		if err != nil || len(part.Data.Buffer) == 0 {
			return nil
		}
		all = append(all, part.Data.Buffer...)
	}
	var certificate asn1.RawValue
	if _, err := asn1.Unmarshal(all, &certificate); err != nil {
		return nil
	}
	return certificate.FullBytes
}
