package routing

import (
	"testing"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func TestHedgeGoesElsewhere(t *testing.T) {
	table := judged(t, &snapshot.Resilience{HedgeDelayMs: 5, CircuitBreaker: &snapshot.CircuitBreaker{MaxRequests: 2}}, "a", "b")
	call := callOf(random(t))
	var first, second, third Decision
	for range 100 {
		table.Pick(call, get("/"), &first)
		if first.Hedge == 0 {
			t.Fatal("the policy's delay is not the decision's")
		}
		if !first.PickHedge(call, &second) || second.Instance.ID == first.Instance.ID {
			t.Fatalf("the second attempt of one at %s goes to %+v", first.Instance.ID, second.Instance)
		}
		if second.PickHedge(call, &third) {
			t.Fatalf("with two instances there is a third attempt, at %s", third.Instance.ID)
		}
		a, b := first.Instance, second.Instance
		first.Adopt(&second)
		if first.Instance != b || a.InFlight() != 0 || b.InFlight() != 1 || first.Target.Instance != b.ID {
			t.Fatalf("%s is adopted, with %d and %d in flight", first.Instance.ID, a.InFlight(), b.InFlight())
		}
		if table.PickAgain(call, &first) {
			t.Fatalf("%s is asked again", first.Instance.ID)
		}
		first.Done()
		second.Done()
		if n := table.pools[orders].traffic.now[bRequests].Load(); a.InFlight()+b.InFlight()+n != 0 {
			t.Fatalf("%d are left under way", n)
		}
	}
	var other Decision
	table.Pick(call, get("/"), &first)
	table.Pick(call, get("/"), &other)
	if first.PickHedge(call, &second) {
		t.Error("a second attempt is one more than the circuit breaker allows")
	}
}
