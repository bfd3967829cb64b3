package routing

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

const (
	// usualWeight is that of an instance that says nothing of it; mostWeight is as much as one can say.
	usualWeight, mostWeight = 100, 1000
	// whole is the share of its weight that an instance has that does not start slowly, and leastShare that with which one
	// begins that does: with none it would never warm up.
	whole, leastShare = 1000, 100
	// mostSlowStart bounds what a body can ask for.
	mostSlowStart = time.Hour
)

// A tier is members among which one is chosen, with their weights. It never changes.
type tier struct {
	members []member
	upTo    []uint64 // of each, its weight and those before it; nil: all weigh the same
	most    uint64   // weight of one
}

func newTier(members []member) tier {
	t := tier{members: members}
	even := true
	for _, m := range members {
		t.most = max(t.most, uint64(m.instance.weight))
		even = even && m.instance.weight == members[0].instance.weight
	}
	if even {
		return t
	}
	total := uint64(0)
	for _, m := range members {
		total += uint64(m.instance.weight)
		t.upTo = append(t.upTo, total)
	}
	return t
}

// draw takes a member by weight.
func (t *tier) draw(random rand.Source) int {
	if t.upTo == nil {
		return int(below(random.Uint64(), uint64(len(t.members))))
	}
	at, _ := slices.BinarySearch(t.upTo, below(random.Uint64(), t.upTo[len(t.upTo)-1])+1)
	return at
}

// A warmup is how far an instance is into the time in which it gets less than its weight.
type warmup struct {
	// since holds Unix nanoseconds; 0: it has not just come, begins: it has, and begins with the next choice among
	// others. The writer sets it to begins, readers to the time of that choice.
	since atomic.Int64
}

const begins = -1

// share is how much of its weight the instance has by now, of whole.
func (s *warmup) share(now, window int64) uint64 {
	since := s.since.Load()
	if since == begins {
		s.since.CompareAndSwap(begins, now)
		since = now
	}
	if since == 0 || now-since >= window {
		return whole
	}
	return max(leastShare, uint64(max(now-since, 0))*whole/uint64(window))
}

// weight is the weight that a member has by now, in thousandths.
func (s *selection) weight(i int) uint64 {
	instance := s.tier.members[i].instance
	if s.slow == 0 {
		return uint64(instance.weight) * whole
	}
	return uint64(instance.weight) * instance.load.warmup.share(s.at, s.slow)
}

// warm reports whether a member that was drawn by its weight is taken by how much of it it has by now.
func (s *selection) warm(i int, random rand.Source) bool {
	if s.slow == 0 {
		return true
	}
	share := s.tier.members[i].instance.load.warmup.share(s.at, s.slow)
	return share == whole || below(random.Uint64(), whole) < share
}
