package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

const (
	tpmGenerated   = 0xff544347 // "\xffTCG", which begins what a TPM itself says, and nothing else that a restricted key signs
	tpmCertify     = 0x8017     // TPM_ST_ATTEST_CERTIFY
	clockInfoSize  = 17
	firmwareSize   = 8
	maxTPMName     = 68 // bytes of the longest name that a TPM gives: of SHA-512, and what says so
	minCertifyName = 1
)

// VerifyCertify proves that the TPM of the attestation key said, for nonce, that it has key, which never leaves it. Keys are
// SubjectPublicKeyInfos. Whoever calls it knows by a sealed secret that the attestation key is in a TPM. All of p may be a
// stranger's; its Secret is not looked at.
func (e *Endorsement) VerifyCertify(p *TPMProof, key, nonce []byte) error {
	if len(p.Info) > maxCertifyInfo || len(p.Signature) > maxCertifyInfo {
		return refused("a TPM's statement of %d bytes, signed with %d", len(p.Info), len(p.Signature))
	}
	parsed, err := parseTPMKey(e.Attestation)
	if err != nil {
		return fmt.Errorf("attestation key: %w", err)
	}
	attestation, is := parsed.(*ecdsa.PublicKey)
	if !is {
		return refused("an attestation key of type %T where P-256 is wanted", parsed)
	}
	digest := sha256.Sum256(p.Info)
	if !ecdsa.VerifyASN1(attestation, digest[:], p.Signature) {
		return refused("the attestation key did not sign the TPM's statement")
	}
	said, name, err := readCertify(p.Info)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(said, nonce) != 1 {
		return refused("the TPM's statement was made for another request")
	}
	want, err := nameOf(KeyPublic(), key)
	if err != nil {
		return fmt.Errorf("node's key: %w", err)
	}
	if !bytes.Equal(name, want) {
		return refused("the TPM certified another key than the node's, or one that can leave it")
	}
	return nil
}

// readCertify reads a TPMS_ATTEST of a TPM2_Certify (TPM 2.0 Part 2 §10.12.12): the nonce that it was made for and the
// name of the key that it is about. It must be nothing else, and nothing may follow it.
func readCertify(info []byte) (nonce, name []byte, err error) {
	s := cryptobyte.String(info)
	var magic uint32
	var kind uint16
	var signer, extra, certified, qualified cryptobyte.String
	switch {
	case !s.ReadUint32(&magic), magic != tpmGenerated:
		return nil, nil, refused("no TPM said it")
	case !s.ReadUint16(&kind), kind != tpmCertify:
		return nil, nil, refused("a TPM's statement of the kind %#x, and not of a key", kind)
	case !s.ReadUint16LengthPrefixed(&signer), len(signer) > maxTPMName,
		!s.ReadUint16LengthPrefixed(&extra), !s.Skip(clockInfoSize + firmwareSize),
		!s.ReadUint16LengthPrefixed(&certified), len(certified) < minCertifyName, len(certified) > maxTPMName,
		!s.ReadUint16LengthPrefixed(&qualified), len(qualified) > maxTPMName, !s.Empty():
		return nil, nil, refused("a TPM's statement that is cut, or goes on behind its end")
	}
	return extra, certified, nil
}
