package routing

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// drawing are the algorithms whose shares are by weight where nothing else tells the instances apart.
var drawing = []snapshot.Balance{
	snapshot.Balance_BALANCE_LEAST_REQUEST, snapshot.Balance_BALANCE_ROUND_ROBIN, snapshot.Balance_BALANCE_RANDOM, snapshot.Balance_BALANCE_PEAK_EWMA,
}

// weighted are endpoints of these weights; 0 is none that is said.
func weighted(weights ...uint32) *snapshot.Endpoints {
	var names []string
	for i := range weights {
		names = append(names, fmt.Sprint("i", i))
	}
	body := instances(names...)
	for i, w := range weights {
		body.Endpoints[i].Weight = w
	}
	return body
}

func TestInstancesHaveTheirWeight(t *testing.T) {
	const n = 60_000
	for _, balance := range drawing {
		for _, weights := range [][]uint32{{50, 0, 200, 100, 150}, {1, 1000}, {300, 300, 300}, {7, 13, 29, 31}} {
			table := balancedBy(t, balance, weighted(weights...))
			counts := picked(table, callOf(rand.NewPCG(20261125, 3)), n)
			total, expected := 0.0, map[string]float64{}
			for _, w := range weights {
				total += float64(max(w, 100*(1-min(w, 1))))
			}
			for i, w := range weights {
				expected[fmt.Sprint("i", i)] = n * float64(max(w, 100*(1-min(w, 1)))) / total
			}
			limit := []float64{0, 10.9, 13.9, 16.3, 18.5}[len(weights)-1] // p = 0.001
			if x := chiSquare(counts, expected); x > limit {
				t.Errorf("%v of %v: chi-square %.1f: %v, want %v", balance, weights, x, counts, expected)
			}
		}
	}
}

// TestRoundRobinIsEven wants turns by weight to be dealt evenly, and not only on average.
func TestRoundRobinIsEven(t *testing.T) {
	table := balancedBy(t, snapshot.Balance_BALANCE_ROUND_ROBIN, weighted(50, 100, 100, 50))
	call := callOf(random(t))
	for range 20 {
		got := picked(table, call, 60)
		for id, want := range map[string]int{"i0": 10, "i1": 20, "i2": 20, "i3": 10} {
			if got[id] < want-2 || got[id] > want+2 {
				t.Fatalf("of 60 turns: %v", got)
			}
		}
	}
	// One that is ten times as heavy as nine others has every other turn, and not nine in a row and then none for nine.
	table = balancedBy(t, snapshot.Balance_BALANCE_ROUND_ROBIN, weighted(1000, 100, 100, 100, 100, 100, 100, 100, 100, 100))
	run, last := 0, ""
	var d Decision
	for range 400 {
		table.Pick(call, get("/"), &d)
		heavy := fmt.Sprint(d.Instance.weight)
		if run++; heavy != last {
			run, last = 1, heavy
		}
		if run > 3 {
			t.Fatalf("%d turns in a row are of instances of weight %s", run, heavy)
		}
	}
}

// TestLeastRequestFillsByWeight wants instances that answer nothing to be given exchanges in proportion to their weights.
func TestLeastRequestFillsByWeight(t *testing.T) {
	table := balancedBy(t, snapshot.Balance_BALANCE_LEAST_REQUEST, weighted(50, 100, 200, 400))
	call := callOf(rand.NewPCG(20261125, 4))
	const n = 7500
	for range n {
		var d Decision
		table.Pick(call, get("/"), &d) // and is never done
	}
	for i, inst := range table.pools[orders].set.Load().instances {
		want := float64(n) * float64(inst.weight) / 750
		if got := float64(inst.InFlight()); math.Abs(got-want) > 0.03*want {
			t.Errorf("instance %d of weight %d has %.0f exchanges, want %.0f", i, inst.weight, got, want)
		}
	}
}

func TestWeightsAreBounded(t *testing.T) {
	table := balancedBy(t, snapshot.Balance_BALANCE_RANDOM, weighted(math.MaxUint32, 1000))
	if got := table.pools[orders].set.Load().instances[0].weight; got != mostWeight {
		t.Errorf("weight %d", got)
	}
}

// TestHashesFollowWeights wants an instance of twice the weight to have twice the keys.
func TestHashesFollowWeights(t *testing.T) {
	table := userTable(t, snapshot.Balance_BALANCE_MAGLEV, "host", weighted(100, 200, 100))
	counts := map[string]int{}
	for i := range 8000 {
		counts[takenBy(t, table, fmt.Sprint("user-", i)).ID]++
	}
	if x := chiSquare(counts, map[string]float64{"i0": 2000, "i1": 4000, "i2": 2000}); x > 13.8+8 { // p = 0.001 at 2 degrees, and the slots' own unevenness
		t.Errorf("chi-square %.1f of %v", x, counts)
	}
}

