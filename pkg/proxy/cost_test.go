package proxy

import (
	"bufio"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestExchangeAllocatesNothing runs exchanges through both nodes and wants none of our code to allocate in
// steady state. What quic-go and the test's own ends allocate is not counted.
func TestExchangeAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok")
	process := rawProcess(t, func(conn *net.TCPConn, r *bufio.Reader) {
		for readHead(r) {
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	})
	for _, tt := range []struct {
		name  string
		rule  *snapshot.Rule
		share float64
	}{
		{"plain", nil, 0}, {"with a timeout", &snapshot.Rule{TimeoutMs: 20_000}, 0}, {"with a retry", &snapshot.Rule{Retry: &snapshot.Retry{Codes: []uint32{503}, Attempts: 3, BackoffMs: 25}}, 0}, {"with a policy", withPolicy(nil, &snapshot.Resilience{Outliers: ejectingAfter(5, time.Minute), CircuitBreaker: &snapshot.CircuitBreaker{MaxRequests: 100, MaxPending: 100}}), 0},
		{"with hedging", withPolicy(nil, &snapshot.Resilience{HedgeDelayMs: 60_000}), 0},
		{"with a measured concurrency", withPolicy(nil, &snapshot.Resilience{AdaptiveConcurrency: &snapshot.AdaptiveConcurrency{MinConcurrency: 4, MaxConcurrency: 100, ToleranceThousandths: 1500}}), 0},
		{"in a trace", nil, 1e-9}, {"in a sampled trace", nil, 1},
	} {
		t.Run(tt.name, func(t *testing.T) { allocatesNothing(t, tt.rule, tt.share, process, len(answer)) })
	}
}

func allocatesNothing(t *testing.T, rule *snapshot.Rule, share float64, process string, answer int) {
	p := startPair(t, http11, rule, process)
	p.quiet.Store(true)
	p.inbound.quiet.Store(true)
	p.outbound.TraceShare = share
	conn := p.dial()
	request, buffer := []byte("GET /a?b=c HTTP/1.1\r\nHost: orders\r\nAccept: */*\r\n\r\n"), make([]byte, answer+200)
	ask := func(times int) {
		for range times {
			if _, err := conn.Write(request); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAtLeast(conn, buffer, answer); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask(500)
	rate := runtime.MemProfileRate
	runtime.MemProfileRate = 1
	defer func() { runtime.MemProfileRate = rate }()
	ask(10) // so that goroutines that were asleep count as well
	before := ourAllocations()
	const exchanges = 2000
	ask(exchanges)
	for where, count := range ourAllocations() {
		if count -= before[where]; count > exchanges/20 {
			t.Errorf("%.2f allocations an exchange in %s", float64(count)/exchanges, where)
		}
	}
}

// ourAllocations counts allocations by the innermost function of ours, leaving out those below quic-go.
func ourAllocations() map[string]int64 {
	runtime.GC() // a profile is complete up to the second collection before it
	runtime.GC()
	records := make([]runtime.MemProfileRecord, 10_000)
	n, ok := runtime.MemProfile(records, true)
	for !ok {
		records = make([]runtime.MemProfileRecord, n+1000)
		n, ok = runtime.MemProfile(records, true)
	}
	counts := map[string]int64{}
	for _, r := range records[:n] {
		frames := runtime.CallersFrames(r.Stack())
		for more := true; more; {
			var f runtime.Frame
			f, more = frames.Next()
			if strings.HasSuffix(f.File, "_test.go") || strings.Contains(f.Function, "quic-go") {
				break
			}
			if strings.Contains(f.Function, "sennit-mesh/sennit/pkg/") {
				counts[f.Function] += r.AllocObjects
				break
			}
		}
	}
	return counts
}
