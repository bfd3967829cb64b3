package http2

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"golang.org/x/net/http2"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A ClientConn is a connection to a service that answers. Run runs it; Open takes a stream of it.
type ClientConn struct {
	conn
}

// NewClientConn makes the client's side of nc.
func NewClientConn(nc net.Conn, limits Limits) *ClientConn {
	c := new(ClientConn)
	c.init(nc, limits, true)
	c.mu.Lock()
	c.greet()
	c.mu.Unlock()
	return c
}

// Run reads until the connection ends, and returns why: nil where that was in order.
func (c *ClientConn) Run() error { return c.run() }

// Drain opens no more streams and ends the connection when those that are open have ended.
func (c *ClientConn) Drain() { c.drain() }

// Close ends the connection at once.
func (c *ClientConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail(fmt.Errorf("%w here", ErrClosed))
	return nil
}

// Room is how many streams can be opened now; less than 0: never again.
func (c *ClientConn) Room() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.roomLeft()
}

func (c *ClientConn) roomLeft() int {
	if c.err != nil || c.draining || c.closing || c.highest >= largestValue-4 {
		return -1
	}
	return max(0, c.peer.streams-len(c.streams))
}

// Open takes a stream for an exchange. It does not wait: ErrBusy says that the connection has no room, or takes no more.
// The stream is to be released.
func (c *ClientConn) Open() (*ClientStream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.roomLeft()-c.reserved <= 0 {
		return nil, ErrBusy
	}
	s := clientStreams.Get().(*ClientStream)
	s.open(&c.conn, 0) // a number is given with the head: they must rise in the order of the heads
	s.owner = s
	s.heads, s.read, s.final, s.method, s.protocol = 0, 0, false, "", ""
	c.reserved++
	return s, nil
}

// mostHeads is how many heads of one response are kept that nobody has read: informational ones, and the final one.
const mostHeads = 8

// A ClientStream is one exchange: WriteRequest; Write; WriteTrailers or Finish; ReadResponse until the response is not
// informational; Body read to its end; Release. Writing and reading may be done by one goroutine each.
type ClientStream struct {
	stream
	body      body
	responses [mostHeads]exchange.Response
	heads     int // responses[read:heads] were not read yet
	read      int
	final     bool // the final head has come
	method    string
	protocol  string // that a request asks for a tunnel of; empty: it asks for none
}

var clientStreams = sync.Pool{New: func() any {
	s := new(ClientStream)
	s.body.s = &s.stream
	return s
}}

// WriteRequest writes a head. It is sent by Flush or Finish, or with what other streams send. Where it returns
// ErrMalformed, ErrTooLarge or ErrSequence nothing was written.
//
// A request with an Upgrade becomes an extended CONNECT, which is for services that take it (Tunnels) and for GET alone.
// Its answer, and that of CONNECT, is a 101 where the service answered with success: then Write and Body are the tunnel's
// two directions.
func (s *ClientStream) WriteRequest(r *exchange.Request) error {
	if err := checkRequest(r); err != nil {
		return fmt.Errorf("write request head: %w", err)
	}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.begun {
		return fmt.Errorf("write request head: %w", sequence("it was written already"))
	}
	size := sizeOf(r.Fields) + len(r.Method) + len(r.Authority) + len(r.Path) + 8*fieldOverhead + 64
	if err := s.fits(size); err != nil {
		return fmt.Errorf("write request head: %w", err)
	}
	if c.err != nil || c.draining || c.closing {
		return fmt.Errorf("write request head: %w: %w", ErrNotProcessed, ErrBusy)
	}
	connect := r.Method == "CONNECT"
	tunnel := connect || r.Upgrade != ""
	end := r.BodyLength == 0 && !tunnel
	if s.begun, s.left = true, r.BodyLength; tunnel {
		s.left, s.protocol = exchange.LengthUnknown, strings.Clone(cmp.Or(r.Upgrade, "connect"))
	}
	s.method = ""
	if r.Method == "HEAD" { // r's own may not live as long
		s.method = "HEAD"
	}
	s.id = c.highest + 2
	if c.highest == 0 {
		s.id = 1
	}
	c.streams[s.id] = &s.stream
	err := s.writeHead(size, end, func(e *encoder) {
		switch {
		case connect:
			e.field(":method", r.Method)
			e.field(":authority", r.Authority)
		case tunnel:
			e.field(":method", "CONNECT")
			e.field(":protocol", r.Upgrade)
			e.field(":scheme", c.scheme)
			e.field(":authority", r.Authority)
			e.field(":path", r.Path)
		default:
			e.field(":method", r.Method)
			e.field(":scheme", c.scheme)
			e.field(":authority", r.Authority)
			e.field(":path", r.Path)
		}
		e.fields(r.Fields)
		if tunnel {
			return
		}
		e.field("te", "trailers") // they are passed on; gRPC insists on hearing so
		if r.BodyLength > 0 || r.BodyLength == 0 && grammar.MeansBody(r.Method) {
			e.length(r.BodyLength)
		}
		if r.ExpectContinue && !end {
			e.field("expect", "100-continue")
		}
	})
	if err != nil {
		delete(c.streams, s.id)
		s.id, s.begun, s.protocol = 0, false, ""
		return fmt.Errorf("write request head: %w", err)
	}
	c.highest = s.id
	c.reserved--
	return nil
}

