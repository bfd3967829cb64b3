package telemetry

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// receive answers exports with each of the statuses, then with 200, and hands on what it was sent.
func receive(t *testing.T, statuses ...int) (e *Exporter, got chan *collectorpb.ExportTraceServiceRequest) {
	t.Helper()
	got = make(chan *collectorpb.ExportTraceServiceRequest, 16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		request := &collectorpb.ExportTraceServiceRequest{}
		if err != nil || proto.Unmarshal(body, request) != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s of %s: %x, %v", r.URL, r.Header.Get("Content-Type"), body, err)
		}
		status := 200
		if len(statuses) > 0 {
			status, statuses = statuses[0], statuses[1:]
		}
		w.WriteHeader(status)
		got <- request
	}))
	t.Cleanup(server.Close)
	e, err := NewExporter(server.URL, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	go func() { done <- e.Run(ctx) }()
	return e, got
}

func onlyOrders(s exchange.ServiceName) bool { return s == orders }

func TestSpansReachTheReceiver(t *testing.T) {
	t.Parallel()
	e, got := receive(t, 503)
	span := aSpan().append(nil)
	e.Add("web1", []*ServiceSpans{
		{Service: "default/orders", Spans: [][]byte{span, []byte("no span"), make([]byte, maxSpan+1)}},
		{Service: "default/payments", Spans: [][]byte{span}}, // which the node does not run
		{Service: "no service", Spans: [][]byte{span}},
		nil,
	}, onlyOrders)
	first := <-got
	again := <-got // since the first answer was 503
	if !proto.Equal(first, again) || len(first.GetResourceSpans()) != 1 {
		t.Fatalf("%v\nand then\n%v", first, again)
	}
	of := first.GetResourceSpans()[0]
	names := map[string]string{}
	for _, a := range of.GetResource().GetAttributes() {
		names[a.GetKey()] = a.GetValue().GetStringValue()
	}
	if names["service.name"] != "orders" || names["service.namespace"] != "default" || names["sennit.node"] != "web1" || names["sennit.cluster"] != "test" {
		t.Errorf("resource: %v", names)
	}
	scoped := of.GetScopeSpans()
	if len(scoped) != 1 || scoped[0].GetScope().GetName() == "" || len(scoped[0].GetSpans()) != 1 || scoped[0].GetSpans()[0].GetName() != "GET default/payments" {
		t.Errorf("spans: %v", scoped)
	}
	if e.received.Load() != 5 || e.invalid.Load() != 4 {
		t.Errorf("%d received, %d invalid", e.received.Load(), e.invalid.Load())
	}
}

// What the receiver refuses for good does not keep the next from being sent.
func TestRefusedSpansAreDropped(t *testing.T) {
	t.Parallel()
	e, got := receive(t, 400)
	add := func() {
		e.Add("web1", []*ServiceSpans{{Service: "default/orders", Spans: [][]byte{aSpan().append(nil)}}}, onlyOrders)
	}
	add()
	<-got
	add()
	<-got
	if e.refused.Load() != 1 {
		t.Errorf("%d refused", e.refused.Load())
	}
}

func TestSpansThatWaitForAReceiverAreBounded(t *testing.T) {
	t.Parallel()
	e, err := NewExporter("http://127.0.0.1:1", "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	large := aSpan()
	var spans [][]byte
	for range 100 {
		spans = append(spans, large.append(nil))
	}
	for range 2 * maxExportWaiting / (100 * len(spans[0])) {
		e.Add("web1", []*ServiceSpans{{Service: "default/orders", Spans: spans}}, onlyOrders)
	}
	if e.size > maxExportWaiting || e.size < maxExportWaiting*9/10 || e.full.Load() == 0 {
		t.Errorf("%d bytes wait, %d spans were dropped", e.size, e.full.Load())
	}
	first := e.take()
	if len(first.data) > maxExport || first.spans%100 != 0 || first.spans == 0 {
		t.Errorf("%d bytes of %d spans in one request", len(first.data), first.spans)
	}
	all := first.spans
	for one := e.take(); one.spans > 0; one = e.take() {
		all += one.spans
	}
	if uint64(all)+e.full.Load() != e.received.Load() || e.size != 0 {
		t.Errorf("%d taken and %d dropped of %d; %d bytes wait", all, e.full.Load(), e.received.Load(), e.size)
	}
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	for endpoint, good := range map[string]bool{"http://a:4318": true, "https://a/otlp/": true, "a:4318": false, "http://": false, "ftp://a": false, "": false, "http://a?b": false} {
		if _, err := NewExporter(endpoint, "test", nil); (err == nil) != good {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}
