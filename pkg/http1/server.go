package http1

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A ServerConn is a connection from which an application sends requests. An exchange is: ReadRequest; Body read
// to its end or drained; any number of WriteInformational; WriteResponse; Write; WriteTrailers or nothing;
// Finish; and the next one while KeepAlive says so. Requests that were sent ahead (RFC 9112 §9.3.2) wait their
// turn in the connection's buffer and in the kernel.
//
// Reading the body and writing may be done by one goroutine each within an exchange; Drain, KeepAlive, WriteError,
// Hijack and the next ReadRequest are for whoever waited for both.
//
// An idle connection holds no buffer (see await). It costs about 1.2 KiB of heap, with the fields of a request that
// is used again (TestIdleConnectionsHoldNoBuffer), and the stack of the goroutine that waits in ReadRequest.
type ServerConn struct {
	nc     net.Conn
	in     input
	out    output
	body   body
	limits Limits
	scheme string

	control control
	// Facts of the current request that the writing side needs; they do not change while it runs.
	http10, head, connect, upgrade bool

	last       bool // the next response announces that the connection closes
	waiting    bool // the client waits for a 100 that was not sent
	begun      bool // a request was read
	responded  bool // its final head was written
	persistent bool // both sides mean to keep the connection
	readErr    error
	hijacked   bool
}

// NewServerConn makes the server's side of nc. Whoever needs to interrupt it closes nc or sets its deadlines.
func NewServerConn(nc net.Conn, limits Limits) *ServerConn {
	c := &ServerConn{nc: nc, limits: limits.withDefaults(), scheme: "http"}
	if _, ok := nc.(*tls.Conn); ok {
		c.scheme = "https"
	}
	c.in.init(nc)
	c.out.init(nc, c.in.socket)
	c.body = body{in: &c.in, limits: c.limits, done: true}
	c.persistent = true
	return c
}

// Await returns nil once the first byte of the next request is there, for callers that give waiting another
// deadline than reading. It returns io.EOF where the client closed. The strings of the last request are invalid
// from the call on.
func (c *ServerConn) Await() error {
	if !c.KeepAlive() {
		return fmt.Errorf("wait for a request: %w", sequence("the exchange before has not ended, or was the last"))
	}
	c.in.begin()
	err := c.in.await()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		c.readErr = err
		return err
	case !isTimeout(err): // after a timeout nothing is lost, and the caller may wait again
		c.readErr = err
	}
	return fmt.Errorf("wait for a request: %w", err)
}

// ReadRequest waits for the next request head and reads it into r, which it overwrites. The strings in r are valid
// until the next call of ReadRequest or Await. It returns io.EOF where the client closed between requests, and
// errors that wrap ErrMalformed or ErrTooLarge for what must be answered with WriteError.
func (c *ServerConn) ReadRequest(r *exchange.Request) error {
	r.Reset()
	if err := c.Await(); err != nil {
		return err
	}
	c.control = control{}
	c.http10, c.head, c.connect, c.upgrade, c.waiting, c.responded = false, false, false, false, false, false
	c.persistent = false
	if err := c.readHead(r); err != nil {
		r.Reset()
		c.readErr = err
		return fmt.Errorf("read request head: %w", broken(err))
	}
	c.http10 = c.control.http10
	c.head, c.connect, c.upgrade = r.Method == "HEAD", r.Method == "CONNECT", r.Upgrade != ""
	c.waiting = r.ExpectContinue
	c.begun = true
	c.persistent = c.control.persistent()
	switch {
	case r.BodyLength == exchange.LengthUnknown:
		c.body.begin(inChunks, 0)
	default:
		c.body.begin(byLength, r.BodyLength)
	}
	return nil
}

func (c *ServerConn) readHead(r *exchange.Request) error {
	// One empty line before a request is what old clients sent behind a body (RFC 9112 §2.2).
	if c.in.unread()[0] == '\r' {
		if err := c.in.crlf(); err != nil {
			return err
		}
	}
	section, err := c.in.section(c.limits.Head, c.limits.HeadTimeout, "a request's head")
	if err != nil {
		return err
	}
	return parseRequest(section, c.scheme, c.limits, r, &c.control)
}

// Body returns the body of the current request. It is the connection's own: the next ReadRequest begins it anew.
func (c *ServerConn) Body() exchange.Body { return &c.body }

// Drain reads and drops what is left of the request's body, at most limit bytes of it: ErrTooLarge says that there
// was more. A body that the client holds back until a 100 is not waited for: that is ErrSequence. The time that
// it may take is bounded by the read deadline.
func (c *ServerConn) Drain(limit int64) error {
	if c.waiting && c.responded && !c.body.done {
		return sequence("drain body: the client was not told to send it")
	}
	if err := c.body.drain(limit); err != nil {
		return fmt.Errorf("drain body: %w", err)
	}
	return nil
}

// Last makes the response that is written next say that the connection closes after it, as a node does that is
// going away.
func (c *ServerConn) Last() { c.last = true }

