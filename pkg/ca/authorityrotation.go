package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

var (
	// ErrRotating is returned where a rotation of the authority runs that must end first.
	ErrRotating = errors.New("the authority is being rotated")
	// ErrNotRotating is returned where the step does not follow on what was done.
	ErrNotRotating = errors.New("this is not the next step of a rotation")
)

// A Phase is how far a rotation of the authority has come.
type Phase int

const (
	// NotRotating is where one root is trusted, and issues.
	NotRotating Phase = iota
	// Announced is where a new root is trusted beside the old one, and issues nothing yet. It can be taken back.
	Announced
	// Renewing is where what is new issues, and nodes are asked to renew. What the old one issued is still trusted.
	Renewing
)

func (p Phase) String() string {
	return [...]string{"none", "announced", "renewing"}[p]
}

// An AuthorityRotation is how far the rotation of an authority has come.
type AuthorityRotation struct {
	Phase        Phase
	Root         bool // of the root
	Signing      bool // of the signing key
	Upstream     bool // to an authority outside or back
	Bus          bool // of the keys of the bus; of none of these: the intermediate alone
	Begun, Since time.Time
	From, To     string // fingerprints of the keys; To is empty where there is none
	// OldEnds is when the last certificate ends that hangs on what is replaced: from then on nobody misses it.
	OldEnds time.Time
	// AwayUntil is where nodes that are away and were not told would not believe what is new, since nothing leads to it from what
	// they know: until when they are to be waited for. From then on their own certificates have ended.
	AwayUntil time.Time
	// RenewBefore: certificates that were issued earlier hang on what is replaced.
	RenewBefore   time.Time
	Epoch, Serial uint64 // the newest roster
}

// Rotation says how far a rotation has come.
func (a *Authority) Rotation() AuthorityRotation {
	h := a.held()
	state := h.state.GetRotation()
	r := AuthorityRotation{
		Phase: Phase(state.GetPhase()), Root: state.GetRoot(), Upstream: state.GetUpstream(), Signing: state.GetSigning(), Bus: state.GetBus(), Epoch: h.roster.GetEpoch(), Serial: h.roster.GetSerial(),
		From: fingerprint(h.root.RawSubjectPublicKeyInfo),
	}
	if r.Phase == NotRotating {
		return r
	}
	r.Begun, r.Since = time.UnixMilli(state.GetBegunUnixMs()), time.UnixMilli(state.GetSinceUnixMs())
	issuer := h.issuer(false).certificate
	switch {
	case r.Bus:
		r.From = "" // the authority does not know them
		if r.Phase == Announced {
			return r
		}
	case r.Signing:
		r.From, r.To = state.GetOldSigning(), h.signing.ID
		if next, err := readSigningKey(h.state.GetNextSigning()); err == nil && r.Phase == Announced {
			r.From, r.To = h.signing.ID, next.ID
		}
		if r.Phase == Announced {
			return r
		}
	case r.Phase == Announced && r.Upstream:
		r.From = fingerprint(issuer.RawSubjectPublicKeyInfo)
		if next, err := readUpstream(h.state.GetNextUpstream()); err == nil && next != nil {
			r.To = fingerprint(next.chain[0].RawSubjectPublicKeyInfo)
		}
		if h.rootKey == nil {
			r.AwayUntil = r.Since.Add(a.cfg.MaxTTL)
		}
		return r
	case r.Phase == Announced:
		if next, err := x509.ParseCertificate(h.state.GetNextRoot()); err == nil {
			r.To = fingerprint(next.RawSubjectPublicKeyInfo)
		}
		return r
	case r.Root:
		r.To = r.From
		if past, err := x509.ParseCertificate(h.newestPast().GetRoot()); err == nil {
			r.From = fingerprint(past.RawSubjectPublicKeyInfo)
		}
	default:
		r.To = fingerprint(issuer.RawSubjectPublicKeyInfo)
		if past, err := x509.ParseCertificate(state.GetOldIntermediate()); err == nil {
			r.From = fingerprint(past.RawSubjectPublicKeyInfo)
		}
	}
	r.OldEnds, r.RenewBefore = time.UnixMilli(state.GetOldEndsUnixMs()), time.UnixMilli(h.roster.GetRenewBeforeUnixMs())
	return r
}

