package proxy

import (
	"context"
	"slices"
	"time"

	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/authz"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// Access decides who may call the services of this host.
type Access interface {
	// Decide decides on a request to a service; false where it is not known what its policies are. It may wait for that
	// for a while.
	Decide(ctx context.Context, service exchange.ServiceName, q *authz.Request) (authz.Decision, bool)
	// Asks reports whether a rule of the service may go by a field of a request's head.
	Asks(service exchange.ServiceName, field string) bool
	// Denied hears of a request that was refused, or would be if no policy were on its dry run.
	Denied(seen *Observation, d *authz.Decision)
}

// PlaintextInstance stands before the name of an instance in the target of a request whose caller shows no identity: the node
// that took its connection brings it over a lane of its own, in the name of the service itself. Whoever else says so loses
// its name, and wins nothing. No instance has a name with a slash.
const PlaintextInstance = "plaintext/"

// caller is who calls, as its certificate says; zero where it shows none.
func (e *serving) caller(stream *transport.Stream) exchange.ServiceName {
	if e.plaintext {
		return exchange.ServiceName{}
	}
	return stream.Peer()
}

// admits reports whether the caller may have what it asks for, and refuses it where not: before the process is dialled.
// What the caller hears is that it was denied, and never by what.
func (in *Inbound) admits(ctx context.Context, e *serving, place Place, stream *transport.Stream, user *authn.User) bool {
	if in.Access == nil {
		return true
	}
	e.hears.access, e.hears.service = in.Access, stream.Local()
	q := &e.asks
	home := stream.Home()
	*q = authz.Request{
		Caller: e.caller(stream), Plaintext: e.plaintext, TrustDomain: home.TrustDomain, Node: home.Node, User: user,
		Port: e.request.Target.Port, TCP: e.request.Kind != exchange.HTTP,
	}
	if e.plaintext {
		q.TrustDomain, q.Node = "", ""
	}
	if !q.TCP {
		q.Method, q.Path, q.Host, q.Fields = e.request.Method, e.request.Path, e.request.Authority, e.request.Fields
		if place.Outside != nil {
			q.Host = place.Outside.Authority // as it will be sent
		}
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
		Kind: e.request.Kind, Inbound: true, Caller: e.caller(stream), Callee: stream.Local(), Instance: e.request.Target.Instance,
		CallerNode: q.Node, Method: q.Method, Path: q.Path, Host: e.request.Authority, Start: time.Now(),
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

// A hearing says which trailers of a request the process hears. Those that it may take for a field of the head are none that
// a rule goes by, or a claim is told in: what stands behind a body was said by nobody who knew, and after it was decided.
type hearing struct {
	users   *authn.Policy // that the request was admitted by; nil: by none
	access  Access        // that admitted it; nil: everybody may
	service exchange.ServiceName
}

func (h hearing) of(trailers exchange.Fields) exchange.Fields {
	unheard := func(f exchange.Field) bool {
		return h.users.Tells(f.Name) || h.access != nil && h.access.Asks(h.service, f.Name)
	}
	if !slices.ContainsFunc(trailers, unheard) {
		return trailers
	}
	return slices.DeleteFunc(slices.Clone(trailers), unheard)
}
