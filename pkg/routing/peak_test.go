package routing

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func TestPeakRisesAtOnceAndFallsSlowly(t *testing.T) {
	var p peak
	now := start.UnixNano()
	check := func(what string, inFlight int64, want time.Duration) {
		t.Helper()
		if got := p.cost(inFlight, now); math.Abs(got-float64(want)) > 0.01*float64(want)+1 {
			t.Errorf("%s: %v, want %v", what, time.Duration(got), want)
		}
	}
	check("unknown and idle", 0, 0)
	check("unknown with a request", 1, peakPenalty)
	p.observe(10*time.Millisecond, now)
	check("the first answer", 0, 10*time.Millisecond)
	check("with three in flight", 3, 40*time.Millisecond)
	p.observe(100*time.Millisecond, now)
	check("a peak", 0, 100*time.Millisecond)
	p.observe(10*time.Millisecond, now)
	check("an answer of the same tick", 0, 100*time.Millisecond)
	now += int64(peakDecay)
	check("after the decay", 0, 100*time.Millisecond*1000/2718)
	p.observe(10*time.Millisecond, now)
	check("an answer after it", 0, time.Duration(100e6*math.Exp(-1)+10e6*(1-math.Exp(-1))))
	p.observe(5*time.Millisecond, now-int64(time.Second))
	p.observe(0, now)
	now += 100 * int64(peakDecay)
	check("long ago", 1000, 0)
}

// TestPeakNeverPicksTheCostlierOfItsTwo is what the algorithm is defined to do.
func TestPeakNeverPicksTheCostlierOfItsTwo(t *testing.T) {
	table := tableOf(t, instances("a", "b", "c", "d", "e", "f"), &snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}})
	group := table.pools[orders].set.Load().rest
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 1))
	s := selection{tier: &group.flat, now: start.UnixNano(), at: start.UnixNano()}
	pairs := map[[2]int]int{}
	for i := range 15_000 {
		for _, m := range group.all {
			m.instance.load.inFlight.Store(chance.Int64N(4))
			m.instance.load.peak.word.Store(0)
			m.instance.load.peak.observe(time.Duration(chance.Int64N(1000))*time.Millisecond, s.at)
		}
		luck := rand.NewPCG(seed, uint64(i))
		first := s.sample(luck, -1)
		second := s.sample(luck, first)
		taken := s.cheaper(rand.NewPCG(seed, uint64(i)))
		if first == second || taken != first && taken != second {
			t.Fatalf("drew %d and %d, took %d", first, second, taken)
		}
		if s.cost(taken) > s.cost(first+second-taken) {
			t.Fatal("took the costlier of two")
		}
		pairs[[2]int{first, second}]++
	}
	if len(pairs) != 30 {
		t.Errorf("drew %d pairs of 30", len(pairs))
	}
}

// An arrivals are the answers on their way in a simulation, the earliest first.
type arrivals []arrival

type arrival struct {
	at     time.Time
	d      *Decision
	failed bool
}

func (a arrivals) Len() int           { return len(a) }
func (a arrivals) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a arrivals) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *arrivals) Push(x any)        { *a = append(*a, x.(arrival)) }
func (a *arrivals) Pop() any          { last := (*a)[len(*a)-1]; *a = (*a)[:len(*a)-1]; return last }

// simulateAnswers sends 500 requests a second for a time, at moments drawn from a seed, to instances whose answers take what
// serves says; and returns how often each was chosen, and how long the answers took, ascending.
func simulateAnswers(table *Table, seed uint64, from time.Time, lasting time.Duration, serves func(id string, chance *rand.Rand) (time.Duration, bool)) (map[string]int, []time.Duration) {
	chance := rand.New(rand.NewPCG(seed, 7))
	call := callOf(rand.NewPCG(seed, 8))
	counts, all, running := map[string]int{}, []time.Duration{}, &arrivals{}
	ends := from.Add(lasting)
	for now := from; now.Before(ends); now = now.Add(time.Duration(chance.ExpFloat64() * float64(2*time.Millisecond))) {
		for running.Len() > 0 && !(*running)[0].at.After(now) {
			a := heap.Pop(running).(arrival)
			a.d.Answered(a.failed, a.at)
			a.d.Done()
		}
		d := &Decision{}
		call.Now = now
		table.Pick(call, get("/"), d)
		counts[d.Instance.ID]++
		takes, failed := serves(d.Instance.ID, chance)
		all = append(all, takes)
		heap.Push(running, arrival{now.Add(takes), d, failed})
	}
	for running.Len() > 0 {
		a := heap.Pop(running).(arrival)
		a.d.Answered(a.failed, a.at)
		a.d.Done()
	}
	slices.Sort(all)
	return counts, all
}

