package http1

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

func TestServerWrites(t *testing.T) {
	const unknown = exchange.LengthUnknown
	get := "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, tt := range []struct {
		name    string
		request string
		write   func(*ServerConn) error
		want    string
		goesOn  bool
	}{
		{"head and body in one write", get, respond(exchange.Response{Status: 200, BodyLength: 2}, "hi"),
			"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", true},
		{"RFC 9112 §7.1 chunks", get, respond(exchange.Response{Status: 200, BodyLength: unknown}, "hi", "0123456789abcdefg"),
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n11\r\n0123456789abcdefg\r\n0\r\n\r\n", true},
		{"RFC 9112 §6.3 unknown length to 1.0", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", respond(exchange.Response{Status: 200, BodyLength: unknown}, "hi"),
			"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi", false},
		{"RFC 9112 §9.3 keep-alive to 1.0", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", respond(exchange.Response{Status: 200, BodyLength: 2}, "hi"),
			"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", true},
		{"RFC 9112 §9.3 to 1.0", "GET / HTTP/1.0\r\n\r\n", respond(exchange.Response{Status: 200, BodyLength: 2}, "hi"),
			"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", false},
		{"RFC 9112 §9.6 client closes", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", respond(exchange.Response{Status: 204}),
			"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", false},
		{"RFC 9112 §9.6 the node goes away", get, func(c *ServerConn) error {
			c.Last()
			return respond(exchange.Response{Status: 204})(c)
		}, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", false},
		{"RFC 9110 §8.6 length to HEAD", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", respond(exchange.Response{Status: 200, BodyLength: 2}),
			"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", true},
		{"RFC 9110 §8.6 unknown length to HEAD", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", respond(exchange.Response{Status: 200, BodyLength: unknown}),
			"HTTP/1.1 200 OK\r\n\r\n", true},
		{"RFC 9110 §8.6 304 with a length", get, respond(exchange.Response{Status: 304, BodyLength: 7}),
			"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", true},
		{"RFC 9110 §7.6.1 hop-by-hop fields are not forwarded", get, respond(exchange.Response{Status: 200, Fields: exchange.Fields{
			{Name: "Connection", Value: "x"}, {Name: "transfer-encoding", Value: "chunked"}, {Name: "Content-Length", Value: "9"}, {Name: "Keep-Alive", Value: "1"}, {Name: "A", Value: "b"},
		}}), "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 0\r\n\r\n", true},
		{"RFC 9110 §15.2 informational", get, func(c *ServerConn) error {
			return errors.Join(
				c.WriteInformational(&exchange.Response{Status: 103, Fields: exchange.Fields{{Name: "Link", Value: "a"}}}),
				c.WriteInformational(&exchange.Response{Status: 100}), // nobody waits for it
				respond(exchange.Response{Status: 204})(c))
		}, "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", true},
		{"RFC 9110 §15.2 informational to 1.0", "GET / HTTP/1.0\r\n\r\n", func(c *ServerConn) error {
			return errors.Join(c.WriteInformational(&exchange.Response{Status: 103}), respond(exchange.Response{Status: 204})(c))
		}, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", false},
		{"RFC 9110 §9.3.6 CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", respond(exchange.Response{Status: 200, BodyLength: unknown}),
			"HTTP/1.1 200 OK\r\n\r\n", false},
		{"RFC 9110 §9.3.6 CONNECT refused", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", respond(exchange.Response{Status: 403}),
			"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", true},
		{"RFC 9110 §7.8 switching", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", respond(exchange.Response{Status: 101, Upgrade: "websocket"}),
			"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", false},
		{"RFC 9110 §15.5.22 upgrade required", get, respond(exchange.Response{Status: 426, Upgrade: "websocket"}),
			"HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n", true},
		{"RFC 9112 §4 a status without phrase", get, respond(exchange.Response{Status: 299}),
			"HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n", true},
		{"RFC 9112 §7.1.2 trailers", get, func(c *ServerConn) error {
			return errors.Join(c.WriteResponse(&exchange.Response{Status: 200, BodyLength: unknown}), c.WriteTrailers(exchange.Fields{{Name: "Sum", Value: "0"}, {Name: "Host", Value: "a"}}))
		}, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nSum: 0\r\n\r\n", true},
		{"the proxy's own answer", get, func(c *ServerConn) error { return c.WriteError(503, exchange.NoInstance) },
			"HTTP/1.1 503 Service Unavailable\r\nsennit-reason: no-instance\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 45\r\n\r\nsennit: 503 Service Unavailable: no-instance\n", true},
		{"the proxy's own answer to HEAD", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", func(c *ServerConn) error { return c.WriteError(503, exchange.NoInstance) },
			"HTTP/1.1 503 Service Unavailable\r\nsennit-reason: no-instance\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 45\r\n\r\n", true},
		{"the proxy's own answer to a body that nobody read", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", func(c *ServerConn) error { return c.WriteError(404, exchange.NoRoute) },
			"HTTP/1.1 404 Not Found\r\nsennit-reason: no-route\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: 32\r\n\r\nsennit: 404 Not Found: no-route\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			peer := &script{in: tt.request}
			c := NewServerConn(peer, Limits{})
			var r exchange.Request
			if err := errors.Join(c.ReadRequest(&r), tt.write(c)); err != nil {
				t.Fatal(err)
			}
			if string(peer.out) != tt.want {
				t.Errorf("wrote %q, want %q", peer.out, tt.want)
			}
			if c.KeepAlive() != tt.goesOn {
				t.Errorf("goes on: %v, want %v", c.KeepAlive(), tt.goesOn)
			}
			if heads := strings.Count(tt.want, "HTTP/1.1"); peer.writes != heads {
				t.Errorf("%d system calls, want %d", peer.writes, heads)
			}
			if c.out.buf != nil {
				t.Error("holds a buffer with nothing in it")
			}
		})
	}
}

func respond(r exchange.Response, body ...string) func(*ServerConn) error {
	return func(c *ServerConn) error {
		if err := c.WriteResponse(&r); err != nil {
			return err
		}
		for _, part := range body {
			if _, err := c.Write([]byte(part)); err != nil {
				return err
			}
		}
		return c.Finish()
	}
}

func TestServerRefusesToWrite(t *testing.T) {
	for _, tt := range []struct {
		name  string
		write func(*ServerConn) error
		err   error
	}{
		{"a line end in a value", respond(exchange.Response{Status: 200, Fields: exchange.Fields{{Name: "A", Value: "b\r\nC: d"}}}), ErrMalformed},
		{"a line end in a name", respond(exchange.Response{Status: 200, Fields: exchange.Fields{{Name: "A: b\r\nC", Value: "d"}}}), ErrMalformed},
		{"an empty name", respond(exchange.Response{Status: 200, Fields: exchange.Fields{{Name: "", Value: "d"}}}), ErrMalformed},
		{"a line end in an upgrade", respond(exchange.Response{Status: 426, Upgrade: "a\r\nb"}), ErrMalformed},
		{"a line end in a trailer", func(c *ServerConn) error {
			_ = c.WriteResponse(&exchange.Response{Status: 200, BodyLength: exchange.LengthUnknown})
			return c.WriteTrailers(exchange.Fields{{Name: "A", Value: "\n"}})
		}, ErrMalformed},
		{"a line end in an informational response", func(c *ServerConn) error {
			return c.WriteInformational(&exchange.Response{Status: 103, Fields: exchange.Fields{{Name: "A", Value: "\n"}}})
		}, ErrMalformed},
		{"101 that nobody asked for", respond(exchange.Response{Status: 101, Upgrade: "websocket"}), ErrSequence},
		{"an informational response as the final one", respond(exchange.Response{Status: 103}), ErrSequence},
		{"101 as informational response", func(c *ServerConn) error { return c.WriteInformational(&exchange.Response{Status: 101}) }, ErrSequence},
		{"status 600", respond(exchange.Response{Status: 600}), ErrSequence},
		{"more than the stated length", respond(exchange.Response{Status: 200, BodyLength: 1}, "hi"), ErrSequence},
		{"less than the stated length", respond(exchange.Response{Status: 200, BodyLength: 3}, "hi"), ErrSequence},
		{"a body of 204", respond(exchange.Response{Status: 204}, "hi"), ErrSequence},
		{"two responses", func(c *ServerConn) error {
			_ = respond(exchange.Response{Status: 204})(c)
			return c.WriteError(500, exchange.NoRoute)
		}, ErrSequence},
		{"an error behind a head", func(c *ServerConn) error {
			_ = c.WriteResponse(&exchange.Response{Status: 200, BodyLength: 1})
			return c.WriteError(500, exchange.NoRoute)
		}, ErrSequence},
		{"the next request before the response", func(c *ServerConn) error { return c.ReadRequest(new(exchange.Request)) }, ErrSequence},
		{"a body without a head", func(c *ServerConn) error { _, err := c.Write([]byte("x")); return err }, ErrSequence},
		{"an end without a head", (*ServerConn).Finish, ErrSequence},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := NewServerConn(&script{in: "GET / HTTP/1.1\r\nHost: a\r\n\r\n"}, Limits{})
			var r exchange.Request
			if err := c.ReadRequest(&r); err != nil {
				t.Fatal(err)
			}
			if err := tt.write(c); !errors.Is(err, tt.err) {
				t.Errorf("got %v, want %v", err, tt.err)
			}
		})
	}
}

