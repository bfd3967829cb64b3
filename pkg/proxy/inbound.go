package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"syscall"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http1"
	"github.com/sennit-mesh/sennit/pkg/origination"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// Places knows where the instances of this host are.
type Places interface {
	// Find returns where the instance takes exchanges for a port of its service; false where this node
	// does not run it. An empty instance means any of the service's.
	Find(service exchange.ServiceName, target exchange.Target) (Place, bool)
	// Secure returns by what the instance's process is spoken to in TLS; nil: in the clear. It reports false where it does
	// not know what the target says is called.
	Secure(service exchange.ServiceName, kind exchange.Kind, target *exchange.Target) (*origination.Settings, bool)
}

// An Inbound carries what peers' nodes send to the processes of this host, and out of the mesh. It is safe for concurrent use.
type Inbound struct {
	// Traced hears of the exchanges that are sampled, any number at once. It is set before anything is served.
	Traced Observer
	// Access decides who may call. It is set before anything is served; nil: everybody may.
	Access Access
	// Users says how end users are known. It is set before anything is served; nil: nobody asks for them.
	Users     Users
	places    Places
	upstreams upstreams
	multiplex multiplexed
	log       *slog.Logger
}

// NewInbound makes an Inbound. Run must run for its idle connections to be closed in time.
func NewInbound(places Places, limits http1.Limits, log *slog.Logger) *Inbound {
	return &Inbound{places: places, upstreams: upstreams{limits: limits}, multiplex: multiplexed{limits: http2Limits(limits)}, log: log}
}

// Run closes connections to processes that nobody used for a while, and all of them when ctx ends.
func (in *Inbound) Run(ctx context.Context) error {
	tick := time.NewTicker(idleUpstream / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			in.upstreams.sweep(time.Time{})
			in.multiplex.close()
			return nil
		case now := <-tick.C:
			in.upstreams.sweep(now)
			in.multiplex.sweep(now)
		}
	}
}

// Serve drives one exchange of a stream; it is a transport.Config's Serve. What goes wrong before the
// process has seen anything resets the stream with a reason that lets the caller's node go elsewhere.
func (in *Inbound) Serve(ctx context.Context, stream *transport.Stream) {
	e := servings.Get().(*serving)
	defer servings.Put(e)
	if err := stream.ReadRequest(&e.request); err != nil {
		return // the stream has said so itself
	}
	e.plaintext = false
	if instance, marked := strings.CutPrefix(e.request.Target.Instance, PlaintextInstance); marked {
		e.plaintext, e.request.Target.Instance = true, instance
	}
	place, ok := in.places.Find(stream.Local(), e.request.Target)
	if !ok || !place.takes(e.request.Kind) {
		stream.Reset(exchange.InstanceNotServed)
		return
	}
	user, proven := in.proves(ctx, e, stream)
	if !proven || !in.admits(ctx, e, place, stream, user) {
		return
	}
	if place.Outside == nil { // once it is admitted the service's configuration is here
		if place.TLS, ok = in.places.Secure(stream.Local(), e.request.Kind, &e.request.Target); !ok {
			stream.Reset(exchange.InstanceNotServed)
			return
		}
	}
	if e.request.Kind == exchange.TCP {
		in.serveTCP(ctx, stream, place)
		return
	}
	if e.request.Kind == exchange.UDP {
		in.serveUDP(ctx, stream, place)
		return
	}
	began := time.Now()
	e.spot.join(&e.request)
	e.response.Status = 0 // of the exchange before
	var reason exchange.Reason
	var err error
	if place.HTTP2 {
		reason, err = in.serveHTTP2(ctx, e, stream, place)
	} else {
		reason, err = in.serveHTTP(ctx, e, stream, place)
	}
	if e.spot.Sampled && in.Traced != nil {
		in.traced(e, stream, began, reason, err)
	}
	if err != nil {
		in.log.Debug("exchange with a process failed", "service", stream.Local().String(), "peer", stream.Peer().String(),
			"address", place.String(), "reason", string(reason), "err", err)
		if code := processCode(err); reason == exchange.ServiceBroke && code != 0 {
			stream.ResetBy(code)
		} else {
			stream.Reset(reason)
		}
	}
}

