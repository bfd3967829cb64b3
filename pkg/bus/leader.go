package bus

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A Body is what a subject is to say.
type Body struct {
	Data     []byte           // an encoded message of the subject's kind (see package snapshot); deterministic
	Requires []string         // features that a node must know
	Canary   *snapshot.Canary // another body for a share of the nodes
}

// A Set is everything that is to be published. A subject that is stored and not in it is gone.
type Set struct {
	Bodies    map[string]Body
	BuiltFrom snapshot.Inputs
}

// A leader writes the configuration stream during its term. It has no goroutine and no clock of its own, and
// is owned by one goroutine.
type leader struct {
	cluster    string
	controller string
	instance   []byte // random: tells its own term from another's
	epoch      uint64
	signer     snapshot.Signer
	stream     configStream
	mirror     *mirror
	clock      func() time.Time // of the host, which beats tell; nil: the time that a step is given

	fence    uint64 // the sequence of its own term record; 0: it has none
	number   uint64 // of the term
	revision uint64 // the last that was given
	doubt    bool   // a write may have been stored or not: take the term again before the next

	wanted   map[string]wantedBody
	from     snapshot.Inputs
	given    bool                 // wanted was given since the start
	complete bool                 // all of wanted is stored
	dirty    []string             // of wanted and of what is stored: what differs, sorted
	sent     map[string]time.Time // when a subject went out, while that is less than coalesce ago
	paced    time.Time            // when the next batch is due in a storm
}

type wantedBody struct {
	Body
	sum [sha256.Size]byte
}

// takeOver begins a term, or makes sure that its own goes on, and reads the stream to its end. It returns
// ErrDeposed where this leader had the term and lost it.
func (l *leader) takeOver(ctx context.Context, now time.Time) error {
	if newest := l.mirror.epoch(); newest > l.epoch {
		return fmt.Errorf("take over the term in epoch %d, and the root signed a roster of epoch %d: %w", l.epoch, newest, ErrEpoch)
	}
	if !l.mirror.lists(l.signer) {
		return fmt.Errorf("take over the term: %w (the root signs a new roster that lists key %q)", snapshot.ErrKey, l.signer.ID)
	}
	current, sequence, err := l.stream.term(ctx)
	if err != nil {
		return err
	}
	if current.GetEpoch() > l.epoch {
		return fmt.Errorf("take over the term of epoch %d with epoch %d: %w", current.GetEpoch(), l.epoch, ErrEpoch)
	}
	if l.fence != 0 && !bytes.Equal(current.GetInstance(), l.instance) {
		l.fence = 0
		return fmt.Errorf("term %d is of %q: %w", current.GetNumber(), current.GetController(), ErrDeposed)
	}
	record := &TermRecord{
		Number: current.GetNumber() + 1, Controller: l.controller, Instance: l.instance, Epoch: l.epoch, UnixMs: now.UnixMilli(),
	}
	data, err := proto.Marshal(record)
	if err != nil {
		return fmt.Errorf("take over the term: %w", err)
	}
	// The record itself is what ends whatever another leader, or this one, still has on its way.
	fence, err := l.stream.write(ctx, sequence, []snapshot.Raw{{Subject: termSubject, Data: data}})
	if err != nil {
		return fmt.Errorf("take over the term: %w", err)
	}
	l.fence, l.number = fence, record.GetNumber()
	if err := l.mirror.wait(ctx, fence); err != nil {
		return err
	}
	l.mirror.mu.Lock()
	l.revision = max(l.revision, l.mirror.highest[l.epoch])
	l.mirror.mu.Unlock()
	l.doubt = false
	l.compare()
	return nil
}

// want replaces what is to be published.
func (l *leader) want(set Set) {
	wanted := make(map[string]wantedBody, len(set.Bodies))
	for subject, body := range set.Bodies {
		old, ok := l.wanted[subject]
		same := ok && bytes.Equal(old.Data, body.Data) && slices.Equal(old.Requires, body.Requires) && proto.Equal(old.Canary, body.Canary)
		if !same {
			old = wantedBody{body, sumOf(&snapshot.Snapshot{Body: body.Data, Requires: body.Requires, Canary: body.Canary})}
		}
		wanted[subject] = old
	}
	l.wanted, l.from, l.given, l.complete = wanted, set.BuiltFrom, true, false
	l.compare()
}

