package http1

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A script is a connection on which the peer has sent everything it will send and takes everything. Reads bring at
// most step bytes (0: all that fit); writes are counted.
type script struct {
	in       string
	step     int
	out      []byte
	writes   int
	deadline time.Time
}

func (s *script) Read(p []byte) (int, error) {
	if s.in == "" {
		return 0, io.EOF
	}
	if s.step > 0 && len(p) > s.step {
		p = p[:s.step]
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	s.out = append(s.out, p...)
	s.writes++
	return len(p), nil
}

func (s *script) Close() error                      { return nil }
func (s *script) LocalAddr() net.Addr               { return nil }
func (s *script) RemoteAddr() net.Addr              { return nil }
func (s *script) SetDeadline(time.Time) error       { return nil }
func (s *script) SetReadDeadline(t time.Time) error { s.deadline = t; return nil }
func (s *script) SetWriteDeadline(time.Time) error  { return nil }

// readRequest reads one request with its body from what a client sent.
func readRequest(wire string, step int) (r exchange.Request, body string, trailers exchange.Fields, err error) {
	c := NewServerConn(&script{in: wire, step: step}, Limits{})
	if err = c.ReadRequest(&r); err != nil {
		return
	}
	b, err := io.ReadAll(c.Body())
	return r, string(b), c.Body().Trailers(), err
}

// readResponse reads one final response with its body from what a service sent upon a request of the method.
func readResponse(method, wire string, step int) (c *ClientConn, r exchange.Response, body string, err error) {
	c = NewClientConn(&script{in: wire, step: step}, Limits{})
	request := exchange.Request{Method: method, Authority: "orders", Path: "/"}
	if method == "CONNECT" {
		request.Path, request.Authority = "", "orders:80"
	}
	if method == "UPGRADE" {
		request.Method, request.Upgrade = "GET", "websocket"
	}
	if err = errors.Join(c.WriteRequest(&request), c.Finish()); err != nil {
		return
	}
	for {
		if err = c.ReadResponse(&r); err != nil {
			return
		}
		if !r.Informational() {
			break
		}
	}
	b, err := io.ReadAll(c.Body())
	return c, r, string(b), err
}
