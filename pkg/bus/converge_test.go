package bus

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A fault is one thing that goes wrong, or changes, at a time.
type fault struct {
	Kind string
	At   time.Duration
	For  time.Duration // how long it lasts, where it lasts
	N    int           // which node, server, subject or controller
}

var faults = map[string]func(s *sim, f fault){
	"change": func(s *sim, f fault) { s.change(f.N % simSubjects) },
	"storm": func(s *sim, f fault) {
		for i := range 10 {
			s.after(time.Duration(i)*20*time.Millisecond, func() { s.change((f.N + i) % simSubjects) })
		}
	},
	"delete and make again": func(s *sim, f fault) {
		delete(s.wanted, simSubject(f.N%simSubjects))
		s.publish()
		if f.N%2 == 0 {
			s.after(f.For, func() { s.change(f.N % simSubjects) })
		}
	},
	"leader dies when it stored": func(s *sim, f fault) { s.eachLeader(func(c *simController) { c.fault = diesStored }) },
	"leader dies between storing and announcing": func(s *sim, f fault) {
		s.eachLeader(func(c *simController) { c.fault = diesBetween })
		s.change(f.N % simSubjects)
	},
	"outcome of a write is unknown": func(s *sim, f fault) {
		s.eachLeader(func(c *simController) { c.fault = unknownStored + writeFault(f.N%2) })
		s.change(f.N % simSubjects)
	},
	"leader is paused and another takes over": func(s *sim, f fault) {
		s.eachLeader(func(c *simController) { c.paused = s.now.Add(f.For) })
		s.after(f.For/2, s.elect)
	},
	"two lead": func(s *sim, f fault) { s.lead(s.controllers[f.N%len(s.controllers)]) },
	"controller's reading lags": func(s *sim, f fault) {
		s.controllers[f.N%len(s.controllers)].lag = s.now.Add(f.For)
	},
	"server stalls": func(s *sim, f fault) { s.servers[f.N%len(s.servers)].stalledUntil = s.now.Add(f.For) },
	"server delays everything": func(s *sim, f fault) {
		server := &s.servers[f.N%len(s.servers)]
		server.delay = time.Duration(f.N%5000) * time.Millisecond
		s.after(f.For, func() { server.delay = 0 })
	},
	"messages are lost": func(s *sim, f fault) {
		s.loss = float64(f.N%90+10) / 100
		s.after(f.For, func() { s.loss = 0 })
	},
	"messages are doubled and reordered": func(s *sim, f fault) {
		s.duplicate, s.reorder = 0.5, 0.5
		s.after(f.For, func() { s.duplicate, s.reorder = 0, 0 })
	},
	"node restarts": func(s *sim, f fault) {
		n := s.nodes[f.N%len(s.nodes)]
		if !n.up {
			return
		}
		s.say("%s stops", n.name)
		n.up = false
		s.after(f.For, n.start)
	},
	"node follows something else": func(s *sim, f fault) {
		n := s.nodes[f.N%len(s.nodes)]
		n.interest = nil
		for k := range simSubjects {
			if (f.N>>k)&1 == 1 {
				n.interest = append(n.interest, simSubject(k))
			}
		}
		if n.up {
			n.core.interest(s.now, n.interest)
			n.act()
		}
	},
	"signing key is replaced": func(s *sim, f fault) {
		s.addKey()
		s.newRoster()
		for _, c := range slices.Clone(s.controllers) { // each goes on with the new key after its restart
			s.die(c)
		}
		s.after(f.For, func() { // the old one leaves the roster when everything was signed again, or before
			s.signers = s.signers[len(s.signers)-1:]
			s.newRoster()
			for _, c := range slices.Clone(s.controllers) {
				if c.signer.ID != s.signers[0].ID {
					s.die(c)
				}
			}
		})
	},
	"backup": func(s *sim, f fault) { s.backup = maps.Clone(s.entries) },
	"restore": func(s *sim, f fault) {
		if s.backup == nil {
			return
		}
		s.say("restore")
		s.epoch++
		s.entries = maps.Clone(s.backup)
		for _, c := range slices.Clone(s.controllers) {
			c.dead = true
			s.die(c)
		}
		s.controllers = nil
		s.newRoster()
		for range 2 {
			s.addController()
		}
		delete(s.wanted, simSubject(f.N%simSubjects)) // the resources are older as well
		s.after(f.For, s.elect)
	},
}

