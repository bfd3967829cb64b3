package proxy

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http2"
)

// callers are those of one connection of HTTP/2: as many as it had streams at a time. Each is used again by a stream
// that begins when another has ended.
type callers struct {
	of  *caller // of the connection
	ctx context.Context

	mu   sync.Mutex
	free []*caller
	all  []*caller
}

// serveHTTP2 drives a connection whose client speaks HTTP/2, with prior knowledge or as was agreed on with TLS.
func (c *caller) serveHTTP2(ctx context.Context) {
	limits := http2Limits(c.Limits)
	limits.Idle = c.idle
	if c.outside != nil {
		limits = c.outside.patience.http2Limits(limits)
	}
	conn := http2.NewServerConn(c.conn, limits)
	drained := make(chan struct{})
	defer close(drained)
	go func() { // for the connection, and not for each exchange
		select {
		case <-c.drains:
			conn.Drain()
		case <-drained:
		}
	}()
	all := callers{of: c, ctx: ctx}
	if err := conn.Serve(all.serve); err != nil {
		c.Log.Debug("connection of HTTP/2 broke off", "service", c.call.Callee.String(), "err", err)
	}
	for _, s := range all.all {
		c.callers.Delete(s)
		s.copies.Wait()
	}
}

func (all *callers) serve(stream *http2.ServerStream) {
	c := all.take()
	c.serveStream(all.ctx, stream)
	all.mu.Lock()
	all.free = append(all.free, c)
	all.mu.Unlock()
}

func (all *callers) take() *caller {
	all.mu.Lock()
	defer all.mu.Unlock()
	if last := len(all.free) - 1; last >= 0 {
		c := all.free[last]
		all.free = all.free[:last]
		return c
	}
	of := all.of
	c := &caller{Outbound: of.Outbound, drains: of.drains, observer: of.Observe()}
	c.call = of.call
	c.call.Random = rand.NewPCG(rand.Uint64(), rand.Uint64())
	if of.outside != nil {
		c.outside = of.outside.another()
	}
	c.callers.Store(c, nil)
	all.all = append(all.all, c)
	return c
}

// serveStream carries one exchange of an HTTP/2 connection.
func (c *caller) serveStream(ctx context.Context, stream *http2.ServerStream) {
	c.mu.Lock()
	c.stream, c.app = stream, stream
	c.mu.Unlock()
	c.guard.next()
	stream.Interrupt(&c.guard)
	if err := stream.Err(); err != nil {
		c.request.Reset()
		c.gRPC, c.deadline = false, 0
		c.refuse(err)
	} else {
		from := stream.Request()
		fields := append(c.request.Fields[:0], from.Fields...)
		c.request = *from
		c.request.Fields = fields
		if c.request.BodyLength == exchange.LengthUnknown {
			if n, whole := stream.Whole(copyBuffer); whole {
				c.request.BodyLength = int64(n) // which costs no goroutine, here and at the other node
			}
		}
		c.gRPC, c.deadline = isGRPC(&c.request), 0
		if c.gRPC {
			c.deadline = gRPCTimeout(&c.request)
		}
		_, whole := c.exchange(ctx)
		c.decision.Done()
		if !whole {
			c.breakOff()
		}
	}
	stream.Interrupt(nil)
	c.mu.Lock()
	c.stream, c.app = nil, nil
	c.mu.Unlock()
}

// breakOff ends a stream whose response is not whole, so that its caller can tell why.
func (c *caller) breakOff() {
	reason := c.seen.Outcome.Reason
	if c.gRPC && reason != exchange.CallerGone && c.seen.Outcome.Status == 200 {
		// The head is on its way, so that the status is the last word, as of a service.
		if c.stream.WriteTrailers(gRPCStatus(gRPCOfReset(c.process), statusOf(reason), reason)) == nil {
			return
		}
	}
	if c.process != 0 && c.process != codeRefusedStream { // which the service cannot mean any more
		c.stream.ResetBy(c.process, string(reason))
		return
	}
	if reason == exchange.Completed {
		reason = exchange.PeerLost
	}
	c.stream.Reset(reason)
}

// failStream answers on a stream by the proxy itself.
func (c *caller) failStream(status int, reason exchange.Reason) error {
	more := c.told()
	if !c.gRPC || reason == exchange.Completed {
		return c.stream.WriteError(status, reason, more...)
	}
	fields := append(exchange.Fields{
		{Name: "content-type", Value: "application/grpc"},
		{Name: "sennit-reason", Value: string(reason)},
	}, gRPCStatus(c.code, status, reason)...)
	if err := c.stream.WriteResponse(&exchange.Response{Status: 200, Fields: append(fields, more...)}); err != nil {
		return err
	}
	return c.stream.Finish()
}

// stopReading wakes whoever reads the request's body, of which no more is wanted.
func (c *caller) stopReading() {
	if c.conn != nil {
		c.conn.SetReadDeadline(time.Unix(1, 0))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stream != nil {
		c.stream.StopReading()
	}
}
