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
	tier  *tier
	tried []*load
	now   int64 // Unix nanoseconds; 0: those that are skipped may be taken too
	heeds bool  // those that are ejected are skipped
	at    int64 // Unix nanoseconds
	slow  int64 // nanoseconds in which an instance that has come gets less than its weight; 0: it does not
}

func (s *selection) usable(i int) bool {
	instance := s.tier.members[i].instance
	if s.now != 0 && (instance.skipped(s.now) || s.heeds && instance.standing.isEjected(s.now)) {
		return false
	}
	return len(s.tried) == 0 || !slices.Contains(s.tried, instance.load)
}

// selectMember chooses among the healthy that this node can reach and did not try. Where none is healthy,
// all are taken as if they were; where none can be reached, those are tried that could not.
func selectMember(g *group, b *backend, tried []*load, now int64, random rand.Source) (member, bool) {
	if l := g.locality[b.locality].Load(); l != nil {
		return nearMember(l, b, tried, now, random)
	}
	s := selection{tier: &g.flat, tried: tried, now: now, at: now, slow: b.slowStart, heeds: b.heeds(now)}
	if len(s.tier.members) == 0 {
		return member{}, false
	}
	for {
		if chosen := s.choose(b, &b.next[0], random); chosen >= 0 {
			return s.tier.members[chosen], true
		}
		if s.now == 0 {
			return member{}, false
		}
		s.now = 0
	}
}

// choose takes a usable one as the backend's algorithm says; -1 where none is.
func (s *selection) choose(b *backend, next *atomic.Uint32, random rand.Source) int {
	switch b.balance {
	case snapshot.Balance_BALANCE_ROUND_ROBIN:
		return s.inTurn(next, random)
	case snapshot.Balance_BALANCE_RANDOM:
		return s.sample(random, -1)
	case snapshot.Balance_BALANCE_PEAK_EWMA:
		return s.cheaper(random)
	}
	return s.lessBusy(random)
}

// inTurn takes the usable one whose turn is next; -1 where none is. It uses up the turns of those that it
// passes over: else the one after them would have their share besides its own. Of a member with half the greatest weight
// every other turn is passed over.
func (s *selection) inTurn(next *atomic.Uint32, random rand.Source) int {
	n, most := uint64(len(s.tier.members)), s.tier.most*whole
	for range 2*n + 64 {
		turn := uint64(next.Add(1) - 1)
		i, round := int(turn%n), turn/n
		// The weight added up over the rounds passes most in those in which it has a turn. Members begin at places that the
		// golden ratio keeps apart: those of little weight would have their turns in the same rounds, all in a row.
		weight := s.weight(i)
		if (round*weight+uint64(i)*(most/1000*618))%most < most-weight {
			continue
		}
		if s.usable(i) {
			return i
		}
	}
	return s.sample(random, -1) // next to none is usable, or has weight
}

// lessBusy takes the one of two random usable instances that has fewer exchanges of this node for its weight; -1 where
// none is usable.
func (s *selection) lessBusy(random rand.Source) int {
	first := s.sample(random, -1)
	if first < 0 {
		return -1
	}
	second := s.sample(random, first)
	if second >= 0 && s.busy(second)*s.weight(first) < s.busy(first)*s.weight(second) {
		return second
	}
	return first
}

func (s *selection) busy(i int) uint64 {
	return uint64(max(s.tier.members[i].instance.InFlight(), 0))
}

// sample takes a usable one at random, each by its weight, and never the one that is excluded.
func (s *selection) sample(random rand.Source, excluded int) int {
	n := len(s.tier.members)
	if excluded >= 0 && n == 1 {
		return -1
	}
	for range 8 { // almost always the first or second
		if i := s.tier.draw(random); i != excluded && s.usable(i) && s.warm(i, random) {
			return i
		}
	}
	total := uint64(0)
	for i := range n {
		if i != excluded && s.usable(i) {
			total += s.weight(i)
		}
	}
	if total == 0 {
		return -1
	}
	at := below(random.Uint64(), total)
	last := -1 // another goroutine may mark one meanwhile
	for i := range n {
		if i == excluded || !s.usable(i) {
			continue
		}
		last = i
		weight := s.weight(i)
		if at < weight {
			break
		}
		at -= weight
	}
	return last
}
