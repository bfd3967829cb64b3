package http1

import (
	"fmt"
	"net"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A ClientConn is a connection to a service that answers requests. An exchange is: WriteRequest; Write;
// WriteTrailers or Finish; ReadResponse until the response is not informational; Body read to its end; and,
// where Reusable says so, Release and the next one.
//
// Writing and reading may be done by one goroutine each within an exchange, so that a response can arrive before its
// request has ended; Reusable, Release, Hijack and the next WriteRequest are for whoever waited for both.
//
// Between exchanges, after Release, an idle connection holds no buffer.
type ClientConn struct {
	nc     net.Conn
	in     input
	out    output
	body   body
	quiet  silence
	limits Limits

	control    control
	method     string // of the current request, as far as the framing of its response depends on it
	upgrade    string // the protocol that the current request asks for
	sent       bool   // a request was begun
	answered   bool   // its final head was read
	persistent bool
	readErr    error
	hijacked   bool
}

// NewClientConn makes the client's side of nc. Whoever needs to interrupt it closes nc or sets its deadlines.
func NewClientConn(nc net.Conn, limits Limits) *ClientConn {
	c := &ClientConn{nc: nc, limits: limits.withDefaults()}
	c.in.init(nc)
	c.quiet.init(c.in.socket)
	c.out.init(nc, c.in.socket)
	c.body = body{in: &c.in, limits: c.limits, done: true}
	c.persistent = true
	return c
}

// WriteRequest writes a head. It stays in the buffer until the body does not fit behind it, Flush or Finish. A
// BodyLength of LengthUnknown becomes chunks. Where it returns ErrMalformed or ErrSequence nothing was written.
func (c *ClientConn) WriteRequest(r *exchange.Request) error {
	if !c.Reusable() {
		return fmt.Errorf("write request head: %w", sequence("the exchange before has not ended, or was the last"))
	}
	if err := checkRequest(r); err != nil {
		return fmt.Errorf("write request head: %w", err)
	}
	c.method = "" // r's may not outlive the exchange before it
	switch r.Method {
	case "HEAD":
		c.method = "HEAD"
	case "CONNECT":
		c.method = "CONNECT"
	}
	c.upgrade, c.sent, c.answered = r.Upgrade, true, false
	c.out.requestLine(r)
	c.out.field("Host", r.Authority)
	c.out.fields(r.Fields)
	if r.Upgrade != "" {
		c.out.str("Connection: Upgrade\r\n")
		c.out.field("Upgrade", r.Upgrade)
	}
	if r.ExpectContinue && r.BodyLength != 0 {
		c.out.str("Expect: 100-continue\r\n")
	}
	how := byLength
	switch {
	case r.BodyLength == exchange.LengthUnknown:
		how = inChunks
	case r.BodyLength == 0 && !grammar.MeansBody(r.Method):
		how = noBody
	}
	c.out.framed(how, r.BodyLength)
	c.out.str("\r\n")
	c.out.begin(how, r.BodyLength)
	return c.out.err
}

func checkRequest(r *exchange.Request) error {
	switch {
	case !grammar.IsToken(r.Method):
		return malformed("a method that is no token (RFC 9110 §9.1)")
	case r.Authority != "" && !grammar.IsAuthority(r.Authority):
		return malformed("an authority that names no host (RFC 9112 §3.2)")
	case r.Upgrade != "" && !grammar.IsProtocol(r.Upgrade):
		return malformed("an Upgrade that names no protocol (RFC 9110 §7.8)")
	case grammar.IsName(r.Upgrade, "h2c"), grammar.IsName(r.Upgrade, "h2"):
		return malformed("an Upgrade to HTTP/2, whose requests nobody would look at (RFC 9113 §3.1)")
	case r.BodyLength < exchange.LengthUnknown:
		return sequence("a negative length")
	}
	if r.Method == "CONNECT" {
		if r.Authority == "" || r.Path != "" || r.BodyLength != 0 {
			return malformed("CONNECT without a host, or with a path or body (RFC 9110 §9.3.6)")
		}
	} else if !grammar.IsPath(r.Path) || r.Path == "*" && r.Method != "OPTIONS" {
		return malformed("a path that no request has (RFC 9112 §3.2)")
	}
	return checkFields(r.Fields)
}

// Write writes bytes of the request's body. ErrSequence says that they are more than the head stated.
func (c *ClientConn) Write(p []byte) (int, error) { return c.out.data(p) }

// WriteTrailers ends the body with trailer fields and flushes, instead of Finish. They are dropped where the body
// is not chunked (RFC 9110 §6.5.1).
func (c *ClientConn) WriteTrailers(trailers exchange.Fields) error { return c.out.finish(trailers) }

// Finish ends the request and flushes.
func (c *ClientConn) Finish() error { return c.out.finish(nil) }

// Flush sends what was written so far.
func (c *ClientConn) Flush() error { return c.out.flush() }

// ReadResponse waits for the next response head and reads it into r, which it overwrites: any number of informational
// ones, then the final one. The strings in r are valid until the next call or Release. An error wraps
// io.EOF where the service closed before a byte of this head, and io.ErrUnexpectedEOF where it did so within.
func (c *ClientConn) ReadResponse(r *exchange.Response) error {
	if !c.sent || c.answered || c.readErr != nil {
		return fmt.Errorf("read response head: %w", sequence("no response is due"))
	}
	r.Reset()
	if err := c.readResponse(r); err != nil {
		r.Reset()
		c.readErr = err
		return fmt.Errorf("read response head: %w", err)
	}
	return nil
}

func (c *ClientConn) readResponse(r *exchange.Response) error {
	c.in.begin()
	if err := c.in.await(); err != nil {
		return err
	}
	section, err := c.in.section(c.limits.Head, c.limits.HeadTimeout, "a response's head")
	if err != nil {
		return broken(err)
	}
	c.control = control{}
	how, err := parseResponse(section, c.method, c.limits, r, &c.control)
	if err != nil {
		return err
	}
	if r.Informational() {
		return nil
	}
	if r.Status == 101 && (c.upgrade == "" || !exchange.EqualName(r.Upgrade, c.upgrade)) {
		return malformed("101 to a request that did not ask for that protocol (RFC 9110 §7.8)")
	}
	c.answered = true
	c.persistent = c.control.persistent() && how != untilClose && how != otherProtocol
	c.body.begin(how, r.BodyLength)
	return nil
}

// Body returns the body of the final response. It is the connection's own: the next ReadResponse begins it anew.
func (c *ClientConn) Body() exchange.Body { return &c.body }

// Ready reports whether reading the body need not wait for the service: bytes of it are at hand, or it has ended.
func (c *ClientConn) Ready() bool { return c.in.buffered() > 0 || c.body.done || c.body.err != nil }

// Drain reads and drops what is left of the response's body, at most limit bytes of it: ErrTooLarge says that there
// was more.
func (c *ClientConn) Drain(limit int64) error {
	if err := c.body.drain(limit); err != nil {
		return fmt.Errorf("drain body: %w", err)
	}
	return nil
}

// Reusable reports whether another request can be written: the last exchange has ended whole in both directions, the
// service means to keep the connection, and it sent nothing that no request asked for. Bytes behind a response
// are those of a forged one, or of a service that lost count.
func (c *ClientConn) Reusable() bool {
	return c.persistent && c.readErr == nil && (c.answered || !c.sent) && c.body.done && c.body.err == nil &&
		!c.out.open && c.out.err == nil && c.in.buffered() == 0 && !c.hijacked
}

// Alive reports whether an idle connection can be used: Reusable, and neither bytes nor the service's end of the
// stream have arrived since. It asks the kernel and does not wait; what is no kernel's socket is taken to be alive.
func (c *ClientConn) Alive() bool { return c.Reusable() && c.quiet.holds() }

// Release gives the buffers back before a Reusable connection is kept for later. Heads and trailers that were read
// from it are invalid from then on.
func (c *ClientConn) Release() {
	if c.Reusable() {
		c.in.release()
	}
}

// Close closes the connection and gives its buffers back; heads and trailers that were read from it are invalid from
// then on. It must not run beside any other call: to interrupt one, close the net.Conn.
func (c *ClientConn) Close() error {
	c.hijacked = true
	c.in.release()
	c.out.drop()
	return c.nc.Close()
}

// Hijack gives the connection back for another protocol, with the bytes that were read too far, after a 101 or a
// 2xx to CONNECT. The ClientConn is of no use afterwards.
func (c *ClientConn) Hijack() (net.Conn, []byte) {
	c.hijacked = true
	return c.nc, c.in.hijack()
}
