package routing

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// chiSquare returns the statistic of counts against expected counts.
func chiSquare(counts map[string]int, expected map[string]float64) float64 {
	sum := 0.0
	for name, e := range expected {
		d := float64(counts[name]) - e
		sum += d * d / e
	}
	return sum
}

func TestWeightsDistribute(t *testing.T) {
	table := New()
	weights := map[string]uint32{"a": 1, "b": 9, "c": 90, "d": 0}
	var backends []*snapshot.Backend
	for _, name := range []string{"a", "b", "c", "d"} {
		apply(t, table, epSubject(name, 0), 1, instances(name))
		backends = append(backends, to(name, weights[name]))
	}
	apply(t, table, outSubject("orders"), 1, outboundOf(&snapshot.Rule{Backends: backends}))
	const n = 50_000
	call := callOf(rand.NewPCG(20261123, 0)) // a fixed seed: the test decides once, and always the same
	counts := make(map[string]int)
	var d Decision
	for range n {
		table.Pick(call, get("/"), &d)
		counts[d.Service.Name]++
		d.Done()
	}
	if x := chiSquare(counts, map[string]float64{"a": n * .01, "b": n * .09, "c": n * .9}); x > 13.8 || counts["d"] != 0 { // p = 0.001 at 2 degrees
		t.Errorf("chi-square %.1f of %v", x, counts)
	}
}

func TestShareOfWhatDoesNotResolve(t *testing.T) {
	bad := to("nobody", 1)
	bad.Answer, bad.AnswerReason = 500, "there is no Service shop/nobody"
	table := tableOf(t, instances("a"), &snapshot.Rule{Origin: "r", Backends: []*snapshot.Backend{to("orders", 1), bad}})
	call, answers := callOf(random(t)), make(map[int]int)
	var d Decision
	for range 2000 {
		table.Pick(call, get("/"), &d)
		answers[d.Status]++
		if d.Status == 500 && (d.Reason != exchange.NoBackend || d.Detail != bad.AnswerReason || d.Instance != nil) {
			t.Fatalf("%+v", d)
		}
	}
	if answers[0] < 800 || answers[500] < 800 {
		t.Errorf("answers %v, want half and half", answers)
	}
}

func TestLeastRequestNeverPicksTheBusierOfItsTwo(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f"}
	table := tableOf(t, instances(names...), &snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}})
	group := table.pools[orders].set.Load().rest
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 1))
	for i := range 5000 {
		for _, m := range group.all {
			m.instance.load.inFlight.Store(chance.Int64N(4))
		}
		// The same luck twice: which two it draws, and which it takes.
		s := selection{tier: &group.flat, now: start.UnixNano()}
		luck := rand.NewPCG(seed, uint64(i))
		first := s.sample(luck, -1)
		second := s.sample(luck, first)
		taken := s.lessBusy(rand.NewPCG(seed, uint64(i)))
		if first == second || taken != first && taken != second {
			t.Fatalf("drew %d and %d, took %d", first, second, taken)
		}
		other := first + second - taken
		if s.busy(taken) > s.busy(other) {
			t.Fatalf("took the busier of two")
		}
	}
}

func TestLeastRequestSpreadsEvenlyWhereAllAreIdle(t *testing.T) {
	table := tableOf(t, instances("a", "b", "c", "d"), &snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}})
	counts := make(map[string]int)
	call := callOf(rand.NewPCG(7, 7))
	var d Decision
	for range 40_000 {
		table.Pick(call, get("/"), &d)
		counts[d.Instance.ID]++
		d.Done()
	}
	if x := chiSquare(counts, map[string]float64{"a": 10_000, "b": 10_000, "c": 10_000, "d": 10_000}); x > 16.3 { // p = 0.001 at 3 degrees
		t.Errorf("chi-square %.1f of %v", x, counts)
	}
}

