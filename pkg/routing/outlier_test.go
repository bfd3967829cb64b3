package routing

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// ejecting is a policy that ejects after three errors, a minute at first.
func ejecting() *snapshot.Outliers {
	return &snapshot.Outliers{ConsecutiveErrors: 3, EjectionMs: 60_000, MaxEjectionMs: 300_000, MaxEjectedPercent: 50, PanicPercent: 50}
}

// judged is a table of orders whose backend has a policy.
func judged(t testing.TB, policy *snapshot.Resilience, names ...string) *Table {
	return tableOf(t, instances(names...), ruleOf(policy))
}

func ruleOf(policy *snapshot.Resilience) *snapshot.Rule {
	backend := to("orders", 1)
	backend.Resilience = policy
	return &snapshot.Rule{Origin: "r", Backends: []*snapshot.Backend{backend}}
}

// ask sends one request at a time and tells how it went; fails are the instances that fail.
func ask(table *Table, source rand.Source, now time.Time, fails ...string) string {
	call := callOf(source)
	call.Now = now
	var d Decision
	table.Pick(call, get("/"), &d)
	defer d.Done()
	if d.Instance == nil {
		return ""
	}
	d.Judge(slices.Contains(fails, d.Instance.ID), time.Millisecond, now)
	return d.Instance.ID
}

// asked is how many of n requests each instance gets.
func asked(table *Table, source rand.Source, now time.Time, n int, fails ...string) map[string]int {
	got := map[string]int{}
	for range n {
		got[ask(table, source, now, fails...)]++
	}
	return got
}

func TestOutlierIsEjectedAndComesBack(t *testing.T) {
	source := random(t)
	table := judged(t, &snapshot.Resilience{Outliers: ejecting()}, "a", "b", "c")
	now := start
	if got := asked(table, source, now, 300, "a"); got["a"] != 3 {
		t.Errorf("an instance that fails is asked %d times, want 3 (%v)", got["a"], got)
	}
	for i, lasts := range []time.Duration{time.Minute, 2 * time.Minute, 3 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute} {
		if got := asked(table, source, now.Add(lasts-1), 100); got["a"] != 0 {
			t.Errorf("ejection %d: asked %d times before %s", i+1, got["a"], lasts)
		}
		now = now.Add(lasts)
		if got := asked(table, source, now, 300, "a"); got["a"] != 3 {
			t.Errorf("ejection %d: asked %d times after %s, want 3", i+1, got["a"], lasts)
		}
	}
	// Whoever does well for long begins anew.
	now = now.Add(5*time.Minute + 10*time.Minute)
	asked(table, source, now, 300, "a")
	if got := asked(table, source, now.Add(time.Minute), 100); got["a"] == 0 {
		t.Error("after ten minutes without an ejection it is longer than the first")
	}
}

func TestOnlyErrorsInARowEject(t *testing.T) {
	source := random(t)
	table := judged(t, &snapshot.Resilience{Outliers: ejecting()}, "a")
	call := callOf(source)
	call.Now = start
	var d Decision
	for i := range 300 {
		table.Pick(call, get("/"), &d)
		d.Judge(i%3 != 0, time.Millisecond, start)
		d.Done()
	}
	if n := table.pools[orders].ejections.total.Load(); n != 0 {
		t.Errorf("two errors in a row of three ejected %d times", n)
	}
}

// TestNoMoreThanTheShareIsEjected has all instances fail.
func TestNoMoreThanTheShareIsEjected(t *testing.T) {
	for _, tt := range []struct {
		name    string
		share   uint32
		panic   uint32
		names   []string
		ejected int
	}{
		{"half of four", 50, 0, []string{"a", "b", "c", "d"}, 2},
		{"one always", 10, 0, []string{"a", "b", "c", "d"}, 1},
		{"all", 100, 0, []string{"a", "b", "c", "d"}, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			source := random(t)
			policy := ejecting()
			policy.MaxEjectedPercent, policy.PanicPercent = tt.share, tt.panic
			table := judged(t, &snapshot.Resilience{Outliers: policy}, tt.names...)
			asked(table, source, start, 1000, tt.names...)
			ejected := 0
			for _, i := range table.pools[orders].set.Load().instances {
				if i.standing.isEjected(start.UnixNano()) {
					ejected++
				}
			}
			if ejected != tt.ejected {
				t.Errorf("%d are ejected, want %d", ejected, tt.ejected)
			}
			// With none left, those that are ejected are asked rather than nobody.
			if got := asked(table, source, start, 100); got[""] != 0 {
				t.Errorf("%d requests found no instance", got[""])
			}
		})
	}
}

// TestEjectionsAreIgnoredInAPanic ejects three of five, of which one more is unhealthy, and wants the ejections to count
// only while at least half can be asked.
func TestEjectionsAreIgnoredInAPanic(t *testing.T) {
	source := random(t)
	policy := ejecting()
	policy.MaxEjectedPercent, policy.PanicPercent, policy.MaxEjectionMs = 100, 50, 60_000
	table := judged(t, &snapshot.Resilience{Outliers: policy}, "a", "b", "c", "d", "e")
	asked(table, source, start, 500, "a")
	asked(table, source, start.Add(10*time.Second), 500, "b")
	now := start.Add(20 * time.Second)
	if got := asked(table, source, now, 500); len(got) != 3 || got["a"]+got["b"] != 0 {
		t.Fatalf("with three of five left: %v", got)
	}
	asked(table, source, now, 500, "c")
	if got := asked(table, source, now, 500); len(got) != 5 {
		t.Errorf("with two of five left the ejections count still: %v", got)
	}
	if got := asked(table, source, start.Add(time.Minute), 500); len(got) != 3 || got["b"]+got["c"] != 0 {
		t.Errorf("with three of five left again they do not count: %v", got)
	}
	apply(t, table, epSubject("orders", 0), 2, instances("a", "b", "c", "d", "-e"))
	if got := asked(table, source, start.Add(time.Minute), 500); len(got) != 4 {
		t.Errorf("with an unhealthy one two of five are left, and the ejections count: %v", got)
	}
}

func TestEjectionOutlivesNewEndpoints(t *testing.T) {
	source := random(t)
	table := judged(t, &snapshot.Resilience{Outliers: ejecting()}, "a", "b", "c")
	asked(table, source, start, 300, "a")
	apply(t, table, epSubject("orders", 0), 2, instances("a", "b", "c", "d"))
	if got := asked(table, source, start, 300); got["a"] != 0 || got["d"] == 0 {
		t.Errorf("after an instance came: %v", got)
	}
	apply(t, table, outSubject("orders"), 9, outboundOf(ruleOf(nil)))
	if got := asked(table, source, start, 300); got["a"] == 0 {
		t.Errorf("without the policy: %v", got)
	}
}

func TestJudgingAllocatesNothing(t *testing.T) {
	source := rand.NewPCG(1, 2)
	table := judged(t, &snapshot.Resilience{Outliers: ejecting()}, "a", "b", "c")
	call := callOf(source)
	call.Now = start
	var d Decision
	request, i := get("/"), 0
	if n := testing.AllocsPerRun(300, func() {
		table.Pick(call, request, &d)
		d.Judge(i%2 == 0, time.Millisecond, start)
		d.Done()
		i++
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
