package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// ErrNotAgreed is returned where a root is asked for a word about another root, and whoever signs did not name that one.
var ErrNotAgreed = errors.New("the request is about another root as well, and nobody agreed to that one")

// RootFingerprint names a root for people who compare it: 16 bytes of the hash that nodes pin, in hexadecimal.
func RootFingerprint(root *x509.Certificate) string {
	hash := snapshot.RootHash(root)
	return hex.EncodeToString(hash[:16])
}

// newOfflineRoot makes a root whose name no other has, so that no chain of one looks like a chain of another.
func newOfflineRoot(trustDomain, cluster string, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	var name [4]byte
	_, _ = rand.Read(name[:]) // never fails
	return newRoot(trustDomain, fmt.Sprintf("%s root %x", cluster, name), now)
}

// Other is the other root that a request is about: one that is to follow on r (succeeds), or that r follows on and that
// stays trusted beside it for a while; nil where there is none. Whoever signs says that it is the one that he means.
func (r *OfflineRoot) Other(request *Request) (other *x509.Certificate, succeeds bool, err error) {
	return r.other(request.message)
}

func (r *OfflineRoot) other(m *RootRequest) (other *x509.Certificate, succeeds bool, err error) {
	var der []byte
	switch {
	case bytes.Equal(m.GetNextRoot(), r.Certificate.Raw):
		der = m.GetRoot()
	case !bytes.Equal(m.GetRoot(), r.Certificate.Raw):
		return nil, false, errors.New("the request is for another root")
	case m.GetNextRoot() != nil:
		der, succeeds = m.GetNextRoot(), true
	default:
		der = m.GetOldRoot()
	}
	if der == nil {
		return nil, false, nil
	}
	if other, err = parseRoot(der); err != nil {
		return nil, false, err
	}
	if succeeds {
		err = checkSuccessor(r.Certificate, other)
	}
	return other, succeeds, err
}

// checkSuccessor makes sure that next can follow on root.
func checkSuccessor(root, next *x509.Certificate) error {
	switch {
	case next.URIs[0].Host != root.URIs[0].Host:
		return fmt.Errorf("the next root is of trust domain %q, and the root of %q", next.URIs[0].Host, root.URIs[0].Host)
	case bytes.Equal(next.RawSubject, root.RawSubject), snapshot.RootHash(next) == snapshot.RootHash(root):
		return errors.New("the next root has the name or the key of the one that it is to follow on (make another with `sennit ca init --offline-root`)")
	case next.MaxPathLen < rootPathLength:
		return errors.New("the next root cannot be followed by another (make one with `sennit ca init --offline-root`)")
	}
	_, err := rootKeyOf(next)
	return err
}

// rootKeyOf is a root's public key, of the only kind that roots have.
func rootKeyOf(root *x509.Certificate) (*ecdsa.PublicKey, error) {
	key, err := p256(root.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("the root: %w", err)
	}
	return key, nil
}

// certify answers with an intermediate. Where other, which came before r, is still trusted, or an older signing key, rosters may
// list it, until the controller goes over to the last delegation.
func (r *OfflineRoot) certify(answer *RootAnswer, delegation *snapshot.Delegation, template *x509.Certificate, key *ecdsa.PublicKey, other *x509.Certificate, oldSigning []byte) error {
	intermediate, err := certify(template, key, r.Certificate, r.key)
	if err != nil {
		return err
	}
	answer.Intermediate = intermediate.Raw
	if other != nil || oldSigning != nil {
		last := proto.CloneOf(delegation)
		delegation.Number, last.Number = delegation.GetNumber()+1, delegation.GetNumber()+2 // a root before gives the first
		if other != nil {
			delegation.Roots = append(delegation.Roots, other.Raw)
		}
		if oldSigning != nil {
			delegation.Keys = append(delegation.Keys, listed(oldSigning))
		}
		if answer.LastDelegation, answer.LastDelegationSignature, err = snapshot.Delegate(r.key, last); err != nil {
			return err
		}
	}
	answer.Delegation, answer.DelegationSignature, err = snapshot.Delegate(r.key, delegation)
	return err
}

// succeed answers with r's word that next takes its place, and lets rosters list both.
func (r *OfflineRoot) succeed(answer *RootAnswer, delegation *snapshot.Delegation, next *x509.Certificate, now time.Time) (err error) {
	if answer.Succession, answer.Cross, err = succession(r.Certificate, r.key, next, now); err != nil {
		return err
	}
	delegation.Roots = append(delegation.Roots, next.Raw)
	answer.Delegation, answer.DelegationSignature, err = snapshot.Delegate(r.key, delegation)
	return err
}

// succession is a root's word that next takes its place: for rosters, and as a certificate.
func succession(root *x509.Certificate, key *ecdsa.PrivateKey, next *x509.Certificate, now time.Time) (word, cross []byte, err error) {
	signed, err := snapshot.Succeed(key, root, next)
	if err != nil {
		return nil, nil, err
	}
	if word, err = proto.Marshal(signed); err != nil {
		return nil, nil, err
	}
	public, err := rootKeyOf(next)
	if err != nil {
		return nil, nil, err
	}
	template := caTemplate(root.URIs[0].Host, next.Subject.CommonName, rootPathLength-1, now, rootLife)
	certificate, err := certify(template, public, root, key)
	if err != nil {
		return nil, nil, err
	}
	return word, certificate.Raw, nil
}
