package telemetry

import (
	"encoding/hex"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A Span is one exchange in a trace, as one of the two nodes saw it. Its strings are read before Record returns.
type Span struct {
	Access
	Parent   [8]byte // zero: none
	Attempts int     // of the caller's node; 0 and 1 are not told
}

// Numbers of fields and values in OTLP (opentelemetry-proto, trace/v1/trace.proto and common/v1/common.proto).
const (
	spanTraceID, spanID, spanParentID, spanName, spanKind          = 1, 2, 4, 5, 6
	spanStart, spanEnd, spanAttributes, spanStatus, spanFlags      = 7, 8, 9, 15, 16
	kindServer, kindClient                                         = 2, 3
	attributeKey, attributeValue, valueString, valueInt            = 1, 2, 1, 3
	statusCode, codeError                                          = 3, 2
	scopeName, scopeSpansScope, scopeSpansSpans                    = 1, 1, 2
	resourceAttributes, resourceSpansResource, resourceSpansScopes = 1, 1, 2
	exportResourceSpans                                            = 1
)

// service is whose part of the trace the span is.
func (s *Span) service() exchange.ServiceName {
	if s.Inbound {
		return s.Edge.Callee
	}
	return s.Edge.Caller
}

// failed is what OpenTelemetry's conventions for HTTP call an error: for a client 400, for a server 500 and more.
func (s *Span) failed() bool {
	least := 400
	if s.Inbound {
		least = 500
	}
	return s.Sample.Outcome.Reason != exchange.Completed || s.Sample.Outcome.Status >= least
}

// append appends the span in OTLP. Names of attributes are OpenTelemetry's where it has them, and those of the access log.
func (s *Span) append(b []byte) []byte {
	b = bytesField(b, spanTraceID, s.Trace.ID[:])
	b = bytesField(b, spanID, s.Trace.Span[:])
	if s.Parent != [8]byte{} {
		b = bytesField(b, spanParentID, s.Parent[:])
	}
	b = protowire.AppendTag(b, spanName, protowire.BytesType)
	method := s.Method[:min(len(s.Method), 32)] // a token: ASCII (RFC 9110 §9.1)
	b = protowire.AppendVarint(b, uint64(len(method)+1+len(s.Edge.Callee.Namespace)+1+len(s.Edge.Callee.Name)))
	b = append(append(append(b, method...), ' '), s.Edge.Callee.Namespace...)
	b = append(append(b, '/'), s.Edge.Callee.Name...)
	kind := uint64(kindClient)
	if s.Inbound {
		kind = kindServer
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, spanKind, protowire.VarintType), kind)
	b = timeField(b, spanStart, s.Start)
	b = timeField(b, spanEnd, s.Start.Add(s.Sample.Duration))
	b = stringAttribute(b, "http.request.method", s.Method)
	b = stringAttribute(b, "url.path", withoutQuery(s.Path))
	b = stringAttribute(b, "server.address", s.Host)
	b = serviceAttribute(b, "sennit.caller", s.Edge.Caller)
	b = serviceAttribute(b, "sennit.callee", s.Edge.Callee)
	b = serviceAttribute(b, "sennit.backend", s.Edge.Backend)
	b = stringAttribute(b, "sennit.version", s.Edge.Version)
	b = stringAttribute(b, "sennit.instance", s.Instance)
	b = stringAttribute(b, "sennit.peer.node", s.Edge.Node)
	if s.Sample.Outcome.Status > 0 {
		b = intAttribute(b, "http.response.status_code", int64(s.Sample.Outcome.Status))
	}
	b = stringAttribute(b, "sennit.rule", s.Rule)
	b = stringAttribute(b, "sennit.fault", s.Fault)
	if s.Attempts > 1 {
		b = intAttribute(b, "http.request.resend_count", int64(s.Attempts-1))
	}
	if s.failed() {
		reason := string(s.Sample.Outcome.Reason)
		if reason == "" {
			reason = strconv.Itoa(s.Sample.Outcome.Status)
		}
		b = stringAttribute(b, "error.type", reason)
		b = protowire.AppendTag(b, spanStatus, protowire.BytesType)
		b = protowire.AppendVarint(b, 2)
		b = protowire.AppendVarint(protowire.AppendTag(b, statusCode, protowire.VarintType), codeError)
	}
	return protowire.AppendFixed32(protowire.AppendTag(b, spanFlags, protowire.Fixed32Type), 1)
}

func bytesField(b []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
}

func timeField(b []byte, number protowire.Number, t time.Time) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, number, protowire.Fixed64Type), uint64(t.UnixNano()))
}

// stringAttribute appends an attribute unless it is empty. Receivers refuse what is not UTF-8, which heads may hold.
func stringAttribute(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	value = value[:min(len(value), maxValue)]
	if !utf8.ValidString(value) {
		value = strings.ToValidUTF8(value, "\uFFFD")
	}
	b = attributeHead(b, key, protowire.SizeTag(valueString)+protowire.SizeBytes(len(value)))
	return protowire.AppendString(protowire.AppendTag(b, valueString, protowire.BytesType), value)
}

func serviceAttribute(b []byte, key string, service exchange.ServiceName) []byte {
	if service.IsZero() {
		return b
	}
	size := len(service.Namespace) + 1 + len(service.Name)
	b = attributeHead(b, key, protowire.SizeTag(valueString)+protowire.SizeBytes(size))
	b = protowire.AppendVarint(protowire.AppendTag(b, valueString, protowire.BytesType), uint64(size))
	return append(append(append(b, service.Namespace...), '/'), service.Name...)
}

func intAttribute(b []byte, key string, value int64) []byte {
	b = attributeHead(b, key, protowire.SizeTag(valueInt)+protowire.SizeVarint(uint64(value)))
	return protowire.AppendVarint(protowire.AppendTag(b, valueInt, protowire.VarintType), uint64(value))
}

// attributeHead appends a KeyValue up to its value, an AnyValue of the given size.
func attributeHead(b []byte, key string, size int) []byte {
	all := protowire.SizeTag(attributeKey) + protowire.SizeBytes(len(key)) + protowire.SizeTag(attributeValue) + protowire.SizeBytes(size)
	b = protowire.AppendVarint(protowire.AppendTag(b, spanAttributes, protowire.BytesType), uint64(all))
	b = protowire.AppendString(protowire.AppendTag(b, attributeKey, protowire.BytesType), key)
	return protowire.AppendVarint(protowire.AppendTag(b, attributeValue, protowire.BytesType), uint64(size))
}

// appendTrace appends the fields of the access log that lead to the trace (OpenTelemetry, logs/compatibility).
func appendTrace(b []byte, t *exchange.Trace) []byte {
	if t.ID == [16]byte{} {
		return b
	}
	b = append(b, `,"trace_id":"`...)
	b = hex.AppendEncode(b, t.ID[:])
	b = append(b, `","span_id":"`...)
	b = hex.AppendEncode(b, t.Span[:])
	return append(b, '"')
}
