package http2

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A ServerConn is a connection of a client that calls. Serve runs it.
type ServerConn struct {
	conn
	handle func(*ServerStream)
}

// NewServerConn makes the server's side of nc, from which nothing was read yet.
func NewServerConn(nc net.Conn, limits Limits) *ServerConn {
	c := new(ServerConn)
	c.init(nc, limits, false)
	c.server = c
	return c
}

// Serve has each stream handled by a goroutine of its own, and returns when the connection has ended and all of them
// have returned: nil where it ended in order. What a handler has not finished when it returns is reset.
func (c *ServerConn) Serve(handle func(*ServerStream)) error {
	c.handle = handle
	c.mu.Lock()
	c.greet()
	early := c.draining
	c.draining = false
	c.mu.Unlock()
	if early {
		c.drain()
	}
	err := c.readPreface()
	if err == nil {
		err = c.run()
	} else {
		c.abandon(err)
	}
	c.group.Wait()
	return err
}

// Drain has the client open no more streams, and ends the connection when those have ended that are open, and those
// that were on their way. It returns at once and may be called from any goroutine.
func (c *ServerConn) Drain() { c.drain() }

// Close ends the connection at once.
func (c *ServerConn) Close() error { return c.nc.Close() }

// readPreface reads what a client sends first.
func (c *ServerConn) readPreface() error {
	if err := c.nc.SetReadDeadline(time.Now().Add(c.limits.HeadTimeout)); err != nil {
		return err
	}
	p, err := c.in.whole(len(Preface))
	if err != nil {
		return fmt.Errorf("read the preface: %w", err)
	}
	if string(p) != Preface {
		return fmt.Errorf("read the preface: %w", malformed("not that of HTTP/2 (RFC 9113 §3.4)"))
	}
	return c.nc.SetReadDeadline(time.Time{})
}

// A ServerStream is one exchange of a client: its request was read, and the response is to be written: any number of
// WriteInformational; WriteResponse; Write; WriteTrailers or Finish. One goroutine may read the body while another
// writes. It belongs to the handler until that returns.
type ServerStream struct {
	stream
	body    body
	request exchange.Request
	refusal error
	head    bool   // the method is HEAD
	tunnel  bool   // what comes behind the head is no body
	run     func() // s.serve, bound once
}

var serverStreams = sync.Pool{New: func() any {
	s := new(ServerStream)
	s.body.s = &s.stream
	return s
}}

func takeServerStream() *ServerStream {
	s := serverStreams.Get().(*ServerStream)
	if s.run == nil {
		s.run = s.serve
	}
	return s
}

func giveServerStream(s *ServerStream) {
	s.drop()
	s.refusal, s.head, s.tunnel, s.c = nil, false, false, nil
	serverStreams.Put(s)
}

// serve has the stream handled and ends it.
func (s *ServerStream) serve() {
	c := s.c
	c.server.handle(s)
	c.mu.Lock()
	s.waits = nil
	switch {
	case !s.finished:
		c.reset(&s.stream, http2.ErrCodeInternal, "it was not answered to the end")
	case !s.ended:
		c.reset(&s.stream, http2.ErrCodeNo, "it was answered") // the rest of the request is not wanted (RFC 9113 §8.1)
	}
	c.remove(&s.stream)
	c.taken(&s.stream, s.unread)
	c.running--
	c.mu.Unlock()
	giveServerStream(s)
	c.group.Done()
}

// Request is the head of the request; Err says whether it is one.
func (s *ServerStream) Request() *exchange.Request { return &s.request }

// Err is ErrTooLarge where the request's head is over the limit: it is to be answered, and cannot be served.
func (s *ServerStream) Err() error { return s.refusal }

// Body returns the request's body.
func (s *ServerStream) Body() exchange.Body { return &s.body }

// Whole returns the length of a body that was received to its end and not read, where that is most at most and no
// trailers are behind it.
func (s *ServerStream) Whole(most int) (length int, whole bool) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if !s.ended || len(s.trailers) > 0 {
		return 0, false
	}
	for c := s.first; c != nil && length <= most; c = c.next {
		length += c.n
	}
	return length, length <= most
}

// Ended reports whether the request has come to its end and was read.
func (s *ServerStream) Ended() bool { return s.isEnded() }

