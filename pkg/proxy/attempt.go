package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http1"
	"github.com/sennit-mesh/sennit/pkg/http2"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// exchange carries one request. keep says that the connection can go on, whole that the application has got
// an answer to its end.
func (c *caller) exchange(ctx context.Context) (keep, whole bool) {
	c.begin()
	defer c.end()
	if c.outside != nil {
		c.outside.admit(&c.request)
	}
	c.spot.begin(&c.request, c.TraceShare)
	c.seen.traced(&c.spot)
	if c.request.BodyLength != 0 {
		c.request.Upgrade = "" // a server may ignore it (RFC 9110 §7.8), and nobody upgrades behind a body
	}
	if c.request.Method == "CONNECT" {
		if c.outside != nil {
			return c.fail(http.StatusNotImplemented, exchange.NoRoute, errConnect)
		}
		c.request.Upgrade = connectProtocol
	}
	request := bodyOf(&c.request)
	defer request.release()
	if err := request.hold(c.Body(), request.length == 0); err != nil {
		status := c.app.ErrorStatus(err)
		if status == 0 {
			return c.left(err)
		}
		reason := exchange.Malformed
		if status == http.StatusRequestTimeout {
			reason = exchange.Timeout
		}
		return c.fail(status, reason, err)
	}
	c.asksToSwitch()
	c.call.Now = c.seen.Start
	c.pick()
	c.routed = true
	c.prove(ctx)
	if c.inject() {
		return false, false
	}
	c.spend(ctx)
	if c.decision.Status == 0 {
		c.decision.Count(&c.call)
		request.keep = c.gRPC && c.decision.Retry.Calls()
		c.rewrite()
		c.mirror(ctx, &request)
	}
	for {
		if c.decision.Status != 0 {
			if c.request.Method == "CONNECT" && c.decision.Reason == exchange.NoRoute {
				return c.fail(http.StatusNotImplemented, exchange.NoRoute, errConnect)
			}
			return c.fail(c.decision.Status, c.decision.Reason, nil)
		}
		c.seen.Attempts++
		f, answered := c.attempt(ctx, &request)
		c.judge(f)
		if answered {
			return f.err == nil, f.err == nil || errors.Is(f.err, errEarly) || errors.Is(f.err, errSwitched)
		}
		if f.reason == exchange.CallerGone {
			return c.left(f.err)
		}
		c.code = gRPCOfReset(f.process)
		instance := c.decision.Instance
		if (f.elsewhere() || f.reason == exchange.Timeout) && f.reason != exchange.CircuitOpen && f.reason != exchange.Overloaded {
			c.decision.Answered(true, time.Now())
		}
		if f.unreachable() {
			c.Table.MarkUnreachable(instance, time.Now())
		}
		if !c.again(f, &request) {
			if c.request.Method == "CONNECT" && f.reason == exchange.Malformed { // the process's node says that it takes none
				return c.fail(http.StatusNotImplemented, exchange.NoRoute, errConnect)
			}
			return c.fail(statusOf(f.reason), f.reason, f.err)
		}
		c.Log.Debug("sent again", "service", c.call.Callee.String(), "peer", instance.Node, "err", f.err)
	}
}

