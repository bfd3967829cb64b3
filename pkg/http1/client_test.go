package http1

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

func TestClientWrites(t *testing.T) {
	const unknown = exchange.LengthUnknown
	for _, tt := range []struct {
		name    string
		request exchange.Request
		body    string
		want    string
	}{
		{"no body", exchange.Request{Method: "GET", Authority: "a", Path: "/b?c"}, "",
			"GET /b?c HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"RFC 9110 §8.6 an empty body", exchange.Request{Method: "POST", Authority: "a", Path: "/"}, "",
			"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"},
		{"a length", exchange.Request{Method: "GET", Authority: "a", Path: "/", BodyLength: 2}, "hi",
			"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"},
		{"chunks", exchange.Request{Method: "PUT", Authority: "a", Path: "/", BodyLength: unknown}, "hi",
			"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"},
		{"RFC 9110 §7.6.1 hop-by-hop fields are not forwarded", exchange.Request{Method: "GET", Authority: "a", Path: "/", Fields: exchange.Fields{
			{Name: "host", Value: "b"}, {Name: "Connection", Value: "close"}, {Name: "Upgrade", Value: "h2c"}, {Name: "TE", Value: "trailers"}, {Name: "Expect", Value: "100-continue"},
			{Name: "A", Value: "b"}}}, "",
			"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n"},
		{"RFC 9110 §7.8 upgrade", exchange.Request{Method: "GET", Authority: "a", Path: "/", Upgrade: "websocket"}, "",
			"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
		{"RFC 9110 §10.1.1 expectation", exchange.Request{Method: "PUT", Authority: "a", Path: "/", BodyLength: 2, ExpectContinue: true}, "hi",
			"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi"},
		{"RFC 9112 §3.2.3 CONNECT", exchange.Request{Method: "CONNECT", Authority: "a:1"}, "",
			"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"},
		{"RFC 9112 §3.2.4 OPTIONS", exchange.Request{Method: "OPTIONS", Authority: "a", Path: "*"}, "",
			"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"RFC 9112 §3.2 no authority", exchange.Request{Method: "GET", Path: "/"}, "",
			"GET / HTTP/1.1\r\nHost: \r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			peer := &script{}
			c := NewClientConn(peer, Limits{})
			err := c.WriteRequest(&tt.request)
			_, werr := c.Write([]byte(tt.body))
			if err := errors.Join(err, werr, c.Finish()); err != nil {
				t.Fatal(err)
			}
			if string(peer.out) != tt.want {
				t.Errorf("wrote %q, want %q", peer.out, tt.want)
			}
			if peer.writes != 1 {
				t.Errorf("%d system calls", peer.writes)
			}
		})
	}
}

func TestClientRefusesToWrite(t *testing.T) {
	for _, tt := range []struct {
		name    string
		request exchange.Request
	}{
		{"a line end in the method", exchange.Request{Method: "GET / HTTP/1.1\r\n", Authority: "a", Path: "/"}},
		{"no method", exchange.Request{Authority: "a", Path: "/"}},
		{"a space in the path", exchange.Request{Method: "GET", Authority: "a", Path: "/ HTTP/1.1"}},
		{"a line end in the path", exchange.Request{Method: "GET", Authority: "a", Path: "/\r\n"}},
		{"a line end in the query", exchange.Request{Method: "GET", Authority: "a", Path: "/?\r\n"}},
		{"no path", exchange.Request{Method: "GET", Authority: "a"}},
		{"an asterisk", exchange.Request{Method: "GET", Authority: "a", Path: "*"}},
		{"a line end in the authority", exchange.Request{Method: "GET", Authority: "a\r\n", Path: "/"}},
		{"CONNECT to nobody", exchange.Request{Method: "CONNECT"}},
		{"CONNECT with a path", exchange.Request{Method: "CONNECT", Authority: "a:1", Path: "/"}},
		{"CONNECT with a body", exchange.Request{Method: "CONNECT", Authority: "a:1", BodyLength: 1}},
		{"a line end in a field", exchange.Request{Method: "GET", Authority: "a", Path: "/", Fields: exchange.Fields{{Name: "A", Value: "\r\n"}}}},
		{"an upgrade to HTTP/2", exchange.Request{Method: "GET", Authority: "a", Path: "/", Upgrade: "h2c"}},
		{"a line end in the upgrade", exchange.Request{Method: "GET", Authority: "a", Path: "/", Upgrade: "a\r\n"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			peer := &script{}
			c := NewClientConn(peer, Limits{})
			if err := c.WriteRequest(&tt.request); !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v", err)
			}
			if c.out.n > 0 || len(peer.out) > 0 || !c.Reusable() {
				t.Error("something was written")
			}
		})
	}
}

