package bus

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// quietSim is a mesh in which everything works, for tests of one fault each. It has converged.
func quietSim(t *testing.T, seed uint64) *sim {
	t.Helper()
	s := newSim(seed, func(format string, args ...any) { panic(fmt.Sprintf(format, args...)) })
	s.run(10 * time.Second)
	s.checkHeld(t)
	return s
}

func (s *sim) checkHeld(t *testing.T) {
	t.Helper()
	s.fail = func(format string, args ...any) { t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), s.log) }
	s.compare()
}

// Each of these would be healed by nothing but what it names, before the timer that asks for everything.
func TestWhatTheBeatFinds(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(s *sim)
		heal time.Duration
	}{
		{"a change and the beats after it are lost", func(s *sim) {
			s.loss = 1
			s.change(0)
			s.run(3 * time.Second)
			s.loss = 0
		}, 4 * time.Second},
		{"a change is lost and the beat that lists it arrives", func(s *sim) {
			s.loss = 1
			s.change(0)
			s.run(100 * time.Millisecond)
			s.loss = 0
		}, 4 * time.Second},
		{"the leader dies between storing and announcing, and its change is lost", func(s *sim) {
			s.eachLeader(func(c *simController) { c.fault = diesBetween })
			s.loss = 1
			s.change(0)
			s.run(60 * time.Millisecond)
			s.loss = 0
		}, 7 * time.Second},
		{"what is lost is asked of a controller that has not read it yet", func(s *sim) {
			s.controllers[1].lag = s.now.Add(6 * time.Second)
			s.loss = 1
			s.change(0)
			s.run(100 * time.Millisecond)
			s.loss = 0
		}, 12 * time.Second},
		{"a server brings nothing", func(s *sim) {
			s.servers[0].stalledUntil = s.now.Add(time.Hour)
			s.change(0)
		}, 10 * time.Second},
		{"a server delays everything that is live", func(s *sim) {
			s.servers[1].stalledUntil = s.now.Add(4 * time.Second)
			s.change(0)
		}, 8 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(5) {
				s := quietSim(t, seed)
				tt.do(s)
				s.run(tt.heal)
				s.checkHeld(t)
			}
		})
	}
}

// A leader that was paused while another took over can store nothing when it wakes.
func TestPausedLeaderStoresNothing(t *testing.T) {
	s := quietSim(t, 1)
	old := s.controllers[0]
	old.paused = s.now.Add(2 * time.Second)
	s.lead(s.controllers[1])
	s.run(time.Second)
	stored := s.sequence
	old.paused = time.Time{}
	fence := old.leader.fence
	if _, err := old.write(t.Context(), fence, []snapshot.Raw{{Subject: snapshot.BeatSubject, Data: []byte("x")}}); err == nil {
		t.Fatal("the deposed leader's write was taken")
	}
	s.change(0)
	s.run(100 * time.Millisecond)
	if old.leads {
		t.Error("the old leader does not know that it was deposed")
	}
	if s.sequence == stored {
		t.Error("the new leader stored nothing")
	}
}

// The first change of a subject goes out at once; the ones right behind it wait until coalesce has passed, and
// a storm over many subjects goes out in few batches.
func TestChangesAreCoalesced(t *testing.T) {
	s := quietSim(t, 1)
	c := s.controllers[0]
	l := c.leader
	var sizes []int
	flush := func() {
		before := len(l.dirty)
		if err := l.flush(t.Context(), s.now); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, before-len(l.dirty))
	}
	s.change(0)
	flush()
	s.change(0)
	s.change(1)
	flush() // 1 goes, 0 waits
	flush()
	if want := []int{1, 1, 0}; !slices.Equal(sizes, want) || len(l.dirty) != 1 {
		t.Fatalf("published %v, want %v; %d left", sizes, want, len(l.dirty))
	}
	if due := l.due(); !due.Equal(s.now.Add(coalesce)) {
		t.Errorf("the second change is due in %v, want %v", due.Sub(s.now), coalesce)
	}
	batches := 0
	for end := s.now.Add(5 * time.Second); s.now.Before(end); s.now = s.now.Add(time.Millisecond) {
		s.change(s.random.IntN(simSubjects))
		before := s.sequence
		if err := l.flush(t.Context(), s.now); err != nil {
			t.Fatal(err)
		}
		if s.sequence != before {
			batches++
		}
	}
	if batches > 50+burst || batches < 40 {
		t.Errorf("a storm of 5 s went out in %d batches, want ten a second", batches)
	}
}

