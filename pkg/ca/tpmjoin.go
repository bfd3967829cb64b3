package ca

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/attest"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A token can be for the TPMs of a fleet. A host asks twice. First it says which TPM it has, and a controller seals a secret
// to it; then it shows the secret, and what the TPM says of the node's key (pkg/attest/tpm.go). NO CONTROLLER KEEPS ANYTHING IN BETWEEN: the
// hash of the secret, and what it was sealed for, go to the host and back under a controller's signature, so that any
// controller of the roster can take the answer.
//
// What a host could change: nothing of the two requests without the node's key and the token's seed; and a challenge is
// for one token, node's key, endorsement key and attestation key, for challengeTTL.

const (
	challengeTTL    = 5 * time.Minute // a TPM may need a minute to make its endorsement key
	secretSize      = 32
	maxEndorsements = 1024     // endorsement keys that a token names
	maxAuthorities  = 64 << 10 // bytes of certificates that a token names
)

var endorsementHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (a *Attest) checkTPMs() error {
	size := 0
	for _, authority := range a.TPMs.Authorities {
		size += len(authority.Raw)
	}
	switch keys, authorities := a.TPMs.Keys, a.TPMs.Authorities; {
	case len(a.Accounts)+len(a.Places) > 0:
		return errors.New("machines with a TPM: accounts and places are those of clouds")
	case len(keys) == 0 && len(authorities) == 0:
		return errors.New("machines with a TPM: say which endorsement keys, or who certified them; anybody's would be let in")
	case len(keys) > 0 && len(authorities) > 0:
		return errors.New("machines with a TPM: name endorsement keys, or who certified them, not both")
	case len(keys) > maxEndorsements, len(authorities) > attest.MaxAuthorities, size > maxAuthorities:
		return fmt.Errorf("machines with a TPM: at most %d endorsement keys, or %d authorities of %d bytes in all", maxEndorsements, attest.MaxAuthorities, maxAuthorities)
	case slices.ContainsFunc(keys, func(key string) bool { return !endorsementHash.MatchString(key) }):
		return errors.New("machines with a TPM: an endorsement key is named by its SHA-256, as 64 lower-case hexadecimal digits")
	}
	return nil
}

// tpmsOf is what a token's record says of TPMs. A certificate that cannot be read certifies nothing.
func tpmsOf(a *Attestation) attest.TPMs {
	t := attest.TPMs{Keys: a.GetEndorsementKeys()}
	for _, der := range a.GetAuthorities() {
		if authority, err := x509.ParseCertificate(der); err == nil {
			t.Authorities = append(t.Authorities, authority)
		}
	}
	return t
}

// attestedByTPM returns the machine that a request with a token for TPMs comes from, or what the host has to answer first.
func (r *Registrar) attestedByTPM(token *TokenRecord, request *JoinRequest, key []byte) (*attest.Instance, *TPMChallenge, error) {
	evidence := request.GetTpm()
	if evidence == nil {
		return nil, nil, refuse(ErrNotAttested, "the token admits hosts by their TPM, and this one shows none")
	}
	endorsement := &attest.Endorsement{Key: evidence.GetEndorsementKey(), Certificate: evidence.GetCertificate(), Attestation: evidence.GetAttestationKey()}
	ours := tpmsOf(token.GetAttestation())
	instance, err := ours.Accept(endorsement, r.cfg.Now())
	if err != nil {
		return nil, nil, refuse(ErrNotAttested, "%v", err)
	}
	bound := challengeBound(request, key, endorsement)
	if evidence.GetChallenge() == nil {
		challenge, err := r.challengeTPM(endorsement, bound)
		return nil, challenge, err
	}
	if err := r.checkChallenge(evidence, bound); err != nil {
		return nil, nil, err
	}
	proof := &attest.TPMProof{Info: evidence.GetInfo(), Signature: evidence.GetSignature()}
	if err := endorsement.VerifyCertify(proof, key, certifyNonce(evidence.GetChallenge())); err != nil {
		return nil, nil, refuse(ErrNotAttested, "%v", err)
	}
	return instance, nil, nil
}

// challengeTPM seals a new secret to a TPM.
func (r *Registrar) challengeTPM(endorsement *attest.Endorsement, bound []byte) (*TPMChallenge, error) {
	secret := make([]byte, secretSize)
	_, _ = rand.Read(secret) // never fails
	sealed, err := endorsement.Seal(secret)
	if err != nil {
		return nil, refuse(ErrNotAttested, "%v", err)
	}
	hash := sha256.Sum256(secret)
	challenge, err := proto.Marshal(&Challenge{Bound: bound, SecretHash: hash[:], ExpiresUnixMs: r.cfg.Now().Add(challengeTTL).UnixMilli()})
	if err != nil {
		return nil, err
	}
	signer := r.cfg.Authority.Signer()
	return &TPMChallenge{
		Challenge:  &SignedChallenge{Challenge: challenge, KeyId: signer.ID, Signature: signer.Sign(challengeDomain, challenge)},
		Credential: sealed.Credential, Seed: sealed.Seed,
	}, nil
}

