package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// BenchmarkTelemetry is what an exchange costs in CPU, through both nodes, with telemetry as nodes have it by default
// and without any. Where a machine is busy, only the ratio of "cpu-ns/op" counts.
func BenchmarkTelemetry(b *testing.B) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok")
	process := rawProcess(b, func(conn *net.TCPConn, r *bufio.Reader) {
		for readHead(r) {
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	})
	for _, on := range []bool{false, true, false, true} {
		name := map[bool]string{false: "off", true: "on"}[on]
		b.Run(name, func(b *testing.B) {
			p := startPair(b, http11, nil, process)
			p.quiet.Store(true)
			p.inbound.quiet.Store(true)
			if on {
				edges, spans := telemetry.NewEdges(time.Now()), telemetry.NewSpans()
				log := telemetry.NewAccessLog(telemetry.AccessLogConfig{Node: "a", To: io.Discard, Share: 0.01})
				run(b, func(ctx context.Context) error { _ = log.Run(ctx); return nil })
				p.outbound.TraceShare = 0.01
				p.outbound.Observe = func() Observer {
					return &recording{recorder: telemetry.Recorder{Edges: edges}, log: log, spans: spans}
				}
			}
			conn := p.dial()
			request, buffer := []byte("GET /a?b=c HTTP/1.1\r\nHost: orders\r\nAccept: */*\r\n\r\n"), make([]byte, len(answer)+200)
			ask := func() {
				if _, err := conn.Write(request); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadAtLeast(conn, buffer, len(answer)); err != nil {
					b.Fatal(err)
				}
			}
			for range 500 {
				ask()
			}
			b.ReportAllocs()
			before := cpu(b)
			for b.Loop() {
				ask()
			}
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// A recording does what a node's observer does.
type recording struct {
	recorder telemetry.Recorder
	log      *telemetry.AccessLog
	spans    *telemetry.Spans
	span     telemetry.Span
}

func (r *recording) Ended(seen *Observation) {
	r.span = telemetry.Span{
		Access: telemetry.Access{
			Start: seen.Start, Sample: telemetry.Sample{Outcome: seen.Outcome, Duration: seen.Duration},
			Edge:     telemetry.Edge{Caller: seen.Caller, Callee: seen.Callee, Backend: seen.Backend, Version: seen.Version, Node: seen.Node, Protocol: seen.Kind},
			Instance: seen.Instance, Method: seen.Method, Path: seen.Path, Host: seen.Host, Trace: seen.Trace,
		},
		Parent: seen.Parent, Attempts: seen.Attempts,
	}
	r.recorder.Record(r.span.Edge, &r.span.Sample)
	r.log.Log(&r.span.Access)
	if seen.Trace.Sampled {
		r.spans.Record(&r.span)
	}
}
