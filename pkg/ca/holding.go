package ca

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A holding is all that an authority signs with, and what it signed last. What it points to is never changed, only
// replaced: a copy of a holding stays as it was.
type holding struct {
	root            *x509.Certificate
	rootKey         *ecdsa.PrivateKey // nil: it is kept elsewhere
	intermediate    *x509.Certificate
	intermediateKey *ecdsa.PrivateKey
	signing         signingKey
	upstream        *upstream // nil: the intermediate issues for nodes too
	roster          *snapshot.Roster
	signedRoster    []byte
	state           *AuthorityState // never nil
}

// held is the holding of now.
func (a *Authority) held() holding {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.holding
}

// change stores what f makes of the holding, in one transaction, and uses it from then on. Nothing changes where it
// fails.
func (a *Authority) change(f func(*holding) error) error {
	a.issuing.Lock()
	defer a.issuing.Unlock()
	next := a.held()
	next.state = proto.CloneOf(next.state)
	if err := f(&next); err != nil {
		return err
	}
	if err := a.db.Update(func(tx *bbolt.Tx) error { return a.store(tx, &next) }); err != nil {
		return fmt.Errorf("store the authority's keys: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.holding = next
	return nil
}

// load reads everything in one transaction, or makes all of it: a root too, unless one is given that is kept elsewhere.
// Where awaits is set it may still wait for its root.
func (a *Authority) load(root *x509.Certificate, awaits bool) error {
	return a.db.Update(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketKeys) == nil {
			if awaits && root == nil {
				return errors.New("there is no authority here yet (name the root with --root FILE to begin one)")
			}
			return a.create(tx, root)
		}
		values := map[string][]byte{}
		for _, purpose := range []string{purposeCluster, purposeRootKey, purposeRoot, purposeIntermediateKey, purposeIntermediate, purposeSigning, purposeRoster, purposeState} {
			sealed := tx.Bucket(bucketKeys).Get([]byte(purpose))
			if sealed == nil {
				continue
			}
			value, err := a.sealer.open(purpose, sealed)
			if err != nil {
				return err
			}
			values[purpose] = value
		}
		if want := a.cfg.Cluster + " " + a.cfg.TrustDomain; values[purposeCluster] != nil && string(values[purposeCluster]) != want {
			return fmt.Errorf("it is of cluster and trust domain %q, and %q is configured: neither can be changed later", values[purposeCluster], want)
		}
		if err := a.use(values, awaits); err != nil {
			return err
		}
		if root != nil && !root.Equal(a.root) {
			return errors.New("there is an authority here already, of another root")
		}
		return nil
	})
}

// use reads the values of a file.
func (a *Authority) use(values map[string][]byte, awaits bool) (err error) {
	a.state = &AuthorityState{}
	if err := proto.Unmarshal(values[purposeState], a.state); err != nil {
		return fmt.Errorf("%w: state: %w", ErrCorrupt, err)
	}
	offline := a.state.GetRosterKey() != nil
	waits := offline && a.state.GetDelegation() == nil
	for _, purpose := range []string{purposeCluster, purposeRoot, purposeSigning, purposeRootKey, purposeIntermediateKey, purposeIntermediate, purposeRoster} {
		switch {
		case values[purpose] != nil, offline && purpose == purposeRootKey:
		case waits && purpose != purposeCluster && purpose != purposeRoot && purpose != purposeSigning:
		default:
			return fmt.Errorf("%w: no %s in it; restore it and ca.key from a backup", ErrCorrupt, purpose)
		}
	}
	if offline {
		a.root, err = x509.ParseCertificate(values[purposeRoot])
	} else {
		a.root, a.rootKey, err = parsePair(values[purposeRoot], values[purposeRootKey])
	}
	if err != nil {
		return fmt.Errorf("%w: root: %w", ErrCorrupt, err)
	}
	if a.signing, err = readSigningKey(values[purposeSigning]); err != nil {
		return err
	}
	if waits && awaits {
		return nil
	}
	if waits {
		return fmt.Errorf("%w: carry what `sennit ca request` writes to the root, sign it with `sennit ca sign`, and take the answer with `sennit ca accept`", ErrAwaitsRoot)
	}
	if a.intermediate, a.intermediateKey, err = parsePair(values[purposeIntermediate], values[purposeIntermediateKey]); err != nil {
		return fmt.Errorf("%w: intermediate: %w", ErrCorrupt, err)
	}
	if a.upstream, err = readUpstream(a.state.GetUpstream()); err != nil {
		return err
	}
	a.signedRoster = values[purposeRoster]
	if a.roster, err = snapshot.OpenRoster(a.cfg.Cluster, snapshot.RootHash(a.root), a.signedRoster); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return nil
}

// create makes a cluster's root, this controller's intermediate and signing key, and the first roster; or where the root
// is kept elsewhere, what it is to sign.
func (a *Authority) create(tx *bbolt.Tx, root *x509.Certificate) error {
	for _, bucket := range [][]byte{bucketKeys, bucketIssued} {
		if _, err := tx.CreateBucketIfNotExists(bucket); err != nil {
			return err
		}
	}
	first := holding{state: &AuthorityState{}, signing: newSigningKey()}
	var err error
	if root != nil {
		err = a.begin(&first, root)
	} else {
		err = a.found(&first)
	}
	if err != nil {
		return err
	}
	if err := a.put(tx, purposeCluster, []byte(a.cfg.Cluster+" "+a.cfg.TrustDomain)); err != nil {
		return err
	}
	if err := a.store(tx, &first); err != nil {
		return err
	}
	a.holding = first
	return nil
}

