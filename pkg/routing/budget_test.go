package routing

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestBudgetBoundsRetries asks for three retries of every request and wants a fifth of them, in each window of the
// ring and at each pace.
func TestBudgetBoundsRetries(t *testing.T) {
	for _, tt := range []struct {
		name      string
		perSecond int
	}{{"fast", 1000}, {"where share and floor meet", 15}, {"slow", 2}} {
		t.Run(tt.name, func(t *testing.T) {
			b := new(budget)
			var requests, retries [60]int
			for second := range 60 {
				now := start.Add(time.Duration(second) * time.Second)
				for range tt.perSecond {
					b.request(now)
					requests[second]++
					for range 3 {
						if b.retry(now, defaultAllowance) {
							retries[second]++
						}
					}
				}
			}
			total := 0
			for from := range 60 - budgetSeconds + 1 {
				asked, again := 0, 0
				for i := from; i < from+budgetSeconds; i++ {
					asked, again = asked+requests[i], again+retries[i]
				}
				if again > max(asked/budgetShare, budgetFloor) {
					t.Fatalf("%d retries of %d requests in the ten seconds from %d on", again, asked, from)
				}
				total += again
			}
			if total == 0 {
				t.Error("nothing was retried")
			}
		})
	}
}

func TestBudgetIsThereAgain(t *testing.T) {
	b := new(budget)
	spend := func(now time.Time) (n int) {
		for b.retry(now, defaultAllowance) {
			n++
		}
		return n
	}
	for _, tt := range []struct {
		name  string
		after time.Duration
		want  int
	}{
		{"at first", 0, budgetFloor}, {"in the same second", 0, 0}, {"nine seconds later", 9 * time.Second, 0},
		{"ten seconds later", 10 * time.Second, budgetFloor}, {"fifteen more seconds later", 25 * time.Second, budgetFloor}, {"an hour later", time.Hour, budgetFloor},
		{"after the clock went back", time.Minute, budgetFloor},
	} {
		if got := spend(start.Add(tt.after)); got != tt.want {
			t.Errorf("%s: %d retries, want %d", tt.name, got, tt.want)
		}
	}
}

// TestBudgetHoldsForManyAtOnce wants no more to be allowed because many ask at one time.
func TestBudgetHoldsForManyAtOnce(t *testing.T) {
	b := new(budget)
	for range 1000 {
		b.request(start)
	}
	var allowed atomic.Int64
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			for range 1000 {
				if b.retry(start, defaultAllowance) {
					allowed.Add(1)
				}
			}
		})
	}
	group.Wait()
	if n := allowed.Load(); n > 200 || n < 1 {
		t.Errorf("%d retries of 1000 requests", n)
	}
}

func TestBudgetsAreOfPairs(t *testing.T) {
	table := New()
	apply(t, table, epSubject("orders", 0), 1, instances("a"))
	apply(t, table, outSubject("orders"), 1, outboundOf(&snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}}))
	var first, second Decision
	call := callOf(rand.NewPCG(1, 2))
	table.Pick(call, get("/"), &first)
	if first.AllowRetry(start) {
		t.Error("a request that was not counted may be sent again")
	}
	first.Count(call)
	other := *call
	other.Caller = exchange.ServiceName{Namespace: "shop", Name: "other"}
	table.Pick(&other, get("/"), &second)
	second.Count(&other)
	for first.AllowRetry(start) {
	}
	if !second.AllowRetry(start) {
		t.Error("one caller's retries are taken from another's budget")
	}
	apply(t, table, outSubject("orders"), 2, outboundOf(&snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}}))
	table.Pick(call, get("/"), &first)
	first.Count(call)
	if first.AllowRetry(start) {
		t.Error("a change of the rules gives a new budget")
	}
}

// TestExplainIsNoRequest wants what asks and sends nothing to leave the budget alone.
func TestExplainIsNoRequest(t *testing.T) {
	table := New()
	apply(t, table, epSubject("orders", 0), 1, instances("a"))
	apply(t, table, outSubject("orders"), 1, outboundOf(&snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}}))
	table.Explain(&Question{From: web, To: orders, Port: 80, Method: "GET", Path: "/"}, start)
	if table.pools[orders].budgets.Load() != nil {
		t.Error("a question made a budget")
	}
}

// TestPickRetryTakesTheSameAgain wants others first, and then those that were tried.
func TestPickRetryTakesTheSameAgain(t *testing.T) {
	table := New()
	apply(t, table, epSubject("orders", 0), 1, instances("a", "b"))
	rule := &snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}, Retry: &snapshot.Retry{Codes: []uint32{503}, Attempts: 9}}
	apply(t, table, outSubject("orders"), 1, outboundOf(rule))
	call := callOf(random(t))
	var d Decision
	table.Pick(call, get("/"), &d)
	before := d.Instance
	for i := range 9 {
		if !table.PickRetry(call, &d) {
			t.Fatalf("retry %d: %d %s", i, d.Status, d.Detail)
		}
		if i == 0 && d.Instance == before {
			t.Error("the instance that failed is asked again before another")
		}
	}
	d.Done()
	if a, b := before.InFlight(), d.Instance.InFlight(); a != 0 || b != 0 {
		t.Errorf("%d and %d are in flight of what has ended", a, b)
	}
}

func TestRetry(t *testing.T) {
	r, err := compileRetry(&snapshot.Retry{Codes: []uint32{400, 503, 599}, Attempts: 2, BackoffMs: 100})
	if err != nil {
		t.Fatal(err)
	}
	for status, want := range map[int]bool{200: false, 399: false, 400: true, 401: false, 503: true, 599: true, 600: false} {
		if got := r.Unwanted(status); got != want {
			t.Errorf("status %d is unwanted: %v", status, got)
		}
	}
	source := random(t)
	for number, base := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
		base *= time.Millisecond
		for range 1000 {
			if got := r.Backoff(number, source.Uint64()); got < base || got > base*3/2 {
				t.Fatalf("back-off %d is %s", number, got)
			}
		}
	}
	for _, bad := range []*snapshot.Retry{{Codes: []uint32{200}}, {Codes: []uint32{600}}, {Attempts: 1 << 31}} {
		if _, err := compileRetry(bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}

func TestBudgetAllocatesNothing(t *testing.T) {
	p := new(pool)
	p.budget(web)
	if n := testing.AllocsPerRun(1000, func() {
		b := p.budget(web)
		b.request(start)
		b.retry(start, defaultAllowance)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBudget(b *testing.B) {
	p := new(pool)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p.budget(web).request(start)
		}
	})
}