// Issuers are the certificates of the root and of the intermediate that issue.
func (a *Authority) Issuers() (root, intermediate *x509.Certificate) {
	h := a.held()
	return h.root, h.intermediate
}

func (h *holding) newestPast() *PastRoot {
	if n := len(h.state.GetPast()); n > 0 {
		return h.state.GetPast()[n-1]
	}
	return nil
}

// AnnounceRoot makes a new root, and a roster by which nodes trust it beside the one that there is. Each step is one
// transaction: a controller that is killed in it has done it or not. The roster is to be published.
func (a *Authority) AnnounceRoot() error {
	return a.step("announce a new root", NotRotating, func(h *holding) error {
		if h.rootKey == nil {
			return fmt.Errorf("%w: ask it to name its successor, with `sennit ca request --next-root FILE` or `--online-root FILE`", ErrRootOffline)
		}
		next, key, err := a.newRoot(len(h.state.GetPast()) + 2)
		if err != nil {
			return err
		}
		if h.state.NextRootKey, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			return err
		}
		h.state.NextRoot = next.Raw
		h.forgetRequest() // where another was asked for
		return a.announce(h, next, h.roster.GetDelegation())
	})
}

// announce begins the rotation to a root, by a roster of a delegation.
func (a *Authority) announce(h *holding, next *x509.Certificate, delegation uint64) error {
	now := a.cfg.Now().UnixMilli()
	h.state.Rotation = &RotationState{Root: true, Phase: RotationPhase_ROTATION_PHASE_ANNOUNCED, BegunUnixMs: now, SinceUnixMs: now}
	return h.sign(func(r *snapshot.Roster) { r.Roots, r.Delegation = append(r.Roots, next.Raw), delegation })
}

// Cancel takes back what was announced, a root, those of an authority outside or a signing key, or what a root was asked for to
// follow.
func (a *Authority) Cancel() error {
	from := Announced
	if next, _ := a.Awaited(); next != nil || a.AwaitedSigning() != "" {
		from = NotRotating
	}
	return a.step("take back what was announced", from, func(h *holding) error {
		if h.state.GetRotation().GetBus() {
			return fmt.Errorf("%w: %w", ErrRotating, errBusAnnounced)
		}
		h.state.Rotation, h.state.NextRoot, h.state.NextRootKey, h.state.NextUpstream = nil, nil, nil, nil
		h.forgetRequest()
		h.state.LastDelegation, h.state.LastDelegationSignature = nil, nil
		keys := h.roster.GetKeys()
		if seed := h.state.GetNextSigning(); seed != nil {
			next, err := readSigningKey(seed)
			if err != nil {
				return err
			}
			h.state.NextSigning, keys = nil, withoutKey(keys, next.ID)
		}
		return h.sign(func(r *snapshot.Roster) { r.Roots, r.Keys = h.trusted(), keys })
	})
}

// ActivateRoot lets the announced root issue and sign in the place of the old one, whose key is forgotten. Nodes are asked
// to renew, each at a point within spread that it draws. Until Withdraw, both are trusted.
func (a *Authority) ActivateRoot(spread time.Duration) error {
	return a.step("let the new root issue", Announced, func(h *holding) error {
		before := h.intermediate
		delegation, err := a.follow(h)
		if err != nil {
			return err
		}
		return a.recall(h, before, spread, delegation)
	})
}

// RotateIntermediate lets a new intermediate issue. Nodes are asked to renew, each at a point within spread that it draws.
func (a *Authority) RotateIntermediate(spread time.Duration) error {
	return a.step("rotate the intermediate", NotRotating, func(h *holding) error {
		now := a.cfg.Now().UnixMilli()
		h.state.Rotation = &RotationState{BegunUnixMs: now}
		before := h.intermediate
		if err := a.renewIntermediate(h); err != nil {
			return err
		}
		return a.recall(h, before, spread, h.roster.GetDelegation())
	})
}

