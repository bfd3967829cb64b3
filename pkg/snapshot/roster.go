package snapshot

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
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
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(roster)
	if err != nil {
		return nil, fmt.Errorf("seal roster: %w", err)
	}
	digest := rosterDigest(body)
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("seal roster: %w", err)
	}
	raw, err := proto.Marshal(&SignedRoster{Roster: body, Signature: signature, Root: root.Raw})
	if err == nil && len(raw) > maxRoster {
		err = fmt.Errorf("seal roster: %w (%d bytes, at most %d)", ErrTooLarge, len(raw), maxRoster)
	}
	return raw, err
}

func rosterDigest(body []byte) hash { return sha256.Sum256(append([]byte(rosterDomain), body...)) }

// OpenRoster verifies a roster against the root that was pinned, and that it is this cluster's.
func OpenRoster(cluster string, root [32]byte, raw []byte) (*Roster, error) {
	roster, err := openRoster(cluster, root, raw)
	if err != nil {
		return nil, fmt.Errorf("open roster: %w", err)
	}
	return roster, nil
}

func openRoster(cluster string, root [32]byte, raw []byte) (*Roster, error) {
	var signed SignedRoster
	if len(raw) > maxRoster {
		return nil, ErrTooLarge
	}
	if err := proto.Unmarshal(raw, &signed); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	certificate, err := x509.ParseCertificate(signed.GetRoot())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if RootHash(certificate) != root {
		return nil, ErrRoot
	}
	key, ok := certificate.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: the root's key is not ECDSA P-256", ErrRoot)
	}
	digest := rosterDigest(signed.GetRoster())
	if !ecdsa.VerifyASN1(key, digest[:], signed.GetSignature()) {
		return nil, ErrSignature
	}
	roster := new(Roster)
	if err := proto.Unmarshal(signed.GetRoster(), roster); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if roster.GetCluster() != cluster {
		return nil, fmt.Errorf("%w %q (this is %q)", ErrCluster, roster.GetCluster(), cluster)
	}
	return roster, nil
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

// Newer reports whether r replaces old, which may be nil: the newest epoch wins, then the newest serial.
func (r *Roster) Newer(old *Roster) bool {
	return old == nil || Version{r.GetEpoch(), r.GetSerial()}.Compare(Version{old.GetEpoch(), old.GetSerial()}) > 0
}

// Trust is what a reader believes: a root that was pinned once, and the newest roster that it signed. It
// never goes back to an older one. It is owned by one goroutine.
type Trust struct {
	cluster string
	root    [32]byte
	roster  *Roster
	raw     []byte
}

// NewTrust believes one root of one cluster (see RootHash), and has no roster yet.
func NewTrust(cluster string, root [32]byte) *Trust { return &Trust{cluster: cluster, root: root} }

// Update takes a roster as it was stored, and reports whether it replaced the one before. An older one is no
// error. Trust keeps raw.
func (t *Trust) Update(raw []byte) (bool, error) {
	if bytes.Equal(raw, t.raw) {
		return false, nil
	}
	roster, err := OpenRoster(t.cluster, t.root, raw)
	if err != nil || !roster.Newer(t.roster) {
		return false, err
	}
	t.roster, t.raw = roster, raw
	return true, nil
}

// Roster returns the newest roster; nil before the first. Nobody changes it.
func (t *Trust) Roster() *Roster { return t.roster }

// Raw returns the newest roster as it was stored.
func (t *Trust) Raw() []byte { return t.raw }