func (s *sim) eachLeader(do func(*simController)) {
	for _, c := range slices.Clone(s.controllers) {
		if c.leads {
			do(c)
		}
	}
}

// Whatever goes wrong for a while: every node has what is stored soon after it ended, and has never applied
// an older version than the one that it had.
func TestEveryNodeConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { converge(t, t.Fatalf) })
}

const (
	faultTime = 20 * time.Second
	healTime  = 25 * time.Second // reading and moving to another server take up to 7.5 s each, asking again up to 10 s
)

func converge(t *rapid.T, fatalf func(string, ...any)) {
	plan := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) fault {
		return fault{
			Kind: rapid.SampledFrom(slices.Sorted(maps.Keys(faults))).Draw(t, "kind"),
			At:   time.Duration(rapid.IntRange(0, int(faultTime/time.Millisecond)).Draw(t, "at ms")) * time.Millisecond,
			For:  time.Duration(rapid.IntRange(1, 8_000).Draw(t, "for ms")) * time.Millisecond,
			N:    rapid.IntRange(0, 1<<16).Draw(t, "n"),
		}
	}), 0, 25).Draw(t, "faults")
	var s *sim
	fail := func(format string, args ...any) {
		fatalf("%s\nwhat happened:\n%s", fmt.Sprintf(format, args...), strings.Join(s.log, "\n"))
	}
	s = newSim(rapid.Uint64().Draw(t, "seed"), func(format string, args ...any) { panic(fmt.Sprintf(format, args...)) })
	s.fail = fail
	for _, f := range plan {
		s.after(f.At, func() {
			s.say("%s (%d, %v)", f.Kind, f.N, f.For)
			faults[f.Kind](s, f)
		})
	}
	s.run(faultTime + 9*time.Second) // all faults have ended
	s.loss, s.duplicate, s.reorder = 0, 0, 0
	for i := range s.servers {
		s.servers[i] = simServer{}
	}
	for _, c := range s.controllers {
		c.paused, c.lag, c.fault = time.Time{}, time.Time{}, noFault
	}
	s.elect()
	s.say("everything works again")
	s.run(healTime)
	s.check()
}

// check compares, and then restarts every node from its disk: that fails where it is not what it had.
func (s *sim) check() {
	s.compare()
	for _, n := range s.nodes {
		n.start()
	}
}

// compare compares every node with the stream, and the stream with what was to be published.
func (s *sim) compare() {
	stored := newMirror(simCluster, snapshot.RootHash(simRoot().certificate))
	if err := stored.believe(s.roster); err != nil {
		s.fail("roster: %v", err)
	}
	s.read(stored)
	for k := range simSubjects {
		want, ok := s.wanted[simSubject(k)]
		got := stored.subjects[simSubject(k)]
		if ok && (got == nil || got.Gone || got.sum != sumOf(&snapshot.Snapshot{Body: want.Data})) || !ok && got != nil && !got.Gone {
			s.fail("%s is not stored as it was to be published", simSubject(k))
		}
	}
	for _, n := range s.nodes {
		for _, subject := range n.interest {
			want, got := stored.subjects[subject], n.applied[subject]
			switch {
			case want == nil && !got.Absent:
				s.fail("%s has %v of %s, which is not stored", n.name, got.Version, subject)
			case want == nil:
			case got.Version != want.Version || got.Gone != want.Gone || !got.Gone && !bytes.Equal(got.Body, s.wanted[subject].Data):
				s.fail("%s has %v of %s, stored is %v", n.name, got.Version, subject, want.Version)
			}
		}
		if state := n.core.state(); !state.StaleSince.IsZero() || len(state.Missing) > 0 {
			s.fail("%s is stale since %v, misses %v", n.name, state.StaleSince, state.Missing)
		}
	}
}
