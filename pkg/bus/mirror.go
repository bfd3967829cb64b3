package bus

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// maxAssembled bounds the chunks of unfinished snapshots, in bytes.
const maxAssembled = 64 << 20

// A position is a place in the order of beats. It orders like a version.
type position = snapshot.Version

// A mirror is the configuration stream as far as a controller has read it. The leader compares with it what
// is to be published; answers to catch-ups are made from it. What does not verify is not in it: whoever runs
// the bus can put bytes into the stream, and must not get them signed again. It is safe for concurrent use.
type mirror struct {
	mu       sync.Mutex
	moved    chan struct{} // closed and replaced when something was applied
	sequence uint64        // everything up to it is applied

	cluster  string
	root     [32]byte
	trust    *snapshot.Trust
	raw      map[string]rawEntry // by stored subject, whatever verifies or not
	subjects map[string]*mirrored
	// unverified are subjects under which there is what does not verify: nodes may hold it, of a revoked key.
	unverified map[string]bool
	opener     *snapshot.Opener
	parts      *snapshot.Assembler

	beat       position // the newest, and what it lists
	beatRaw    snapshot.Raw
	through    uint64                      // beats list everything up to this sequence
	unlisted   map[string]snapshot.Version // stored after it
	highest    map[uint64]uint64           // the highest revision of each epoch, whether it verifies or not
	numbers    map[uint64]uint64           // the same of the beats' numbers
	rosterSeen uint64                      // the roster's sequence
	rosterHeld snapshot.Version            // which one the stream holds; zero where it does not verify
}

type rawEntry struct {
	sequence uint64
	data     []byte
}

// mirrored is one subject. Its Body is not kept: sum stands for it.
type mirrored struct {
	snapshot.Held
	sum      [sha256.Size]byte
	sequence uint64
}

// maxRevision bounds what is believed of a number that does not verify, so that no bytes in the stream use
// the numbers up.
const maxRevision = math.MaxUint64 / 2

func newMirror(cluster string, root [32]byte) *mirror {
	m := &mirror{
		cluster: cluster, root: root, moved: make(chan struct{}), trust: snapshot.NewTrust(cluster, root),
		raw: map[string]rawEntry{}, highest: map[uint64]uint64{}, numbers: map[uint64]uint64{},
	}
	m.empty()
	return m
}

// empty forgets all that depends on the keys.
func (m *mirror) empty() {
	m.opener = snapshot.NewOpener(m.cluster, nil)
	m.opener.SetKeys(m.trust.Roster().SigningKeys())
	m.parts = snapshot.NewAssembler(maxAssembled)
	m.subjects, m.unlisted, m.unverified = map[string]*mirrored{}, map[string]snapshot.Version{}, map[string]bool{}
	m.beat, m.beatRaw, m.through = position{}, snapshot.Raw{}, 0
}

// apply takes the next message of the stream; also the one that was given before, after a consumer began
// again.
func (m *mirror) apply(sequence uint64, subject string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if sequence <= m.sequence {
		return
	}
	m.sequence = sequence
	m.raw[subject] = rawEntry{sequence, data}
	if len(data) == 0 { // the chunk of a longer version that was here
		delete(m.raw, subject)
	} else {
		m.take(sequence, subject, data)
	}
	close(m.moved)
	m.moved = make(chan struct{})
}

// believe takes a roster from elsewhere than the stream.
func (m *mirror) believe(roster []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	replaced, err := m.trust.Update(roster)
	if replaced {
		m.again()
	}
	return err
}

// again takes everything anew, with the keys of another roster.
func (m *mirror) again() {
	m.empty()
	order := slices.SortedFunc(maps.Keys(m.raw), func(a, b string) int { return cmp.Compare(m.raw[a].sequence, m.raw[b].sequence) })
	for _, subject := range order {
		if subject != snapshot.RosterSubject {
			m.take(m.raw[subject].sequence, subject, m.raw[subject].data)
		}
	}
	if m.rosterSeen > m.through {
		m.unlist(snapshot.RosterSubject, rosterVersion(m.trust.Roster()), m.rosterSeen)
	}
}

func (m *mirror) take(sequence uint64, subject string, data []byte) {
	switch subject {
	case termSubject:
		return
	case snapshot.RosterSubject:
		roster, _ := snapshot.OpenRoster(m.cluster, m.root, data)
		m.rosterSeen, m.rosterHeld = sequence, rosterVersion(roster)
		if replaced, _ := m.trust.Update(data); replaced {
			m.again()
		}
		m.unlist(subject, rosterVersion(m.trust.Roster()), sequence)
		return
	}
	opened, err := m.opener.Open(subject, data)
	if err != nil && !errors.Is(err, snapshot.ErrFeature) {
		m.spoil(subject, data)
		return
	}
	m.count(opened.Version(), math.MaxUint64)
	held, complete := m.parts.Add(opened)
	if !complete {
		return
	}
	if subject == snapshot.BeatSubject {
		m.takeBeat(held)
		return
	}
	entry := &mirrored{Held: held, sum: sumOf(&held.Snapshot), sequence: sequence}
	entry.Body = nil
	if old := m.subjects[held.Subject]; old == nil || old.Version.Compare(held.Version) <= 0 {
		m.subjects[held.Subject] = entry
		delete(m.unverified, held.Subject)
	}
	m.unlist(held.Subject, held.Version, sequence)
}

