package ca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// RequestSuccessor asks for another root to follow on the one that there is, where either's key is kept elsewhere: next,
// or where that is nil one that is made here and whose key stays here. The request is for each of the two roots whose key is
// kept elsewhere, and names both. Nothing that is in use changes before the answers of all that are asked are accepted:
// then the new root is announced, and the rotation goes on as any other. A request that was made before is not good any more.
func (a *Authority) RequestSuccessor(next *x509.Certificate) (file []byte, err error) {
	err = a.step("ask for another root to follow", NotRotating, func(h *holding) error {
		if h.intermediate == nil {
			return ErrAwaitsRoot
		}
		if next == nil && h.rootKey != nil {
			return errors.New("the root's key is in this controller's hands, and the next one's would be: nobody needs to be asked (`sennit ca rotate --root`)")
		}
		move := &RootMove{}
		var err error
		if next == nil {
			made, key, err := a.newRoot(len(h.state.GetPast()) + 2)
			if err != nil {
				return err
			}
			if move.NextRootKey, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
				return err
			}
			move.NextRoot = made.Raw
		} else {
			move.NextRoot = next.Raw
		}
		parsed, err := parseRoot(move.NextRoot)
		if err != nil {
			return err
		}
		if err := checkSuccessor(h.root, parsed); err != nil {
			return err
		}
		file, err = a.ask(h, move, nil)
		return err
	})
	return file, err
}

// Awaited are the fingerprints of the roots whose answers are awaited for next to follow; next is nil where none is to.
func (a *Authority) Awaited() (next *x509.Certificate, roots []string) {
	h := a.held()
	move := h.state.GetRootMove()
	if h.state.GetRotation() != nil || move == nil {
		return nil, nil
	}
	next, err := x509.ParseCertificate(move.GetNextRoot())
	if err != nil {
		return nil, nil
	}
	if h.rootKey == nil && move.GetSuccession() == nil {
		roots = append(roots, RootFingerprint(h.root))
	}
	if move.GetNextRootKey() == nil && move.GetIntermediate() == nil {
		roots = append(roots, RootFingerprint(next))
	}
	return next, roots
}

// acceptForMove takes the answer of one of the roots that were asked for another to follow, and announces that one where it
// was the last that was awaited.
func (a *Authority) acceptForMove(h *holding, answer *RootAnswer) error {
	move := h.state.GetRootMove()
	next, err := parseRoot(move.GetNextRoot())
	if err != nil {
		return fmt.Errorf("%w: next root: %w", ErrCorrupt, err)
	}
	if answer.GetSuccession() != nil {
		err = a.acceptSuccession(h, move, next, answer)
	} else {
		err = a.acceptFromNext(h, move, next, answer)
	}
	if err != nil {
		return err
	}
	if h.rootKey == nil && move.GetSuccession() == nil || move.GetNextRootKey() == nil && move.GetIntermediate() == nil {
		return nil // another answer is awaited
	}
	number := h.roster.GetDelegation()
	if h.rootKey == nil {
		h.state.RosterKey = h.state.GetPendingRosterKey()
		h.state.Delegation, h.state.DelegationSignature = move.GetDelegation(), move.GetDelegationSignature()
		if number, err = delegationNumber(move.GetDelegation()); err != nil {
			return err
		}
	}
	h.state.NextRoot, h.state.NextRootKey, h.state.PendingRequest = move.GetNextRoot(), move.GetNextRootKey(), nil
	return a.announce(h, next, number)
}

// acceptSuccession takes what the old root answered.
func (a *Authority) acceptSuccession(h *holding, move *RootMove, next *x509.Certificate, answer *RootAnswer) error {
	word := &snapshot.Succession{}
	if err := proto.Unmarshal(answer.GetSuccession(), word); err != nil {
		return err
	}
	if err := word.Follows(h.root, next); err != nil {
		return err
	}
	key, err := rootKeyOf(next)
	if err != nil {
		return err
	}
	cross, err := checkIntermediate(answer.GetCross(), key, h.root, a.cfg.Now())
	if err == nil && !bytes.Equal(cross.RawSubject, next.RawSubject) {
		err = errors.New("it has another name")
	}
	if err != nil {
		return fmt.Errorf("the next root, as this one certifies it: %w", err)
	}
	if err := a.tryDelegation(h, h.state.GetPendingRosterKey(), h.root, answer.GetDelegation(), answer.GetDelegationSignature(), h.root, next); err != nil {
		return err
	}
	move.Succession, move.Cross = answer.GetSuccession(), answer.GetCross()
	move.Delegation, move.DelegationSignature = answer.GetDelegation(), answer.GetDelegationSignature()
	return nil
}

