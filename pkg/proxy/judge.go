package proxy

import (
	"errors"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// judge tells routing how the instance did with an attempt, where a policy asks. What the caller, this node or the
// message was the reason for says nothing about the instance.
func (c *caller) judge(f failure) {
	d := &c.decision
	if !d.Judged() || c.requestPace != nil { // what a fault slows down says nothing either
		return
	}
	failed := true
	switch {
	case f.err == nil || errors.Is(f.err, errEarly) || errors.Is(f.err, errSwitched) || errors.Is(f.err, errUnwanted):
		failed = c.response.Status >= 500 || c.failed
	case f.reason == exchange.CallerGone, f.reason == exchange.Denied, f.reason == exchange.Malformed,
		f.reason == exchange.TooLarge, f.reason == exchange.Overloaded, f.reason == exchange.CircuitOpen, f.reason == exchange.FaultInjected:
		return
	case f.reason == exchange.Timeout && c.deadline > 0 && time.Since(c.seen.Start) >= c.deadline:
		return // the caller of gRPC gave it so long; whoever gives nothing would have every instance ejected
	}
	now := time.Now()
	took := c.took
	if took == 0 { // there was no head
		took = now.Sub(c.began)
	}
	d.Judge(failed, took, now)
}

// noteCode remembers whether the service ended a call of gRPC as one of 500 to 599 ends a request, where somebody asks.
func (c *caller) noteCode(stream *transport.Stream) {
	if !c.gRPC || !c.decision.Judged() {
		return
	}
	code, ok := stream.Trailers().Get("grpc-status")
	if !ok { // it came without a body, as trailers alone
		code, _ = c.response.Fields.Get("grpc-status")
	}
	switch code {
	case "2", "13", "14", "15": // unknown, internal, unavailable, data loss: the reason is with the server
		c.failed = true
	}
}