func TestRoundRobin(t *testing.T) {
	b := to("orders", 1)
	b.Balance = snapshot.Balance_BALANCE_ROUND_ROBIN
	table := tableOf(t, instances("a", "b", "c"), &snapshot.Rule{Backends: []*snapshot.Backend{b}})
	call, turns := callOf(random(t)), ""
	var d Decision
	for range 7 {
		table.Pick(call, get("/"), &d)
		turns += d.Instance.ID
	}
	if !strings.Contains("abcabcabcabc", turns) {
		t.Errorf("turns %s", turns)
	}
	table.MarkUnreachable(table.pools[orders].set.Load().instances[1], start)
	turns = ""
	for range 6 {
		table.Pick(call, get("/"), &d)
		turns += d.Instance.ID
	}
	if strings.Contains(turns, "b") {
		t.Errorf("turns %s with b unreachable", turns)
	}
}

// TestRoundRobinBeginsElsewhereOnEachNode wants the first request of many nodes, which start together, to spread.
func TestRoundRobinBeginsElsewhereOnEachNode(t *testing.T) {
	b := to("orders", 1)
	b.Balance = snapshot.Balance_BALANCE_ROUND_ROBIN
	const nodes = 4000
	got := map[string]int{}
	for i := range nodes {
		table := New()
		table.Node = fmt.Sprint("host-", i)
		apply(t, table, epSubject("orders", 0), 1, instances("a", "b", "c", "d"))
		apply(t, table, outSubject("orders"), 1, outboundOf(&snapshot.Rule{Backends: []*snapshot.Backend{b}}))
		for name, n := range picked(table, callOf(rand.NewPCG(1, 1)), 1) {
			got[name] += n
		}
	}
	const even = nodes / 4.
	if x := chiSquare(got, map[string]float64{"a": even, "b": even, "c": even, "d": even}); x > 16.3 { // p = 0.001 at 3 degrees
		t.Errorf("chi-square %.1f of the first picks %v", x, got)
	}
}

func TestRoundRobinGivesNobodyTheTurnsOfTheSkipped(t *testing.T) {
	b := to("orders", 1)
	b.Balance = snapshot.Balance_BALANCE_ROUND_ROBIN
	table := tableOf(t, instances("a", "b", "c", "d"), &snapshot.Rule{Backends: []*snapshot.Backend{b}})
	table.MarkUnreachable(table.pools[orders].set.Load().instances[1], start)
	if got := picked(table, callOf(random(t)), 300); got["a"] != 100 || got["b"] != 0 || got["c"] != 100 || got["d"] != 100 {
		t.Errorf("with b unreachable: %v, not 100 of each other", got)
	}
}

func TestRandomSpreadsEvenlyWhateverTheLoad(t *testing.T) {
	b := to("orders", 1)
	b.Balance = snapshot.Balance_BALANCE_RANDOM
	table := tableOf(t, instances("a", "b", "c", "d", "e"), &snapshot.Rule{Backends: []*snapshot.Backend{b}})
	all := table.pools[orders].set.Load().instances
	all[0].load.inFlight.Store(1000)
	table.MarkUnreachable(all[4], start)
	got := picked(table, callOf(rand.NewPCG(1, 2)), 40_000)
	if x := chiSquare(got, map[string]float64{"a": 10_000, "b": 10_000, "c": 10_000, "d": 10_000}); x > 16.3 || got["e"] != 0 { // p = 0.001 at 3 degrees
		t.Errorf("chi-square %.1f of %v", x, got)
	}
}

// picked returns how often each instance was chosen.
func picked(table *Table, call *Call, n int) map[string]int {
	counts := make(map[string]int)
	var d Decision
	for range n {
		table.Pick(call, get("/"), &d)
		if d.Instance != nil {
			counts[d.Instance.ID]++
		}
		d.Done()
	}
	return counts
}

