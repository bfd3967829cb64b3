package routing

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

var hashing = []snapshot.Balance{snapshot.Balance_BALANCE_RING_HASH, snapshot.Balance_BALANCE_MAGLEV}

// kindOf is the circle of an algorithm.
func kindOf(balance snapshot.Balance) int {
	if balance == snapshot.Balance_BALANCE_RING_HASH {
		return ringOf
	}
	return maglevOf
}

// candidatesOf are so many instances of weight 1, in order.
func candidatesOf(count int) []candidate {
	all := make([]candidate, count)
	for i := range all {
		key := instanceKey{orders, fmt.Sprint("node-", i), "orders-1"}
		all[i] = candidate{key.hash(), 1}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	return all
}

// shares is how much of all hashes each instance has, by what the circle is defined to be.
func (c *circle) shares() []float64 {
	shares := make([]float64, len(c.candidates))
	for i, owner := range c.owners {
		switch {
		case c.points == nil:
			shares[owner] += 1 / float64(len(c.owners))
		case i == 0: // and what is behind the last point
			shares[owner] += float64(c.points[0]+(math.MaxUint64-c.points[len(c.points)-1])) / math.MaxUint64
		default:
			shares[owner] += float64(c.points[i]-c.points[i-1]) / math.MaxUint64
		}
	}
	return shares
}

func anyone(int) bool { return true }

// TestCirclesDistribute wants keys to fall as the slots say, and the slots to be as even as the algorithm promises.
func TestCirclesDistribute(t *testing.T) {
	for _, tt := range []struct {
		balance snapshot.Balance
		uneven  float64 // how far a share may be from the mean, of the mean
	}{
		{snapshot.Balance_BALANCE_RING_HASH, 4 / math.Sqrt(ringPoints)}, // four standard deviations
		{snapshot.Balance_BALANCE_MAGLEV, 0.02},                         // figure 12 of the paper
	} {
		for _, count := range []int{1, 2, 7, 100, 600} {
			c := newCircle(kindOf(tt.balance), candidatesOf(count))
			shares := c.shares()
			for i, share := range shares {
				if off := math.Abs(share*float64(count) - 1); off > tt.uneven {
					t.Errorf("%v of %d: the share of %d is %.3f of the mean", tt.balance, count, i, share*float64(count))
				}
			}
			const keys = 200_000
			counts, expected := map[string]int{}, map[string]float64{}
			chance := rand.New(rand.NewPCG(20261125, uint64(count)))
			for range keys {
				counts[fmt.Sprint(c.find(hashed(0, fmt.Sprintf("user-%d", chance.Uint64())), anyone))]++
			}
			for i, share := range shares {
				expected[fmt.Sprint(i)] = share * keys
			}
			freedom := float64(count - 1) // the statistic is within four standard deviations of its mean
			if x := chiSquare(counts, expected); x > freedom+4*math.Sqrt(2*freedom)+1 {
				t.Errorf("%v of %d: chi-square %.1f at %.0f degrees", tt.balance, count, x, freedom)
			}
		}
	}
}

// TestOneThatGoesMovesItsOwn wants the hashes of an instance that goes to move, and next to no others.
func TestOneThatGoesMovesItsOwn(t *testing.T) {
	for _, tt := range []struct {
		balance snapshot.Balance
		others  float64 // of all hashes may move although their instance stayed
	}{
		{snapshot.Balance_BALANCE_RING_HASH, 0},
		{snapshot.Balance_BALANCE_MAGLEV, 0.02},
	} {
		for _, count := range []int{2, 10, 100, 600} {
			before := candidatesOf(count)
			gone := count / 2
			after := slices.Delete(slices.Clone(before), gone, gone+1)
			was, is := newCircle(kindOf(tt.balance), before), newCircle(kindOf(tt.balance), after)
			const keys = 50_000
			own, others, spread := 0, 0, map[uint64]int{}
			chance := rand.NewPCG(20261125, uint64(count))
			for range keys {
				h := chance.Uint64()
				a, b := before[was.find(h, anyone)], after[is.find(h, anyone)]
				switch {
				case a == before[gone]:
					own++
					spread[b.id]++
				case a != b:
					others++
				}
			}
			if share := float64(others) / keys; share > tt.others {
				t.Errorf("%v: of %d one went: %.4f of the hashes of others moved", tt.balance, count, share)
			}
			if mean := keys / float64(count); float64(own) > 1.5*mean {
				t.Errorf("%v: %d hashes were those of one of %d", tt.balance, own, count)
			}
			if count >= 100 && len(spread) < 20 {
				t.Errorf("%v: the hashes of one of %d fell on %d", tt.balance, count, len(spread))
			}
			// Ill for a while is another thing than gone: nothing but its own moves.
			for range 2000 {
				h := chance.Uint64()
				a, b := was.find(h, anyone), was.find(h, func(i int) bool { return i != gone })
				if a != b && a != gone || b == gone {
					t.Fatalf("%v: a hash of %d went to %d while %d was ill", tt.balance, a, b, gone)
				}
			}
		}
	}
}

func TestCircleFollowsWeights(t *testing.T) {
	for _, balance := range hashing {
		candidates := candidatesOf(50)
		total := 0.0
		for i := range candidates {
			candidates[i].weight = uint32(1 + i%5)
			total += float64(candidates[i].weight)
		}
		for i, share := range newCircle(kindOf(balance), candidates).shares() {
			want := float64(candidates[i].weight) / total
			if ratio := share / want; ratio < 0.5 || ratio > 1.6 || balance == snapshot.Balance_BALANCE_MAGLEV && math.Abs(ratio-1) > 0.02 {
				t.Errorf("%v: weight %d has %.3f of its share", balance, candidates[i].weight, ratio)
			}
		}
	}
}

// TestCirclesAreBounded wants weights and numbers that nobody means to cost no more than those that somebody does.
func TestCirclesAreBounded(t *testing.T) {
	few := candidatesOf(2)
	few[0].weight = math.MaxUint32
	many := candidatesOf(70_000)
	for _, balance := range hashing {
		for _, candidates := range [][]candidate{few, many} {
			c := newCircle(kindOf(balance), candidates)
			if len(c.owners) > mostRingPoints+mostCandidates || len(c.candidates) > mostCandidates {
				t.Errorf("%v of %d: %d slots", balance, len(candidates), len(c.owners))
			}
			if i := c.find(math.MaxUint64, anyone); i < 0 {
				t.Errorf("%v of %d: nobody has the last hash", balance, len(candidates))
			}
		}
	}
	if c := newCircle(maglevOf, nil); c.find(1, anyone) != -1 {
		t.Error("an empty circle has an instance")
	}
}

// TestFindsTheOnlyOneLeft wants a lookup to end soon, and rightly, where next to none can be taken.
func TestFindsTheOnlyOneLeft(t *testing.T) {
	for _, balance := range hashing {
		c := newCircle(kindOf(balance), candidatesOf(1000))
		asked := 0
		if got := c.find(12345, func(i int) bool { asked++; return i == 321 }); got != 321 || asked > 1000+mostSteps {
			t.Errorf("%v: found %d after %d steps", balance, got, asked)
		}
		if got := c.find(12345, func(int) bool { return false }); got != -1 {
			t.Errorf("%v: found %d of none", balance, got)
		}
	}
}

// TestHashesStayTheSame holds what nodes of different versions must agree on.
func TestHashesStayTheSame(t *testing.T) {
	for _, tt := range []struct {
		of   string
		want uint64
	}{{"", 0x4e6ae996bbe44404}, {"a", 0x979a567731eb4c87}, {"user-42", 0x578d24aceafbf5e1}, {"12345678", 0x42e9abe1101072c0}, {"a somewhat longer key of a user", 0x9dbd4f9fe95332ac}} {
		if got := hashed(0, tt.of); got != tt.want {
			t.Errorf("%q: %#x, want %#x", tt.of, got, tt.want)
		}
	}
	for _, tt := range []struct {
		balance snapshot.Balance
		want    []int
	}{{snapshot.Balance_BALANCE_RING_HASH, []int{8, 7, 7, 3, 8, 6, 3, 7, 4, 9, 2, 4}}, {snapshot.Balance_BALANCE_MAGLEV, []int{8, 3, 3, 6, 8, 6, 4, 8, 1, 6, 5, 3}}} {
		c := newCircle(kindOf(tt.balance), candidatesOf(10))
		var got []int
		for i := range 12 {
			got = append(got, c.find(hashed(0, fmt.Sprint(i)), anyone))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v: %v, want %v", tt.balance, got, tt.want)
		}
	}
}

func TestHashedTellsApart(t *testing.T) {
	seen := map[uint64]string{}
	for _, s := range []string{"", "a", "b", "ab", "ba", "a\x00", "a\x00\x00", "12345678", "12345678\x00", "1234567812345678", "\x00\x00\x00\x00\x00\x00\x00\x00"} {
		h := hashed(0, s)
		if before, taken := seen[h]; taken {
			t.Errorf("%q and %q have one hash", before, s)
		}
		seen[h] = s
	}
	if hashed(hashed(0, "ab"), "c") == hashed(hashed(0, "a"), "bc") {
		t.Error("where a string ends does not count")
	}
}

func BenchmarkCircle(b *testing.B) {
	for _, balance := range hashing {
		for _, count := range []int{10, 1000} {
			b.Run(fmt.Sprintf("%v/make/%d", balance, count), func(b *testing.B) {
				candidates := candidatesOf(count)
				for b.Loop() {
					newCircle(kindOf(balance), candidates)
				}
			})
			b.Run(fmt.Sprintf("%v/find/%d", balance, count), func(b *testing.B) {
				c := newCircle(kindOf(balance), candidatesOf(count))
				chance := rand.NewPCG(1, 2)
				b.ReportAllocs()
				for b.Loop() {
					c.find(chance.Uint64(), anyone)
				}
			})
		}
	}
}
