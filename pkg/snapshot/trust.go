package snapshot

import (
	"bytes"
	"fmt"
)

// Trust is what a reader believes: a root that was pinned once, or the one that took its place, and the newest roster
// that it signed. It never goes back to an older roster, nor to a root whose place another has taken. It is owned by one
// goroutine.
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
	roster, root, err := openRoster(t.cluster, t.root, raw)
	if err != nil {
		return false, err
	}
	if known := t.roster.GetDelegation(); roster.GetDelegation() < known {
		return false, fmt.Errorf("open roster: %w: it is of delegation %d, and %d is known", ErrDelegation, roster.GetDelegation(), known)
	}
	if !roster.Newer(t.roster) {
		return false, nil
	}
	t.roster, t.raw, t.root = roster, raw, root
	return true, nil
}

// Root is the hash of the root that is believed: the one that signed the newest roster, or the pinned one before the first.
func (t *Trust) Root() [32]byte { return t.root }

// Roster returns the newest roster; nil before the first. Nobody changes it.
func (t *Trust) Roster() *Roster { return t.roster }

// Raw returns the newest roster as it was stored.
func (t *Trust) Raw() []byte { return t.raw }
