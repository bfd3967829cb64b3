package telemetry

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

const (
	maxExportWaiting = 4 << 20   // bytes of spans that wait in a controller
	maxExport        = 512 << 10 // bytes of one request, unless one report of a node is larger
	maxSpan          = 16 << 10
	exportEvery      = time.Second
	exportTime       = 10 * time.Second // of one request
	maxExportPause   = 30 * time.Second // between two attempts at a receiver that cannot be reached
)

// An Exporter passes the spans of all nodes on to a receiver of OTLP over HTTP, as OpenTelemetry's collector is. It is
// safe for concurrent use. Its memory is bounded: what finds it full is dropped and counted.
type Exporter struct {
	address string
	cluster string
	client  *http.Client
	log     *slog.Logger

	mu      sync.Mutex
	waiting []export
	size    int

	received, exported, full, refused, invalid atomic.Uint64
}

// An export is what one report held, as ResourceSpans of an ExportTraceServiceRequest.
type export struct {
	data  []byte
	spans int
}

// NewExporter returns an Exporter to the receiver at endpoint, http://host:port, below which traces go to /v1/traces
// (OpenTelemetry's OTEL_EXPORTER_OTLP_ENDPOINT). Run sends.
func NewExporter(endpoint, cluster string, log *slog.Logger) (*Exporter, error) {
	at, err := url.Parse(endpoint)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" || at.RawQuery != "" {
		return nil, fmt.Errorf("%q is no OTLP endpoint: give http://HOST:PORT or https://HOST:PORT", endpoint)
	}
	return &Exporter{
		address: strings.TrimSuffix(endpoint, "/") + "/v1/traces", cluster: cluster, log: log,
		client: &http.Client{
			Timeout:       exportTime,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Add takes in what an authenticated node sent; runs says which services it may speak for. What is not a span is
// dropped here: a receiver would refuse those of other nodes with it.
func (e *Exporter) Add(node string, all []*ServiceSpans, runs func(exchange.ServiceName) bool) {
	for _, of := range all {
		e.received.Add(uint64(len(of.GetSpans())))
		service, err := exchange.ParseServiceName(of.GetService())
		if err != nil || !runs(service) {
			e.invalid.Add(uint64(len(of.GetSpans())))
			continue
		}
		var spans []byte
		n := 0
		for _, span := range of.GetSpans() {
			if len(span) > maxSpan || proto.Unmarshal(span, &tracepb.Span{}) != nil {
				e.invalid.Add(1)
				continue
			}
			spans = bytesField(spans, scopeSpansSpans, span)
			n++
		}
		if n > 0 {
			e.add(export{resourceSpans(e.cluster, node, service, spans), n})
		}
	}
}

func (e *Exporter) add(one export) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.size+len(one.data) > maxExportWaiting {
		e.full.Add(uint64(one.spans))
		return
	}
	e.waiting = append(e.waiting, one)
	e.size += len(one.data)
}

// resourceSpans encodes spans, each a field of ScopeSpans, with what they are of.
func resourceSpans(cluster, node string, service exchange.ServiceName, spans []byte) []byte {
	var resource []byte
	for _, a := range [][2]string{
		{"service.namespace", service.Namespace}, {"service.name", service.Name}, {"host.name", node}, {"sennit.node", node}, {"sennit.cluster", cluster},
	} {
		value := protowire.AppendString(protowire.AppendTag(nil, valueString, protowire.BytesType), a[1])
		attribute := protowire.AppendString(protowire.AppendTag(nil, attributeKey, protowire.BytesType), a[0])
		resource = bytesField(resource, resourceAttributes, bytesField(attribute, attributeValue, value))
	}
	scope := protowire.AppendString(protowire.AppendTag(nil, scopeName, protowire.BytesType), "github.com/sennit-mesh/sennit")
	scoped := append(bytesField(nil, scopeSpansScope, scope), spans...)
	all := bytesField(bytesField(nil, resourceSpansResource, resource), resourceSpansScopes, scoped)
	return bytesField(nil, exportResourceSpans, all)
}

// take returns the oldest that fit into one request.
func (e *Exporter) take() (batch export) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for n < len(e.waiting) && (n == 0 || len(batch.data)+len(e.waiting[n].data) <= maxExport) {
		batch.data = append(batch.data, e.waiting[n].data...)
		batch.spans += e.waiting[n].spans
		e.size -= len(e.waiting[n].data)
		n++
	}
	rest := copy(e.waiting, e.waiting[n:])
	clear(e.waiting[rest:])
	e.waiting = e.waiting[:rest]
	return batch
}

// more reports whether another full request waits.
func (e *Exporter) more() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.size >= maxExport
}

// errExportRefused is of what sending again does not help.
var errExportRefused = errors.New("receiver refused the spans")

// Run sends until ctx ends. A receiver that is away, or has too much to do, is asked again with the same spans; others
// wait meanwhile as far as there is room.
func (e *Exporter) Run(ctx context.Context) error {
	var batch export
	pause, failing := exportEvery, false
	for {
		if batch.spans == 0 {
			batch = e.take()
		}
		next := time.Duration(0)
		if batch.spans > 0 {
			err := e.send(ctx, batch.data)
			switch {
			case ctx.Err() != nil:
				return nil
			case err == nil:
				e.exported.Add(uint64(batch.spans))
			case errors.Is(err, errExportRefused):
				e.refused.Add(uint64(batch.spans))
			default:
				next = pause
				pause = min(2*pause, maxExportPause)
			}
			if err != nil && !failing {
				e.log.Warn("traces cannot be exported (is --otlp-endpoint a receiver of OTLP over HTTP?)", "err", err)
			}
			failing = err != nil
			if next == 0 {
				batch, pause = export{}, exportEvery
				if e.more() {
					continue
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(cmp.Or(next, exportEvery)):
		}
	}
}

// send posts one request (OTLP specification, OTLP/HTTP).
func (e *Exporter) send(ctx context.Context, data []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.address, bytes.NewReader(data))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	request.Header.Set("User-Agent", "sennit")
	response, err := e.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // so that the connection is used again
	switch code := response.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusTooManyRequests, code == http.StatusBadGateway, code == http.StatusServiceUnavailable, code == http.StatusGatewayTimeout:
		return fmt.Errorf("%s answers %s", e.address, response.Status)
	default:
		return fmt.Errorf("%w: %s answers %s", errExportRefused, e.address, response.Status)
	}
}

var spansExportedDesc = prometheus.NewDesc("sennit_spans_exported_total", "Spans that the receiver took.", nil, nil)

// Describe names the metrics of exporting (prometheus.Collector).
func (e *Exporter) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{spansDesc, spansDroppedDesc, spansExportedDesc} {
		out <- desc
	}
}

// Collect gives the metrics of exporting (prometheus.Collector).
func (e *Exporter) Collect(out chan<- prometheus.Metric) {
	count := func(desc *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...)
	}
	count(spansDesc, e.received.Load())
	count(spansExportedDesc, e.exported.Load())
	count(spansDroppedDesc, e.full.Load(), "queue-full")
	count(spansDroppedDesc, e.refused.Load(), "refused")
	count(spansDroppedDesc, e.invalid.Load(), "invalid")
}
