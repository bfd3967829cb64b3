package routing

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func measured() *snapshot.AdaptiveConcurrency {
	return &snapshot.AdaptiveConcurrency{
		IntervalMs: 500, MinRequests: 20, MinConcurrency: 4, MaxConcurrency: 1000, ToleranceThousandths: 1500, ProbeIntervalMs: 30_000,
	}
}

// A modelled service takes as long as it takes for as many requests at a time as it can work on, and longer in
// proportion for more.
type modelled struct {
	takes    time.Duration
	capacity int
}

// simulate has clients that always have a request to send, for a time, and returns how many were under way in each half second.
func simulate(t *testing.T, table *Table, source rand.Source, s modelled, clients int, from time.Time, lasts time.Duration) (underWay []int) {
	dice := rand.New(source)
	decisions := make([]Decision, clients)
	for now := from; now.Before(from.Add(lasts)); now = now.Add(500 * time.Millisecond) {
		call := callOf(source)
		call.Now = now
		n := 0
		for i := range decisions {
			table.Pick(call, get("/"), &decisions[i])
			switch {
			case decisions[i].Status == 0:
				n++
			case decisions[i].Reason != exchange.CircuitOpen:
				t.Fatal(decisions[i].Reason)
			}
		}
		underWay = append(underWay, n)
		takes := s.takes
		if n > s.capacity {
			takes = takes * time.Duration(n) / time.Duration(s.capacity)
		}
		for i := range decisions {
			if decisions[i].Status != 0 {
				continue
			}
			// Each client's next request takes the place of the one before: what counts is the mean.
			noise := time.Duration(dice.Int64N(int64(takes/5))) - takes/10
			decisions[i].Judge(false, takes+noise, now.Add(500*time.Millisecond))
			decisions[i].Done()
		}
	}
	return underWay
}

// TestConcurrencyFollowsTheService has five times as many clients as the service can work for, and wants the limit to be at
// its capacity and somewhat more, also after the capacity has halved and doubled.
func TestConcurrencyFollowsTheService(t *testing.T) {
	source := random(t)
	table := judged(t, &snapshot.Resilience{AdaptiveConcurrency: measured()}, "a", "b")
	now := start
	for _, phase := range []struct {
		name     string
		capacity int
	}{{"at first", 100}, {"half", 50}, {"back", 100}, {"twice", 200}} {
		// Until the latency of before is forgotten, the limit is set by it: two probes.
		got := simulate(t, table, source, modelled{10 * time.Millisecond, phase.capacity}, 5*phase.capacity, now, 3*time.Minute)
		now = now.Add(3 * time.Minute)
		least, most, sum, late := phase.capacity, 2*phase.capacity, 0, got[len(got)/2:]
		for _, n := range late {
			sum += n
		}
		if mean := sum / len(late); mean < least || mean > most {
			t.Errorf("%s: %d under way of a capacity of %d", phase.name, mean, phase.capacity)
		} else {
			t.Logf("%s: %d under way of a capacity of %d", phase.name, mean, phase.capacity)
		}
	}
	if g := table.Guarded(now)[0]; g.Refused["adaptive"] == 0 || g.Refused["requests"] != 0 || g.Limit == 0 {
		t.Errorf("guarded: %+v", g)
	}
}

// TestConcurrencyRefusesNobodyWithoutNeed has fewer clients than the service can work for, and wants all to be let through once
// the limit has found them, the intervals in which it is halved included.
func TestConcurrencyRefusesNobodyWithoutNeed(t *testing.T) {
	source := random(t)
	table := judged(t, &snapshot.Resilience{AdaptiveConcurrency: measured()}, "a", "b")
	for i, n := range simulate(t, table, source, modelled{10 * time.Millisecond, 100}, 80, start, 5*time.Minute) {
		if n != 80 && i > 6 {
			t.Fatalf("%d of 80 are let through after %d intervals", n, i)
		}
	}
	if limit := table.Guarded(start)[0].Limit; limit > 4*80 {
		t.Errorf("the limit is %d, of which 80 are used", limit)
	}
}

// TestConcurrencyHasItsBounds has a service that becomes slower whatever is sent to it, and wants the least to be let through,
// and a bound of the circuit breaker to hold beside.
func TestConcurrencyHasItsBounds(t *testing.T) {
	source := random(t)
	policy := &snapshot.Resilience{AdaptiveConcurrency: measured(), CircuitBreaker: &snapshot.CircuitBreaker{MaxRequests: 30}}
	table := judged(t, policy, "a", "b")
	now := start
	for second := range 20 {
		got := simulate(t, table, source, modelled{time.Duration(second+1) * 50 * time.Millisecond, 1000}, 200, now, time.Second)
		now = now.Add(time.Second)
		for _, n := range got {
			if n > 30 || n < 4 {
				t.Errorf("second %d: %d are let through", second, n)
			}
		}
	}
	if n := table.pools[orders].concurrency.limit.Load(); n > 30 {
		t.Errorf("the limit is %d", n)
	}
	if g := table.Guarded(now)[0]; g.Refused["requests"] == 0 || g.Refused["adaptive"] == 0 {
		t.Errorf("guarded: %+v", g)
	}
}

// TestConcurrencyGoesOnWithASlowerService has a service that takes ten times as long from one moment on, for one request or many.
func TestConcurrencyGoesOnWithASlowerService(t *testing.T) {
	source := random(t)
	table := judged(t, &snapshot.Resilience{AdaptiveConcurrency: measured()}, "a", "b")
	simulate(t, table, source, modelled{10 * time.Millisecond, 1000}, 100, start, 2*time.Minute)
	got := simulate(t, table, source, modelled{100 * time.Millisecond, 1000}, 100, start.Add(2*time.Minute), time.Minute)
	// In half seconds: after the limit has come down, and before what was measured first is forgotten with its probe.
	if n := slices.Max(got[20:58]); n != 100 {
		t.Errorf("after it became slower %d of 100 are let through", n)
	}
}

// TestFastFailuresAreNoSpeed wants refusals of a service that is overloaded not to pass for its latency.
func TestFastFailuresAreNoSpeed(t *testing.T) {
	var c concurrency
	a := compileAdaptive(measured())
	at := start.UnixNano()
	for n := range 10_000 {
		failed := n%2 == 0
		took := 100 * time.Millisecond
		if failed && n > 100 {
			took = time.Millisecond
		}
		c.measure(a, failed, took, at+int64(n)*int64(10*time.Millisecond))
	}
	if floor := time.Duration(c.floor.Load()); floor != 100*time.Millisecond {
		t.Errorf("the latency without a queue is %s", floor)
	}
}