// acceptFromNext takes what the next root answered.
func (a *Authority) acceptFromNext(h *holding, move *RootMove, next *x509.Certificate, answer *RootAnswer) error {
	key, err := parseKey(h.state.GetPendingKey())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if _, err := checkIntermediate(answer.GetIntermediate(), &key.PublicKey, next, a.cfg.Now()); err != nil {
		return err
	}
	if err := a.tryDelegation(h, h.state.GetPendingRosterKey(), next, answer.GetDelegation(), answer.GetDelegationSignature(), next, h.root); err != nil {
		return err
	}
	if err := a.tryDelegation(h, h.state.GetPendingRosterKey(), next, answer.GetLastDelegation(), answer.GetLastDelegationSignature(), next); err != nil {
		return err
	}
	move.Intermediate = answer.GetIntermediate()
	move.NextDelegation, move.NextDelegationSignature = answer.GetDelegation(), answer.GetDelegationSignature()
	move.LastDelegation, move.LastDelegationSignature = answer.GetLastDelegation(), answer.GetLastDelegationSignature()
	return nil
}

// tryDelegation makes sure that nodes will believe rosters by a delegation that list these roots of the mesh, and the authorities'
// outside that are listed now.
func (a *Authority) tryDelegation(h *holding, rosterKey []byte, by *x509.Certificate, delegation, signature []byte, roots ...*x509.Certificate) error {
	number, err := delegationNumber(delegation)
	if err != nil {
		return err
	}
	key, err := parseKey(rosterKey)
	if err != nil {
		return fmt.Errorf("%w: key of the roster: %w", ErrCorrupt, err)
	}
	roster := proto.CloneOf(h.roster)
	roster.Delegation, roster.Roots = number, h.outside()
	for _, root := range roots {
		roster.Roots = append(roster.Roots, root.Raw)
	}
	raw, err := snapshot.RosterSigner{Root: by, Key: key, Delegation: delegation, DelegationSignature: signature}.Seal(roster)
	if err != nil {
		return err
	}
	_, err = snapshot.OpenRoster(a.cfg.Cluster, snapshot.RootHash(by), raw)
	return err
}

func delegationNumber(raw []byte) (uint64, error) {
	delegation := &snapshot.Delegation{}
	if err := proto.Unmarshal(raw, delegation); err != nil {
		return 0, fmt.Errorf("read a delegation: %w", err)
	}
	if delegation.GetNumber() == 0 {
		return 0, errors.New("the answer holds no delegation")
	}
	return delegation.GetNumber(), nil
}

// follow lets the announced root take the place of the old one: in the holding, not in the roster, whose delegation it
// returns. The old root's key is forgotten.
func (a *Authority) follow(h *holding) (delegation uint64, err error) {
	move := h.state.GetRootMove()
	past := &PastRoot{Root: h.root.Raw, Succession: move.GetSuccession(), Cross: move.GetCross()}
	next, err := parseRoot(h.state.GetNextRoot())
	if err != nil {
		return 0, fmt.Errorf("%w: next root: %w", ErrCorrupt, err)
	}
	if h.rootKey != nil {
		if past.Succession, past.Cross, err = succession(h.root, h.rootKey, next, a.cfg.Now()); err != nil {
			return 0, err
		}
	}
	state, delegation := h.state, h.roster.GetDelegation()
	h.root, h.rootKey = next, nil
	if state.GetNextRootKey() != nil {
		if _, h.rootKey, err = parsePair(next.Raw, state.GetNextRootKey()); err != nil {
			return 0, fmt.Errorf("%w: next root: %w", ErrCorrupt, err)
		}
		state.RosterKey, state.Delegation, state.DelegationSignature = nil, nil, nil
		err = a.renewIntermediate(h)
	} else {
		state.RosterKey = state.GetPendingRosterKey()
		state.Delegation, state.DelegationSignature = move.GetNextDelegation(), move.GetNextDelegationSignature()
		state.LastDelegation, state.LastDelegationSignature = move.GetLastDelegation(), move.GetLastDelegationSignature()
		if h.intermediate, h.intermediateKey, err = parsePair(move.GetIntermediate(), state.GetPendingKey()); err != nil {
			return 0, fmt.Errorf("%w: intermediate: %w", ErrCorrupt, err)
		}
		delegation, err = delegationNumber(state.GetDelegation())
	}
	state.Past, state.NextRoot, state.NextRootKey = append(state.Past, past), nil, nil
	h.forgetRequest()
	return delegation, err
}
