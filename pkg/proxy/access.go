package proxy

import (
	"context"
	"time"

	"github.com/sennit-mesh/sennit/pkg/authz"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// Access decides who may call the services of this host.
type Access interface {
	// Decide decides on a request to a service; false where it is not known what its policies are. It may wait for that
	// for a while.
	Decide(ctx context.Context, service exchange.ServiceName, q *authz.Request) (authz.Decision, bool)
	// Denied hears of a request that was refused, or would be if no policy were on its dry run.
	Denied(seen *Observation, d *authz.Decision)
}

// admits reports whether the caller may have what it asks for, and refuses it where not: before the process is dialled.
// What the caller hears is that it was denied, and never by what.
func (in *Inbound) admits(ctx context.Context, e *serving, stream *transport.Stream) bool {
	if in.Access == nil {
		return true
	}
	q := &e.asks
	*q = authz.Request{Caller: stream.Peer(), Port: e.request.Target.Port, TCP: e.request.Kind == exchange.TCP}
	if !q.TCP {
		q.Method, q.Path = e.request.Method, e.request.Path
	}
	d, known := in.Access.Decide(ctx, stream.Local(), q)
	if !known {
		stream.Reset(exchange.InstanceNotServed)
		return false
	}
	if !d.Denied && !d.WouldBeDenied {
		return true
	}
	in.denied(e, stream, d)
	return !d.Denied
}

// denied tells of a request that is refused, or would be, and refuses it where it is.
func (in *Inbound) denied(e *serving, stream *transport.Stream, d authz.Decision) {
	q := &e.asks
	e.spot.join(&e.request)
	e.seen = Observation{
		Kind: e.request.Kind, Inbound: true, Caller: stream.Peer(), Callee: stream.Local(), Instance: e.request.Target.Instance,
		Method: q.Method, Path: q.Path, Host: e.request.Authority, Start: time.Now(),
	}
	if d.Denied {
		e.seen.Outcome = exchange.Outcome{Reason: exchange.Denied}
		if !q.TCP {
			e.seen.Outcome.Status = statusOf(exchange.Denied)
		}
	}
	e.seen.traced(&e.spot)
	in.Access.Denied(&e.seen, &d)
	if d.Denied {
		stream.Reset(exchange.Denied)
	}
}
