package telemetry

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

func bufferString(b []byte) string { return unsafe.String(&b[0], len(b)) }

func TestTheGraphIsTheSumOfItsReports(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := []*Edges{NewEdges(start), NewEdges(start), NewEdges(start)}
		alone := NewEdges(start)
		parts, whole := NewGraph(time.Minute), NewGraph(time.Minute)
		now := start
		for range rapid.IntRange(1, 100).Draw(t, "exchanges") {
			name := anEdge
			name.Version = rapid.SampledFrom([]string{"v1", "v2"}).Draw(t, "version")
			name.Node = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "backend's node")
			s := &Sample{
				Outcome:  exchange.Outcome{Status: rapid.SampledFrom([]int{0, 200, 404, 503}).Draw(t, "status"), Reason: rapid.SampledFrom(reasons[:3]).Draw(t, "reason")},
				Duration: time.Duration(rapid.Int64Range(0, 1e10).Draw(t, "duration")), BytesSent: rapid.Uint64Range(0, 1e9).Draw(t, "bytes"),
			}
			i := rapid.IntRange(0, 2).Draw(t, "caller's node")
			nodes[i].Record(name, s)
			alone.Record(name, s)
			if rapid.Bool().Draw(t, "report now") {
				if err := parts.Add("n", nodes[i].Report(now), now); err != nil {
					t.Fatal(err)
				}
			}
		}
		now = start.Add(time.Second)
		for _, n := range nodes {
			parts.Add("n", n.Report(now), now)
		}
		whole.Add("n", alone.Report(now), now)
		for _, fold := range []Fold{nil, ByVersion, ByService} {
			a, _ := json.Marshal(parts.Edges(now, fold))
			b, _ := json.Marshal(whole.Edges(now, fold))
			if string(a) != string(b) {
				t.Fatalf("the sum of the parts is\n%s\nthe whole is\n%s", a, b)
			}
		}
	})
}

func TestRatesAndPercentilesOverTheWindow(t *testing.T) {
	g, e, now := NewGraph(10*time.Second), NewEdges(start), start
	second := func(node string, count int, status int) {
		for i := range count {
			s := sample(status, exchange.Completed)
			s.Duration = time.Duration(i+1) * time.Millisecond
			e.Record(anEdge, s)
		}
		if err := g.Add(node, e.Report(now), now); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		now = now.Add(time.Second)
		second("web1", 75, 200)
		second("web2", 25, 500)
	}
	edges := g.Edges(now, nil)
	if len(edges) != 1 {
		t.Fatalf("%+v", edges)
	}
	got := edges[0]
	if math.Abs(got.Rate-100) > 1 || got.Success != 0.75 || got.Count != 1000 || got.SentRate < 990 || got.SentRate > 1010 {
		t.Errorf("%+v", got)
	}
	if math.Abs(got.P50-0.025) > 0.025/32 || math.Abs(got.P99-0.074) > 0.074/32 {
		t.Errorf("p50 %v, p99 %v", got.P50, got.P99)
	}
	written, _ := json.Marshal(got)
	for _, want := range []string{`"caller":"default/orders"`, `"version":"v1"`, `"rate":100`, `"success":0.75`, `"statusClasses":[0,0,750,0,0,250]`} {
		if !strings.Contains(string(written), want) {
			t.Errorf("%s lacks %s", written, want)
		}
	}
	// The first second of a graph is no tenth of a rate.
	young := NewGraph(10 * time.Second)
	e.Record(anEdge, sample(200, exchange.Completed))
	now = now.Add(time.Second)
	young.Add("web1", e.Report(now), now)
	if rate := young.Edges(now, nil)[0].Rate; rate != 1 {
		t.Errorf("one exchange in the first second is a rate of %v", rate)
	}
}

func TestASilentNodesEdgesAgeOut(t *testing.T) {
	g, a, b := NewGraph(5*time.Second), NewEdges(start), NewEdges(start)
	there, gone := anEdge, anEdge
	gone.Caller = exchange.ServiceName{Namespace: "default", Name: "gone"}
	now := start
	b.Record(gone, sample(200, exchange.Completed))
	g.Add("lost", b.Report(now), now)
	for range 5 {
		now = now.Add(time.Second)
		a.Record(there, sample(200, exchange.Completed))
		g.Add("web1", a.Report(now), now)
	}
	if edges := g.Edges(now, nil); len(edges) != 1 || edges[0].Caller != "default/orders" || len(g.reports) != 1 {
		t.Errorf("%+v", edges)
	}
	if edges := g.Edges(now.Add(time.Hour), nil); len(edges) != 0 || g.summaries != 0 {
		t.Errorf("%+v, %d", edges, g.summaries)
	}
}

func TestReportsThatNoNodeWouldSend(t *testing.T) {
	for _, tt := range []struct {
		name string
		edge *EdgeSummary
	}{
		{"a bucket that is none", &EdgeSummary{Latencies: &Latencies{Buckets: []uint32{numBuckets}, Counts: []uint64{1}}}},
		{"a bucket without a count", &EdgeSummary{Latencies: &Latencies{Buckets: []uint32{1}}}},
		{"too many classes", &EdgeSummary{StatusClasses: make([]uint64, 7)}},
		{"a long name", &EdgeSummary{Caller: strings.Repeat("x", maxNameBytes+1)}},
		{"no edge", nil},
	} {
		g := NewGraph(time.Second)
		if err := g.Add("n", &EdgeReport{Edges: []*EdgeSummary{tt.edge}}, start); !errors.Is(err, ErrReport) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	g := NewGraph(time.Second)
	if err := g.Add("n", &EdgeReport{Edges: make([]*EdgeSummary, 10_000)}, start); !errors.Is(err, ErrReport) {
		t.Errorf("too many edges: %v", err)
	}
	for i := range 10 {
		err := g.Add("n", &EdgeReport{Edges: []*EdgeSummary{{Caller: "a"}}}, start)
		if (err != nil) != (i >= maxReportsAhead) {
			t.Errorf("report %d in one second: %v", i, err)
		}
	}
	if err := g.Add("another", &EdgeReport{Edges: []*EdgeSummary{{Caller: "a"}}}, start); err != nil {
		t.Errorf("one node's flood refused another: %v", err)
	}
}

// One node that reports as much as it may leaves room for others.
func TestOneNodeDoesNotFillTheGraph(t *testing.T) {
	g, now := NewGraph(10*time.Second), start
	full := func() *EdgeReport {
		r := &EdgeReport{}
		for range 2 * maxEdges {
			r.Edges = append(r.Edges, &EdgeSummary{Caller: "default/orders", Count: 1})
		}
		return r
	}
	var err error
	for range 40 {
		err = g.Add("greedy", full(), now)
	}
	if !errors.Is(err, ErrReport) {
		t.Errorf("all was taken: %v", err)
	}
	for _, node := range []string{"web1", "web2"} {
		if err := g.Add(node, full(), now); err != nil {
			t.Errorf("another node's report: %v", err)
		}
	}
	now = now.Add(10 * time.Second)
	if err := g.Add("greedy", full(), now); err != nil || len(g.reports) != 1 || g.reports["greedy"] != (held{1, 2 * maxEdges}) {
		t.Errorf("when the window has passed: %v, %+v", err, g.reports)
	}
}