func TestBadRequestIsAnsweredAndClosed(t *testing.T) {
	peer := &script{in: "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"}
	c := NewServerConn(peer, Limits{})
	var r exchange.Request
	err := c.ReadRequest(&r)
	if err := c.WriteError(c.ErrorStatus(err), exchange.Malformed); err != nil {
		t.Fatal(err)
	}
	out := string(peer.out)
	if !strings.HasPrefix(out, "HTTP/1.1 400 Bad Request\r\n") || !strings.Contains(out, "sennit-reason: malformed\r\n") || !strings.Contains(out, "Connection: close\r\n") {
		t.Errorf("answered %q", out)
	}
	if c.KeepAlive() || !errors.Is(c.ReadRequest(&r), ErrSequence) {
		t.Error("goes on behind a request that it could not read")
	}
}

func TestUnreadBody(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n"
	for _, tt := range []struct {
		name   string
		wire   string
		limit  int64
		err    error
		goesOn bool
	}{
		{"is drained", head + "\r\n0123456789", 10, nil, true},
		{"is longer than the limit", head + "\r\n0123456789", 9, ErrTooLarge, false},
		{"breaks off", head + "\r\n01234", 10, io.ErrUnexpectedEOF, false},
		{"was never asked for", head + "Expect: 100-continue\r\n\r\n", 10, ErrSequence, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := NewServerConn(&script{in: tt.wire}, Limits{})
			var r exchange.Request
			if err := errors.Join(c.ReadRequest(&r), respond(exchange.Response{Status: 413})(c)); err != nil {
				t.Fatal(err)
			}
			if c.KeepAlive() {
				t.Error("goes on before the body was read")
			}
			if err := c.Drain(tt.limit); !errors.Is(err, tt.err) {
				t.Errorf("got %v, want %v", err, tt.err)
			}
			if !errors.Is(tt.err, ErrTooLarge) && c.KeepAlive() != tt.goesOn {
				t.Errorf("goes on: %v, want %v", c.KeepAlive(), tt.goesOn)
			}
		})
	}
}

