package telemetry

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

var (
	start    = time.Unix(1e9, 0)
	orders   = exchange.ServiceName{Namespace: "default", Name: "orders"}
	payments = exchange.ServiceName{Namespace: "default", Name: "payments"}
	anEdge   = Edge{Caller: orders, Callee: payments, Backend: payments, Version: "v1", Node: "web1"}
)

func sample(status int, reason exchange.Reason) *Sample {
	return &Sample{Outcome: exchange.Outcome{Status: status, Reason: reason}, Duration: time.Millisecond, BytesSent: 10, BytesReceived: 100}
}

func TestAReportHoldsWhatWasCountedOnce(t *testing.T) {
	e := NewEdges(start)
	e.Record(anEdge, sample(200, exchange.Completed))
	e.Record(anEdge, sample(503, exchange.NoInstance))
	e.Record(anEdge, sample(0, "a new reason"))
	r := e.Report(start.Add(time.Second))
	want := &EdgeReport{StartUnixMs: 1e12, EndUnixMs: 1e12 + 1000, Edges: []*EdgeSummary{{
		Caller: "default/orders", Callee: "default/payments", Backend: "default/payments", Version: "v1", Node: "web1", Protocol: "http",
		Count: 3, Failed: 2, StatusClasses: []uint64{1, 0, 1, 0, 0, 1}, BytesSent: 30, BytesReceived: 300,
		Failures:  []*FailureCount{{Reason: "no-instance", Count: 1}, {Reason: "other", Count: 1}},
		Latencies: &Latencies{Buckets: []uint32{uint32(bucketOf(time.Millisecond))}, Counts: []uint64{3}},
	}}}
	if !proto.Equal(r, want) {
		t.Errorf("%v\nwant %v", r, want)
	}
	if again := e.Report(start.Add(2 * time.Second)); len(again.Edges) != 0 || again.StartUnixMs != 1e12+1000 {
		t.Errorf("reported again: %v", again)
	}
}

func TestWhatCountsAsFailed(t *testing.T) {
	for _, tt := range []struct {
		status int
		reason exchange.Reason
		want   bool
	}{
		{200, exchange.Completed, false}, {404, exchange.Completed, false}, {500, exchange.Completed, true},
		{404, exchange.NoRoute, true}, {504, exchange.Timeout, true}, {0, exchange.PeerLost, true},
		{0, exchange.CallerGone, false}, {503, exchange.FaultInjected, false}, {400, exchange.Malformed, false},
	} {
		if got := sample(tt.status, tt.reason).Failed(); got != tt.want {
			t.Errorf("%d %q: %v", tt.status, tt.reason, got)
		}
	}
}

func TestEveryReasonHasItsCounter(t *testing.T) {
	if len(reasons) != numReasons {
		t.Fatalf("%d reasons for %d counters", len(reasons), numReasons)
	}
}

func TestEdgesAreBounded(t *testing.T) {
	e := NewEdges(start)
	for i := range maxEdges + 100 {
		name := anEdge
		name.Node = strconv.Itoa(i)
		e.Record(name, sample(200, exchange.Completed))
	}
	r := e.Report(start)
	over := uint64(0)
	for _, s := range r.Edges {
		if s.Callee == text(Overflow.Callee) {
			over = s.Count
		}
	}
	if len(r.Edges) != maxEdges+1 || over != 100 {
		t.Errorf("%d edges, %d in the overflow", len(r.Edges), over)
	}
	for range idleAfter + 1 {
		e.Report(start)
	}
	if n := len(*e.table.Load()); n != 0 {
		t.Errorf("%d edges are kept that nobody uses", n)
	}
	e.Record(anEdge, sample(200, exchange.Completed))
	if r := e.Report(start); len(r.Edges) != 1 || r.Edges[0].Node != "web1" {
		t.Errorf("after the flood: %v", r)
	}
}

func TestNamesMayComeFromBuffers(t *testing.T) {
	e := NewEdges(start)
	buffer := []byte("v1")
	name := anEdge
	name.Version = bufferString(buffer)
	e.Record(name, sample(200, exchange.Completed))
	copy(buffer, "XX")
	if got := e.Report(start).Edges[0].Version; got != "v1" {
		t.Errorf("the version became %q", got)
	}
}

func TestCountingWhileReportingLosesNothing(t *testing.T) {
	e := NewEdges(start)
	const workers, each = 8, 5000
	var counting, reporting sync.WaitGroup
	done := make(chan struct{})
	total, buckets := uint64(0), uint64(0)
	sum := func(r *EdgeReport) {
		for _, s := range r.Edges {
			total += s.Count
			for _, n := range s.Latencies.Counts {
				buckets += n
			}
		}
	}
	reporting.Go(func() {
		for {
			sum(e.Report(start))
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for w := range workers {
		counting.Go(func() {
			for i := range each {
				name := anEdge
				name.Node = strconv.Itoa((w + i) % 20)
				e.Record(name, sample(200, exchange.Completed))
			}
		})
	}
	counting.Wait()
	close(done)
	reporting.Wait()
	sum(e.Report(start))
	sum(e.Report(start)) // of edges that were retired a moment before
	if total != workers*each || buckets != workers*each {
		t.Errorf("%d exchanges and %d durations of %d", total, buckets, workers*each)
	}
}

func TestRecordingAllocatesNothing(t *testing.T) {
	e, s := NewEdges(start), sample(503, exchange.NoInstance)
	if n := testing.AllocsPerRun(100, func() { e.Record(anEdge, s) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestARecorderLeavesAnEdgeThatIsNoLongerReported(t *testing.T) {
	e := NewEdges(start)
	r := Recorder{Edges: e}
	r.Record(anEdge, sample(200, exchange.Completed))
	for range 2 * idleAfter {
		e.Report(start)
	}
	other := anEdge
	other.Version = "v2"
	for _, name := range []Edge{anEdge, anEdge, other} {
		r.Record(name, sample(200, exchange.Completed))
	}
	got := map[string]uint64{}
	for _, s := range e.Report(start).Edges {
		got[s.Version] += s.Count
	}
	if got["v1"] != 2 || got["v2"] != 1 {
		t.Errorf("counted %v", got)
	}
}

func BenchmarkRecorder(b *testing.B) {
	r, s := Recorder{Edges: NewEdges(start)}, sample(200, exchange.Completed)
	b.ReportAllocs()
	for b.Loop() {
		r.Record(anEdge, s)
	}
}

func BenchmarkRecord(b *testing.B) {
	e, s := NewEdges(start), sample(200, exchange.Completed)
	for i := range 100 {
		name := anEdge
		name.Node = strconv.Itoa(i)
		e.Record(name, s)
	}
	b.ReportAllocs()
	for b.Loop() {
		e.Record(anEdge, s)
	}
}