// spoil takes what does not verify. Perhaps a key signed it that was revoked, and nodes hold it: then its
// number is used up. Whatever was there is not stored any more.
func (m *mirror) spoil(subject string, data []byte) {
	envelope := unverified(data)
	m.count(envelope.Version(), maxRevision)
	name, _, ok := snapshot.SplitChunk(subject)
	if ok && name != snapshot.BeatSubject {
		delete(m.subjects, name)
		m.unverified[name] = true
	} else if ok {
		m.countBeat(envelope)
	}
}

func (m *mirror) count(v snapshot.Version, limit uint64) {
	if v.Revision < limit {
		m.highest[v.Epoch] = max(m.highest[v.Epoch], v.Revision)
	}
}

// countBeat keeps the number of a beat that does not verify: the next one is behind it all the same.
func (m *mirror) countBeat(envelope *snapshot.Envelope) {
	beat := new(snapshot.Beat)
	if proto.Unmarshal(envelope.GetBody(), beat) == nil && beat.GetNumber() < maxRevision {
		m.numbers[envelope.GetEpoch()] = max(m.numbers[envelope.GetEpoch()], beat.GetNumber())
	}
}

// unverified reads what a message says, whoever wrote it.
func unverified(data []byte) *snapshot.Envelope {
	var message snapshot.Message
	envelope := new(snapshot.Envelope)
	if proto.Unmarshal(data, &message) != nil || proto.Unmarshal(message.GetEnvelope(), envelope) != nil {
		return nil
	}
	return envelope
}

func (m *mirror) takeBeat(held snapshot.Held) {
	beat := new(snapshot.Beat)
	if err := proto.Unmarshal(held.Body, beat); err != nil {
		return
	}
	at := position{Epoch: held.Version.Epoch, Revision: beat.GetNumber()}
	m.numbers[at.Epoch] = max(m.numbers[at.Epoch], at.Revision)
	if at.Compare(m.beat) <= 0 {
		return
	}
	m.beat, m.beatRaw, m.through = at, held.Raw[0], beat.GetThrough()
	for subject := range m.unlisted {
		if m.sequenceOf(subject) <= m.through {
			delete(m.unlisted, subject)
		}
	}
}

// unlist keeps what the next beat has to list.
func (m *mirror) unlist(subject string, version snapshot.Version, sequence uint64) {
	if sequence > m.through {
		m.unlisted[subject] = version
	}
}

func (m *mirror) sequenceOf(subject string) uint64 {
	if subject == snapshot.RosterSubject {
		return m.rosterSeen
	}
	if entry := m.subjects[subject]; entry != nil {
		return entry.sequence
	}
	return 0
}

// wait returns when everything up to a sequence is applied.
func (m *mirror) wait(ctx context.Context, sequence uint64) error {
	for {
		m.mu.Lock()
		reached, moved := m.sequence >= sequence, m.moved
		m.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("read the configuration stream up to %d: %w", sequence, context.Cause(ctx))
		}
	}
}

// list returns what no beat has listed yet, in the order in which it was stored, and the sequence through
// which it is complete.
func (m *mirror) list() (stored []*snapshot.Stored, through uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	subjects := slices.SortedFunc(maps.Keys(m.unlisted), func(a, b string) int {
		return cmp.Or(cmp.Compare(m.sequenceOf(a), m.sequenceOf(b)), cmp.Compare(a, b))
	})
	through = m.sequence
	if len(subjects) > maxListed {
		subjects = subjects[:maxListed]
		through = m.sequenceOf(subjects[maxListed-1])
	}
	// What was stored at the same sequence or before is in the list as well: a subject has its own sequence.
	for _, subject := range subjects {
		v := m.unlisted[subject]
		stored = append(stored, &snapshot.Stored{Subject: subject, Epoch: v.Epoch, Revision: v.Revision})
	}
	return stored, through
}

// lastBeat returns where the newest beat stands.
func (m *mirror) lastBeat() position {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.beat
}

// epoch is that of the newest roster.
func (m *mirror) epoch() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.trust.Roster().GetEpoch()
}

// beatsOf returns the number of the last beat of an epoch; 0 before the first.
func (m *mirror) beatsOf(epoch uint64) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.numbers[epoch]
}

// sumOf stands for what a snapshot says, whatever its version.
func sumOf(s *snapshot.Snapshot) (sum [sha256.Size]byte) {
	h := sha256.New()
	part := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
		h.Write(b)
	}
	part(s.Body)
	for _, feature := range s.Requires {
		part([]byte(feature))
	}
	part(binary.BigEndian.AppendUint64([]byte{0}, uint64(s.Canary.GetShare())))
	part(binary.BigEndian.AppendUint64(nil, s.Canary.GetSeed()))
	part(s.Canary.GetBody())
	if s.Gone {
		part([]byte("gone"))
	}
	h.Sum(sum[:0])
	return sum
}

func rosterVersion(r *snapshot.Roster) snapshot.Version {
	return snapshot.Version{Epoch: r.GetEpoch(), Revision: r.GetSerial()}
}
