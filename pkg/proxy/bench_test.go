package proxy

import (
	"bufio"
	"context"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// benchmarkedRules are those whose cost by exchange is measured; none of what they say ever happens.
var benchmarkedRules = []struct {
	name string
	rule func() *snapshot.Rule
}{
	{"plain", func() *snapshot.Rule { return nil }},
	{"with a retry", func() *snapshot.Rule { return retryOf(3, 503) }},
	{"with a policy", func() *snapshot.Rule {
		return withPolicy(nil, &snapshot.Resilience{
			Outliers:       &snapshot.Outliers{ConsecutiveErrors: 5, EjectionMs: 30_000, MaxEjectionMs: 30_000, IntervalMs: 10_000, SuccessRate: &snapshot.Outliers_SuccessRate{MinInstances: 5}},
			CircuitBreaker: &snapshot.CircuitBreaker{MaxRequests: 10_000, MaxPending: 10_000},
			Retry:          &snapshot.Retry{Attempts: 3, Codes: []uint32{503}},
		})
	}},
	{"with hedging", func() *snapshot.Rule { return withPolicy(nil, &snapshot.Resilience{HedgeDelayMs: 60_000}) }},
}

// BenchmarkExchange is a small GET through both nodes, in one process with caller and callee.
func BenchmarkExchange(b *testing.B) {
	process := answering(b)
	for _, bb := range benchmarkedRules {
		b.Run(bb.name, func(b *testing.B) {
			p := startPair(b, http11, bb.rule(), process)
			p.quiet.Store(true)
			p.inbound.quiet.Store(true)
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) { exchanges(b, p, pb.Next) })
		})
	}
}

// BenchmarkExchangeByPlain says what a rule costs that never does anything: the CPU time of the process, caller and
// callee included, by that of exchanges without it. Short rounds of both take turns, so that what else the machine does
// hits both alike; the median of the rounds' ratios is reported, and how far its
// quartiles are apart. One operation is a round of each.
func BenchmarkExchangeByPlain(b *testing.B) {
	process := answering(b)
	for _, bb := range benchmarkedRules {
		b.Run(bb.name, func(b *testing.B) {
			var pairs [2]*pair // the second has the rule
			for i, rule := range []*snapshot.Rule{nil, bb.rule()} {
				pairs[i] = startPair(b, http11, rule, process)
				pairs[i].quiet.Store(true)
				pairs[i].inbound.quiet.Store(true)
				round(b, pairs[i])
			}
			var ratios []float64
			for b.Loop() {
				var used [2]float64
				first := len(ratios) % 2
				for _, i := range []int{first, 1 - first} {
					before := processTime(b)
					round(b, pairs[i])
					used[i] = processTime(b) - before
				}
				ratios = append(ratios, used[1]/used[0])
			}
			slices.Sort(ratios)
			n := len(ratios)
			b.ReportMetric(ratios[n/2], "ratio")
			b.ReportMetric(ratios[n*3/4]-ratios[n/4], "quartiles")
		})
	}
}

// round is some exchanges on each of some connections.
func round(b *testing.B, p *pair) {
	const connections, each = 16, 100
	var all sync.WaitGroup
	for range connections {
		all.Go(func() {
			left := each
			exchanges(b, p, func() bool { left--; return left >= 0 })
		})
	}
	all.Wait()
}

// processTime is the CPU time that this process used, in seconds.
func processTime(b *testing.B) float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}

// answering is the address of a process that answers each read with a small response.
func answering(b *testing.B) string {
	return rawProcess(b, func(conn *net.TCPConn, _ *bufio.Reader) {
		answer, buffer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), make([]byte, 4096)
		for {
			if _, err := conn.Read(buffer); err != nil {
				return
			}
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	})
}

// exchanges asks on a connection of its own as often as more says.
func exchanges(b *testing.B, p *pair, more func() bool) {
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", p.address)
	if err != nil {
		b.Error(err)
		return
	}
	defer conn.Close()
	request, buffer := []byte("GET / HTTP/1.1\r\nHost: orders\r\n\r\n"), make([]byte, 4096)
	for more() {
		if _, err := conn.Write(request); err != nil {
			b.Error(err)
			return
		}
		if _, err := conn.Read(buffer); err != nil {
			b.Error(err)
			return
		}
	}
}
