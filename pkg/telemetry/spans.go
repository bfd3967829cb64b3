package telemetry

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

const (
	maxSpanBytes = 256 << 10        // of spans that wait in a node; far below what one message of the bus may have
	unwantedFor  = 30 * time.Second // for how long a node records nothing after it was told that nobody wants spans
)

// Spans are those that wait to be sent to the controllers. It is safe for concurrent use; its memory is bounded, and
// what finds it full is dropped and counted.
type Spans struct {
	mu      sync.Mutex
	waiting map[exchange.ServiceName]*ServiceSpans
	size    int
	scratch []byte

	unwanted atomic.Int64 // unix nanoseconds until which nobody wants any
	recorded atomic.Uint64
	full     atomic.Uint64
	lost     atomic.Uint64
}

// NewSpans returns Spans of which none wait.
func NewSpans() *Spans { return &Spans{waiting: map[exchange.ServiceName]*ServiceSpans{}} }

// Record takes a span in. It does not block for longer than it takes to encode one.
func (s *Spans) Record(span *Span) {
	if until := s.unwanted.Load(); until != 0 && span.Start.UnixNano() < until {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scratch = span.append(s.scratch[:0])
	if s.size+len(s.scratch) > maxSpanBytes {
		s.full.Add(1)
		return
	}
	service := span.service()
	of := s.waiting[service]
	if of == nil {
		of = &ServiceSpans{Service: service.String()}
		s.waiting[Edge{Caller: service}.clone().Caller] = of
	}
	of.Spans = append(of.Spans, bytes.Clone(s.scratch))
	s.size += len(s.scratch)
	s.recorded.Add(1)
}

// Take returns all that wait; nil where none do.
func (s *Spans) Take() []*ServiceSpans {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size == 0 {
		return nil
	}
	all := make([]*ServiceSpans, 0, len(s.waiting))
	for _, of := range s.waiting {
		all = append(all, of)
	}
	clear(s.waiting)
	s.size = 0
	return all
}

// Lost counts what was taken and reached no controller.
func (s *Spans) Lost(taken []*ServiceSpans) {
	for _, of := range taken {
		s.lost.Add(uint64(len(of.Spans)))
	}
}

// Unwanted says that nobody wanted what was taken: for half a minute nothing is recorded.
func (s *Spans) Unwanted(now time.Time) { s.unwanted.Store(now.Add(unwantedFor).UnixNano()) }

var (
	spansDesc        = prometheus.NewDesc("sennit_spans_total", "Spans that were recorded by a node, or came to a controller.", nil, nil)
	spansDroppedDesc = prometheus.NewDesc("sennit_spans_dropped_total", "Spans that were dropped, by reason.", []string{"reason"}, nil)
)

// Describe names the metrics of spans (prometheus.Collector).
func (s *Spans) Describe(out chan<- *prometheus.Desc) {
	out <- spansDesc
	out <- spansDroppedDesc
}

// Collect gives the metrics of spans (prometheus.Collector).
func (s *Spans) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(spansDesc, prometheus.CounterValue, float64(s.recorded.Load()))
	out <- prometheus.MustNewConstMetric(spansDroppedDesc, prometheus.CounterValue, float64(s.full.Load()), "queue-full")
	out <- prometheus.MustNewConstMetric(spansDroppedDesc, prometheus.CounterValue, float64(s.lost.Load()), "bus-away")
}
