package telemetry

import (
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// NewMetrics returns what answers scrapes: the metrics of all the collectors, and those of the process. Collectors of
// one name twice are a mistake in the program, and panic.
func NewMetrics(all ...prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(all...)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return mux
}

// Labels of what is counted by edge. A name is "namespace/name".
var edgeLabels = []string{"source", "destination", "backend", "version", "protocol"}

var (
	requestsDesc = prometheus.NewDesc("sennit_requests_total",
		"Requests, and connections that are not looked into, as the caller's node saw them end, by status code.", append(edgeLabels, "code"), nil)
	failuresDesc = prometheus.NewDesc("sennit_request_failures_total",
		"Those that no service answered, by the reason that the caller was told in sennit-reason.", append(edgeLabels, "reason"), nil)
	durationDesc = prometheus.NewDesc("sennit_request_duration_seconds",
		"From a request's head until its response has ended; of a connection, until it was closed.", edgeLabels, nil)
	sentDesc = prometheus.NewDesc("sennit_request_body_bytes_total",
		"Bytes of bodies, or of connections, towards the destination.", edgeLabels, nil)
	receivedDesc = prometheus.NewDesc("sennit_response_body_bytes_total",
		"Bytes of bodies, or of connections, back to the source.", edgeLabels, nil)
)

// Describe names the metrics of exchanges (prometheus.Collector).
func (e *Edges) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{requestsDesc, failuresDesc, durationDesc, sentDesc, receivedDesc} {
		out <- desc
	}
}

// Collect gives what was counted up to the last report (prometheus.Collector).
func (e *Edges) Collect(out chan<- prometheus.Metric) {
	var metrics []prometheus.Metric
	e.mu.Lock() // who reads the channel may be slow
	for name, t := range e.totals {
		if t.exchanges() == 0 {
			continue // of an edge that was not reported yet
		}
		labels := []string{text(name.Caller), text(name.Callee), text(name.Backend), name.Version, name.Protocol.String()}
		metrics = t.append(metrics, labels)
	}
	e.mu.Unlock()
	for _, m := range metrics {
		out <- m
	}
}

func (t *total) append(to []prometheus.Metric, labels []string) []prometheus.Metric {
	labels = labels[:len(labels):len(labels)]
	counter := func(desc *prometheus.Desc, n uint64, labels ...string) {
		to = append(to, prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...))
	}
	for i, n := range t.codes {
		if n > 0 {
			counter(requestsDesc, n, append(labels, codeNames[i])...)
		}
	}
	for i, n := range t.failures {
		if n > 0 {
			counter(failuresDesc, n, append(labels, string(reasons[i]))...)
		}
	}
	counter(sentDesc, t.sent, labels...)
	counter(receivedDesc, t.received, labels...)
	return append(to, t.latencies.metric(t.took.Seconds(), labels))
}

func (t *total) exchanges() (n uint64) {
	for _, of := range t.codes {
		n += of
	}
	return n
}

// The native histogram has eight buckets for each power of two of seconds (schema 3). The classic one has a bound for
// each power of two of nanoseconds, where buckets of ours end too, so that it is exact.
const (
	nativeSchema              = 3
	lowestBound, highestBound = 17, 34 // 2^17 ns are 131 µs, 2^34 ns 17 s
)

var nativeIndex = func() (index [numBuckets]int) {
	for i := range index {
		index[i] = int(math.Ceil(math.Log2(middleOf(i).Seconds()) * (1 << nativeSchema)))
	}
	return index
}()

// metric is the histogram as Prometheus reads it; sum is in seconds.
func (m *merged) metric(sum float64, labels []string) prometheus.Metric {
	native, classic := map[int]int64{}, map[float64]uint64{}
	count, bound := uint64(0), lowestBound
	for i, n := range m {
		for bound <= highestBound && i >= bucketOf(1<<bound) {
			classic[math.Ldexp(1e-9, bound)] = count
			bound++
		}
		if n > 0 {
			native[nativeIndex[i]] += int64(n)
			count += n
		}
	}
	return twoForms{
		prometheus.MustNewConstHistogram(durationDesc, count, sum, classic, labels...),
		prometheus.MustNewConstNativeHistogram(durationDesc, count, sum, native, nil, 0, nativeSchema, 0, time.Time{}, labels...),
	}
}

// twoForms is one histogram with the buckets of both: scrapers read the form that they know.
type twoForms struct{ classic, native prometheus.Metric }

// Desc is of the histogram (prometheus.Metric).
func (h twoForms) Desc() *prometheus.Desc { return h.native.Desc() }

// Write fills in both forms (prometheus.Metric).
func (h twoForms) Write(out *dto.Metric) error {
	var classic dto.Metric
	if err := errors.Join(h.native.Write(out), h.classic.Write(&classic)); err != nil {
		return err
	}
	out.Histogram.Bucket = classic.GetHistogram().GetBucket()
	return nil
}
