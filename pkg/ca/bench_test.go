package ca

import (
	"syscall"
	"testing"
	"time"
)

// BenchmarkIssue issues as a controller does for a node that renews: the node's certificate and one service's, recorded and
// synced to disk. cert/cpu-s is certificates per second of one processor's time, user and system, which does not hang on who
// else uses the machine.
func BenchmarkIssue(b *testing.B) {
	for _, services := range []int{1, 15} {
		b.Run(map[int]string{1: "one service", 15: "fifteen services"}[services], func(b *testing.B) {
			cfg := authorityConfig(b)
			cfg.Now = time.Now
			a := openAuthority(b, cfg)
			key, err := newKey()
			if err != nil {
				b.Fatal(err)
			}
			orders := make([]order, 1+services)
			for i := range orders {
				orders[i] = order{id: NodeID(testDomain, "web1"), key: &key.PublicKey}
			}
			before := processorTime(b)
			b.SetParallelism(8) // a controller serves 16 requests at a time
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, _, err := a.issue(0, orders...); err != nil {
						b.Error(err)
						return
					}
				}
			})
			issued := float64(b.N * len(orders))
			b.ReportMetric(issued/(processorTime(b)-before).Seconds(), "cert/cpu-s")
			b.ReportMetric(issued/b.Elapsed().Seconds(), "cert/s")
		})
	}
}

// BenchmarkRenew is the whole of a renewal at the controller: requests are verified, the registry is written (to memory
// here), certificates and a receipt are signed.
func BenchmarkRenew(b *testing.B) {
	c := newClusterAt(b, time.Now)
	i := openIdentity(b, IdentityConfig{Dir: b.TempDir()})
	wire := c.wire("web1")
	if err := i.Join(b.Context(), c.token("web1", orders), wire.dial); err != nil {
		b.Fatal(err)
	}
	var payload []byte
	wire.request = func(p []byte) ([]byte, error) {
		payload = p
		return p, nil
	}
	if err := i.request(b.Context(), wire, false); err != nil {
		b.Fatal(err)
	}
	before := processorTime(b)
	for b.Loop() {
		if _, err := c.registrar.Renew(b.Context(), "web1", payload); err != nil {
			b.Fatal(err)
		}
		c.store.forget()
	}
	b.ReportMetric(float64(2*b.N)/(processorTime(b)-before).Seconds(), "cert/cpu-s")
}

// forget keeps the benchmark from measuring the test's own store.
func (m *memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries = m.entries[len(m.entries)-1:]
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// TestTenThousandNodesRenew draws for ten thousand nodes, which joined together, when they renew for ten days: what they ask
// of a controller in its busiest second stays below a twentieth of the 500 certificates that it can issue.
func TestTenThousandNodesRenew(t *testing.T) {
	t.Parallel()
	const nodes, days = 10_000, 10
	asked := map[int64]int{} // certificates by second
	for range nodes {
		for at := testStart; at.Before(testStart.Add(days * 24 * time.Hour)); {
			at = rotationPoint(at, at.Add(DefaultTTL))
			asked[at.Unix()] += 2 // the node's and one service's
		}
	}
	most, total := 0, 0
	for _, n := range asked {
		most, total = max(most, n), total+n
	}
	mean := float64(total) / (days * 24 * 3600)
	t.Logf("%d certificates in %d days: %.2f a second, %d in the busiest", total, days, mean, most)
	if mean > 1 || most > 25 {
		t.Errorf("%.2f certificates a second, %d in the busiest: want at most 25, a twentieth of 500", mean, most)
	}
}
