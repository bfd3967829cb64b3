package bus

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// How long a node waits, so that a thousand that miss the same beat do not ask together.
const (
	askSpread   = time.Second            // after a gap, a reconnect, a roster
	askGrace    = 200 * time.Millisecond // for a message to follow the beat that lists it
	askTimeout  = 5 * time.Second
	askBackoff  = 250 * time.Millisecond // after a failure, doubled up to askSlowest
	askSlowest  = 10 * time.Second
	askAllEvery = 2 * time.Minute // on average, although nothing seems to be missing
	moveEvery   = 5 * time.Second // while no beat comes

	reportAfter = 50 * time.Millisecond // several that are applied together are reported together
	reportEvery = time.Minute           // everything
)

// An Update is one subject's new state, for whoever applies it.
type Update struct {
	Subject   string
	Version   snapshot.Version
	BuiltFrom snapshot.Inputs
	Body      []byte // see snapshot.Decode; the canary's where this node is picked; nobody changes it
	Gone      bool   // deleted, or absent; Body is empty
	Absent    bool   // never published, as far as a controller knows; Version may be zero
	// Refused are the features that a newer snapshot requires: where there are any, nothing is applied, there is no Body,
	// and what was delivered before stays, unless whoever uses it cannot stand for that.
	Refused []string
}

// follow is the core of a Follower: it takes messages, answers and the time, and gives actions. It has no
// goroutine, socket or clock, and is owned by one goroutine.
//
// Of each subject it keeps the beat through which it knows it, from the answer to a catch-up. A beat whose
// predecessor did not arrive ends that knowledge for every subject, and asks.
type follow struct {
	cluster, node string
	random        *rand.Rand // for jitter
	nonce         func() []byte
	problem       func(string, error) // for the log: what was dropped, or fails; without an error, what is well again

	root     [32]byte
	trust    *snapshot.Trust
	rosters  []snapshot.Raw // that are kept: the newest, and those whose keys signed what is held
	opener   *snapshot.Opener
	parts    *snapshot.Assembler
	subjects map[string]*followed
	beats    beatWatch
	epoch    uint64 // the newest that was verified: what is older is of a history that was given up
	stale    bool
	moveAt   time.Time
	silence  trouble // of beats

	ask      *ask      // outstanding
	outdated bool      // the last answer was of an older epoch than what is known: who gives them is shown the roster
	disputed bool      // a roster came of a delegation that was ended: so is who has not heard of its end
	askAt    time.Time // when the next may go out; zero: nothing to ask
	failures int
	unasked  trouble // of catching up
	allAt    time.Time

	reporting   bool // outstanding
	unreported  trouble
	reportAt    time.Time // zero: nothing to report
	reportAllAt time.Time
	reportAll   bool

	actions []action
}

// followed is one subject of interest. The roster is one of them.
type followed struct {
	version snapshot.Version // held
	keyID   string           // which key signed it
	told    bool             // that it is absent
	refused snapshot.Version // newer, and requires a feature that is unknown
	keyOf   string           // which key signed what is refused

	through position         // an answer brought what was stored up to this beat
	ask     bool             // an answer is wanted,
	from    position         // not from before this beat
	wanted  snapshot.Version // what a beat listed and did not arrive yet
	missed  time.Time        // when that is taken for lost

	applied snapshot.Version // what whoever applies it says
	problem string
	unsaid  bool // not reported yet
}

// newest is the version below which nothing is taken.
func (f *followed) newest() snapshot.Version {
	if f.refused.Compare(f.version) > 0 {
		return f.refused
	}
	return f.version
}

type ask struct {
	nonce    []byte
	subjects []string
	deadline time.Time
}

// An action is what the core wants done. One field is set, and nonce beside catchup.
type action struct {
	subscribe   string // to the chunks of a subject
	unsubscribe string
	catchup     []byte // ask a controller; the answer goes to answer, with the nonce
	nonce       []byte
	report      []byte // tell a controller; the outcome goes to reported
	move        bool   // connect to another server
	told        int64  // the leader's clock, in Unix milliseconds, as a new beat had it
	update      *Update
	keep        *kept
}