// slowly has a fourth instance come to three, whose backend gives it a minute.
func slowly(t *testing.T, balance snapshot.Balance, before, after *snapshot.Endpoints) *Table {
	b := to("orders", 1)
	b.Balance, b.SlowStartMs = balance, 60_000
	table := tableOf(t, before, &snapshot.Rule{Backends: []*snapshot.Backend{b}})
	picked(table, callOf(random(t)), 10)
	apply(t, table, epSubject("orders", 0), 2, after)
	return table
}

func TestNewInstancesStartSlowly(t *testing.T) {
	ill := instances("a", "b", "c", "d")
	ill.Endpoints[3].Unhealthy = true
	for _, balance := range drawing {
		for what, before := range map[string]*snapshot.Endpoints{"that comes": instances("a", "b", "c"), "that is well again": ill} {
			table := slowly(t, balance, before, instances("a", "b", "c", "d"))
			call := callOf(rand.NewPCG(20261125, 5))
			for _, tt := range []struct {
				after time.Duration
				share float64 // of its weight
			}{{0, 0.1}, {3 * time.Second, 0.1}, {15 * time.Second, 0.25}, {30 * time.Second, 0.5}, {59 * time.Second, 0.983}, {time.Minute, 1}, {time.Hour, 1}} {
				call.Now = start.Add(tt.after)
				const n = 30_000
				counts := picked(table, call, n)
				others := n / (3 + tt.share)
				expected := map[string]float64{"a": others, "b": others, "c": others, "d": others * tt.share}
				if x := chiSquare(counts, expected); x > 16.3 { // p = 0.001 at 3 degrees
					t.Errorf("%v, one %s, after %v: chi-square %.1f: %v, want %v", balance, what, tt.after, x, counts, expected)
				}
			}
		}
	}
}

// TestWhoWasThereStartsAtOnce wants a node that starts, and instances that stay, to take no part in slow starts.
func TestWhoWasThereStartsAtOnce(t *testing.T) {
	table := slowly(t, snapshot.Balance_BALANCE_RANDOM, instances("a", "b", "c", "d"), instances("a", "b", "c", "d"))
	got := picked(table, callOf(rand.NewPCG(20261125, 6)), 8000)
	if x := chiSquare(got, map[string]float64{"a": 2000, "b": 2000, "c": 2000, "d": 2000}); x > 16.3 {
		t.Errorf("chi-square %.1f of %v", x, got)
	}
	// All new are as if none were.
	table = slowly(t, snapshot.Balance_BALANCE_RANDOM, instances("x"), instances("a", "b", "c", "d"))
	got = picked(table, callOf(rand.NewPCG(20261125, 6)), 8000)
	if x := chiSquare(got, map[string]float64{"a": 2000, "b": 2000, "c": 2000, "d": 2000}); x > 16.3 {
		t.Errorf("all new: chi-square %.1f of %v", x, got)
	}
}

func TestWeightedPicksAllocateNothing(t *testing.T) {
	for _, balance := range drawing {
		table := slowly(t, balance, weighted(50, 100, 200), weighted(50, 100, 200, 400))
		call := callOf(rand.NewPCG(1, 2))
		var d Decision
		if n := testing.AllocsPerRun(100, func() { table.Pick(call, get("/"), &d); table.PickAgain(call, &d); d.Done() }); n > 2 { // get's own
			t.Errorf("%v: %v allocations", balance, n)
		}
	}
}

func BenchmarkPickByWeight(b *testing.B) {
	weights := make([]uint32, 64)
	for i := range weights {
		weights[i] = uint32(1 + 31*i%1000)
	}
	for _, balance := range drawing {
		b.Run(balance.String(), func(b *testing.B) {
			backend := to("orders", 1)
			backend.Balance, backend.SlowStartMs = balance, 60_000
			table := tableOf(b, weighted(weights[1:]...), &snapshot.Rule{Backends: []*snapshot.Backend{backend}})
			apply(b, table, epSubject("orders", 0), 2, weighted(weights...))
			call, req := callOf(rand.NewPCG(1, 2)), get("/")
			var d Decision
			b.ReportAllocs()
			for b.Loop() {
				table.Pick(call, req, &d)
				d.Done()
			}
		})
	}
}
