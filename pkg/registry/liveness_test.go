package registry

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A sky is a mesh as the leader's liveness sees it: each node says alive every five seconds in a phase of
// its own, and messages get lost while the bus is away or the node is dead.
type sky struct {
	l       *liveness
	now     time.Time
	phase   []time.Duration // of each node
	dead    map[int]bool
	busAway bool
	lostAt  map[string]time.Time
	backAt  map[string]time.Time
	removed map[string]bool
}

func newSky(t *rapid.T, nodes int) *sky {
	s := &sky{l: newLiveness(Rules{}), now: time.Unix(1e9, 0), dead: map[int]bool{},
		lostAt: map[string]time.Time{}, backAt: map[string]time.Time{}, removed: map[string]bool{}}
	offset := rapid.Int64Range(0, int64(5*time.Second)-1)
	for i := range nodes {
		s.phase = append(s.phase, time.Duration(offset.Draw(t, "phase")))
		s.l.know(name(i), s.now)
	}
	s.l.calm(s.now)
	return s
}

func name(i int) string { return fmt.Sprintf("node%03d", i) }

// run lets time pass in steps of a second: what was said in the second before, then the leader's tick.
func (s *sky) run(d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end); {
		s.now = s.now.Add(time.Second)
		for i, phase := range s.phase {
			since := (time.Duration(s.now.UnixNano()) - phase) % (5 * time.Second)
			if since < time.Second && !s.dead[i] && !s.busAway {
				s.l.alive(name(i), s.now.Add(-since))
			}
		}
		s.tick()
	}
}

func (s *sky) tick() {
	v := s.l.tick(s.now)
	for _, node := range v.lost {
		s.lostAt[node] = s.now
		s.l.recorded(node, true, s.now, s.now)
	}
	for _, node := range v.back {
		s.backAt[node] = s.now
		s.l.recorded(node, false, s.now, s.now)
	}
	for _, node := range v.remove {
		s.removed[node] = true
		s.l.forget(node)
	}
}

func (s *sky) noneLost(t *rapid.T, when string) {
	t.Helper()
	if len(s.lostAt) > 0 {
		t.Fatalf("%s: %d of %d nodes declared lost", when, len(s.lostAt), len(s.phase))
	}
}

func TestAnOutageOfTheBusLosesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSky(t, 30)
		s.run(time.Duration(rapid.IntRange(0, 120).Draw(t, "before")) * time.Second)
		s.busAway = true
		s.run(time.Duration(rapid.IntRange(1, 200).Draw(t, "away")) * time.Second)
		s.busAway = false
		if rapid.Bool().Draw(t, "the leader notices") {
			s.l.calm(s.now)
		}
		s.run(2 * time.Minute)
		s.noneLost(t, "after the outage")
	})
}

func TestAnHourOfOutageAndAScatteredReturnLoseNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSky(t, 60)
		s.run(time.Minute)
		s.busAway = true
		s.now = s.now.Add(time.Hour) // the leader's own server was away: it did not decide either
		s.tick()
		s.busAway = false
		for i := range s.phase { // and they come back one after the other, for half a minute
			s.dead[i] = true
		}
		for i := range s.phase {
			delete(s.dead, i)
			if i%2 == 1 {
				s.run(time.Second)
			}
		}
		s.run(time.Minute)
		s.noneLost(t, "after an hour")
	})
}

func TestADeadNodeIsLostWithinTheBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.IntRange(1, 40).Draw(t, "nodes")
		s := newSky(t, nodes)
		s.run(time.Duration(rapid.IntRange(31, 90).Draw(t, "before")) * time.Second)
		victim := rapid.IntRange(0, nodes-1).Draw(t, "victim")
		heard := s.l.nodes[name(victim)].heard
		s.dead[victim] = true
		s.run(20 * time.Second)
		at, lost := s.lostAt[name(victim)]
		if !lost || len(s.lostAt) != 1 {
			t.Fatalf("lost: %v, want %s alone", s.lostAt, name(victim))
		}
		if after := at.Sub(heard); after < 15*time.Second || after > 16*time.Second {
			t.Fatalf("lost %s after it was last heard", after)
		}
		delete(s.dead, victim)
		s.run(10 * time.Second)
		if _, back := s.backAt[name(victim)]; !back {
			t.Fatal("heard again and not back")
		}
	})
}

func TestManyThatVanishTogetherAreNotLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.IntRange(7, 60).Draw(t, "nodes")
		s := newSky(t, nodes)
		s.run(45 * time.Second)
		for i := range nodes * 3 / 10 {
			s.dead[i] = true
		}
		s.run(3 * time.Minute)
		s.noneLost(t, "30 % vanished together")
		// Nor those that are still silent when most of them are back.
		for i := range nodes * 3 / 10 {
			if i%2 == 0 {
				delete(s.dead, i)
			}
		}
		s.run(24 * time.Second)
		s.noneLost(t, "right after most came back")
		clear(s.dead)
		s.run(time.Minute)
		s.noneLost(t, "after all came back")
	})
}

func TestAMeshThatCrumblesIsNotDeclaredLostPieceByPiece(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSky(t, 50)
		s.run(45 * time.Second)
		for i := range 50 { // one each two seconds: never a fifth at one moment, but in half a minute
			s.dead[i] = true
			s.run(2 * time.Second)
		}
		s.run(2 * time.Minute)
		if len(s.lostAt) > 10 {
			t.Fatalf("%d of 50 declared lost", len(s.lostAt))
		}
	})
}

func TestANewLeaderWaits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.IntRange(6, 30).Draw(t, "nodes")
		s := newSky(t, nodes)
		s.dead[0] = true
		s.run(29 * time.Second)
		s.noneLost(t, "within 30 s of the election")
		s.run(3 * time.Second)
		if len(s.lostAt) != 1 {
			t.Fatalf("a node that was never heard is not lost after 32 s: %v", s.lostAt)
		}
		s.now = s.now.Add(time.Duration(rapid.IntRange(6, 10000).Draw(t, "paused")) * time.Second)
		s.tick() // the leader was stopped and wakes
		s.run(20 * time.Second)
		if len(s.lostAt) != 1 {
			t.Fatalf("a pause of the leader cost %d nodes", len(s.lostAt)-1)
		}
	})
}

func TestLostNodesAreRemovedMuchLater(t *testing.T) {
	s := &sky{l: newLiveness(Rules{DeleteAfter: time.Hour}), now: time.Unix(1e9, 0), dead: map[int]bool{1: true},
		lostAt: map[string]time.Time{}, backAt: map[string]time.Time{}, removed: map[string]bool{}, phase: []time.Duration{0, 0}}
	s.l.know(name(1), s.now)
	s.run(55 * time.Minute)
	if len(s.lostAt) != 1 || len(s.removed) != 0 {
		t.Fatalf("lost %v, removed %v", s.lostAt, s.removed)
	}
	s.run(10 * time.Minute)
	if !s.removed[name(1)] || s.removed[name(0)] {
		t.Errorf("removed %v", s.removed)
	}
}

func TestARecordOfTheLossIsNoSignOfLife(t *testing.T) {
	l, now := newLiveness(Rules{}), time.Unix(1e9, 0)
	l.know("a", now) // a new leader reads the instance, then that its node was lost
	l.recorded("a", true, now.Add(-time.Hour), now)
	for range 10 {
		now = now.Add(time.Second)
		if v := l.tick(now); len(v.back) > 0 {
			t.Fatal("back without having been heard")
		}
	}
	l.alive("a", now)
	if v := l.tick(now); len(v.back) != 1 {
		t.Error("heard and not back")
	}
	// A leader whose clock was ahead recorded the loss: it must not take that time to be back.
	l.recorded("a", true, now.Add(time.Hour), now)
	now = now.Add(time.Second)
	l.alive("a", now)
	if v := l.tick(now); len(v.back) != 1 {
		t.Error("heard and not back, because of another clock")
	}
}