// kept is what is to be kept of a subject across restarts; empty where nothing is.
type kept struct {
	subject  string
	messages []snapshot.Raw
}

// newFollow starts with what was kept: messages in any order, which are verified again. Subjects of which
// there is something are followed until the first call of follow.
func newFollow(cluster, node string, root [32]byte, features []string, random *rand.Rand, nonce func() []byte, problem func(string, error), now time.Time, keptMessages []snapshot.Raw) *follow {
	f := &follow{
		cluster: cluster, node: node, random: random, nonce: nonce, problem: problem,
		root: root, trust: snapshot.NewTrust(cluster, root), opener: snapshot.NewOpener(cluster, features),
		parts: snapshot.NewAssembler(maxAssembled), subjects: map[string]*followed{},
		beats: beatWatch{last: now},
	}
	f.add(snapshot.RosterSubject)
	f.load(now, features, keptMessages)
	f.parts = snapshot.NewAssembler(maxAssembled)
	f.actions = append(f.actions, action{subscribe: snapshot.BeatSubject})
	f.moveAt = now.Add(staleAfter)
	f.allAt = now.Add(f.about(askAllEvery))
	f.resync(now, askSpread/5)
	return f
}

func (f *follow) add(subject string) *followed {
	s := f.subjects[subject]
	if s == nil {
		s = new(followed)
		f.subjects[subject] = s
		f.actions = append(f.actions, action{subscribe: subject})
	}
	return s
}

// interest replaces the subjects that are followed. What is known of others is dropped.
func (f *follow) interest(now time.Time, subjects []string) {
	wanted := map[string]bool{snapshot.RosterSubject: true}
	for _, subject := range subjects {
		wanted[subject] = true
	}
	for _, subject := range slices.Sorted(maps.Keys(f.subjects)) {
		if !wanted[subject] {
			delete(f.subjects, subject)
			f.parts.Forget(subject)
			f.actions = append(f.actions, action{unsubscribe: subject})
			f.reportAll = true
			f.reportSoon(now)
		}
	}
	for _, subject := range slices.Sorted(maps.Keys(wanted)) {
		if f.subjects[subject] == nil {
			s := f.add(subject)
			s.ask, s.from, s.unsaid = true, f.beats.seen, true
			f.askSoon(now, 0) // somebody may wait for it
			f.reportSoon(now)
		}
	}
}

// resync asks for everything: something may have been missed that nothing tells of.
func (f *follow) resync(now time.Time, spread time.Duration) {
	for _, s := range f.subjects {
		s.ask, s.from = true, maxPosition(s.from, f.beats.seen)
	}
	f.askSoon(now, f.jitter(spread))
}

// reconnected is told after the connection was made again.
func (f *follow) reconnected(now time.Time) {
	f.ask = nil
	f.failures = 0
	f.reporting = false
	f.reportAll = true
	f.reportSoon(now)
	f.resync(now, askSpread)
}

// message takes what arrived under a live subject.
func (f *follow) message(now time.Time, subject string, data []byte) {
	if len(data) == 0 {
		return // takes the place of a chunk that there is no more
	}
	stored := snapshot.StoredSubject(subject)
	if stored == snapshot.RosterSubject {
		f.roster(now, data, true)
		return
	}
	name, _, ok := snapshot.SplitChunk(stored)
	s := f.subjects[name]
	if !ok || s == nil && stored != snapshot.BeatSubject {
		return
	}
	opened, err := f.opener.Open(stored, data)
	switch {
	case errors.Is(err, snapshot.ErrKey):
		// The roster here may be the old one.
		f.subjects[snapshot.RosterSubject].ask = true
		if s != nil {
			s.ask = true
		}
		f.askSoon(now, f.jitter(askSpread))
	case errors.Is(err, snapshot.ErrFeature) && s != nil:
		f.refuse(now, s, opened, err)
		return
	}
	if err != nil {
		f.problem("configuration was dropped", err)
		return
	}
	if opened.GetEpoch() < f.epoch {
		return
	}
	if stored == snapshot.BeatSubject {
		f.beat(now, opened)
		return
	}
	f.piece(now, s, opened)
}

