package bus

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	// beatEvery is how often a leader says that it is there and what it stored.
	beatEvery = time.Second
	// staleAfter is how long a node believes a bus that brings no new beat.
	staleAfter = 5 * time.Second
	// maxListed bounds one beat: what is more goes into the next, which follows at once.
	maxListed = 1000
)

// beat stores and signs the message that lists everything stored since the beat before, read back from the
// stream: so a new leader's first beat lists what the old one stored and never announced.
func (l *leader) beat(ctx context.Context, now time.Time) error {
	if l.clock != nil {
		now = l.clock()
	}
	for {
		stored, through := l.mirror.list()
		number := l.mirror.beatsOf(l.epoch) + 1
		body, err := proto.Marshal(&snapshot.Beat{
			Number: number, UnixMs: now.UnixMilli(), Stored: stored, Term: l.number, Through: through,
		})
		if err != nil {
			return fmt.Errorf("beat: %w", err)
		}
		l.revision++
		sealed, err := snapshot.Seal(l.cluster, l.signer, []snapshot.Snapshot{{
			Subject: snapshot.BeatSubject, Version: snapshot.Version{Epoch: l.epoch, Revision: l.revision}, Body: body,
		}})
		if err != nil {
			return fmt.Errorf("beat: %w", err)
		}
		if err := l.store(ctx, sealed); err != nil {
			return err
		}
		if len(stored) < maxListed {
			return nil
		}
	}
}

// A beatWatch is a node's view of the beats that arrive: how far they go, and since which one none is
// missing.
type beatWatch struct {
	seen position  // the newest that arrived
	last time.Time // when; before the first, when following began
}

// take records a beat and reports whether it is newer than all before, and whether some before it are
// missing.
func (w *beatWatch) take(at position, now time.Time) (newer, gap bool) {
	if at.Compare(w.seen) <= 0 {
		return false, false
	}
	gap = at.Epoch != w.seen.Epoch || at.Revision != w.seen.Revision+1
	w.seen, w.last = at, now
	return true, gap
}

// before is the position of the beat before this one.
func before(at position) position {
	return position{Epoch: at.Epoch, Revision: at.Revision - 1}
}