// traced tells of an exchange that is sampled.
func (in *Inbound) traced(e *serving, stream *transport.Stream, began time.Time, reason exchange.Reason, err error) {
	e.seen = Observation{
		Kind: exchange.HTTP, Inbound: true, Caller: e.caller(stream), Callee: stream.Local(), Instance: e.request.Target.Instance,
		Method: e.request.Method, Path: e.request.Path, Host: e.request.Authority,
		Outcome: exchange.Outcome{Status: e.response.Status}, Start: began, Duration: time.Since(began), Err: err,
	}
	if err != nil {
		e.seen.Outcome.Reason = reason
	}
	e.seen.traced(&e.spot)
	in.Traced.Ended(&e.seen)
}

// closedBefore reports whether an error is what a process leaves that closed an idle connection.
func closedBefore(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// serveTCP passes a connection on.
func (in *Inbound) serveTCP(ctx context.Context, stream *transport.Stream, place Place) {
	conn, err := place.dial(ctx, exchange.TCP)
	if err != nil {
		stream.Reset(in.undialled(stream.Local(), place, err))
		return
	}
	defer conn.Close()
	stream.Interrupt(aborted{conn}) // a process that neither takes nor gives anything hears of the caller's end too
	defer stream.Interrupt(nil)
	if _, _, err := tunnel(conn, stream, nil); err != nil {
		in.log.Debug("connection to a process broke off", "service", stream.Local().String(), "peer", stream.Peer().String(), "err", err)
	}
}

func (in *Inbound) serveHTTP(ctx context.Context, e *serving, stream *transport.Stream, place Place) (exchange.Reason, error) {
	if e.refused(place) {
		return exchange.Malformed, errConnect
	}
	if e.request.BodyLength != 0 {
		e.request.Upgrade = "" // as the caller's node should have done: nobody upgrades behind a body
	}
	if place.Outside != nil {
		e.request.Authority = place.Outside.Authority // it knows itself by this name alone
	}
	request := bodyOf(&e.request)
	defer request.release()
	if err := request.hold(stream, stream.Ended()); err != nil {
		return exchange.CallerGone, err
	}
	var c *upstream
	if e.request.Method == "CONNECT" { // which is not sent again where the process has just closed its connection
		e.request.Upgrade = ""
	} else {
		c = in.upstreams.take(place)
	}
	kept := c != nil
	for {
		if c == nil {
			var err error
			if c, err = in.upstreams.dial(ctx, place); err != nil {
				return in.undialled(stream.Local(), place, err), err
			}
		}
		stream.Interrupt(c.net) // a caller that gives up must not leave a process working for nobody
		err := e.send(c, &request, stream)
		if errors.Is(err, http1.ErrMalformed) { // what no application could have sent through its node
			c.net.Close()
			return exchange.Malformed, err
		}
		if err == nil {
			err = e.readHead(c, stream)
		}
		if err == nil {
			break
		}
		c.net.Close()
		request.settle(stream.StopReading)
		// A process closes idle connections when it likes: what was lost to that was never looked at, but only
		// for an idempotent request is that a promise that nobody needs to keep.
		if !kept || !closedBefore(err) || !request.repeatable() || !e.request.Idempotent() {
			return exchange.ServiceBroke, err
		}
		c, kept = nil, false
	}
	e.connected()
	if e.response.Status == 101 {
		return exchange.ServiceBroke, e.switchProtocols(c, stream)
	}
	if err := e.passOn(c, stream); err != nil {
		c.net.Close()
		request.settle(stream.StopReading)
		return exchange.ServiceBroke, err
	}
	wake := func() {
		stream.StopReading()
		c.net.Close() // a process that has answered may take no more, and keep the connection
	}
	whole := request.settle(wake) && (request.pump == nil || stream.Ended())
	stream.Interrupt(nil)
	if !whole {
		c.net.Close()
		return exchange.Completed, nil
	}
	in.upstreams.put(place, c, time.Now())
	return exchange.Completed, nil
}
