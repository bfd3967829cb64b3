package routing

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// below maps 64 random bits to a number below n, which is not 0, each as likely as any other to one in
// 2⁶⁴/n.
func below(random, n uint64) uint64 {
	high, _ := bits.Mul64(random, n)
	return high
}

// A selection is what one choice of an instance may take.
type selection struct {
	from  []member
	tried []*load
	now   int64 // Unix nanoseconds; 0: those that are skipped may be taken too
	heeds bool  // those that are ejected are skipped
	at    int64 // Unix nanoseconds
}

func (s *selection) usable(i int) bool {
	instance := s.from[i].instance
	if s.now != 0 && (instance.skipped(s.now) || s.heeds && instance.standing.isEjected(s.now)) {
		return false
	}
	return len(s.tried) == 0 || !slices.Contains(s.tried, instance.load)
}

// selectMember chooses among the healthy that this node can reach and did not try. Where none is healthy,
// all are taken as if they were; where none can be reached, those are tried that could not.
func selectMember(g *group, balance snapshot.Balance, b *backend, tried []*load, now int64, random rand.Source) (member, bool) {
	s := selection{from: g.healthy, tried: tried, now: now, at: now, heeds: b.heeds(now)}
	if len(s.from) == 0 {
		s.from = g.all
	}
	if len(s.from) == 0 {
		return member{}, false
	}
	for {
		var chosen int
		switch balance {
		case snapshot.Balance_BALANCE_ROUND_ROBIN:
			chosen = s.inTurn(&b.next)
		case snapshot.Balance_BALANCE_RANDOM:
			chosen = s.sample(random, -1)
		case snapshot.Balance_BALANCE_PEAK_EWMA:
			chosen = s.cheaper(random)
		default:
			chosen = s.lessBusy(random)
		}
		if chosen >= 0 {
			return s.from[chosen], true
		}
		if s.now == 0 {
			return member{}, false
		}
		s.now = 0
	}
}

// inTurn takes the usable one whose turn is next; -1 where none is. It uses up the turns of those that it
// passes over: else the one after them would have their share besides its own.
func (s *selection) inTurn(next *atomic.Uint32) int {
	n := uint32(len(s.from))
	turn := uint32(0)
	for range s.from {
		turn = (next.Add(1) - 1) % n
		if s.usable(int(turn)) {
			return int(turn)
		}
	}
	for i := range n { // others took turns meanwhile: perhaps that of the only usable one
		if at := (turn + i) % n; s.usable(int(at)) {
			return int(at)
		}
	}
	return -1
}

// lessBusy takes the one of two random usable instances that has fewer exchanges of this node; -1 where
// none is usable.
func (s *selection) lessBusy(random rand.Source) int {
	first := s.sample(random, -1)
	if first < 0 {
		return -1
	}
	second := s.sample(random, first)
	if second >= 0 && s.from[second].instance.InFlight() < s.from[first].instance.InFlight() {
		return second
	}
	return first
}

// sample takes a usable one at random, each as likely as any other, and never the one that is excluded.
func (s *selection) sample(random rand.Source, excluded int) int {
	n := len(s.from)
	if excluded >= 0 && n == 1 {
		return -1
	}
	for range 8 { // almost always the first or second
		if i := int(below(random.Uint64(), uint64(n))); i != excluded && s.usable(i) {
			return i
		}
	}
	count := 0
	for i := range s.from {
		if i != excluded && s.usable(i) {
			count++
		}
	}
	if count == 0 {
		return -1
	}
	skip := int(below(random.Uint64(), uint64(count)))
	last := -1 // another goroutine may mark one meanwhile
	for i := range s.from {
		if i != excluded && s.usable(i) {
			last = i
			if skip == 0 {
				break
			}
			skip--
		}
	}
	return last
}