// attempt sends the request to the instance that was picked and passes its response on. answered says that
// a response was begun: nothing can be sent again then, and an error means that the caller saw it break off.
func (c *caller) attempt(ctx context.Context, request *body) (f failure, answered bool) {
	d := &c.decision
	c.failed, c.took = false, 0
	key := laneOf(&c.call, d)
	began, limit := time.Now(), c.limit()
	c.began = began
	if limit < 0 {
		return failure{err: context.DeadlineExceeded, reason: exchange.Timeout}, false
	}
	outer, until := ctx, time.Time{}
	if limit > 0 { // the dial, where there is one, is part of it
		until = began.Add(limit)
		c.term = term{Context: ctx, until: began.Add(limit)}
		defer c.term.end()
		ctx = &c.term
	}
	if !d.Wait() {
		return failure{err: errPending, reason: exchange.CircuitOpen, unsent: true}, false
	}
	stream, err := c.Lanes.Open(ctx, key, d.Instance.Address, classOf(request))
	d.Waited()
	if err != nil {
		if limit > 0 && errors.Is(err, context.DeadlineExceeded) {
			return failure{err: err, reason: exchange.Timeout}, false
		}
		return failed(err), false
	}
	winner := stream // or that of a hedge
	defer func() {
		if winner != stream {
			winner.Release()
		}
		stream.Release()
	}()
	c.seen.Lane = stream.Carrier()
	if limit > 0 {
		limit = max(limit-time.Since(began), 1)
	}
	c.guard.begin(stream, limit)
	defer c.guard.end()
	c.request.Target = d.Target
	if err := stream.WriteRequest(&c.request); err != nil {
		f := failed(err)
		if errors.Is(err, transport.ErrMalformed) {
			f.reason = exchange.Malformed // the request is, and says nothing about the instance
		}
		return f, false
	}
	if err := request.send(stream, c, c.requestPace); err != nil {
		return c.blame(failed(err)), false
	}
	hedge := c.arm(outer, until, stream, request)
	f, answered = c.readHead(stream, request)
	if hedge != nil {
		if other := hedge.race(f); other != nil {
			c.seen.Lane = other.Carrier()
			c.guard.follow(other)
			winner, f, answered = other, failure{}, false
		}
	}
	if f.err == nil {
		f, answered = c.passOn(winner, request)
	}
	wake := func() {
		c.stopReading()
		winner.Reset(exchange.CallerGone) // a peer that does not take the rest must not hold the application up
	}
	if !request.settle(wake) && f.err == nil && answered {
		f = failure{err: errEarly}
	}
	return f, answered
}

var errPending = errors.New("too many requests wait for a stream to the service, as its ResiliencePolicy says")

var errEarly = errors.New("response was complete before the request")

// limit returns how long the attempt may take, 0 where nothing limits it, and less where no time is left.
func (c *caller) limit() time.Duration {
	limit := c.decision.BackendTimeout
	if total := c.decision.Timeout; total > 0 {
		left := total - time.Since(c.seen.Start)
		if left <= 0 {
			return -1
		}
		if limit == 0 || left < limit {
			limit = left
		}
	}
	if c.deadline > 0 {
		left := c.deadline - time.Since(c.seen.Start)
		if left <= 0 {
			return -1
		}
		if limit == 0 || left < limit {
			limit = left
		}
	}
	return limit
}

// readHead reads the response's head from the stream, and passes on what comes before it.
func (c *caller) readHead(stream *transport.Stream, request *body) (f failure, answered bool) {
	for {
		if err := stream.ReadResponse(&c.response); err != nil {
			return c.broke(err, request), false
		}
		if !c.response.Informational() {
			return failure{}, false
		}
		if err := c.app.WriteInformational(&c.response); err != nil {
			return c.unwritten(stream, err)
		}
	}
}