func TestWhoIsSkipped(t *testing.T) {
	rule := &snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}}
	table := tableOf(t, instances("a", "b", "-c"), rule)
	call := callOf(random(t))
	if got := picked(table, call, 300); got["a"] == 0 || got["b"] == 0 || got["-c"] != 0 {
		t.Errorf("an unhealthy instance is not skipped: %v", got)
	}
	a, b := table.pools[orders].set.Load().instances[0], table.pools[orders].set.Load().instances[1]
	table.MarkUnreachable(a, start)
	if got := picked(table, call, 300); got["a"] != 0 || got["b"] != 300 {
		t.Errorf("an unreachable instance is not skipped: %v", got)
	}
	table.MarkUnreachable(b, start)
	if got := picked(table, call, 300); got["a"] == 0 || got["b"] == 0 || got["-c"] != 0 {
		t.Errorf("where none can be reached those are tried: %v", got)
	}
	table.MarkReachable(b)
	call.Now = start.Add(UnreachableFor - 1)
	if got := picked(table, call, 300); got["a"] != 0 {
		t.Errorf("skipped for too short a time: %v", got)
	}
	call.Now = start.Add(UnreachableFor)
	if got := picked(table, call, 300); got["a"] == 0 {
		t.Errorf("skipped for too long: %v", got)
	}
	table = tableOf(t, instances("-a", "-b"), rule)
	if got := picked(table, callOf(random(t)), 300); got["-a"] == 0 || got["-b"] == 0 {
		t.Errorf("where none is healthy all are taken: %v", got)
	}
}

func TestPickAgainNeverTakesTheSameTwice(t *testing.T) {
	for count := 1; count <= 6; count++ {
		var names []string
		for i := range count {
			names = append(names, fmt.Sprint("i", i))
		}
		table := tableOf(t, instances(names...), &snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}})
		call, seen := callOf(random(t)), make(map[string]bool)
		var d Decision
		table.Pick(call, get("/"), &d)
		for ok := true; ok; ok = table.PickAgain(call, &d) {
			if seen[d.Instance.ID] {
				t.Fatalf("%s was tried before", d.Instance.ID)
			}
			seen[d.Instance.ID] = true
		}
		if len(seen) != min(count, maxTries) || d.Status != 503 || d.Reason != exchange.NoInstance {
			t.Errorf("of %d instances %d were tried; answered %d %s", count, len(seen), d.Status, d.Reason)
		}
		for _, i := range table.pools[orders].set.Load().instances {
			if i.InFlight() != 0 {
				t.Errorf("%s still counts an exchange that failed", i.ID)
			}
		}
	}
}

func TestLoadOutlivesSnapshots(t *testing.T) {
	table := tableOf(t, instances("a", "b"), &snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}})
	call := callOf(random(t))
	var d Decision
	table.Pick(call, get("/"), &d)
	busy := d.Instance
	table.MarkUnreachable(busy, start)
	apply(t, table, epSubject("orders", 0), 5, instances("a", "b", "c"))
	found := false
	for _, i := range table.pools[orders].set.Load().instances {
		if i.ID == busy.ID {
			found = i.InFlight() == 1 && i.skipped(start.Add(time.Second).UnixNano())
		}
	}
	if !found {
		t.Error("a new snapshot forgot what this node knew of an instance")
	}
	d.Done()
	d.Done()
	if busy.InFlight() != 0 {
		t.Errorf("%d in flight after Done", busy.InFlight())
	}
	apply(t, table, epSubject("orders", 0), 6, instances("c"))
	if len(table.loads) != 1 {
		t.Errorf("%d loads are kept for one instance", len(table.loads))
	}
}

func TestTargetPorts(t *testing.T) {
	body := instances("a", "b")
	body.Endpoints[0].Ports = []*snapshot.EndpointPort{{Number: 80, Target: 8080}}
	body.Endpoints[1].Ports = []*snapshot.EndpointPort{{Number: 81, Target: 81}}
	table := tableOf(t, body, &snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}})
	call := callOf(random(t))
	var d Decision
	for range 50 {
		table.Pick(call, get("/"), &d)
		if (d.Target != exchange.Target{Port: 8080, Instance: "a"}) || d.Port != 80 {
			t.Fatalf("target %+v of port %d", d.Target, d.Port)
		}
	}
}