// What did not change is not stored again; what another key signed is signed again, with its number.
func TestUnchangedIsNotPublishedAgain(t *testing.T) {
	s := quietSim(t, 1)
	c := s.controllers[0]
	before := c.mirror.versions()
	sequence := s.entries[snapshot.ChunkSubject(simSubject(0), 0)].sequence
	s.publish()
	s.run(5 * time.Second)
	if s.entries[snapshot.ChunkSubject(simSubject(0), 0)].sequence != sequence {
		t.Error("an unchanged subject was stored again")
	}
	s.addKey()
	s.newRoster()
	s.die(c)
	s.controllers[0].leads = false
	s.run(10 * time.Second)
	for _, c := range s.controllers {
		if !c.leads {
			continue
		}
		for subject, version := range c.mirror.versions() {
			if version != before[subject] {
				t.Errorf("%s was %v, and is %v after it was signed again", subject, before[subject], version)
			}
		}
	}
	s.checkHeld(t)
}

// Where the only key is revoked before anything was signed again, the numbers go on all the same.
func TestRevokedBeforeSignedAgain(t *testing.T) {
	s := quietSim(t, 1)
	s.run(30 * time.Second) // so many beats that a count from 1 would not be through before the end
	delete(s.wanted, simSubject(0))
	s.addKey()
	s.signers = s.signers[1:]
	s.newRoster()
	for _, c := range slices.Clone(s.controllers) {
		s.die(c)
	}
	s.run(15 * time.Second)
	s.checkHeld(t)
	s.check()
}

// A node that lacks a required feature keeps what it had, says so, and takes the next version that it knows.
func TestUnknownFeatureKeepsWhatItHad(t *testing.T) {
	s := quietSim(t, 1)
	n := s.nodes[1]
	subject := n.interest[0]
	had := n.applied[subject]
	body := s.wanted[subject]
	s.wanted[subject] = Body{Data: []byte("for newer ones"), Requires: []string{"newer"}}
	s.publish()
	s.run(5 * time.Second)
	if got := n.applied[subject]; got.Version != had.Version {
		t.Errorf("applied %v, want to keep %v", got.Version, had.Version)
	}
	if len(n.lacks) != 1 || n.lacks[0].Subject != subject || !slices.Equal(n.lacks[0].Refused, []string{"newer"}) || n.lacks[0].Body != nil {
		t.Errorf("its user hears %+v", n.lacks)
	}
	if state := n.core.state(); !slices.Equal(state.Refused, []string{subject}) {
		t.Errorf("refused %v, want %s", state.Refused, subject)
	}
	s.wanted[subject] = Body{Data: append([]byte("known again"), body.Data...)}
	s.publish()
	s.run(5 * time.Second)
	if state := n.core.state(); len(state.Refused) != 0 {
		t.Errorf("still refuses %v", state.Refused)
	}
	s.checkHeld(t)
}

// TestARosterOfAnEndedDelegationIsAnsweredWithTheNewest: who sends it has forgotten, since it was restored, that the root said
// something else, and is shown what does; no more once its roster is believed.
func TestARosterOfAnEndedDelegationIsAnsweredWithTheNewest(t *testing.T) {
	now := time.Unix(1_900_000_000, 0)
	sealed := func(epoch, delegation uint64) []byte {
		t.Helper()
		raw, err := snapshot.SealRoster(simRoot().key, simRoot().certificate, &snapshot.Roster{Cluster: simCluster, Epoch: epoch, Delegation: delegation, Serial: 1})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	f := newFollow(simCluster, "web1", snapshot.RootHash(simRoot().certificate), nil, rand.New(rand.NewPCG(1, 2)),
		func() []byte { return make([]byte, 16) }, func(string, error) {}, now, nil)
	shown := func() []byte {
		t.Helper()
		f.ask = nil
		f.resync(now, 0)
		now = now.Add(time.Minute)
		f.tick(now)
		for _, a := range f.take() {
			if a.catchup == nil {
				continue
			}
			request := new(CatchupRequest)
			if err := proto.Unmarshal(a.catchup, request); err != nil {
				t.Fatal(err)
			}
			return request.GetRoster()
		}
		t.Fatal("nothing is asked")
		return nil
	}
	newest := sealed(0, 2)
	f.roster(now, newest, false)
	if got := shown(); got != nil {
		t.Error("a roster is shown that nobody disputes")
	}
	f.roster(now, sealed(9, 1), false)
	if got := shown(); !bytes.Equal(got, newest) {
		t.Errorf("%d bytes are shown to who sent a roster of an ended delegation", len(got))
	}
	f.roster(now, sealed(9, 3), false)
	if got := shown(); got != nil {
		t.Error("it is shown further")
	}
}
