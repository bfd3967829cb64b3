package routing

import (
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestAllowanceOfAPolicy asks for a retry of each request, in seconds of a pace, and wants as many as the policy says.
func TestAllowanceOfAPolicy(t *testing.T) {
	for _, tt := range []struct {
		name      string
		budget    *snapshot.RetryBudget
		perSecond int
		want      int // in ten seconds
	}{
		{"without one", nil, 100, 200},
		{"a twentieth", &snapshot.RetryBudget{Percent: 5}, 100, 50},
		{"all", &snapshot.RetryBudget{Percent: 100}, 100, 1000},
		{"a rate", &snapshot.RetryBudget{Percent: 5, MinPerSecond: 10}, 100, 100},
		{"none", &snapshot.RetryBudget{}, 100, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := judged(t, &snapshot.Resilience{RetryBudget: tt.budget}, "a")
			call := callOf(random(t))
			var d Decision
			var allowed [30]int
			for second := range allowed {
				call.Now = start.Add(time.Duration(second) * time.Second)
				for range tt.perSecond {
					table.Pick(call, get("/"), &d)
					d.Count(call)
					if d.AllowRetry(call.Now) {
						allowed[second]++
					}
				}
			}
			most, sum := 0, 0
			for i, n := range allowed {
				if sum += n; i >= budgetSeconds {
					sum -= allowed[i-budgetSeconds]
				}
				most = max(most, sum)
			}
			if most != tt.want {
				t.Errorf("up to %d retries in ten seconds, want %d", most, tt.want)
			}
		})
	}
}

func TestPolicyRetryIsForRulesWithout(t *testing.T) {
	policy := &snapshot.Resilience{Retry: &snapshot.Retry{Attempts: 7, PerTryTimeoutMs: 3000}}
	for _, tt := range []struct {
		name     string
		rule     *snapshot.Rule
		attempts int
		perTry   time.Duration
	}{
		{"without a retry", &snapshot.Rule{}, 7, 3 * time.Second},
		{"with one", &snapshot.Rule{Retry: &snapshot.Retry{Attempts: 2}}, 2, 0},
		{"with a shorter time", &snapshot.Rule{BackendTimeoutMs: 1000}, 7, time.Second},
		{"with a longer time", &snapshot.Rule{BackendTimeoutMs: 9000}, 7, 3 * time.Second},
	} {
		backend := to("orders", 1)
		backend.Resilience = policy
		tt.rule.Backends = []*snapshot.Backend{backend}
		table := tableOf(t, instances("a"), tt.rule)
		var d Decision
		table.Pick(callOf(random(t)), get("/"), &d)
		if d.Retry == nil || d.Retry.Attempts != tt.attempts || d.BackendTimeout != tt.perTry {
			t.Errorf("%s: %+v, %s for an attempt", tt.name, d.Retry, d.BackendTimeout)
		}
	}
}

func TestRetryOfCalls(t *testing.T) {
	r, err := compileRetry(&snapshot.Retry{GrpcCodes: []uint32{1, 14, 16}, BackoffMs: 100, MaxBackoffMs: 300})
	if err != nil {
		t.Fatal(err)
	}
	for status, want := range map[string]bool{"0": false, "1": true, "2": false, "14": true, "16": true, "17": false, "46": false, "": false, "-1": false, "257": false, "x": false} {
		if got := r.UnwantedCall(status); got != want {
			t.Errorf("status %q is unwanted: %v", status, got)
		}
	}
	for number, want := range []time.Duration{100, 200, 300, 300} {
		if got := r.Backoff(number, 0); got != want*time.Millisecond {
			t.Errorf("back-off %d is %s", number, got)
		}
	}
	if (&Retry{}).Calls() || (*Retry)(nil).Calls() || !r.Calls() {
		t.Error("which retries are for calls")
	}
	for _, bad := range []uint32{0, 17} {
		if _, err := compileRetry(&snapshot.Retry{GrpcCodes: []uint32{bad}}); err == nil {
			t.Errorf("status %d is taken", bad)
		}
	}
}

func TestExplainNamesThePolicy(t *testing.T) {
	table := judged(t, &snapshot.Resilience{Origin: "shop/p", Outliers: ejecting(), HedgeDelayMs: 50, AdaptiveConcurrency: measured()}, "a")
	e := table.Explain(&Question{From: web, To: orders, Port: 80, Method: "GET", Path: "/"}, start)
	want := PolicyVerdict{"ResiliencePolicy", "shop/p", "ejects outliers, bounds what is under way, by the latency too, hedges after 50ms"}
	if len(e.Policies) != 1 || e.Policies[0] != want {
		t.Errorf("%+v, want %+v", e.Policies, want)
	}
	if n := table.pools[orders].traffic.now[bRequests].Load(); n != 0 {
		t.Errorf("%d requests that nobody sends are under way", n)
	}
}
