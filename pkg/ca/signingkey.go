package ca

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A signingKey is what a controller signs configuration, answers, receipts and the audit with.
type signingKey struct {
	seed []byte // ed25519; nobody changes it
	snapshot.Signer
}

func newSigningKey() signingKey {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	return signingKey{seed, snapshot.NewSigner(ed25519.NewKeyFromSeed(seed))}
}

// readSigningKey reads a seed as it is stored.
func readSigningKey(seed []byte) (signingKey, error) {
	if len(seed) != ed25519.SeedSize {
		return signingKey{}, fmt.Errorf("%w: signing key of %d bytes", ErrCorrupt, len(seed))
	}
	return signingKey{seed, snapshot.NewSigner(ed25519.NewKeyFromSeed(seed))}, nil
}

// Signer is this controller's signing key of this moment, which the roster lists. Whoever signs asks for it each time: it is
// replaced while everything runs.
func (a *Authority) Signer() snapshot.Signer { return a.held().signing.Signer }

// AnnounceSigning makes a new signing key, and a roster by which nodes believe it beside the one that there is. The roster is
// to be published. A root that is kept elsewhere must be asked first (RequestSigning).
func (a *Authority) AnnounceSigning() error {
	return a.step("announce a new signing key", NotRotating, func(h *holding) error {
		if h.rootKey == nil {
			return fmt.Errorf("%w, and says which signing keys there may be: ask it with `sennit ca request --signing`", ErrRootOffline)
		}
		return a.announceSigning(h, newSigningKey(), h.roster.GetDelegation())
	})
}

// RequestSigning makes a new signing key, and asks the root, whose key is kept elsewhere, to let rosters list it. The request
// is as that of Request otherwise. Nothing that is in use changes before the answer is accepted, which announces the key.
func (a *Authority) RequestSigning() (file []byte, err error) {
	err = a.step("ask for a new signing key", NotRotating, func(h *holding) error {
		switch {
		case h.rootKey != nil:
			return errors.New("the root's key is in this controller's hands: nobody needs to be asked (`sennit ca rotate --signing`)")
		case h.intermediate == nil:
			return ErrAwaitsRoot
		}
		file, err = a.ask(h, nil, newSigningKey().seed)
		return err
	})
	return file, err
}

// AwaitedSigning is the id of the signing key that the root was asked for and has not answered yet; "" where there is none.
func (a *Authority) AwaitedSigning() string {
	h := a.held()
	next, err := readSigningKey(h.state.GetNextSigning())
	if err != nil || h.state.GetRotation() != nil {
		return ""
	}
	return next.ID
}

// acceptSigning announces the signing key that the root was asked for, by the delegation that it answered, once it is sure that
// nodes will believe rosters by the one for afterwards as well.
func (a *Authority) acceptSigning(h *holding) error {
	next, err := readSigningKey(h.state.GetNextSigning())
	if err != nil {
		return err
	}
	after := *h
	after.roster = proto.CloneOf(h.roster)
	after.roster.Keys = []*snapshot.SigningKey{next.Public()}
	if err := a.tryDelegation(&after, h.state.GetRosterKey(), h.root, h.state.GetLastDelegation(), h.state.GetLastDelegationSignature(), h.root); err != nil {
		return err
	}
	delegation, err := delegationNumber(h.state.GetDelegation())
	if err != nil {
		return err
	}
	return a.announceSigning(h, next, delegation)
}

func (a *Authority) announceSigning(h *holding, next signingKey, delegation uint64) error {
	now := a.cfg.Now().UnixMilli()
	h.state.NextSigning = next.seed
	h.state.Rotation = &RotationState{Signing: true, Phase: RotationPhase_ROTATION_PHASE_ANNOUNCED, BegunUnixMs: now, SinceUnixMs: now}
	return h.sign(func(r *snapshot.Roster) { r.Keys, r.Delegation = append(r.Keys, next.Public()), delegation })
}

// ActivateSigning lets the announced signing key sign in the place of the old one, which is forgotten. Nodes are asked to
// renew, each at a point within spread that it draws, so that their receipts are signed by it. Until Withdraw, what the old
// one signed is believed too.
func (a *Authority) ActivateSigning(spread time.Duration) error {
	return a.step("let the new signing key sign", Announced, func(h *holding) error {
		next, err := readSigningKey(h.state.GetNextSigning())
		if err != nil {
			return err
		}
		h.state.Rotation.OldSigning, h.state.NextSigning = h.signing.ID, nil
		h.signing = next
		return a.recall(h, h.issuer(false).certificate, spread, h.roster.GetDelegation())
	})
}

// withoutKey are the keys of a roster without one.
func withoutKey(keys []*snapshot.SigningKey, id string) []*snapshot.SigningKey {
	return slices.DeleteFunc(slices.Clone(keys), func(k *snapshot.SigningKey) bool { return k.GetId() == id })
}
