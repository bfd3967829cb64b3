package snapshot

import (
	"cmp"
	"fmt"
)

// A Version orders everything that controllers sign: a newer epoch wins over any revision. The zero Version
// is older than every version that is published, since revisions start at 1.
type Version struct {
	Epoch    uint64 // the history: 0 in a new cluster, the time of the restore (Unix seconds) after one
	Revision uint64 // the number that the leader gave
}

// Compare is negative where v is older than w, 0 where they are the same, positive where v is newer.
func (v Version) Compare(w Version) int {
	if c := cmp.Compare(v.Epoch, w.Epoch); c != 0 {
		return c
	}
	return cmp.Compare(v.Revision, w.Revision)
}

// IsZero reports whether v is the version of nothing.
func (v Version) IsZero() bool { return v == Version{} }

// String returns "epoch.revision".
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Epoch, v.Revision) }

// Version returns the order of what is in the envelope.
func (e *Envelope) Version() Version { return Version{e.GetEpoch(), e.GetRevision()} }

// Version returns the version that a beat names.
func (s *Stored) Version() Version { return Version{s.GetEpoch(), s.GetRevision()} }