// TestSlowHead sends a head byte by byte: the time that it may take counts from its first bytes, however it trickles.
func TestSlowHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		stop := make(chan struct{})
		go func() {
			time.Sleep(time.Hour) // idle, which HeadTimeout does not bound
			for _, err := near.Write([]byte("GET / HTTP/1.1\r\nA: ")); err == nil; _, err = near.Write([]byte("b")) {
				time.Sleep(time.Second)
			}
			close(stop)
		}()
		began := time.Now()
		c := NewServerConn(far, Limits{HeadTimeout: 10 * time.Second})
		err := c.ReadRequest(new(exchange.Request))
		if status := c.ErrorStatus(err); status != 408 {
			t.Errorf("got %v (%d), want a timeout (408)", err, status)
		}
		if took := time.Since(began); took != time.Hour+10*time.Second {
			t.Errorf("took %v", took)
		}
		far.Close()
		<-stop
	})
}

func TestHeadTimeoutEndsWithTheHead(t *testing.T) {
	peer := &script{in: "GET / HTTP/1.1\r\nHost: a\r\n\r\n", step: 20}
	if err := NewServerConn(peer, Limits{HeadTimeout: time.Minute}).ReadRequest(new(exchange.Request)); err != nil || !peer.deadline.IsZero() {
		t.Errorf("error %v, deadline %v", err, peer.deadline)
	}
}

func TestAwaitMayBeRepeatedAfterATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		c := NewServerConn(far, Limits{})
		_ = far.SetReadDeadline(time.Now().Add(time.Second))
		if err := c.Await(); !isTimeout(err) {
			t.Fatal(err)
		}
		_ = far.SetReadDeadline(time.Time{})
		go near.Write([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
		if err := errors.Join(c.Await(), c.ReadRequest(new(exchange.Request))); err != nil {
			t.Error(err)
		}
	})
}

func TestSchemeIsThatOfTheConnection(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	if scheme := NewServerConn(tls.Server(far, &tls.Config{}), Limits{}).scheme; scheme != "https" {
		t.Errorf("scheme %q behind TLS", scheme)
	}
}