func checkRequest(r *exchange.Request) error {
	switch {
	case !grammar.IsToken(r.Method):
		return malformed("a method that is no token (RFC 9110 §9.1)")
	case !grammar.IsAuthority(r.Authority):
		return malformed("an authority that names no host (RFC 9113 §8.3.1)")
	case r.Method == "CONNECT" && (r.Authority == "" || r.Path != "" || r.BodyLength != 0):
		return malformed("CONNECT without a host, or with a path or body (RFC 9113 §8.5)")
	case r.Method != "CONNECT" && r.Upgrade != "" && (r.Method != "GET" || r.BodyLength != 0 || r.Authority == "" || !grammar.IsProtocol(r.Upgrade)):
		return malformed("an upgrade of another method than GET, to no host, or with a body (RFC 8441 §4)")
	case r.Method != "CONNECT" && (!grammar.IsPath(r.Path) || r.Path == "*" && r.Method != "OPTIONS"):
		return malformed("a path that no request has (RFC 9113 §8.3.1)")
	case r.BodyLength < exchange.LengthUnknown:
		return sequence("a negative length")
	}
	return checkFields(r.Fields)
}

// Write writes bytes of the request's body, as the service takes them.
func (s *ClientStream) Write(p []byte) (int, error) { return s.write(p) }

// WriteTrailers ends the request with trailer fields and flushes, instead of Finish.
func (s *ClientStream) WriteTrailers(trailers exchange.Fields) error { return s.finishBody(trailers) }

// Finish ends the request and flushes.
func (s *ClientStream) Finish() error { return s.finishBody(nil) }

// Flush sends what was written so far.
func (s *ClientStream) Flush() error { return s.flush() }

// ReadResponse waits for the next response head and reads it into r, which it overwrites: any number of informational
// ones, then the final one.
func (s *ClientStream) ReadResponse(r *exchange.Response) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for s.read == s.heads {
		switch {
		case s.readErr != nil:
			return fmt.Errorf("read response head: %w", s.readErr)
		case s.final || !s.begun:
			return fmt.Errorf("read response head: %w", sequence("no response is due"))
		case s.ended:
			return fmt.Errorf("read response head: %w", malformed("an end without a head (RFC 9113 §8.1)"))
		}
		s.readable.Wait()
	}
	*r, s.responses[s.read] = s.responses[s.read], *r // each keeps memory for the next
	if s.read++; s.read == s.heads && !s.final {
		s.read, s.heads = 0, 0
	}
	return nil
}

// Body returns the body of the final response.
func (s *ClientStream) Body() exchange.Body { return &s.body }

// Reset gives the exchange up and tells the service why. It wakes whoever reads or writes, and may be called from any
// goroutine until Release.
func (s *ClientStream) Reset(reason exchange.Reason) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.id == 0 {
		s.breakOff(&ResetError{Code: codeOf(reason), Why: string(reason)})
		return
	}
	s.c.reset(&s.stream, codeOf(reason), string(reason))
}

// Close is Reset because nobody waits for the response any more; it is io.Closer's.
func (s *ClientStream) Close() error {
	s.Reset(exchange.CallerGone)
	return nil
}

// Interrupt has w closed when the service gives the exchange up or the connection ends, until Release or a call with
// nil. Close is called under the connection's lock: it must neither wait nor call the stream.
func (s *ClientStream) Interrupt(w io.Closer) { s.interrupt(w) }

// Tunnels reports whether the service takes requests with an Upgrade, which it says in its settings (RFC 8441 §3). It
// waits for these; an error says that the stream, or its connection, has ended meanwhile.
func (s *ClientStream) Tunnels() (bool, error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.peer.known {
		if err := cmp.Or(s.writeErr, c.err, c.out.err); err != nil {
			return false, fmt.Errorf("wait for the service's settings: %w", err)
		}
		c.out.room.Wait()
	}
	return c.peer.tunnels, nil
}

// Ready reports whether reading the body need not wait.
func (s *ClientStream) Ready() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.first != nil || s.ended || s.readErr != nil
}

// Empty reports whether the head was the last of the response: neither a body nor trailers have come or come yet.
func (s *ClientStream) Empty() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.ended && s.first == nil && len(s.trailers) == 0
}

// Whole reports whether the response has come to its end and was read, and the request was sent to its end.
func (s *ClientStream) Whole() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.ended && s.finished && s.first == nil
}

// Release ends the use of the stream. What is not whole is reset. Heads and trailers that were read from it are invalid
// from then on.
func (s *ClientStream) Release() {
	c := s.c
	c.mu.Lock()
	s.waits = nil
	if s.id == 0 {
		c.reserved--
	} else {
		c.reset(&s.stream, http2.ErrCodeCancel, "nobody waits for it")
	}
	c.taken(&s.stream, s.unread)
	freed := c.freed
	c.mu.Unlock()
	s.drop()
	s.owner, s.c = nil, nil
	clientStreams.Put(s)
	if freed != nil {
		freed()
	}
}
