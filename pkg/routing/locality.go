package routing

import (
	"math"
	"math/rand/v2"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	// tiers are how close an instance can be: in the node's zone, in its region, anywhere.
	tiers = 3
	// spare is how much of its weight an instance can take besides its own, so that a tier of which a few are ill
	// need not give requests away.
	spare = 1.4
)

// A locality is a group by closeness to this node. It never changes.
type locality struct {
	near [tiers]tier
	// upTo are the shares of the tiers, each with those before it, of all random numbers. A tier has what its healthy
	// instances can take, and leaves the rest to those that are farther.
	upTo [tiers]uint64
}

// closeness is the tier of an instance.
func (t *Table) closeness(prefer snapshot.Locality, i *Instance) int {
	region := t.Region != "" && i.region == t.Region
	zone := t.Zone != "" && i.zone == t.Zone && i.region == t.Region // names of zones may be of one region alone
	switch {
	case zone, region && prefer == snapshot.Locality_LOCALITY_REGION:
		return 0
	case region:
		return 1
	}
	return 2
}

// locate sorts the members of a group by closeness.
func (t *Table) locate(prefer snapshot.Locality, g *group) *locality {
	var members [tiers][]member
	var weight, well [tiers]float64
	for _, m := range g.whole {
		at := t.closeness(prefer, m.instance)
		weight[at] += float64(m.instance.weight)
		if m.healthy || len(g.healthy) == 0 {
			well[at] += float64(m.instance.weight)
			members[at] = append(members[at], m)
		}
	}
	l := &locality{}
	var shares [tiers]float64
	left, total := 1.0, 0.0
	for i := range l.near {
		l.near[i] = newTier(t.few(members[i]))
		if weight[i] > 0 {
			shares[i] = min(left, spare*well[i]/weight[i])
		}
		left -= shares[i]
		total += shares[i]
	}
	sum, last := 0.0, 0
	for i, share := range shares { // of none there is nothing to share out
		sum += share
		l.upTo[i] = uint64(min(sum/total, 1-0x1p-53) * (1 << 64)) // what all can take together is all there is
		if share > 0 {
			last = i
		}
	}
	for i := last; i < tiers; i++ {
		l.upTo[i] = math.MaxUint64
	}
	return l
}

// draw chooses a tier by the shares.
func (l *locality) draw(random rand.Source) int {
	if l.upTo[0] == math.MaxUint64 {
		return 0
	}
	at := random.Uint64()
	for i := range l.upTo {
		if at < l.upTo[i] {
			return i
		}
	}
	return tiers - 1
}

// nearMember chooses among those that are near, with the exceptions of selectMember: where none of a tier can be taken,
// the closest is, that can.
func nearMember(l *locality, b *backend, tried []*load, now int64, random rand.Source) (member, bool) {
	first := l.draw(random)
	for _, s := range [...]selection{{now: now}, {}} {
		s.tried, s.at, s.slow, s.heeds = tried, now, b.slowStart, b.heeds(now)
		for i := -1; i < tiers; i++ {
			at := i
			if i < 0 {
				at = first
			} else if i == first {
				continue
			}
			if s.tier = &l.near[at]; len(s.tier.members) == 0 {
				continue
			}
			if chosen := s.choose(b, &b.next[at], random); chosen >= 0 {
				return s.tier.members[chosen], true
			}
		}
	}
	return member{}, false
}
