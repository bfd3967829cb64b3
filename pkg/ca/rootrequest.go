package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// AwaitRoot opens the authority in cfg.Dir whose root's key is kept elsewhere, or makes one where there is none: its keys,
// which wait for the root. It does not issue before Accept. root is needed where it is made.
func AwaitRoot(cfg AuthorityConfig, root *x509.Certificate) (*Authority, error) {
	if root != nil && root.URIs[0].Host != cfg.TrustDomain {
		return nil, fmt.Errorf("the root is of trust domain %q, and %q is configured", root.URIs[0].Host, cfg.TrustDomain)
	}
	return openAuthorityFile(cfg, func(a *Authority) error { return a.load(root, true) })
}

// begin makes the keys of an authority whose root is kept elsewhere.
func (a *Authority) begin(h *holding, root *x509.Certificate) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	h.root = root
	h.state.RosterKey, err = x509.MarshalPKCS8PrivateKey(key)
	return err
}

// Offline reports whether the root's key is kept elsewhere.
func (a *Authority) Offline() bool { return a.held().rootKey == nil }

// Request asks the root for an intermediate with a new key, and for a word that lets this controller sign rosters with another
// new key. What is in use stays in use until the answer is accepted. A request that was made before and not answered is not good any more.
//
// Rosters may list the roots of authorities outside that they list already, and with them those that are given here.
func (a *Authority) Request(outside ...*x509.Certificate) (file []byte, err error) {
	err = a.change(func(h *holding) error {
		switch {
		case h.state.GetRosterKey() == nil:
			return errors.New("the root's key is in this controller's hands: nobody needs to be asked (another root, whose key is kept elsewhere, can follow on it: --next-root)")
		case Phase(h.state.GetRotation().GetPhase()) == Announced:
			return fmt.Errorf("%w (%s): let what is new sign first, or cancel it", ErrRotating, Announced)
		}
		if err := checkOutsideRoots(outside); err != nil {
			return err
		}
		file, err = a.ask(h, nil, nil, outside...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask the root: %w", err)
	}
	return file, nil
}

// ask makes a request in the place of the one before: for the root, or where there is a move for it and the next one. seed
// is that of a signing key that is to follow on the one there is; nil: none is. outside are roots of authorities outside that
// rosters do not list yet.
func (a *Authority) ask(h *holding, move *RootMove, seed []byte, outside ...*x509.Certificate) ([]byte, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	rosterKey, err := newKey()
	if err != nil {
		return nil, err
	}
	request := &RootRequest{
		Cluster: a.cfg.Cluster, TrustDomain: a.cfg.TrustDomain, Controller: a.cfg.Name, Root: h.root.Raw,
		SigningKey: h.signing.Public().GetEd25519(), Delegation: a.nextDelegation(h), NextRoot: move.GetNextRoot(), OutsideRoots: h.outside(),
	}
	for _, root := range outside {
		request.OutsideRoots = append(request.OutsideRoots, without([][]byte{root.Raw}, request.GetOutsideRoots())...)
	}
	if seed != nil {
		next, err := readSigningKey(seed)
		if err != nil {
			return nil, err
		}
		request.OldSigningKey, request.SigningKey = request.GetSigningKey(), next.Public().GetEd25519()
	} else if others := withoutKey(h.roster.GetKeys(), h.signing.ID); len(others) > 0 {
		request.OldSigningKey = others[0].GetEd25519()
	}
	if others := without(otherRoots(h.roster.GetRoots(), h.root), h.outside()); move == nil && len(others) > 0 {
		request.OldRoot = others[0]
	}
	if request.Csr, err = newCSR(key); err != nil {
		return nil, err
	}
	if request.RosterCsr, err = newCSR(rosterKey); err != nil {
		return nil, err
	}
	raw, err := proto.Marshal(request)
	if err != nil {
		return nil, err
	}
	if h.state.PendingKey, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return nil, err
	}
	if h.state.PendingRosterKey, err = x509.MarshalPKCS8PrivateKey(rosterKey); err != nil {
		return nil, err
	}
	h.state.PendingRequest, h.state.RootMove, h.state.NextSigning = raw, move, seed
	return pem.EncodeToMemory(&pem.Block{Type: requestType, Bytes: raw}), nil
}

// forgetRequest makes what a root was asked for worth nothing.
func (h *holding) forgetRequest() {
	h.state.RootMove, h.state.PendingKey, h.state.PendingRosterKey, h.state.PendingRequest = nil, nil, nil, nil
}

// nextDelegation is greater than any number before, also than those that a restored controller does not remember.
func (a *Authority) nextDelegation(h *holding) uint64 {
	return max(h.roster.GetDelegation()+1, uint64(max(a.cfg.Now().Unix(), 0)))
}

// Accept takes the root's answer to the newest request: the intermediate issues from then on. Nothing changes where it fails.
func (a *Authority) Accept(file []byte) error {
	if err := a.change(func(h *holding) error { return a.accept(h, file) }); err != nil {
		return fmt.Errorf("take the root's answer: %w", err)
	}
	return nil
}

func (a *Authority) accept(h *holding, file []byte) error {
	raw, err := decodePEM(file, answerType)
	if err != nil {
		return err
	}
	answer := &RootAnswer{}
	if err := proto.Unmarshal(raw, answer); err != nil {
		return err
	}
	if h.state.GetPendingRequest() == nil {
		return errors.New("nothing was asked (ask with `sennit ca request`)")
	}
	if hash := sha256.Sum256(h.state.GetPendingRequest()); !bytes.Equal(hash[:], answer.GetRequestHash()) {
		return errors.New("it answers another request than the newest (each `sennit ca request` takes the place of the one before)")
	}
	if h.state.GetRotation() != nil && (h.state.GetRootMove() != nil || h.state.GetNextSigning() != nil) {
		return fmt.Errorf("%w since the root was asked: let that end first", ErrRotating)
	}
	if h.state.GetRootMove() != nil {
		return a.acceptForMove(h, answer)
	}
	key, err := parseKey(h.state.GetPendingKey())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	intermediate, err := checkIntermediate(answer.GetIntermediate(), &key.PublicKey, h.root, a.cfg.Now())
	if err != nil {
		return err
	}
	h.intermediate, h.intermediateKey = intermediate, key
	h.state.RosterKey = h.state.GetPendingRosterKey()
	h.state.PendingKey, h.state.PendingRosterKey, h.state.PendingRequest = nil, nil, nil
	h.state.Delegation, h.state.DelegationSignature = answer.GetDelegation(), answer.GetDelegationSignature()
	h.state.LastDelegation, h.state.LastDelegationSignature = answer.GetLastDelegation(), answer.GetLastDelegationSignature()
	if h.roster == nil {
		h.roster = &snapshot.Roster{Cluster: a.cfg.Cluster, Keys: []*snapshot.SigningKey{h.signing.Public()}, Roots: [][]byte{h.root.Raw}}
	}
	if h.state.GetNextSigning() != nil {
		return a.acceptSigning(h)
	}
	if h.state.GetLastDelegation() != nil && h.state.GetRotation() == nil { // what was to be withdrawn was meanwhile
		h.goOver()
	}
	delegation, err := delegationNumber(h.state.GetDelegation())
	if err != nil {
		return err
	}
	return h.sign(func(r *snapshot.Roster) { r.Delegation = delegation })
}

// goOver lets rosters be signed by the delegation that lists no more than what stays when a rotation ends.
func (h *holding) goOver() {
	h.state.Delegation, h.state.DelegationSignature = h.state.GetLastDelegation(), h.state.GetLastDelegationSignature()
	h.state.LastDelegation, h.state.LastDelegationSignature = nil, nil
}

// checkIntermediate makes sure that a certificate is what the root was asked for.
func checkIntermediate(der []byte, key *ecdsa.PublicKey, root *x509.Certificate, now time.Time) (*x509.Certificate, error) {
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the intermediate: %w", err)
	}
	switch {
	case !key.Equal(certificate.PublicKey):
		return nil, errors.New("the intermediate is of another key")
	case !certificate.IsCA || certificate.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, errors.New("the intermediate is not the certificate of an authority")
	case now.Before(certificate.NotBefore), now.After(certificate.NotAfter):
		return nil, fmt.Errorf("the intermediate is valid from %s to %s, and here it is %s (set the clock of the root's host, or of this one)",
			certificate.NotBefore.UTC().Format(time.RFC3339), certificate.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if err := certificate.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("the root did not sign the intermediate: %w", err)
	}
	return certificate, nil
}
