package node

import (
	"github.com/sennit-mesh/sennit/pkg/proxy"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// An observer turns what the proxy saw on one connection into edge summaries and access-log lines. What it
// hands on stands in it, so that an exchange allocates nothing.
type observer struct {
	recorder telemetry.Recorder
	log      *telemetry.AccessLog // nil: none is written
	access   telemetry.Access
}

// observe makes the observer of one connection.
func (n *Node) observe() proxy.Observer {
	return &observer{recorder: telemetry.Recorder{Edges: n.edges}, log: n.access}
}

// Ended records one exchange.
func (o *observer) Ended(seen *proxy.Observation) {
	a := &o.access
	*a = telemetry.Access{
		Start: seen.Start,
		Sample: telemetry.Sample{
			Outcome: seen.Outcome, Duration: seen.Duration,
			BytesSent: uint64(max(seen.Sent, 0)), BytesReceived: uint64(max(seen.Received, 0)),
		},
		Edge: telemetry.Edge{
			Caller: seen.Caller, Callee: seen.Callee, Backend: seen.Backend,
			Version: seen.Version, Node: seen.Node, Protocol: seen.Kind,
		},
		Instance: seen.Instance, Method: seen.Method, Path: seen.Path, Host: seen.Host,
	}
	o.recorder.Record(a.Edge, &a.Sample)
	if o.log != nil {
		o.log.Log(a)
	}
}
