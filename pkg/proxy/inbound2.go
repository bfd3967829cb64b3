package proxy

import (
	"context"
	"errors"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http2"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// streamTries is how often a request is written that the process certainly did not look at, as when it was about to go
// away.
const streamTries = 3

// serveHTTP2 is serveHTTP for a process that speaks HTTP/2 with prior knowledge, or a host outside that speaks it.
func (in *Inbound) serveHTTP2(ctx context.Context, e *serving, stream *transport.Stream, place Place) (exchange.Reason, error) {
	if e.refused(place) {
		return exchange.Malformed, errConnect
	}
	if place.Outside != nil {
		e.request.Authority = place.Outside.Authority // it knows itself by this name alone
	}
	if e.request.BodyLength != 0 || e.request.Method != "GET" && e.request.Method != "CONNECT" {
		e.request.Upgrade = "" // a server may ignore it (RFC 9110 §7.8), and HTTP/2 has it for nothing else
	}
	request := bodyOf(&e.request)
	defer request.release()
	if err := request.hold(stream, stream.Ended()); err != nil {
		return exchange.CallerGone, err
	}
	if request.length > 0 && isGRPC(&e.request) {
		e.request.BodyLength = exchange.LengthUnknown // its clients state none
	}
	e.asksToSwitch()
	for try := 1; ; try++ {
		c, err := in.multiplex.open(ctx, place)
		if err != nil {
			return in.undialled(stream.Local(), place, err), err
		}
		reason, begun, err := e.over(c, &request, stream)
		stream.Interrupt(nil)
		c.Release()
		if err == nil || begun || try == streamTries || !errors.Is(err, http2.ErrNotProcessed) || !request.repeatable() {
			return reason, err
		}
	}
}

// over has the exchange done by one stream to the process. begun says that the caller was told of a response.
func (e *serving) over(c *http2.ClientStream, request *body, stream *transport.Stream) (reason exchange.Reason, begun bool, err error) {
	stream.Interrupt(c) // a caller that gives up must not leave a process working for nobody
	if err := e.switchBy(c); err != nil {
		return exchange.ServiceBroke, false, err
	}
	if err := e.send(c, request, stream); err != nil {
		if isReset(err) || !errors.Is(err, http2.ErrMalformed) && !errors.Is(err, http2.ErrTooLarge) {
			return exchange.ServiceBroke, false, err
		}
		return exchange.Malformed, false, err // what no application could have sent through its node
	}
	if err := e.readHead(c, stream); err != nil {
		_ = c.Close()
		request.settle(stream.StopReading)
		return exchange.ServiceBroke, false, err
	}
	if e.response.Status == 101 {
		return exchange.ServiceBroke, true, e.switched(c, stream)
	}
	if e.request.Upgrade != "" {
		_ = c.Finish() // it was refused: there is no more of the request
	}
	e.expectTrailers(c)
	if err := e.passOn(c, stream); err != nil {
		_ = c.Close()
		request.settle(stream.StopReading)
		return exchange.ServiceBroke, true, err
	}
	request.settle(func() {
		stream.StopReading()
		_ = c.Close() // a process that has answered may take no more
	})
	return exchange.Completed, true, nil
}

// expectTrailers states no length of a body behind which trailers come: on a lane they may, and in HTTP/1.1 not behind
// one that is stated (RFC 9112 §6.3).
func (e *serving) expectTrailers(c *http2.ClientStream) {
	if exchange.BodyForbidden(e.request.Method, e.response.Status) || c.Empty() {
		return
	}
	if _, announced := e.response.Fields.Get("trailer"); announced || e.response.BodyLength == 0 {
		e.response.BodyLength = exchange.LengthUnknown
	}
}

// processCode is the code with which a process reset its stream; 0 where it did not.
func processCode(err error) uint32 {
	var reset *http2.ResetError
	if errors.As(err, &reset) && reset.Remote {
		return uint32(reset.Code)
	}
	return 0
}

// isReset reports whether a stream of HTTP/2 was reset, by either side.
func isReset(err error) bool {
	var reset *http2.ResetError
	return errors.As(err, &reset)
}