// checkChallenge refuses what is no answer to a challenge that a controller made for this very host and token.
func (r *Registrar) checkChallenge(evidence *TPMEvidence, bound []byte) error {
	roster, err := snapshot.OpenRoster(r.cfg.Authority.Cluster(), r.cfg.Authority.RootHash(), r.cfg.Authority.Roster())
	if err != nil {
		return err
	}
	signed, challenge := evidence.GetChallenge(), &Challenge{}
	if err := roster.SigningKeys().Verify(challengeDomain, signed.GetKeyId(), signed.GetChallenge(), signed.GetSignature()); err != nil {
		return refuse(ErrNotAttested, "no controller made the challenge: %v", err)
	}
	if err := proto.Unmarshal(signed.GetChallenge(), challenge); err != nil {
		return refuse(ErrNotAttested, "challenge: %v", err)
	}
	hash := sha256.Sum256(evidence.GetSecret())
	switch {
	case r.cfg.Now().UnixMilli() > challenge.GetExpiresUnixMs():
		return refuse(ErrNotAttested, "the challenge was answered after %s; start the node again", challengeTTL)
	case subtle.ConstantTimeCompare(challenge.GetBound(), bound) != 1:
		return refuse(ErrNotAttested, "the challenge was made for another request")
	case subtle.ConstantTimeCompare(challenge.GetSecretHash(), hash[:]) != 1:
		return refuse(ErrNotAttested, "the TPM did not open what was sealed to it")
	}
	return nil
}

// challengeBound is what a challenge is for.
func challengeBound(request *JoinRequest, key []byte, endorsement *attest.Endorsement) []byte {
	h := sha256.New()
	parts := [][]byte{[]byte(challengeDomain), []byte(request.GetCluster()), request.GetTokenId(), key, endorsement.Key, endorsement.Attestation}
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s,", len(part), part)
	}
	return h.Sum(nil)
}

// certifyNonce is what a TPM certifies the node's key for.
func certifyNonce(challenge *SignedChallenge) []byte {
	return digest(challengeDomain, challenge.GetChallenge())
}

// attestor has the host's TPM get ready, and returns what the node is called.
func (i *Identity) attestor() (attest.Attestor, string, error) {
	attestor, err := i.cfg.TPM.Attestor()
	if err != nil {
		return nil, "", fmt.Errorf("%w (the token admits machines by their TPM only)", err)
	}
	return attestor, attest.TPMInstance(attestor.Endorsement().Key).Name(), nil
}

// answerChallenge asks a controller for a challenge and returns the evidence that answers it.
func (i *Identity) answerChallenge(ctx context.Context, conn Requester, token *Token, key *nodeKey, join *JoinRequest, attestor attest.Attestor) (*TPMEvidence, error) {
	says := attestor.Endorsement()
	evidence := &TPMEvidence{EndorsementKey: says.Key, Certificate: says.Certificate, AttestationKey: says.Attestation}
	first := proto.CloneOf(join)
	first.Tpm = evidence
	request, data, err := askToJoin(ctx, conn, token, key, first)
	if err != nil {
		return nil, err
	}
	state := i.current()
	reply, _, err := openReply(state.GetCluster(), [32]byte(state.GetRootHash()), state.GetRoster(), request, data)
	switch {
	case err != nil:
		return nil, err
	case reply.GetRefusal() != nil:
		return nil, reply.GetRefusal().err()
	case reply.GetChallenge().GetChallenge() == nil:
		return nil, fmt.Errorf("%w: it asks nothing of the TPM that the token is for; its controllers are older than the token", ErrUntrusted)
	}
	challenge := reply.GetChallenge()
	sealed := &attest.SealedSecret{Credential: challenge.GetCredential(), Seed: challenge.GetSeed()}
	proof, err := attestor.Prove(sealed, bytes.TrimPrefix(key.stored, storedInTPM), certifyNonce(challenge.GetChallenge()))
	if err != nil {
		return nil, err
	}
	evidence.Challenge, evidence.Secret, evidence.Info, evidence.Signature = challenge.GetChallenge(), proof.Secret, proof.Info, proof.Signature
	return evidence, nil
}
