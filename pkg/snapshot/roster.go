package snapshot

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
)

const rosterDomain Domain = "sennit roster v1\x00"

// maxRoster bounds a roster, in bytes.
const maxRoster = 512 << 10

// ErrRoot is returned for a roster that another root signed than the one that was pinned at joining.
var ErrRoot = errors.New("roster of another root")

// RootHash is the name by which a root is pinned: SHA-256 of its SubjectPublicKeyInfo, so that a root that
// is certified anew with the same key stays the same.
func RootHash(root *x509.Certificate) [32]byte { return sha256.Sum256(root.RawSubjectPublicKeyInfo) }

// SealRoster signs a roster by the root: key is that of the certificate root, ECDSA P-256.
func SealRoster(key crypto.Signer, root *x509.Certificate, roster *Roster) ([]byte, error) {
	return RosterSigner{Root: root, Key: key}.Seal(roster)
}

// A RosterSigner signs rosters.
type RosterSigner struct {
	Root *x509.Certificate
	Key  crypto.Signer // the root's, or where Delegation is set the delegated one; ECDSA P-256
	// Successions lead from older roots to Root, the newest last (Succeed).
	Successions []*Succession
	// Delegation and DelegationSignature are what Delegate returned; nil: the root signs.
	Delegation, DelegationSignature []byte
}

// Seal signs a roster, and returns it as it is published and stored.
func (s RosterSigner) Seal(roster *Roster) ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(roster)
	if err != nil {
		return nil, fmt.Errorf("seal roster: %w", err)
	}
	signature, err := signByRoot(s.Key, rosterDomain, body)
	if err != nil {
		return nil, fmt.Errorf("seal roster: %w", err)
	}
	raw, err := proto.Marshal(&SignedRoster{
		Roster: body, Signature: signature, Root: s.Root.Raw, Successions: s.Successions,
		Delegation: s.Delegation, DelegationSignature: s.DelegationSignature,
	})
	if err == nil && len(raw) > maxRoster {
		err = fmt.Errorf("seal roster: %w (%d bytes, at most %d)", ErrTooLarge, len(raw), maxRoster)
	}
	return raw, err
}

// OpenRoster verifies a roster against the root that was pinned, or one that it names as its successor, and that it is
// this cluster's.
func OpenRoster(cluster string, root [32]byte, raw []byte) (*Roster, error) {
	roster, _, err := openRoster(cluster, root, raw)
	return roster, err
}

// openRoster returns the hash of the root that signed it as well.
func openRoster(cluster string, pinned [32]byte, raw []byte) (roster *Roster, root [32]byte, err error) {
	if roster, root, err = readRoster(cluster, pinned, raw); err != nil {
		return nil, root, fmt.Errorf("open roster: %w", err)
	}
	return roster, root, nil
}

func readRoster(cluster string, pinned [32]byte, raw []byte) (roster *Roster, root [32]byte, err error) {
	var signed SignedRoster
	if len(raw) > maxRoster {
		return nil, root, ErrTooLarge
	}
	if err := proto.Unmarshal(raw, &signed); err != nil {
		return nil, root, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	certificate, err := x509.ParseCertificate(signed.GetRoot())
	if err != nil {
		return nil, root, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	root = RootHash(certificate)
	if err := follows(signed.GetSuccessions(), pinned, root); err != nil {
		return nil, root, err
	}
	key, err := rootKey(certificate.PublicKey)
	if err != nil {
		return nil, root, err
	}
	var delegation *Delegation
	if signed.GetDelegation() != nil {
		if delegation, key, err = openDelegation(cluster, key, &signed); err != nil {
			return nil, root, err
		}
	}
	if err := verifyByRoot(key, rosterDomain, signed.GetRoster(), signed.GetSignature()); err != nil {
		return nil, root, err
	}
	roster = new(Roster)
	if err := proto.Unmarshal(signed.GetRoster(), roster); err != nil {
		return nil, root, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if roster.GetCluster() != cluster {
		return nil, root, fmt.Errorf("%w %q (this is %q)", ErrCluster, roster.GetCluster(), cluster)
	}
	if delegation != nil {
		if err := delegation.allows(roster); err != nil {
			return nil, root, err
		}
	}
	return roster, root, nil
}

// SigningKeys returns the controllers' keys of a roster. Keys of a wrong length are left out.
func (r *Roster) SigningKeys() Keys {
	keys := Keys{}
	for _, k := range r.GetKeys() {
		if len(k.GetEd25519()) == ed25519.PublicKeySize {
			keys[k.GetId()] = bytes.Clone(k.GetEd25519())
		}
	}
	return keys
}

// Newer reports whether r replaces old, which may be nil: the newest delegation wins, then the newest epoch, then the newest serial.
// So a delegate that named an epoch or a serial beyond all others ends with its delegation.
func (r *Roster) Newer(old *Roster) bool {
	switch {
	case old == nil:
		return true
	case r.GetDelegation() != old.GetDelegation():
		return r.GetDelegation() > old.GetDelegation()
	}
	return Version{r.GetEpoch(), r.GetSerial()}.Compare(Version{old.GetEpoch(), old.GetSerial()}) > 0
}
