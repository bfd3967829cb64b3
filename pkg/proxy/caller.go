package proxy

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http1"
	"github.com/sennit-mesh/sennit/pkg/http2"
	"github.com/sennit-mesh/sennit/pkg/routing"
)

// An application is the codec's side of an exchange with whoever calls.
type application interface {
	bodyWriter
	Body() exchange.Body
	WriteInformational(r *exchange.Response) error
	WriteResponse(r *exchange.Response) error
	WriteError(status int, reason exchange.Reason, more ...exchange.Field) error
	ErrorStatus(err error) int
}

// A caller is one HTTP/1.1 connection of a local application, or from outside, or one stream of an HTTP/2 connection at
// a time. One goroutine owns it.
type caller struct {
	*Outbound
	conn     duplex
	app      application
	http     *http1.ServerConn   // app, on a connection of HTTP/1.1; else nil
	stream   *http2.ServerStream // app, on one of HTTP/2; else nil
	deadline time.Duration       // of a gRPC call, as its caller states it; 0: none
	gRPC     bool
	key      string // of a WebSocket that is asked for by HTTP/2
	guard    guard
	call     routing.Call
	observer Observer
	idle     time.Duration
	outside  *outsider // nil: a local application

	drains <-chan struct{} // closed: no request is waited for any more
	mu     sync.Mutex      // over read deadlines and what follows
	waits  bool            // for the next request

	version http2.Guess // what the connection's first bytes say

	term     term
	request  exchange.Request
	response exchange.Response
	decision routing.Decision
	routed   bool             // decision is of this exchange
	retries  int              // of this exchange, that its rule's retry counts
	code     int              // of gRPC, with which the node answers; 0: that of the status
	process  uint32           // error code of HTTP/2 with which the process broke off; 0: none
	spare    *hedge           // that the next exchange can use; nil: none
	began    time.Time        // the attempt
	took     time.Duration    // the head of the attempt's response; 0: there is none, or nobody asks
	failed   bool             // the attempt was a call of gRPC that failed at the service
	advice   []exchange.Field // what the application is told beside why it was refused
	renewed  []exchange.Field // that take a session which was renewed to the browser
	spot     spot
	seen     Observation
	copies   sync.WaitGroup // requests that are mirrored

	requestPace, responsePace *pace // that a fault slows bodies down to; nil: none does
}

// draining reports whether the exchange that runs is the last.
func (c *caller) draining() bool {
	select {
	case <-c.drains:
		return true
	default:
		return false
	}
}

// wake ends the wait for the next request once the connection drains.
func (c *caller) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waits {
		c.conn.SetReadDeadline(time.Unix(1, 0)) // wakes it
	}
}

// await returns true when the first byte of a request is there.
func (c *caller) await() bool {
	c.mu.Lock()
	if c.draining() {
		c.mu.Unlock()
		return false
	}
	c.waits = true
	c.conn.SetReadDeadline(time.Now().Add(c.idle))
	c.mu.Unlock()
	err := c.arrived()
	c.mu.Lock()
	c.waits = false
	c.conn.SetReadDeadline(time.Time{})
	c.mu.Unlock()
	return err == nil
}

func (c *caller) serve(ctx context.Context) {
	for c.await() {
		if c.version == http2.IsHTTP2 {
			c.serveHTTP2(ctx)
			return
		}
		if err := c.http.ReadRequest(&c.request); err != nil {
			if c.refuse(err) {
				c.linger()
			}
			return
		}
		keep, whole := c.exchange(ctx)
		c.decision.Done()
		if !whole {
			_ = c.conn.SetLinger(0) // a clean end would say that this was all there is
			return
		}
		if !keep || !c.http.KeepAlive() {
			c.linger()
			return
		}
	}
}

// linger ends a connection on which bytes may still arrive that nobody wants.
func (c *caller) linger() {
	if c.conn.CloseWrite() != nil {
		return
	}
	c.conn.SetReadDeadline(time.Now().Add(lingerTime))
	rest := takeBuffer()
	defer giveBack(rest)
	for left := lingerBody; left > 0; {
		n, err := c.conn.Read(rest[:])
		if err != nil {
			return
		}
		left -= n
	}
}

// refuse answers what is not a request; false where nobody reads an answer.
func (c *caller) refuse(err error) (answered bool) {
	status := c.app.ErrorStatus(err)
	if status == 0 {
		return false
	}
	reason := exchange.Malformed
	if errors.Is(err, http1.ErrTooLarge) || errors.Is(err, http2.ErrTooLarge) {
		reason = exchange.TooLarge
	}
	c.begin()
	c.fail(status, reason, err)
	c.end()
	return true
}

// left ends an exchange whose application did not wait for the answer.
func (c *caller) left(err error) (keep, whole bool) {
	c.seen.Outcome = exchange.Outcome{Reason: exchange.CallerGone}
	c.seen.Err = err
	return false, false
}

// fail answers by the proxy itself; no reason says that a filter of the rule answers, and nothing failed.
func (c *caller) fail(status int, reason exchange.Reason, err error) (keep, whole bool) {
	c.seen.Outcome = exchange.Outcome{Status: status, Reason: reason}
	c.seen.Err = err
	if c.stream != nil {
		werr := c.failStream(status, reason)
		return werr == nil, werr == nil
	}
	if c.draining() {
		c.http.Last()
	}
	// Else the rest of the body would stand before the next request. One that does not come must not keep the
	// answer back.
	c.conn.SetReadDeadline(time.Now().Add(drainTime))
	drainErr := c.http.Drain(drainBody)
	werr := c.http.WriteError(status, reason, c.told()...)
	return drainErr == nil && werr == nil, werr == nil
}

// told is what an answer of the proxy has beside its reason.
func (c *caller) told() []exchange.Field {
	more := append(c.advice, c.renewed...)
	if c.routed {
		more = append(more, c.decision.Fields...)
	}
	return more
}

// begin and end frame what is observed of one exchange.
func (c *caller) begin() {
	c.renewed = nil
	c.routed, c.advice, c.retries, c.code, c.process = false, nil, 0, 0, 0
	c.requestPace, c.responsePace = nil, nil
	c.seen = Observation{Faults: c.seen.Faults[:0], Kind: exchange.HTTP, Caller: c.call.Caller, Callee: c.call.Callee, Start: time.Now()}
}

// asSent notes what was asked for, as the application wrote it: what a filter makes of it is the rule's.
func (c *caller) asSent() {
	if c.seen.Method == "" {
		c.seen.Method, c.seen.Path, c.seen.Host = c.request.Method, c.request.Path, c.request.Authority
	}
}

// rewrite changes the request as the rule's filters say. It may be sent several times after that, to instances of
// one backend.
func (c *caller) rewrite() {
	if c.decision.Rewrites() {
		c.asSent()
		c.decision.Rewrite(&c.request)
	}
}

func (c *caller) end() {
	c.asSent()
	if d := &c.decision; c.routed {
		c.seen.Rule, c.seen.Backend = d.Rule, d.Service
		if i := d.Instance; i != nil {
			c.seen.Node, c.seen.Instance, c.seen.Version = i.Node, i.ID, i.Version
		}
	}
	c.seen.Sent = max(c.seen.Sent, c.request.BodyLength)
	c.seen.Duration = time.Since(c.seen.Start)
	c.observer.Ended(&c.seen)
}