// signAs makes a key sign from now on, also what is stored already: nobody needs the one before then.
func (l *leader) signAs(signer snapshot.Signer) {
	if l.signer.ID != signer.ID {
		l.signer, l.complete = signer, false
		l.compare()
	}
}

var goneSum = sumOf(&snapshot.Snapshot{Gone: true})

// compare finds what differs between what is wanted and what is stored.
func (l *leader) compare() {
	l.dirty = l.dirty[:0]
	if !l.given || l.fence == 0 {
		return
	}
	l.mirror.mu.Lock()
	defer l.mirror.mu.Unlock()
	for subject, body := range l.wanted {
		if stored := l.mirror.subjects[subject]; !l.same(stored, body.sum) || stored.KeyID != l.signer.ID {
			l.dirty = append(l.dirty, subject)
		}
	}
	for subject, stored := range l.mirror.subjects {
		if _, ok := l.wanted[subject]; !ok && (!l.same(stored, goneSum) || stored.KeyID != l.signer.ID) {
			l.dirty = append(l.dirty, subject)
		}
	}
	for subject := range l.mirror.unverified {
		if _, ok := l.wanted[subject]; !ok && l.mirror.subjects[subject] == nil {
			l.dirty = append(l.dirty, subject) // gone
		}
	}
	slices.Sort(l.dirty)
	l.complete = len(l.dirty) == 0
}

func (l *leader) same(stored *mirrored, sum [sha256.Size]byte) bool {
	return stored != nil && stored.Version.Epoch == l.epoch && stored.sum == sum
}

// store writes a batch under the term and waits until it is read back.
func (l *leader) store(ctx context.Context, batch []snapshot.Raw) error {
	sequence, err := l.stream.write(ctx, l.fence, batch)
	if err == nil {
		if err = l.mirror.wait(ctx, sequence); err == nil {
			return nil
		}
	}
	l.doubt = true
	if !errors.Is(err, errRefused) {
		return err
	}
	// A refusal alone proves nothing: another write of our own may have been in flight.
	current, _, readErr := l.stream.term(ctx)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	if !bytes.Equal(current.GetInstance(), l.instance) {
		l.fence = 0
		return fmt.Errorf("term %d is of %q: %w", current.GetNumber(), current.GetController(), ErrDeposed)
	}
	return err
}

// step does what is due: it makes sure of the term where a write was in doubt, publishes one batch, and
// beats where a beat is due. It reports whether a beat went out.
func (l *leader) step(ctx context.Context, now time.Time, beatDue bool) (beat bool, err error) {
	if newest := l.mirror.epoch(); newest > l.epoch {
		return false, fmt.Errorf("publish in epoch %d, and the root signed a roster of epoch %d: %w", l.epoch, newest, ErrEpoch)
	}
	if l.doubt || l.fence == 0 {
		if err := l.takeOver(ctx, now); err != nil {
			return false, err
		}
	}
	if !l.mirror.lists(l.signer) {
		return false, fmt.Errorf("publish: %w (key %q)", snapshot.ErrKey, l.signer.ID)
	}
	if roster := l.mirror.unstoredRoster(); roster != nil {
		if err := l.store(ctx, []snapshot.Raw{{Subject: snapshot.RosterSubject, Data: roster}}); err != nil {
			return false, err
		}
	}
	if beatDue {
		l.compare() // somebody may have spoilt what was stored
	}
	if err := l.flush(ctx, now); err != nil {
		return false, err
	}
	// Nodes take what a beat's epoch does not have for deleted: after a restore, none before all is there.
	if !beatDue || l.epoch != 0 && l.mirror.beatsOf(l.epoch) == 0 && !l.complete {
		return false, nil
	}
	return true, l.beat(ctx, now)
}

// versions returns what is stored under each subject.
func (m *mirror) versions() map[string]snapshot.Version {
	m.mu.Lock()
	defer m.mu.Unlock()
	versions := make(map[string]snapshot.Version, len(m.subjects))
	for subject, stored := range maps.All(m.subjects) {
		versions[subject] = stored.Version
	}
	return versions
}