// WriteInformational writes an informational head and flushes.
func (s *ServerStream) WriteInformational(r *exchange.Response) error {
	if !r.Informational() || r.Status < 100 {
		return fmt.Errorf("write informational response: %w", sequence("its status is not informational"))
	}
	if err := checkFields(r.Fields); err != nil {
		return fmt.Errorf("write informational response: %w", err)
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.begun {
		return fmt.Errorf("write informational response: %w", sequence("the final one was written"))
	}
	err := s.writeHead(sizeOf(r.Fields)+fieldOverhead, false, func(e *encoder) {
		e.field(":status", statusTexts[r.Status])
		e.fields(r.Fields)
	})
	if err == nil {
		s.c.flushNow()
	}
	return err
}

// WriteResponse writes the final head. It is sent by Flush or Finish, or with what other streams send. Where it returns
// ErrMalformed, ErrTooLarge or ErrSequence nothing was written. A 101 answers a request with an Upgrade, and CONNECT; the
// client gets what means the same here, 200, and then Write and Body are the tunnel's two directions.
func (s *ServerStream) WriteResponse(r *exchange.Response) error {
	if err := s.checkResponse(r); err != nil {
		return fmt.Errorf("write response head: %w", err)
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.begun {
		return fmt.Errorf("write response head: %w", sequence("it was written already"))
	}
	status, switched := r.Status, r.Status == 101
	if switched {
		status = 200
	}
	s.forbids = s.head || exchange.BodyForbidden("", status)
	end := s.forbids || r.BodyLength == 0 && !switched
	err := s.writeHead(sizeOf(r.Fields)+4*fieldOverhead+32, end, func(e *encoder) {
		e.field(":status", statusTexts[status])
		e.fields(r.Fields)
		if !switched && r.BodyLength >= 0 && r.Status != 204 && (r.Status != 304 || r.BodyLength > 0) {
			e.length(r.BodyLength)
		}
	})
	if err != nil {
		return fmt.Errorf("write response head: %w", err)
	}
	s.begun = true
	if s.left = r.BodyLength; switched {
		s.left = exchange.LengthUnknown
	}
	return nil
}

func (s *ServerStream) checkResponse(r *exchange.Response) error {
	switch {
	case s.tunnel && r.Status == 101:
	case s.tunnel && r.Status >= 200 && r.Status < 300:
		return sequence("a success that switches to nothing would be taken for a tunnel (RFC 9110 §9.3.6)")
	case r.Status < 200 || r.Status > 599:
		return sequence("a status that is not final, or 101, which HTTP/2 does not have (RFC 9113 §8.6)")
	case r.BodyLength < exchange.LengthUnknown:
		return sequence("a negative length")
	}
	return checkFields(r.Fields)
}

// Write writes bytes of the response's body, as the client takes them. ErrSequence says that they are more than the
// head stated.
func (s *ServerStream) Write(p []byte) (int, error) { return s.write(p) }

// WriteTrailers ends the body with trailer fields and flushes, instead of Finish. They are dropped where there is no
// body.
func (s *ServerStream) WriteTrailers(trailers exchange.Fields) error { return s.finishBody(trailers) }

// Finish ends the response and flushes.
func (s *ServerStream) Finish() error { return s.finishBody(nil) }

// Flush sends what was written so far.
func (s *ServerStream) Flush() error { return s.flush() }

// Reset gives the exchange up and tells the client why. It wakes whoever reads or writes, and may be called from any
// goroutine until the handler returns.
func (s *ServerStream) Reset(reason exchange.Reason) { s.giveUp(codeOf(reason), string(reason)) }

// ResetBy is Reset with an error code of HTTP/2 (RFC 9113 §7), as of a service that gave the exchange up itself.
func (s *ServerStream) ResetBy(code uint32, why string) { s.giveUp(http2.ErrCode(code), why) }

// StopReading says that the rest of the request is not wanted: it wakes whoever reads it. Where the response is whole the
// client hears that nothing is wrong (RFC 9113 §8.1).
func (s *ServerStream) StopReading() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.ended {
		return
	}
	code := http2.ErrCodeNo
	if !s.finished {
		code = http2.ErrCodeCancel
	}
	s.c.reset(&s.stream, code, "the rest of the request is not wanted")
}

// Interrupt has w closed when the client gives the exchange up or the connection ends, until the handler returns or
// calls it with nil. Close is called under the connection's lock: it must neither wait nor call the stream.
func (s *ServerStream) Interrupt(w io.Closer) { s.interrupt(w) }

// WriteError answers by the proxy itself, whole.
func (s *ServerStream) WriteError(status int, reason exchange.Reason, more ...exchange.Field) error {
	text := fmt.Sprintf("sennit: %d %s: %s\n", status, http.StatusText(status), reason)
	err := s.WriteResponse(&exchange.Response{
		Status: status,
		Fields: append(exchange.Fields{
			{Name: "sennit-reason", Value: string(reason)},
			{Name: "content-type", Value: "text/plain; charset=utf-8"},
		}, more...),
		BodyLength: int64(len(text)),
	})
	if err != nil {
		return err
	}
	if !s.forbids {
		if _, err := s.Write([]byte(text)); err != nil {
			return err
		}
	}
	return s.Finish()
}

// ErrorStatus returns the status that answers an error of the head or the body: 431 or 400, and 0 for errors after
// which nobody reads an answer.
func (s *ServerStream) ErrorStatus(err error) int {
	var reset *ResetError
	switch {
	case errors.As(err, &reset):
		return 0
	case errors.Is(err, ErrTooLarge):
		return 431
	case errors.Is(err, ErrMalformed):
		return 400
	}
	return 0
}