// recall makes a roster, by a delegation, that asks nodes to renew what an intermediate before this one issued.
func (a *Authority) recall(h *holding, before *x509.Certificate, spread time.Duration, delegation uint64) error {
	now := a.cfg.Now()
	ends := now
	err := a.IssuedTo(func(one Issued) error {
		if one.NotAfter.After(ends) {
			ends = one.NotAfter
		}
		return nil
	})
	if err != nil {
		return err
	}
	h.state.Rotation.Phase = RotationPhase_ROTATION_PHASE_RENEWING
	h.state.Rotation.SinceUnixMs, h.state.Rotation.OldEndsUnixMs = now.UnixMilli(), ends.UnixMilli()
	h.state.Rotation.OldIntermediate = before.Raw
	return h.sign(func(r *snapshot.Roster) {
		r.Roots, r.Delegation = append([][]byte{h.root.Raw}, otherRoots(r.Roots, h.root)...), delegation // those of before among them, until Withdraw
		// Nothing was issued by the new one in this millisecond, and what the old one issued in it counts as old.
		r.RenewBeforeUnixMs, r.RenewSpreadMs = now.UnixMilli()+1, spread.Milliseconds()
	})
}

// Withdraw ends the trust in what was replaced: a root or a signing key leaves the roster, an intermediate is revoked. It is refused with
// ErrRotating while certificates hang on it that have not ended, unless it is forced: their holders cannot call, nor be
// called, until they have renewed.
func (a *Authority) Withdraw(force bool) error {
	return a.step("withdraw what was replaced", Renewing, func(h *holding) error {
		state := h.state.GetRotation()
		if ends := time.UnixMilli(state.GetOldEndsUnixMs()); !force && !a.cfg.Now().After(ends) {
			return fmt.Errorf("%w: certificates that hang on it end %s", ErrRotating, ends.UTC().Format(time.RFC3339))
		}
		before, err := x509.ParseCertificate(state.GetOldIntermediate())
		if err != nil {
			return fmt.Errorf("%w: old intermediate: %w", ErrCorrupt, err)
		}
		h.state.Rotation = nil
		delegation := h.roster.GetDelegation()
		if last := h.state.GetLastDelegation(); last != nil {
			if delegation, err = delegationNumber(last); err != nil {
				return fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
			h.goOver()
		}
		return h.sign(func(r *snapshot.Roster) {
			r.Roots, r.Delegation = h.trusted(), delegation
			// Where an authority outside took its place for nodes, the mesh's own intermediate goes on to issue for controllers.
			stays := state.GetRoot() || state.GetSigning() || state.GetBus() || before.Equal(h.intermediate)
			if serial := serialOf(before); !stays && !slices.Contains(r.RevokedSerials, serial) {
				r.RevokedSerials = append(r.RevokedSerials, serial)
			}
			r.Keys = withoutKey(r.Keys, state.GetOldSigning())
			r.RenewSpreadMs = 0 // who has not renewed yet has waited long enough
		})
	})
}

// step changes the holding where the rotation is in the phase that the step is for.
func (a *Authority) step(what string, from Phase, f func(*holding) error) error {
	err := a.change(func(h *holding) error {
		switch now := Phase(h.state.GetRotation().GetPhase()); {
		case now == from:
		case from == NotRotating:
			return fmt.Errorf("%w (%s): let it end, or cancel it", ErrRotating, now)
		default:
			return fmt.Errorf("%w: it is in phase %s, and this follows on %s", ErrNotRotating, now, from)
		}
		return f(h)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// chain is what is shown behind a leaf of the intermediate's. While a root is rotated it leads to the old one as well: a
// node that could not be told of the new one yet believes its peers.
func (h *holding) chain() [][]byte {
	chain := [][]byte{h.intermediate.Raw}
	if r := h.state.GetRotation(); r.GetRoot() && r.GetPhase() == RotationPhase_ROTATION_PHASE_RENEWING {
		chain = append(chain, h.newestPast().GetCross())
	}
	return chain
}

// serverChain is what a controller shows behind its own leaf: the root, so that who pinned its hash and no more can verify
// it, and the way to those before, for whoever was away while they were replaced, as far as it fits.
func (h *holding) serverChain() [][]byte {
	chain := [][]byte{h.intermediate.Raw, h.root.Raw}
	for _, past := range slices.Backward(h.state.GetPast()) {
		if len(chain)+3 > maxChain {
			break
		}
		chain = append(chain, past.GetCross(), past.GetRoot())
	}
	return chain
}
