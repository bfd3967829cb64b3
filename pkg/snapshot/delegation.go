package snapshot

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
)

const delegationDomain Domain = "sennit delegation v1\x00"

// ErrDelegation is returned for a roster that says more than the root let its signer say, or whose delegation was ended
// by a newer one.
var ErrDelegation = errors.New("the roster's signer may not sign it")

// Delegate signs a delegation by the root: key is that of the root's certificate. It returns what a RosterSigner is given.
func Delegate(key crypto.Signer, delegation *Delegation) (body, signature []byte, err error) {
	if body, err = (proto.MarshalOptions{Deterministic: true}).Marshal(delegation); err == nil {
		signature, err = signByRoot(key, delegationDomain, body)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("delegate the signing of rosters: %w", err)
	}
	return body, signature, nil
}

// openDelegation verifies a roster's delegation against the root's key, and returns the key that may sign.
func openDelegation(cluster string, root *ecdsa.PublicKey, signed *SignedRoster) (*Delegation, *ecdsa.PublicKey, error) {
	if err := verifyByRoot(root, delegationDomain, signed.GetDelegation(), signed.GetDelegationSignature()); err != nil {
		return nil, nil, fmt.Errorf("delegation: %w", err)
	}
	delegation := new(Delegation)
	if err := proto.Unmarshal(signed.GetDelegation(), delegation); err != nil {
		return nil, nil, fmt.Errorf("%w: delegation: %w", ErrMalformed, err)
	}
	if delegation.GetCluster() != cluster {
		return nil, nil, fmt.Errorf("delegation: %w %q (this is %q)", ErrCluster, delegation.GetCluster(), cluster)
	}
	public, err := x509.ParsePKIXPublicKey(delegation.GetPublicKey())
	if err != nil {
		return nil, nil, fmt.Errorf("%w: delegation: %w", ErrMalformed, err)
	}
	key, err := rootKey(public)
	return delegation, key, err
}

// allows returns why a roster says more than the root let its signer say; nil where it does not.
func (d *Delegation) allows(roster *Roster) error {
	if roster.GetDelegation() != d.GetNumber() {
		return fmt.Errorf("%w: it is of delegation %d, and says %d", ErrDelegation, d.GetNumber(), roster.GetDelegation())
	}
	for _, root := range roster.GetRoots() {
		if !slices.ContainsFunc(d.GetRoots(), func(allowed []byte) bool { return bytes.Equal(allowed, root) }) {
			return fmt.Errorf("%w: it lists a root that the delegation does not", ErrDelegation)
		}
	}
	for _, key := range roster.GetKeys() {
		if !slices.ContainsFunc(d.GetKeys(), func(allowed *SigningKey) bool { return proto.Equal(allowed, key) }) {
			return fmt.Errorf("%w: it lists signing key %s, which the delegation does not", ErrDelegation, key.GetId())
		}
	}
	return nil
}