// piece takes one verified message of a subject.
func (f *follow) piece(now time.Time, s *followed, opened snapshot.Opened) {
	if opened.Version().Compare(s.newest()) < 0 {
		return
	}
	if held, complete := f.parts.Add(opened); complete {
		f.apply(now, held, true)
	}
}

// apply takes a whole snapshot. An older one than what is held is never applied.
func (f *follow) apply(now time.Time, held snapshot.Held, keep bool) {
	s := f.subjects[held.Subject]
	f.epoch = max(f.epoch, held.Version.Epoch)
	switch order := held.Version.Compare(s.newest()); {
	case order < 0:
		return
	case order == 0 && held.KeyID == s.keyID:
		return
	case order == 0: // signed again
		s.keyID = held.KeyID
	default:
		s.version, s.keyID, s.told = held.Version, held.KeyID, false
		update := &Update{Subject: held.Subject, Version: held.Version, BuiltFrom: held.BuiltFrom, Body: held.Body, Gone: held.Gone}
		if held.Canary.Picks(f.node) {
			update.Body = held.Canary.GetBody()
		}
		f.actions = append(f.actions, action{update: update})
	}
	if keep {
		f.actions = append(f.actions, action{keep: &kept{held.Subject, held.Raw}})
	}
}

// refuse keeps what there was, and says so.
func (f *follow) refuse(now time.Time, s *followed, opened snapshot.Opened, err error) {
	if v := opened.Version(); v.Epoch >= f.epoch && v.Compare(s.newest()) > 0 {
		s.refused, s.keyOf = v, opened.KeyID
		s.problem, s.unsaid = err.Error(), true
		f.actions = append(f.actions, action{update: &Update{Subject: opened.GetSubject(), Version: v, Refused: opened.GetRequires()}})
		f.reportSoon(now)
		f.problem("configuration is not applied", err)
	}
}

func (f *follow) beat(now time.Time, opened snapshot.Opened) {
	beat := new(snapshot.Beat)
	if err := proto.Unmarshal(opened.GetBody(), beat); err != nil {
		f.problem("beat was dropped", fmt.Errorf("%w: %w", snapshot.ErrMalformed, err))
		return
	}
	f.epoch = max(f.epoch, opened.GetEpoch())
	at := position{Epoch: opened.GetEpoch(), Revision: beat.GetNumber()}
	for _, stored := range beat.GetStored() {
		s := f.subjects[stored.GetSubject()]
		if s != nil && stored.Version().Compare(s.newest()) > 0 && stored.Version().Compare(s.wanted) > 0 {
			s.wanted, s.from = stored.Version(), maxPosition(s.from, at)
			s.missed = now.Add(askGrace)
			f.askSoon(now, askGrace+f.jitter(askSpread))
		}
	}
	newer, gap := f.beats.take(at, now)
	if newer && f.stale {
		f.stale = false
		if f.silence.over() {
			f.problem("beats come again", nil)
		}
	}
	if newer && beat.GetUnixMs() > 0 {
		f.actions = append(f.actions, action{told: beat.GetUnixMs()})
	}
	if !gap {
		return
	}
	for _, s := range f.subjects {
		if s.through.Compare(before(at)) < 0 {
			s.ask, s.from = true, maxPosition(s.from, before(at))
			f.askSoon(now, f.jitter(askSpread))
		}
	}
}

func (f *follow) askSoon(now time.Time, wait time.Duration) {
	if at := now.Add(wait); f.askAt.IsZero() || at.Before(f.askAt) {
		f.askAt = at
	}
}

func (f *follow) reportSoon(now time.Time) {
	if f.reportAt.IsZero() {
		f.reportAt = now.Add(reportAfter + f.jitter(reportAfter))
	}
}

func (f *follow) jitter(spread time.Duration) time.Duration {
	return time.Duration(f.random.Int64N(int64(spread) + 1))
}

// about is d, a quarter more or less.
func (f *follow) about(d time.Duration) time.Duration { return d*3/4 + f.jitter(d/2) }

func maxPosition(a, b position) position {
	if a.Compare(b) < 0 {
		return b
	}
	return a
}
