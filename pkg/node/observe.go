package node

import (
	"cmp"
	"strings"

	"github.com/sennit-mesh/sennit/pkg/proxy"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// An observer turns what the proxy saw on one connection into edge summaries, access-log lines and spans, and shows it
// to taps. What it hands on stands in it, so that an exchange allocates nothing.
type observer struct {
	recorder telemetry.Recorder   // without Edges: none are counted
	log      *telemetry.AccessLog // nil: none is written
	spans    *telemetry.Spans
	taps     *telemetry.Taps
	faults   *telemetry.Faults
	span     telemetry.Span // the access that is logged is part of it
}

// observe makes the observer of one connection.
func (n *Node) observe() proxy.Observer {
	o := &observer{log: n.access, spans: n.spans, taps: &n.taps, faults: &n.faults}
	if !n.cfg.NoEdges {
		o.recorder.Edges = n.edges
	}
	return o
}

// Ended records one exchange.
func (o *observer) Ended(seen *proxy.Observation) {
	for _, f := range seen.Faults {
		o.faults.Record(f.ID, f.Action)
	}
	if o.recorder.Edges == nil && o.log == nil && !seen.Trace.Sampled && o.taps.Len() == 0 {
		return // nobody wants to know
	}
	fill(&o.span, seen)
	a := &o.span.Access
	if o.recorder.Edges != nil {
		o.recorder.Record(a.Edge, &a.Sample)
	}
	if o.log != nil {
		o.log.Log(a)
	}
	if seen.Trace.Sampled {
		o.spans.Record(&o.span)
	}
	o.taps.See(a)
}

// traced records the spans of exchanges that other nodes bring here.
type traced struct{ spans *telemetry.Spans }

// Ended records one exchange.
func (t *traced) Ended(seen *proxy.Observation) {
	var span telemetry.Span
	fill(&span, seen)
	t.spans.Record(&span)
}

func fill(span *telemetry.Span, seen *proxy.Observation) {
	*span = telemetry.Span{
		Access: telemetry.Access{
			Start: seen.Start, Inbound: seen.Inbound,
			Sample: telemetry.Sample{
				Outcome: seen.Outcome, Duration: seen.Duration,
				BytesSent: uint64(max(seen.Sent, 0)), BytesReceived: uint64(max(seen.Received, 0)),
			},
			Edge: telemetry.Edge{
				Caller: seen.Caller, Callee: seen.Callee, Backend: seen.Backend,
				Version: seen.Version, Node: cmp.Or(seen.Node, seen.CallerNode), Protocol: seen.Kind,
			},
			Instance: seen.Instance, Method: seen.Method, Path: seen.Path, Host: seen.Host, Trace: seen.Trace,
			Rule: seen.Rule, Lane: laneOf(seen.Lane), Fault: faultsOf(seen.Faults),
		},
		Parent: seen.Parent, Attempts: seen.Attempts,
	}
}

// faultsOf says what faults did, "" where there were none.
func faultsOf(all []proxy.Fault) string {
	if len(all) == 0 {
		return ""
	}
	var b strings.Builder
	for i, f := range all {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(f.ID)
		b.WriteByte(':')
		b.WriteString(f.Action)
	}
	return b.String()
}

// laneOf names what a lane ran over; "" where there was none.
func laneOf(c transport.Carrier) string {
	if c == transport.Auto {
		return ""
	}
	return c.String()
}