// TestLargeWritesAreOneSystemCall writes a head and behind it a body that is larger than the buffer, to a socket
// that keeps what each system call wrote apart.
func TestLargeWritesAreOneSystemCall(t *testing.T) {
	l, err := net.Listen("unixpacket", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Skipf("no sockets of packets here: %v", err)
	}
	defer l.Close()
	near, err := net.Dial("unixpacket", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()

	body := strings.Repeat("x", 60<<10)
	c := NewClientConn(near, Limits{})
	err = c.WriteRequest(&exchange.Request{Method: "POST", Authority: "a", Path: "/", BodyLength: exchange.LengthUnknown})
	_, werr := c.Write([]byte(body))
	if err := errors.Join(err, werr); err != nil {
		t.Fatal(err)
	}
	if c.out.buf != nil {
		t.Error("the body was copied into a buffer")
	}
	first := make([]byte, 100<<10)
	n, err := far.Read(first)
	want := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nf000\r\n" + body + "\r\n"
	if err != nil || string(first[:n]) != want {
		t.Errorf("the first system call wrote %d bytes of %d; error %v", n, len(want), err)
	}
}

func TestClientIsNotReusable(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
	request := exchange.Request{Method: "POST", Authority: "a", Path: "/", BodyLength: 2}
	var response exchange.Response
	for _, tt := range []struct {
		name string
		do   func(*ClientConn) error
	}{
		{"before the request has ended", func(c *ClientConn) error {
			err := errors.Join(c.WriteRequest(&request), c.ReadResponse(&response))
			return errors.Join(err, c.Drain(2))
		}},
		{"before the response", func(c *ClientConn) error {
			_, err := c.Write(nil)
			return errors.Join(err, c.WriteRequest(&exchange.Request{Method: "GET", Authority: "a", Path: "/"}), c.Finish())
		}},
		{"before the body was read", func(c *ClientConn) error {
			return errors.Join(c.WriteRequest(&exchange.Request{Method: "GET", Authority: "a", Path: "/"}), c.Finish(), c.ReadResponse(&response))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := NewClientConn(&script{in: ok}, Limits{})
			if err := tt.do(c); err != nil {
				t.Fatal(err)
			}
			if c.Reusable() || c.Alive() || !errors.Is(c.WriteRequest(&request), ErrSequence) {
				t.Error("reusable")
			}
			answered := c.answered
			if err := c.ReadResponse(&response); answered && !errors.Is(err, ErrSequence) {
				t.Errorf("a second response: %v", err)
			}
		})
	}
}

func TestAliveSeesThatTheServiceWentAway(t *testing.T) {
	near, far := sockets(t, 1)
	c := NewClientConn(near[0], Limits{})
	if !c.Alive() {
		t.Fatal("a new connection is dead")
	}
	if err := far[0].Close(); err != nil {
		t.Fatal(err)
	}
	// The end is there once the kernel delivers it; a read says when.
	one := make([]byte, 1)
	if _, err := near[0].Read(one); err == nil {
		t.Fatal("read from a closed connection")
	}
	if c.Alive() {
		t.Error("alive behind the service's end")
	}
}

func TestReadDeadlineWhileIdle(t *testing.T) {
	near, _ := sockets(t, 1)
	c := NewServerConn(near[0], Limits{})
	_ = near[0].SetReadDeadline(time.Unix(1, 0))
	err := c.ReadRequest(new(exchange.Request))
	var ne net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) {
		t.Errorf("got %v", err)
	}
	if c.in.head != nil {
		t.Error("holds a buffer")
	}
}

func TestCloseGivesBuffersBack(t *testing.T) {
	near, far := sockets(t, 1)
	client, server := NewClientConn(near[0], Limits{}), NewServerConn(far[0], Limits{})
	var r exchange.Request
	err := errors.Join(client.WriteRequest(&exchange.Request{Method: "GET", Authority: "a", Path: "/"}), client.Finish(),
		server.ReadRequest(&r), server.WriteResponse(&exchange.Response{Status: 204}))
	if err := errors.Join(err, client.Close(), server.Close()); err != nil {
		t.Fatal(err)
	}
	if client.Reusable() || server.KeepAlive() || server.in.head != nil || server.out.buf != nil || client.in.head != nil {
		t.Error("goes on, or holds buffers")
	}
}