// WriteInformational writes and flushes a head of status 100 to 199 except 101. It writes nothing to a client that
// could not understand it: any to an HTTP/1.0 client, a 100 to one that does not wait for it (RFC 9110 §15.2).
func (c *ServerConn) WriteInformational(r *exchange.Response) error {
	if c.responded || !r.Informational() || r.Status < 100 {
		return sequence("write informational response: not one, or the final one was written")
	}
	if c.http10 || r.Status == 100 && !c.waiting {
		return nil
	}
	if err := checkFields(r.Fields); err != nil {
		return fmt.Errorf("write informational response: %w", err)
	}
	if r.Status == 100 {
		c.waiting = false
	}
	c.out.statusLine(r.Status)
	c.out.fields(r.Fields)
	c.out.str("\r\n")
	return c.out.flush()
}

// WriteResponse writes the final head. It stays in the buffer until the body does not fit behind it, Flush or
// Finish. A BodyLength of LengthUnknown becomes chunks, or the end of the connection for an HTTP/1.0 client. After a
// 101, and a 2xx to CONNECT, follow Flush and Hijack. Where it returns ErrMalformed or ErrSequence nothing was written.
func (c *ServerConn) WriteResponse(r *exchange.Response) error {
	if err := c.checkResponse(r); err != nil {
		return fmt.Errorf("write response head: %w", err)
	}
	how, length := c.frame(r)
	c.responded = true
	if c.last || c.waiting || how == untilClose {
		c.persistent = false // what a client that waits for a 100 does now is not known (RFC 9110 §10.1.1)
	}
	c.out.statusLine(r.Status)
	c.out.fields(r.Fields)
	switch {
	case r.Status == 101:
		c.out.str("Connection: Upgrade\r\n")
		c.out.field("Upgrade", r.Upgrade)
	case how == otherProtocol:
	case r.Status == 426 && r.Upgrade != "":
		if c.persistent {
			c.out.str("Connection: Upgrade\r\n")
		} else {
			c.out.str("Connection: Upgrade, close\r\n")
		}
		c.out.field("Upgrade", r.Upgrade)
	case !c.persistent:
		c.out.str("Connection: close\r\n")
	case c.http10:
		c.out.str("Connection: keep-alive\r\n")
	}
	c.out.framed(how, length)
	if how == noBody && r.Status != 204 && r.BodyLength >= 0 {
		c.out.length(r.BodyLength) // of HEAD and 304: the length that there would have been (RFC 9110 §8.6)
	}
	c.out.str("\r\n")
	if how == otherProtocol {
		c.persistent = false
	}
	c.out.begin(how, length)
	return c.out.err
}

func (c *ServerConn) checkResponse(r *exchange.Response) error {
	switch {
	case c.responded:
		return sequence("it was written already")
	case r.Informational() || r.Status > 599:
		return sequence("a status that is not final")
	case r.Status == 101 && (!c.upgrade || r.Upgrade == ""):
		return sequence("101 to a request that asked for no upgrade, or to no protocol")
	case r.BodyLength < exchange.LengthUnknown:
		return sequence("a negative length")
	case r.Upgrade != "" && !grammar.IsProtocol(r.Upgrade):
		return malformed("an Upgrade that names no protocol (RFC 9110 §7.8)")
	}
	return checkFields(r.Fields)
}

func (c *ServerConn) frame(r *exchange.Response) (how framing, length int64) {
	switch {
	case r.Status == 101 || c.connect && r.Status >= 200 && r.Status < 300:
		return otherProtocol, 0
	case c.head || r.Status == 204 || r.Status == 304:
		return noBody, 0
	case r.BodyLength != exchange.LengthUnknown:
		return byLength, r.BodyLength
	case c.http10:
		return untilClose, 0
	}
	return inChunks, 0
}

// Write writes bytes of the response's body. ErrSequence says that they are more than the head stated.
func (c *ServerConn) Write(p []byte) (int, error) { return c.out.data(p) }

// WriteTrailers ends the body with trailer fields and flushes, instead of Finish. They are dropped where the body
// is not chunked (RFC 9110 §6.5.1).
func (c *ServerConn) WriteTrailers(trailers exchange.Fields) error { return c.out.finish(trailers) }

// Finish ends the response and flushes. Where less than the stated length was written it fails and the connection
// must be closed.
func (c *ServerConn) Finish() error { return c.out.finish(nil) }

// Flush sends what was written so far.
func (c *ServerConn) Flush() error { return c.out.flush() }

// KeepAlive reports whether another request can be read: both sides mean to keep the connection, and the exchange
// has ended whole in both directions. Where it is false the connection must be closed.
func (c *ServerConn) KeepAlive() bool {
	return c.persistent && (c.responded || !c.begun) && c.readErr == nil && c.body.done && c.body.err == nil && !c.out.open && c.out.err == nil && !c.hijacked
}

// Close closes the connection and gives its buffers back; the strings of the last request are invalid from then on.
// It must not run beside any other call: to interrupt one, close the net.Conn.
func (c *ServerConn) Close() error {
	c.hijacked = true
	c.in.release()
	c.out.drop()
	return c.nc.Close()
}

// Hijack gives the connection back for another protocol, with the bytes that were read too far. The request's body
// must have been read and the response flushed. The ServerConn is of no use afterwards.
func (c *ServerConn) Hijack() (net.Conn, []byte) {
	c.hijacked = true
	return c.nc, c.in.hijack()
}
