package routing

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	// peakDecay is how long an answer's time counts: after it, a bit more than a third of what it did.
	peakDecay = 10 * time.Second
	// peakPenalty is what an attempt counts for that failed, where it did not take longer, so that whoever fails at once is
	// not taken for fast; and an instance that has a request and never answered one, so that one is enough to learn of it.
	peakPenalty = time.Second
	// peakTick is the unit of a peak's time.
	peakTick = time.Millisecond
)

// A peak is how long this node waits for an instance's answers: it rises with one at once, and falls slowly (Finagle's
// peak EWMA). In one word: when that was, in ticks that wrap around after seven weeks, and how long, as a float32 of
// nanoseconds.
type peak struct{ word atomic.Uint64 }

func ticks(now int64) uint32 { return uint32(now / int64(peakTick)) }

// observe takes in an answer's time. Of several within a tick the first counts, and any that is a peak.
func (p *peak) observe(took time.Duration, now int64) {
	for {
		word := p.word.Load()
		before, at := float64(math.Float32frombits(uint32(word))), ticks(now)
		since := int32(at - uint32(word>>32))
		next := float64(max(took, 1))
		switch {
		case word == 0 || next > before*decayed(since):
		case since <= 0: // what another goroutine has seen meanwhile is as good
			return
		default:
			share := decayed(since)
			next = before*share + next*(1-share)
		}
		if p.word.CompareAndSwap(word, uint64(at)<<32|uint64(math.Float32bits(float32(next)))) {
			return
		}
	}
}

// decayed is how much of a time counts after so many ticks.
func decayed(ticks int32) float64 {
	return math.Exp(-float64(max(ticks, 0)) * float64(peakTick) / float64(peakDecay))
}

// cost is what one more request would cost at an instance that has so many, in nanoseconds: 0 where it has none, and
// nothing is known of it. It falls while the instance is not asked, so that it is again some day.
func (p *peak) cost(inFlight, now int64) float64 {
	word := p.word.Load()
	if word == 0 {
		return float64(peakPenalty) * float64(inFlight)
	}
	return float64(math.Float32frombits(uint32(word))) * decayed(int32(ticks(now)-uint32(word>>32))) * float64(inFlight+1)
}

// cheaper takes the one of two random usable instances whose answers are expected sooner; -1 where none is usable.
func (s *selection) cheaper(random rand.Source) int {
	first := s.sample(random, -1)
	if first < 0 {
		return -1
	}
	second := s.sample(random, first)
	if second >= 0 && s.cost(second) < s.cost(first) {
		return second
	}
	return first
}

func (s *selection) cost(i int) float64 {
	l := s.tier.members[i].instance.load
	return l.peak.cost(l.inFlight.Load(), s.at)
}

// Answered tells that the decision's instance began to answer the attempt, or that the attempt failed by it. It may be
// called more than once for an attempt; the first time counts.
func (d *Decision) Answered(failed bool, now time.Time) {
	if d.Instance == nil || d.backend == nil || d.backend.balance != snapshot.Balance_BALANCE_PEAK_EWMA || d.timed {
		return
	}
	took := time.Duration(now.UnixNano() - d.taken)
	if failed {
		took = max(took, peakPenalty)
	}
	d.timed = true
	d.Instance.load.peak.observe(took, now.UnixNano())
}