// found makes a root and an intermediate.
func (a *Authority) found(h *holding) (err error) {
	if h.root, h.rootKey, err = a.newRoot(1); err != nil {
		return err
	}
	if err := a.renewIntermediate(h); err != nil {
		return err
	}
	h.roster = &snapshot.Roster{Cluster: a.cfg.Cluster, Keys: []*snapshot.SigningKey{h.signing.Public()}, Roots: [][]byte{h.root.Raw}}
	return h.sign(func(*snapshot.Roster) {})
}

// newRoot makes the n-th root of the cluster, from 1.
func (a *Authority) newRoot(n int) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	name := a.cfg.Cluster + " root"
	if n > 1 {
		name = fmt.Sprintf("%s %d", name, n) // so that no chain of one looks like a chain of another
	}
	return newRoot(a.cfg.TrustDomain, name, a.cfg.Now())
}

// renewIntermediate makes a new intermediate with a new key. Certificates of the one before stay valid:
// each is shown with its own chain.
func (a *Authority) renewIntermediate(h *holding) error {
	if h.rootKey == nil {
		return fmt.Errorf("%w: ask it for an intermediate with `sennit ca request`", ErrRootOffline)
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	template := caTemplate(a.cfg.TrustDomain, a.cfg.Cluster+" "+a.cfg.Name, 0, a.cfg.Now(), intermediateLife)
	certificate, err := certify(template, &key.PublicKey, h.root, h.rootKey)
	if err != nil {
		return err
	}
	h.intermediate, h.intermediateKey = certificate, key
	return nil
}

// sign signs what change makes of a copy of the roster, with the next serial.
func (h *holding) sign(change func(*snapshot.Roster)) (err error) {
	next := proto.CloneOf(h.roster)
	change(next)
	next.Cluster = h.roster.GetCluster()
	next.Serial = h.roster.GetSerial() + 1
	if next.GetEpoch() < h.roster.GetEpoch() {
		return fmt.Errorf("sign the roster: epoch %d is older than %d", next.GetEpoch(), h.roster.GetEpoch())
	}
	signer := snapshot.RosterSigner{Root: h.root}
	if h.rootKey != nil {
		signer.Key = h.rootKey
	} else {
		if signer.Key, err = parseKey(h.state.GetRosterKey()); err != nil {
			return fmt.Errorf("%w: key of the roster: %w", ErrCorrupt, err)
		}
		signer.Delegation, signer.DelegationSignature = h.state.GetDelegation(), h.state.GetDelegationSignature()
	}
	for _, past := range h.state.GetPast()[max(0, len(h.state.GetPast())-snapshot.MaxSuccessions):] {
		succession := &snapshot.Succession{}
		if err := proto.Unmarshal(past.GetSuccession(), succession); err != nil {
			return fmt.Errorf("%w: succession of a root: %w", ErrCorrupt, err)
		}
		signer.Successions = append(signer.Successions, succession)
	}
	signed, err := signer.Seal(next)
	if err == nil && signer.Delegation != nil { // as every node will
		_, err = snapshot.OpenRoster(next.GetCluster(), snapshot.RootHash(h.root), signed)
	}
	if errors.Is(err, snapshot.ErrDelegation) {
		return fmt.Errorf("%w: %w: ask it with `sennit ca request`", ErrRootOffline, err)
	}
	if err != nil {
		return err
	}
	h.roster, h.signedRoster = next, signed
	return nil
}

// store writes a holding.
func (a *Authority) store(tx *bbolt.Tx, h *holding) error {
	h.state.Upstream = nil
	if h.upstream != nil {
		var err error
		if h.state.Upstream, err = h.upstream.message(); err != nil {
			return err
		}
	}
	state, err := proto.Marshal(h.state)
	if err != nil {
		return err
	}
	values := map[string][]byte{purposeRoot: h.root.Raw, purposeRoster: h.signedRoster, purposeState: state, purposeSigning: h.signing.seed}
	if h.intermediate != nil {
		values[purposeIntermediate] = h.intermediate.Raw
	}
	for purpose, key := range map[string]*ecdsa.PrivateKey{purposeRootKey: h.rootKey, purposeIntermediateKey: h.intermediateKey} {
		if key == nil { // a root's that is kept elsewhere, or since another took its place
			if err := tx.Bucket(bucketKeys).Delete([]byte(purpose)); err != nil {
				return err
			}
			continue
		}
		if values[purpose], err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			return err
		}
	}
	for purpose, value := range values {
		if value == nil {
			continue
		}
		if err := a.put(tx, purpose, value); err != nil {
			return err
		}
	}
	return nil
}

func (a *Authority) put(tx *bbolt.Tx, purpose string, value []byte) error {
	return tx.Bucket(bucketKeys).Put([]byte(purpose), a.sealer.seal(purpose, value))
}

// otherRoots are roots without one.
func otherRoots(roots [][]byte, without *x509.Certificate) [][]byte {
	return slices.DeleteFunc(slices.Clone(roots), func(der []byte) bool { return string(der) == string(without.Raw) })
}