// passOn writes the response to the application, of which the head was read.
func (c *caller) passOn(stream *transport.Stream, request *body) (f failure, answered bool) {
	c.Table.MarkReachable(c.decision.Instance)
	if c.decision.Judged() {
		c.took = max(time.Since(c.began), 1)
	}
	c.decision.Answered(c.response.Status >= 500, time.Now())
	if c.unwanted(request) {
		if !stream.Ended() {
			stream.Reset(exchange.CallerGone)
		}
		return failure{err: errUnwanted, reason: exchange.ServiceBroke, granted: true}, false
	}
	if err := c.misled(); err != nil {
		stream.Reset(exchange.ServiceBroke)
		if _, whole := c.fail(http.StatusBadGateway, exchange.ServiceBroke, err); !whole {
			return failure{err: err, reason: exchange.ServiceBroke}, true
		}
		return failure{}, true
	}
	c.decision.RewriteResponse(&c.response)
	c.tellSession(&c.response)
	if c.http != nil && (c.draining() || !request.arrived()) { // what is left of a request cannot be told from the next one
		c.http.Last()
	}
	switched := c.response.Status == 101
	if switched && c.request.Method == "CONNECT" {
		c.connected()
	}
	if err := c.app.WriteResponse(&c.response); err != nil {
		return c.unwritten(stream, err)
	}
	c.seen.Outcome.Status = c.response.Status
	if switched {
		return c.switchProtocols(stream), true
	}
	if request.open {
		if err := stream.End(); err != nil {
			return c.gone(stream, err), true
		}
	}
	bodyless := c.response.BodyLength == 0 || exchange.BodyForbidden(c.request.Method, c.response.Status)
	if !bodyless && !stream.Ended() && !stream.Buffered() {
		if err := c.app.Flush(); err != nil { // as in serving.passOn
			return c.gone(stream, err), true
		}
	}
	received, err := copyBody(c.paced(), stream, func(readErr error) error { return c.broke(readErr, request).err })
	c.seen.Received += received
	if err != nil {
		return c.gone(stream, err), true
	}
	c.noteCode(stream)
	return failure{}, true
}

// unwritten tells what it means that a head could not be written: the service sent what HTTP/1.1 cannot carry,
// of which the application has seen nothing, or the application has gone.
func (c *caller) unwritten(stream *transport.Stream, err error) (f failure, answered bool) {
	if errors.Is(err, http1.ErrMalformed) || errors.Is(err, http1.ErrSequence) ||
		errors.Is(err, http2.ErrTooLarge) || errors.Is(err, http2.ErrSequence) || c.stream != nil && !isReset(err) && errors.Is(err, http2.ErrMalformed) {
		stream.Reset(exchange.ServiceBroke)
		return failure{err: err, reason: exchange.ServiceBroke}, false
	}
	return c.gone(stream, err), true
}

// broke tells why the lane brought no (whole) response: its own error, or that of the request's body.
func (c *caller) broke(err error, request *body) failure {
	f := failed(err)
	if cause := request.failure(); cause != nil {
		f = failure{err: cause, reason: exchange.CallerGone}
		if errors.Is(cause, http1.ErrMalformed) || errors.Is(cause, http2.ErrMalformed) {
			f.reason = exchange.Malformed
		}
	}
	f = c.blame(f)
	c.process = f.process
	c.seen.Err = f.err
	if c.seen.Outcome.Status != 0 {
		c.seen.Outcome.Reason = f.reason
	}
	return f
}

// gone ends an exchange whose caller can be told nothing more.
func (c *caller) gone(stream *transport.Stream, err error) failure {
	if c.seen.Outcome.Reason == exchange.Completed {
		c.seen.Outcome.Reason = exchange.CallerGone
		c.seen.Err = err
	}
	stream.Reset(exchange.CallerGone)
	return failure{err: err, reason: c.seen.Outcome.Reason}
}

// switchProtocols passes bytes both ways after a 101.
func (c *caller) switchProtocols(stream *transport.Stream) failure {
	c.guard.end() // no timeout counts any more, and an end of one direction is no end of the other
	if err := c.app.Flush(); err != nil {
		return c.gone(stream, err)
	}
	var conn io.ReadWriteCloser
	var early []byte
	if c.stream != nil {
		conn = tunnelled{c.stream.Body(), c.stream, func() { c.stream.Reset(exchange.PeerLost) }}
	} else {
		conn, early = c.http.Hijack()
	}
	sent, received, err := tunnel(conn, stream, early)
	c.seen.Sent, c.seen.Received = sent, received
	if err != nil {
		c.seen.Err, c.seen.Outcome.Reason = err, failed(err).reason
		return failure{err: err, reason: c.seen.Outcome.Reason}
	}
	return failure{err: errSwitched} // the connection is no HTTP any more
}

var errSwitched = errors.New("connection was switched to another protocol")

// classOf keeps what is large, endless, or cannot be sent again away from the others.
func classOf(request *body) transport.Class {
	if request.open || !request.whole {
		return transport.Bulk
	}
	return transport.Interactive
}
