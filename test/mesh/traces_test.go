package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// TestTraces sends requests through a mesh and looks for both nodes' spans at a receiver of OTLP.
func TestTraces(t *testing.T) {
	t.Parallel()
	r := &receiver{spans: map[string][]*tracepb.Span{}}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	m := Start(t, Config{
		Nodes: []string{"one", "two"}, Services: []string{"default/web", "default/orders"},
		Flags: []string{"--trace-share", "1"}, ControllerFlags: []string{"--otlp-endpoint", server.URL},
	})
	m.Serve("two", Service{Name: "default/orders", Version: "v1"})
	orders := m.Listen("one", "default/web", "default/orders:80")
	m.AwaitAnswer("one", orders, "v1")
	if _, _, err := m.Get(t.Context(), "one", orders, "/echo"); err != nil {
		t.Fatal(err)
	}
	m.Eventually("a span of each node, one behind the other", func(context.Context) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, client := range r.spans["web on one"] {
			for _, served := range r.spans["orders on two"] {
				if bytes.Equal(client.GetTraceId(), served.GetTraceId()) && bytes.Equal(client.GetSpanId(), served.GetParentSpanId()) &&
					client.GetKind() == tracepb.Span_SPAN_KIND_CLIENT && served.GetKind() == tracepb.Span_SPAN_KIND_SERVER &&
					len(client.GetParentSpanId()) == 0 && client.GetName() == "GET default/orders" {
					return nil
				}
			}
		}
		return errors.New(r.String())
	})
}

// A receiver keeps the spans that it is sent, by "service on node".
type receiver struct {
	mu    sync.Mutex
	spans map[string][]*tracepb.Span
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	var export collectorpb.ExportTraceServiceRequest
	if err = errors.Join(err, proto.Unmarshal(body, &export)); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range export.GetResourceSpans() {
		names := map[string]string{}
		for _, a := range of.GetResource().GetAttributes() {
			names[a.GetKey()] = a.GetValue().GetStringValue()
		}
		from := names["service.name"] + " on " + names["sennit.node"]
		for _, scoped := range of.GetScopeSpans() {
			r.spans[from] = append(r.spans[from], scoped.GetSpans()...)
		}
	}
}

func (r *receiver) String() string {
	text := "the receiver has"
	for from, spans := range r.spans {
		text += fmt.Sprintf(" %d spans of %s,", len(spans), from)
	}
	return text
}