func balancedBy(t testing.TB, balance snapshot.Balance, endpoints *snapshot.Endpoints) *Table {
	b := to("orders", 1)
	b.Balance = balance
	return tableOf(t, endpoints, &snapshot.Rule{Backends: []*snapshot.Backend{b}})
}

func TestPeakKeepsAwayFromTheSlow(t *testing.T) {
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprint("i", i))
	}
	slow := func(id string, chance *rand.Rand) (time.Duration, bool) {
		takes := time.Duration(float64(10*time.Millisecond) * (0.5 + chance.Float64()))
		if id == "i3" {
			takes *= 20
		}
		return takes, false
	}
	const seed = 20261125
	table := balancedBy(t, snapshot.Balance_BALANCE_PEAK_EWMA, instances(names...))
	counts, took := simulateAnswers(table, seed, start, time.Minute, slow)
	least, byLeast := simulateAnswers(balancedBy(t, snapshot.Balance_BALANCE_LEAST_REQUEST, instances(names...)), seed, start, time.Minute, slow)
	p99, leastP99 := took[len(took)*99/100], byLeast[len(byLeast)*99/100]
	t.Logf("of %d: %d to the slow one, p99 %v; by least request %d, %v", len(took), counts["i3"], p99, least["i3"], leastP99)
	if share := float64(counts["i3"]) / float64(len(took)); share > 0.005 {
		t.Errorf("the slow instance has %.4f of the requests, one in ten by number", share)
	}
	if p99 > leastP99/5 {
		t.Errorf("the 99th percentile is %v, with least request %v", p99, leastP99)
	}
	for _, name := range names { // the others share what is left
		if share := float64(counts[name]) / float64(len(took)); name != "i3" && (share < 0.09 || share > 0.14) {
			t.Errorf("%s has %.3f of the requests", name, share)
		}
	}
	// It recovers, and is found out within a few times the decay.
	well := func(_ string, chance *rand.Rand) (time.Duration, bool) { return slow("", chance) }
	simulateAnswers(table, seed, start.Add(time.Minute), 6*peakDecay, well)
	counts, took = simulateAnswers(table, seed, start.Add(time.Minute+6*peakDecay), time.Minute, well)
	if share := float64(counts["i3"]) / float64(len(took)); share < 0.07 || share > 0.13 {
		t.Errorf("the instance that is well again has %.3f of the requests", share)
	}
}

// TestPeakIsNotDrawnToWhoFailsAtOnce is what least request is: who fails at once has nothing in flight.
func TestPeakIsNotDrawnToWhoFailsAtOnce(t *testing.T) {
	table := balancedBy(t, snapshot.Balance_BALANCE_PEAK_EWMA, instances("a", "b", "c", "d", "e"))
	counts, took := simulateAnswers(table, 20261125, start, time.Minute, func(id string, _ *rand.Rand) (time.Duration, bool) {
		if id == "c" {
			return time.Millisecond, true
		}
		return 20 * time.Millisecond, false
	})
	if share := float64(counts["c"]) / float64(len(took)); share > 0.01 {
		t.Errorf("the instance that fails at once has %.3f of the requests", share)
	}
}

func TestPeakIsKeptOfTheBackendsThatAsk(t *testing.T) {
	table := balancedBy(t, snapshot.Balance_BALANCE_LEAST_REQUEST, instances("a"))
	var d Decision
	table.Pick(callOf(random(t)), get("/"), &d)
	d.Answered(false, start.Add(time.Second))
	if d.Instance.load.peak.word.Load() != 0 {
		t.Error("an answer's time was kept that nobody asks for")
	}
	table = balancedBy(t, snapshot.Balance_BALANCE_PEAK_EWMA, instances("a"))
	table.Pick(callOf(random(t)), get("/"), &d)
	d.Answered(false, start.Add(time.Second))
	d.Answered(true, start.Add(time.Hour))
	if got := time.Duration(d.Instance.load.peak.cost(0, start.Add(time.Second).UnixNano())); got != time.Second {
		t.Errorf("the first answer of the attempt took %v", got)
	}
}

func BenchmarkPickByPeak(b *testing.B) {
	table := balancedBy(b, snapshot.Balance_BALANCE_PEAK_EWMA, instances("a", "b", "c", "d", "e", "f", "g", "h"))
	call, req := callOf(rand.NewPCG(1, 2)), get("/")
	var d Decision
	b.ReportAllocs()
	for b.Loop() {
		call.Now = call.Now.Add(time.Millisecond)
		table.Pick(call, req, &d)
		d.Answered(false, call.Now.Add(time.Millisecond))
		d.Done()
	}
}
