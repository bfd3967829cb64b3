package ca

import (
	"fmt"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

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
	a.mu.Lock()
	defer a.mu.Unlock()
	next := proto.CloneOf(a.roster)
	change(next)
	next.Cluster = a.cfg.Cluster
	next.Serial = a.roster.GetSerial() + 1
	if next.GetEpoch() < a.roster.GetEpoch() {
		return nil, fmt.Errorf("sign the roster: epoch %d is older than %d", next.GetEpoch(), a.roster.GetEpoch())
	}
	signed, err := snapshot.SealRoster(a.rootKey, a.root, next)
	if err != nil {
		return nil, err
	}
	if err := a.db.Update(func(tx *bbolt.Tx) error { return a.put(tx, purposeRoster, signed) }); err != nil {
		return nil, fmt.Errorf("store the roster: %w", err)
	}
	a.roster, a.signedRoster = next, signed
	return signed, nil
}

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
