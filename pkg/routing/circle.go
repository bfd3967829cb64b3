package routing

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

const (
	// maglevSlots is the size of a Maglev table: the paper's small one, a prime. With a hundred times as many slots as
	// instances their shares differ by a hundredth.
	maglevSlots = 65537
	// ringPoints is how many points an instance of middling weight has on a ring: shares then differ by about a tenth.
	// mostRingPoints bounds those of a ring together.
	ringPoints     = 128
	mostRingPoints = 1 << 20
	// mostCandidates bounds a circle: an instance beyond it gets nothing by hash.
	mostCandidates = math.MaxUint16
	// mostSteps bounds how far a lookup goes along a circle for an instance that can be taken; it looks at all after that.
	mostSteps = 128
)

// A candidate is an instance on a circle.
type candidate struct {
	id     uint64 // Instance.hash: the same on all nodes
	weight uint32
}

// A circle is how a hash is mapped to instances: slots in a closed line, each of which belongs to one of them. It
// depends on the instances and on nothing else, neither on their order nor on how they are, so that all nodes have the
// same. It never changes.
type circle struct {
	candidates []candidate // ordered by id, each once
	owners     []uint16    // of the slots: positions in candidates
	points     []uint64    // where each slot ends, ascending; nil: all are of one length
	starts     []uint32    // by the first bits of a hash, how many points are before all that begin so
	bits       int         // how many bits those are
}

// newCircle makes a circle, a ring or Maglev's table. candidates are in order.
func newCircle(kind int, candidates []candidate) *circle {
	c := &circle{candidates: candidates[:min(len(candidates), mostCandidates)]}
	switch {
	case len(candidates) == 0:
	case kind == ringOf:
		c.ring()
	default:
		c.maglev(maglevSlots)
	}
	return c
}

// ring gives each instance points of its own (Karger et al., "Consistent Hashing and Random Trees", 1997): a hash
// belongs to the next point after it. What goes leaves its places to those that come next there, and moves nothing else.
func (c *circle) ring() {
	total := uint64(0)
	for _, one := range c.candidates {
		total += uint64(one.weight)
	}
	mean := float64(total) / float64(len(c.candidates))
	points := min(ringPoints, mostRingPoints/float64(len(c.candidates)))
	type point struct {
		at    uint64
		owner uint16
	}
	var all []point
	for i, one := range c.candidates {
		// Of more than ringPoints times the mean it would have more than all have by rights; a share can be no more than that.
		count := min(max(1, math.Round(points*float64(one.weight)/mean)), mostRingPoints)
		for n := range uint64(count) {
			all = append(all, point{mixed(one.id ^ mixed(n)), uint16(i)})
		}
	}
	slices.SortFunc(all, func(a, b point) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.owner, b.owner)) })
	c.owners, c.points = make([]uint16, len(all)), make([]uint64, len(all))
	for i, p := range all {
		c.owners[i], c.points[i] = p.owner, p.at
	}
	c.bits = bits.Len(uint(len(all)))
	c.starts = make([]uint32, 1<<c.bits)
	next := 0
	for first := range c.starts {
		for next < len(c.points) && c.points[next]>>(64-c.bits) < uint64(first) {
			next++
		}
		c.starts[first] = uint32(next)
	}
}

// maglev fills a table of slots by turns (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
// NSDI 2016, §3.4): each instance has its own order of all slots, and takes the first that is free. The shares are as
// even as can be; what goes moves little else. One of half the greatest weight has half the turns.
func (c *circle) maglev(slots uint64) {
	type turns struct{ next, skip, credit uint64 }
	all, most := make([]turns, len(c.candidates)), uint64(0)
	for i, one := range c.candidates {
		all[i] = turns{next: mixed(one.id) % slots, skip: mixed(one.id^0x5bd1e995)%(slots-1) + 1}
		most = max(most, uint64(one.weight))
	}
	const free = math.MaxUint16
	c.owners = slices.Repeat([]uint16{free}, int(slots))
	for filled := uint64(0); ; {
		for i := range all {
			t := &all[i]
			if t.credit += uint64(c.candidates[i].weight); t.credit < most {
				continue
			}
			t.credit -= most
			for c.owners[t.next] != free {
				t.next = (t.next + t.skip) % slots
			}
			c.owners[t.next] = uint16(i)
			if filled++; filled == slots {
				return
			}
		}
	}
}

// slot is where a hash falls.
func (c *circle) slot(hash uint64) int {
	if c.points == nil {
		at, _ := bits.Mul64(hash, uint64(len(c.owners)))
		return int(at)
	}
	at := int(c.starts[hash>>(64-c.bits)])
	for at < len(c.points) && c.points[at] < hash {
		at++
	}
	if at == len(c.points) {
		return 0
	}
	return at
}

// find returns the first instance along the circle from a hash that can be taken; -1 where there is none. So what
// cannot be taken for a while leaves its hashes to others, and has the same again after it.
func (c *circle) find(hash uint64, usable func(int) bool) int {
	at := c.slot(hash)
	for range min(mostSteps, len(c.owners)) {
		if i := int(c.owners[at]); usable(i) {
			return i
		}
		if at++; at == len(c.owners) {
			at = 0
		}
	}
	best, most := -1, uint64(0) // few are left: the one that likes the hash best (rendezvous hashing)
	for i := range c.candidates {
		if likes := mixed(c.candidates[i].id ^ hash); usable(i) && (best < 0 || likes > most) {
			best, most = i, likes
		}
	}
	return best
}

// mixed makes each bit depend on all (the finisher of SplitMix64).
func mixed(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// hashed continues a hash with a string, whose end counts: "ab" and "c" are not "a" and "bc". Nodes of all versions
// must have the same hash, or they would send one key to different instances: it is not to be changed.
func hashed(h uint64, s string) uint64 {
	h ^= uint64(len(s)) * 0x9e3779b97f4a7c15
	for len(s) >= 8 {
		h = folded(h ^ binary.LittleEndian.Uint64([]byte(s[:8])))
		s = s[8:]
	}
	rest := uint64(0)
	for i := range len(s) {
		rest |= uint64(s[i]) << (8 * i)
	}
	return mixed(folded(h ^ rest))
}

func folded(x uint64) uint64 {
	high, low := bits.Mul64(x^0xa0761d6478bd642f, 0xe7037ed1a0b428db)
	return high ^ low
}
