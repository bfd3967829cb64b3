package proxy

import (
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// An Observation is what is known of an exchange when it has ended, at the caller's node, or where Inbound is set at
// that of the called service. Its strings are
// those of the heads: valid during the call that it is given to, and to be cloned by whoever keeps one.
type Observation struct {
	Kind           exchange.Kind
	Inbound        bool
	Trace          exchange.Trace // where it is sampled, Span is this node's part of it
	Parent         [8]byte        // of that; zero: none
	Caller, Callee exchange.ServiceName
	Backend        exchange.ServiceName // zero where none was chosen
	Version        string               // the instance's label
	CallerNode     string               // of an inbound one that was refused: where the caller is, as its certificate says
	Node, Instance string               // where it was served; empty where nowhere
	Lane           transport.Carrier    // what the last one that was had ran over; Auto: there was none
	Rule           string
	Method, Path   string
	Host           string // as the caller named the service
	Outcome        exchange.Outcome
	Attempts       int
	Faults         []Fault // what faults did to it; often none
	Sent, Received int64   // bytes of bodies, or of the connection
	Start          time.Time
	Duration       time.Duration
	Err            error // what broke it, for the log
}

// An Observer hears of every exchange of one connection when it has ended, one after the other. It must not
// block and must not keep its argument.
type Observer interface {
	Ended(*Observation)
}

// traced says where the exchange stood in its trace.
func (o *Observation) traced(at *spot) { o.Trace, o.Parent = at.Trace, at.parent }
