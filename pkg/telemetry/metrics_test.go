package telemetry

import (
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// scrape returns the lines of a scrape that are about sennit, as Prometheus' text form has them.
func scrape(t *testing.T, e *Edges) string {
	t.Helper()
	answer := httptest.NewRecorder()
	NewMetrics(e).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	if answer.Code != 200 {
		t.Fatalf("%d: %s", answer.Code, answer.Body)
	}
	var ours strings.Builder
	for line := range strings.Lines(answer.Body.String()) {
		if strings.HasPrefix(line, "sennit_") {
			ours.WriteString(line)
		}
	}
	return ours.String()
}

func TestMetricsGoOnOverReports(t *testing.T) {
	e := NewEdges(start)
	elsewhere := anEdge
	elsewhere.Node = "web2" // another instance of the same edge
	e.Record(anEdge, sample(200, exchange.Completed))
	e.Record(elsewhere, sample(404, exchange.Completed))
	e.Report(start.Add(time.Second))
	e.Record(anEdge, sample(200, exchange.Completed))
	e.Record(anEdge, sample(503, exchange.NoInstance))
	e.Record(anEdge, sample(299, exchange.Completed))
	e.Report(start.Add(2 * time.Second))
	const edge = `backend="default/payments",`
	got := scrape(t, e)
	for _, want := range []string{
		`sennit_requests_total{` + edge + `code="200",destination="default/payments",protocol="http",source="default/orders",version="v1"} 2`,
		`sennit_requests_total{` + edge + `code="404",destination="default/payments",protocol="http",source="default/orders",version="v1"} 1`,
		`sennit_requests_total{` + edge + `code="2xx",destination="default/payments",protocol="http",source="default/orders",version="v1"} 1`,
		`sennit_request_failures_total{` + edge + `destination="default/payments",protocol="http",reason="no-instance",source="default/orders",version="v1"} 1`,
		`sennit_request_body_bytes_total{` + edge + `destination="default/payments",protocol="http",source="default/orders",version="v1"} 50`,
		`sennit_response_body_bytes_total{` + edge + `destination="default/payments",protocol="http",source="default/orders",version="v1"} 500`,
		`sennit_request_duration_seconds_bucket{` + edge + `destination="default/payments",protocol="http",source="default/orders",version="v1",le="0.000524288"} 0`,
		`sennit_request_duration_seconds_bucket{` + edge + `destination="default/payments",protocol="http",source="default/orders",version="v1",le="0.001048576"} 5`,
		`sennit_request_duration_seconds_sum{` + edge + `destination="default/payments",protocol="http",source="default/orders",version="v1"} 0.005`,
		`sennit_request_duration_seconds_count{` + edge + `destination="default/payments",protocol="http",source="default/orders",version="v1"} 5`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("not there: %s", want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

// Who reads the native form finds each duration in a bucket that holds it, but for the 1/32 that ours are wide.
func TestTheNativeHistogramHoldsWhatTheClassicOneDoes(t *testing.T) {
	var m merged
	durations := []time.Duration{0, time.Microsecond, 77 * time.Microsecond, time.Millisecond, 3 * time.Second, 2 * time.Hour}
	for _, d := range durations {
		m[bucketOf(d)]++
	}
	var out dto.Metric
	if err := m.metric(1, []string{"a", "b", "c", "d", "e"}).Write(&out); err != nil {
		t.Fatal(err)
	}
	h := out.GetHistogram()
	total, last := int64(0), int64(0)
	for _, delta := range h.GetPositiveDelta() {
		last += delta
		total += last
	}
	if total != 6 || h.GetSampleCount() != 6 || h.GetSchema() != nativeSchema || len(h.GetPositiveSpan()) == 0 {
		t.Errorf("%d in native buckets: %v", total, h)
	}
	for _, b := range h.GetBucket() {
		want := uint64(0)
		for _, d := range durations {
			if d.Seconds() < b.GetUpperBound() {
				want++
			}
		}
		if b.GetCumulativeCount() != want {
			t.Errorf("%d up to %gs, want %d", b.GetCumulativeCount(), b.GetUpperBound(), want)
		}
	}
	if n := len(h.GetBucket()); n != highestBound-lowestBound+1 {
		t.Errorf("%d classic buckets", n)
	}
}

func TestTotalsAreBoundedAndForgotten(t *testing.T) {
	e := NewEdges(start)
	for i := range maxTotals + 100 {
		name := anEdge
		name.Version = strconv.Itoa(i)
		e.totalOf(name)
	}
	if len(e.totals) != maxTotals+1 || e.totals[Overflow] == nil {
		t.Errorf("%d totals", len(e.totals))
	}
	e = NewEdges(start)
	e.Record(anEdge, sample(200, exchange.Completed))
	for range totalIdle + 1 {
		e.Report(start)
	}
	if !strings.Contains(scrape(t, e), "sennit_requests_total") {
		t.Error("forgotten within the hour")
	}
	e.Report(start)
	if got := scrape(t, e); got != "" {
		t.Errorf("after an hour without an exchange there is still %s", got)
	}
	e.Record(anEdge, sample(200, exchange.Completed))
	e.Report(start)
	if !strings.Contains(scrape(t, e), `code="200"`) {
		t.Error("an edge that came back is not counted")
	}
}

func TestStatusCodes(t *testing.T) {
	if len(registered) != numCodes-6 {
		t.Fatalf("%d codes for %d counters", len(registered), numCodes-6)
	}
	for status, want := range map[int]string{-1: "none", 0: "none", 99: "none", 100: "100", 200: "200", 299: "2xx", 418: "4xx", 511: "511", 599: "5xx", 600: "5xx", 999: "5xx"} {
		code := int(codeOf(status))
		if got := codeNames[code]; got != want {
			t.Errorf("%d counts as %s, want %s", status, got, want)
		}
		if got, want := classOf(code), min(max(status, 0)/100, 5); got != want {
			t.Errorf("%d is of class %d, want %d", status, got, want)
		}
	}
}

// BenchmarkClientGolang is what counting by client_golang would cost each exchange (decision 0140).
func BenchmarkClientGolang(b *testing.B) {
	labels := []string{"default/orders", "default/payments", "default/payments", "v1", "http"}
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests"}, append(edgeLabels, "code"))
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "durations", NativeHistogramBucketFactor: 1.1}, edgeLabels)
	b.Run("looked up", func(b *testing.B) {
		for b.Loop() {
			requests.WithLabelValues(append(labels, "200")...).Inc()
			durations.WithLabelValues(labels...).Observe(0.001)
		}
	})
	b.Run("held", func(b *testing.B) {
		request, duration := requests.WithLabelValues(append(labels, "200")...), durations.WithLabelValues(labels...)
		for b.Loop() {
			request.Inc()
			duration.Observe(0.001)
		}
	})
}
