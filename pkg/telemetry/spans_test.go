package telemetry

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

func aSpan() *Span {
	return &Span{
		Access: Access{
			Start: start, Sample: *sample(503, exchange.NoInstance), Edge: anEdge, Instance: "i1",
			Method: "GET", Path: "/a\xff?secret=1", Host: "payments",
			Trace: exchange.Trace{ID: [16]byte{1}, Span: [8]byte{2}, Sampled: true},
		},
		Parent: [8]byte{3}, Attempts: 3,
	}
}

// The bytes are read by OpenTelemetry's own code.
func TestSpansAreOTLP(t *testing.T) {
	var got tracepb.Span
	if err := proto.Unmarshal(aSpan().append(nil), &got); err != nil {
		t.Fatal(err)
	}
	attributes := map[string]any{}
	for _, a := range got.GetAttributes() {
		if text := a.GetValue().GetStringValue(); text != "" {
			attributes[a.GetKey()] = text
		} else {
			attributes[a.GetKey()] = a.GetValue().GetIntValue()
		}
	}
	want := map[string]any{
		"http.request.method": "GET", "url.path": "/a\uFFFD", "server.address": "payments", "sennit.caller": "default/orders",
		"sennit.callee": "default/payments", "sennit.backend": "default/payments", "sennit.version": "v1", "sennit.instance": "i1",
		"sennit.peer.node": "web1", "http.response.status_code": int64(503), "http.request.resend_count": int64(2), "error.type": "no-instance",
	}
	if diff := cmp.Diff(want, attributes); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	if got.GetName() != "GET default/payments" || got.GetKind() != tracepb.Span_SPAN_KIND_CLIENT || got.GetStatus().GetCode() != tracepb.Status_STATUS_CODE_ERROR ||
		len(got.GetTraceId()) != 16 || got.GetSpanId()[0] != 2 || got.GetParentSpanId()[0] != 3 || got.GetFlags() != 1 ||
		got.GetStartTimeUnixNano() != 1e18 || got.GetEndTimeUnixNano() != 1e18+1e6 {
		t.Errorf("%v", &got)
	}
	unknown := got.ProtoReflect().GetUnknown()
	if len(unknown) > 0 {
		t.Errorf("fields that OTLP does not have: %x", unknown)
	}
}

func TestSpansThatWaitAreBounded(t *testing.T) {
	s := NewSpans()
	one := len(aSpan().append(nil))
	const more = 10
	for range maxSpanBytes/one + more {
		s.Record(aSpan())
	}
	inbound := aSpan()
	inbound.Inbound = true
	s.Record(inbound)
	taken := s.Take()
	if len(taken) != 1 || taken[0].Service != "default/orders" || len(taken[0].Spans) != maxSpanBytes/one || s.full.Load() != more+1 {
		t.Fatalf("%d services, %d spans, %d dropped", len(taken), len(taken[0].Spans), s.full.Load())
	}
	s.Record(inbound)
	if taken := s.Take(); len(taken) != 1 || taken[0].Service != "default/payments" || s.Take() != nil {
		t.Errorf("of the called service: %v", taken)
	}
	s.Unwanted(start)
	s.Record(aSpan())
	if s.Take() != nil {
		t.Error("recorded, though nobody wants it")
	}
	later := aSpan()
	later.Start = start.Add(unwantedFor)
	s.Record(later)
	if s.Take() == nil {
		t.Error("not recorded after the time for which nobody wanted it")
	}
}

func TestTheAccessLogNamesTheTrace(t *testing.T) {
	l := NewAccessLog(AccessLogConfig{})
	line := string(l.encode(nil, &aSpan().Access))
	if want := `,"trace_id":"01` + strings.Repeat("0", 30) + `","span_id":"02` + strings.Repeat("0", 14) + `",`; !strings.Contains(line, want) {
		t.Errorf("%s lacks %s", line, want)
	}
	without := aSpan()
	without.Trace = exchange.Trace{}
	if line := string(l.encode(nil, &without.Access)); strings.Contains(line, "trace_id") {
		t.Errorf("a trace in %s", line)
	}
}

func BenchmarkRecordSpan(b *testing.B) {
	s, span := NewSpans(), aSpan()
	span.Path = "/a" // as nearly all are: UTF-8
	b.ReportAllocs()
	for b.Loop() {
		s.scratch = span.append(s.scratch[:0])
	}
}
