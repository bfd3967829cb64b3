package ca

import (
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Roster returns the newest roster as it is published and stored.
func (a *Authority) Roster() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.signedRoster
}

// Epoch is the history that this controller goes on with: 0 in a new cluster, the time of the last restore after one.
func (a *Authority) Epoch() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.roster.GetEpoch()
}

// UpdateRoster signs what change makes of a copy of the newest roster, with the next serial, and returns
// it as it is to be published. change may add and remove keys, roots and revocations and set a newer epoch.
// Nothing is stored where it fails.
func (a *Authority) UpdateRoster(change func(*snapshot.Roster)) ([]byte, error) {
	if err := a.change(func(h *holding) error { return h.sign(change) }); err != nil {
		return nil, err
	}
	return a.Roster(), nil
}

// BeginEpoch begins an epoch, in a controller that was restored. Its intermediate may have been withdrawn since the backup,
// which nodes remember: another takes its place where the root's key is here.
func (a *Authority) BeginEpoch(epoch uint64) error {
	return a.change(func(h *holding) error {
		if h.rootKey != nil {
			if err := a.renewIntermediate(h); err != nil {
				return err
			}
		}
		return h.sign(func(roster *snapshot.Roster) { roster.Epoch = epoch })
	})
}

// Shown says what a roster that a node shows proves to a controller that was restored: that the root signed a later delegation
// than this controller has. withdrawn: it is the one by which the root before this one was withdrawn (Withdraw), which this
// controller holds too. number is the later delegation's; 0: the roster proves nothing.
func (a *Authority) Shown(raw []byte) (withdrawn bool, number uint64) {
	h := a.held()
	roster, err := snapshot.OpenRoster(a.cfg.Cluster, snapshot.RootHash(h.root), raw)
	if err != nil || roster.GetDelegation() <= h.roster.GetDelegation() {
		return false, 0
	}
	number = roster.GetDelegation()
	last, err := delegationNumber(h.state.GetLastDelegation())
	return err == nil && last == number && Phase(h.state.GetRotation().GetPhase()) == Renewing, number
}

// Replaced reports whether this root took the place of another.
func (a *Authority) Replaced() bool { return len(a.held().state.GetPast()) > 0 }

// Delegation is the number of the delegation by which this controller signs rosters; 0: it never needed one.
func (a *Authority) Delegation() uint64 { return a.held().roster.GetDelegation() }

// Secret returns what PutSecret stored under a name; nil where nothing is. A controller keeps here what
// must be sealed beside the authority's keys, such as those of the bus accounts.
func (a *Authority) Secret(name string) (secret []byte, err error) {
	err = a.db.View(func(tx *bbolt.Tx) error {
		sealed := tx.Bucket(bucketKeys).Get([]byte(purposeSecretPrefix + name))
		if sealed != nil {
			secret, err = a.sealer.open(purposeSecretPrefix+name, sealed)
		}
		return err
	})
	return secret, err
}

// PutSecret seals and stores up to a megabyte under a name, replacing what was there.
func (a *Authority) PutSecret(name string, secret []byte) error {
	if len(secret) > maxSecret {
		return fmt.Errorf("store secret %q: %d bytes, at most %d", name, len(secret), maxSecret)
	}
	return a.db.Update(func(tx *bbolt.Tx) error { return a.put(tx, purposeSecretPrefix+name, secret) })
}
