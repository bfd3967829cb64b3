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

func TestCircuitBreaker(t *testing.T) {
	table := judged(t, &snapshot.Resilience{Origin: "shop/p", CircuitBreaker: &snapshot.CircuitBreaker{MaxRequests: 2, MaxConnections: 1, MaxPending: 1}}, "a", "b")
	call := callOf(random(t))
	var one, two, three, tcp Decision
	table.Pick(call, get("/"), &one)
	table.Pick(call, get("/"), &two)
	if one.Status+two.Status != 0 {
		t.Fatalf("the first two are answered with %d, %d", one.Status, two.Status)
	}
	table.Pick(call, get("/"), &three)
	if three.Status != 503 || three.Reason != exchange.CircuitOpen || three.Detail != "ResiliencePolicy shop/p allows 2 requests at a time from this node" {
		t.Errorf("the third is answered with %d %s (%s)", three.Status, three.Reason, three.Detail)
	}
	table.Pick(call, nil, &tcp)
	if tcp.Status != 0 {
		t.Errorf("a connection counts as a request: %s", tcp.Detail)
	}
	if !one.Wait() || two.Wait() {
		t.Error("of two that wait not one is let in")
	}
	one.Waited()
	if !two.Wait() {
		t.Error("nobody waits, and one is too many")
	}
	two.Waited()
	one.Leave() // it waits for its second attempt
	if table.Pick(call, get("/"), &three); three.Status == 0 {
		t.Error("a request between two attempts does not count")
	}
	if !table.PickRetry(call, &one) {
		t.Errorf("its second attempt is answered with %d %s", one.Status, one.Reason)
	}
	one.Done()
	if table.Pick(call, get("/"), &three); three.Status != 0 {
		t.Errorf("after one has ended another is answered with %d %s", three.Status, three.Reason)
	}
	g := table.Guarded(start)
	if len(g) != 1 || g[0].Service != orders || g[0].Refused["requests"] != 2 || g[0].Refused["pending"] != 1 || g[0].Refused["connections"] != 0 {
		t.Errorf("guarded: %+v", g)
	}
}

// TestCircuitBreakerHoldsForManyAtOnce has many callers ask at random, with retries, refusals and instances that are gone, and
// wants never more under way than is allowed, and nothing when all is over.
func TestCircuitBreakerHoldsForManyAtOnce(t *testing.T) {
	const most = 7
	table := judged(t, &snapshot.Resilience{CircuitBreaker: &snapshot.CircuitBreaker{MaxRequests: most, MaxPending: 3}}, "a", "b")
	var running, waiting, worst, refused atomic.Int64
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var group sync.WaitGroup
	for worker := range 30 {
		group.Go(func() {
			source := rand.NewPCG(seed, uint64(worker))
			dice := rand.New(source)
			call := callOf(source)
			var d Decision
			for range 2000 {
				if table.Pick(call, get("/"), &d); d.Status != 0 {
					refused.Add(1)
					continue
				}
				worst.Store(max(worst.Load(), running.Add(1)))
				if d.Wait() {
					if waiting.Add(1) > 3 {
						t.Error("too many wait")
					}
					waiting.Add(-1)
					d.Waited()
				}
				switch dice.IntN(4) {
				case 0:
					table.PickAgain(call, &d)
				case 1:
					d.Leave()
					table.PickRetry(call, &d)
				case 2:
					running.Add(-1)
					d.Refuse(429, exchange.QuotaExceeded, "")
					continue
				}
				running.Add(-1)
				d.Done()
			}
			d.Done()
		})
	}
	group.Wait()
	if worst.Load() > most || worst.Load() == 0 {
		t.Errorf("%d were under way at a time; %d are allowed", worst.Load(), most)
	}
	p := table.pools[orders]
	for kind := range breakerKinds {
		if n := p.traffic.now[kind].Load(); n != 0 {
			t.Errorf("%d %s are left", n, breakerNames[kind])
		}
	}
	if got := table.Guarded(start)[0].Refused["requests"]; got != uint64(refused.Load()) {
		t.Errorf("%d refusals are counted of %d", got, refused.Load())
	}
}

// BenchmarkPolicy is what a policy that never fires costs an exchange.
func BenchmarkPolicy(b *testing.B) {
	for _, bench := range []struct {
		name   string
		policy *snapshot.Resilience
	}{
		{"none", nil},
		{"outliers", &snapshot.Resilience{Outliers: ejecting()}},
		{"outliers by success rate", &snapshot.Resilience{Outliers: byRate(1.9)}},
		{"adaptive concurrency", &snapshot.Resilience{AdaptiveConcurrency: measured()}},
		{"circuit breaker", &snapshot.Resilience{CircuitBreaker: &snapshot.CircuitBreaker{MaxRequests: 1000, MaxPending: 1000, MaxConnections: 1000}}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			table := judged(b, bench.policy, "a", "b", "c", "d", "e", "f", "g", "h")
			call := callOf(rand.NewPCG(1, 2))
			request := get("/")
			var d Decision
			b.ReportAllocs()
			for b.Loop() {
				table.Pick(call, request, &d)
				d.Wait()
				d.Waited()
				d.Judge(false, time.Millisecond, start)
				d.Done()
			}
		})
	}
}
