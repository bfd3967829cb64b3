package node

import "testing"

func TestProcessorsFollowTheLoad(t *testing.T) {
	for _, tt := range []struct {
		name string
		most int
		have int
		used []float64
		want []int
	}{
		{"busy: twice as many at once", 8, 1, []float64{0.8, 1.6, 3.3}, []int{2, 4, 8}},
		{"never more than Go would take", 3, 2, []float64{1.9, 3}, []int{3, 3}},
		{"half of the load fits: no change", 2, 2, repeat(0.7, 30), nil},
		{"quiet for a second: half as many", 4, 4, repeat(0.5, 20), append(same(4, 9), append(same(2, 10), 1)...)},
		{"quiet, but not for long", 2, 2, append(append(repeat(0.1, 9), 0.7), repeat(0.1, 9)...), nil},
		{"one is the least", 2, 1, repeat(0, 30), nil},
	} {
		p, have := processors{most: tt.most}, tt.have
		for i, used := range tt.used {
			want := tt.have
			if tt.want != nil {
				want = tt.want[i]
			}
			if have = p.next(have, used); have != want {
				t.Fatalf("%s: %d at look %d, want %d", tt.name, have, i+1, want)
			}
		}
	}
}

// A load that has just been given fewer processors does not get them back for the same use.
func TestProcessorsDoNotSwing(t *testing.T) {
	for most := 2; most <= 64; most++ {
		p, have, changes := processors{most: most}, most, 0
		const used = 0.55
		for range 1000 {
			next := p.next(have, used)
			if next != have {
				changes++
			}
			have = next
		}
		if changes > 7 || used > busyAbove*float64(have) {
			t.Errorf("of %d: %d changes, %d in the end", most, changes, have)
		}
	}
}

func repeat(used float64, times int) []float64 {
	all := make([]float64, times)
	for i := range all {
		all[i] = used
	}
	return all
}

func same(n, times int) []int {
	all := make([]int, times)
	for i := range all {
		all[i] = n
	}
	return all
}
