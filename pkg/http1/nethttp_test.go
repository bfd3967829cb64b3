package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// serve answers each connection of a listener with handle until the test ends, and returns its address.
func serve(t *testing.T, handle func(*ServerConn) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				if err := handle(NewServerConn(nc, Limits{})); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
			}()
		}
	}()
	return l.Addr().String()
}

// TestNetHTTPClient lets the standard library's client talk to a ServerConn that answers each request with what it
// asks for.
func TestNetHTTPClient(t *testing.T) {
	const unknown = exchange.LengthUnknown
	addr := serve(t, func(c *ServerConn) error {
		var r exchange.Request
		for c.KeepAlive() {
			if err := c.ReadRequest(&r); err != nil {
				return err
			}
			if r.ExpectContinue {
				if r.Path == "/refused" {
					return errors.Join(respond(exchange.Response{Status: 417})(c))
				}
				if err := c.WriteInformational(&exchange.Response{Status: 100}); err != nil {
					return err
				}
			}
			body, err := io.ReadAll(c.Body())
			if err != nil {
				return err
			}
			about := exchange.Fields{{Name: "Seen", Value: fmt.Sprintf("%s %s %s %d", r.Method, r.Authority, r.Path, r.BodyLength)}}
			switch r.Path {
			case "/304":
				err = respond(exchange.Response{Status: 304, Fields: about, BodyLength: 12})(c)
			case "/204":
				err = respond(exchange.Response{Status: 204, Fields: about})(c)
			case "/hints":
				err = errors.Join(
					c.WriteInformational(&exchange.Response{Status: 103, Fields: exchange.Fields{{Name: "Link", Value: "</a>"}}}),
					respond(exchange.Response{Status: 200, Fields: about, BodyLength: 2}, "hi")(c))
			case "/chunked":
				_ = c.WriteResponse(&exchange.Response{Status: 200, Fields: append(about, exchange.Field{Name: "Trailer", Value: "Sum"}), BodyLength: unknown})
				_, err = c.Write(body)
				trailers := append(exchange.Fields{{Name: "Sum", Value: "1"}}, c.Body().Trailers()...)
				err = errors.Join(err, c.WriteTrailers(trailers))
			default:
				reply := exchange.Response{Status: 200, Fields: about, BodyLength: int64(len(body))}
				if r.Method == "HEAD" {
					reply.BodyLength, body = 12, nil
				}
				err = respond(reply, string(body))(c)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1, ExpectContinueTimeout: time.Minute}}
	defer client.CloseIdleConnections()
	large := strings.Repeat("0123456789abcdef", 20_000)
	for _, tt := range []struct {
		name, method, path, body string
		chunked                  bool
		prepare                  func(*http.Request)
		status                   int
		want                     string
		seen                     string
		length                   int64
	}{
		{name: "GET", method: "GET", path: "/a?b=c", status: 200, seen: "GET " + addr + " /a?b=c 0"},
		{name: "body", method: "POST", path: "/", body: "hi", status: 200, want: "hi", length: 2, seen: "POST " + addr + " / 2"},
		{name: "large body", method: "PUT", path: "/", body: large, status: 200, want: large, length: int64(len(large))},
		{name: "chunked with trailers", method: "POST", path: "/chunked", body: large, chunked: true, status: 200, want: large, length: -1,
			seen: "POST " + addr + " /chunked -1", prepare: func(r *http.Request) { r.Trailer = http.Header{"Mine": {"2"}} }},
		{name: "HEAD", method: "HEAD", path: "/", status: 200, length: 12},
		{name: "304", method: "GET", path: "/304", status: 304},
		{name: "204", method: "DELETE", path: "/204", status: 204},
		{name: "informational", method: "GET", path: "/hints", status: 200, want: "hi", length: 2},
		{name: "expectation", method: "POST", path: "/", body: "hi", status: 200, want: "hi", length: 2,
			prepare: func(r *http.Request) { r.Header.Set("Expect", "100-continue") }},
		{name: "OPTIONS", method: "OPTIONS", path: "*", status: 200, seen: "OPTIONS " + addr + " * 0"},
		{name: "client closes", method: "GET", path: "/", status: 200, prepare: func(r *http.Request) { r.Close = true }},
		{name: "expectation refused", method: "POST", path: "/refused", body: large, status: 417,
			prepare: func(r *http.Request) { r.Header.Set("Expect", "100-continue") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var body io.Reader = strings.NewReader(tt.body)
			if tt.chunked {
				body = struct{ io.Reader }{body}
			}
			hints := 0
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
					if code == 103 {
						hints++
					}
					return nil
				},
			})
			r, err := http.NewRequestWithContext(ctx, tt.method, "http://"+addr+strings.TrimPrefix(tt.path, "*"), body)
			if err != nil {
				t.Fatal(err)
			}
			if tt.path == "*" {
				r.URL.Opaque = "*"
			}
			if tt.prepare != nil {
				tt.prepare(r)
			}
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status || string(got) != tt.want || resp.ContentLength != tt.length {
				t.Errorf("status %d, body of %d bytes, length %d", resp.StatusCode, len(got), resp.ContentLength)
			}
			if tt.seen != "" && resp.Header.Get("Seen") != tt.seen {
				t.Errorf("the server saw %q", resp.Header.Get("Seen"))
			}
			if tt.chunked && (resp.Trailer.Get("Sum") != "1" || resp.Trailer.Get("Mine") != "2") {
				t.Errorf("trailers %v", resp.Trailer)
			}
			if (tt.path == "/hints") != (hints == 1) {
				t.Errorf("%d hints", hints)
			}
		})
	}
}

// TestNetHTTPServer lets a ClientConn talk to the standard library's server over one connection.
func TestNetHTTPServer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/early" { // without reading the body
			w.WriteHeader(413)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Seen", strings.TrimSpace(fmt.Sprintf("%s %s %s %d %s", r.Method, r.Host, r.RequestURI, r.ContentLength, r.Trailer.Get("Sum"))))
		switch r.URL.Path {
		case "/304":
			w.WriteHeader(304)
		case "/204":
			w.WriteHeader(204)
		case "/hints":
			w.Header().Set("Link", "</a>")
			w.WriteHeader(103)
			w.WriteHeader(200)
		case "/chunked":
			w.Header().Set("Trailer", "Sum")
			_, _ = w.Write(body)
			w.(http.Flusher).Flush()
			w.Header().Set("Sum", "1")
		case "/close":
			w.Header().Set("Connection", "close")
			_, _ = w.Write(body)
		default:
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			_, _ = w.Write(body)
		}
	}))
	defer server.Close()
	addr := server.Listener.Addr().String()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := NewClientConn(nc, Limits{})
	large := strings.Repeat("0123456789abcdef", 20_000)
	for _, tt := range []struct {
		name     string
		request  exchange.Request
		body     string
		trailers exchange.Fields
		status   int
		want     string
		seen     string
		length   int64
		informed int // 100 and 103
	}{
		{name: "GET", request: exchange.Request{Method: "GET", Path: "/a?b=c"}, status: 200, seen: "GET a /a?b=c 0"},
		{name: "body", request: exchange.Request{Method: "POST", Path: "/", BodyLength: 2}, body: "hi", status: 200, want: "hi", length: 2, seen: "POST a / 2"},
		{name: "large body", request: exchange.Request{Method: "POST", Path: "/", BodyLength: int64(len(large))}, body: large, status: 200, want: large, length: int64(len(large))},
		{name: "chunked with trailers", request: exchange.Request{Method: "POST", Path: "/chunked", BodyLength: -1, Fields: exchange.Fields{{Name: "Trailer", Value: "Sum"}}}, body: large,
			trailers: exchange.Fields{{Name: "Sum", Value: "7"}}, status: 200, want: large, length: -1, seen: "POST a /chunked -1 7"},
		{name: "HEAD", request: exchange.Request{Method: "HEAD", Path: "/"}, status: 200},
		{name: "304", request: exchange.Request{Method: "GET", Path: "/304"}, status: 304, length: -1},
		{name: "204", request: exchange.Request{Method: "DELETE", Path: "/204"}, status: 204},
		{name: "informational", request: exchange.Request{Method: "GET", Path: "/hints"}, status: 200, informed: 1},
		{name: "expectation", request: exchange.Request{Method: "POST", Path: "/", BodyLength: 2, ExpectContinue: true}, body: "hi", status: 200, want: "hi", length: 2, informed: 1},
		{name: "server closes", request: exchange.Request{Method: "POST", Path: "/close", BodyLength: 2}, body: "hi", status: 200, want: "hi", length: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.request.Authority = "a"
			if err := c.WriteRequest(&tt.request); err != nil {
				t.Fatal(err)
			}
			var r exchange.Response
			informed := 0
			next := func() {
				if err := c.ReadResponse(&r); err != nil {
					t.Fatal(err)
				}
				if r.Informational() {
					informed++
				}
			}
			if tt.request.ExpectContinue {
				if err := c.Flush(); err != nil {
					t.Fatal(err)
				}
				next()
			}
			// The standard library answers while it reads: send and read at once.
			sent := make(chan error, 1)
			go func() {
				_, err := c.Write([]byte(tt.body))
				sent <- errors.Join(err, c.WriteTrailers(tt.trailers))
			}()
			for next(); r.Informational(); {
				next()
			}
			got, err := io.ReadAll(c.Body())
			if err := errors.Join(err, <-sent); err != nil {
				t.Fatal(err)
			}
			if r.Status != tt.status || string(got) != tt.want || r.BodyLength != tt.length || informed != tt.informed {
				t.Errorf("status %d, body of %d bytes, length %d, %d informational responses", r.Status, len(got), r.BodyLength, informed)
			}
			if seen, _ := r.Fields.Get("Seen"); tt.seen != "" && seen != tt.seen {
				t.Errorf("the server saw %q, want %q", seen, tt.seen)
			}
			if sum, _ := c.Body().Trailers().Get("Sum"); tt.trailers != nil && sum != "1" {
				t.Errorf("trailers %v", c.Body().Trailers())
			}
			if c.Reusable() != (tt.name != "server closes") {
				t.Errorf("reusable: %v", c.Reusable())
			}
			c.Release()
		})
	}
}

// TestUpgradeThroughBothRoles switches from the standard library's server through a ClientConn and a ServerConn to a
// client that sends bytes of the other protocol right behind its request, and gets some right behind the 101.
func TestUpgradeThroughBothRoles(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") || r.Header.Get("Sec-WebSocket-Key") != "x" {
			w.WriteHeader(400)
			return
		}
		nc, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\nservice first,")
		_ = rw.Flush()
		_, _ = io.Copy(nc, rw)
	}))
	defer service.Close()
	addr := serve(t, func(near *ServerConn) error {
		nc, err := net.Dial("tcp", service.Listener.Addr().String())
		if err != nil {
			return err
		}
		defer nc.Close()
		far := NewClientConn(nc, Limits{})
		var request exchange.Request
		var response exchange.Response
		err = errors.Join(near.ReadRequest(&request), far.WriteRequest(&request), far.Finish(), far.ReadResponse(&response))
		err = errors.Join(err, near.WriteResponse(&response), near.Flush())
		if err != nil {
			return err
		}
		if near.KeepAlive() || far.Reusable() {
			t.Error("a switched connection goes on")
		}
		nearConn, nearEarly := near.Hijack()
		farConn, farEarly := far.Hijack()
		if near.in.head != nil || far.in.head != nil {
			t.Error("a switched connection holds buffers")
		}
		back := make(chan error, 1)
		go func() {
			_, err := io.Copy(nearConn, io.MultiReader(bytes.NewReader(farEarly), farConn))
			back <- err
		}()
		_, err = io.Copy(farConn, io.MultiReader(bytes.NewReader(nearEarly), nearConn))
		err = errors.Join(err, farConn.(*net.TCPConn).CloseWrite())
		return errors.Join(err, <-back)
	})
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_, err = nc.Write([]byte("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\nclient"))
	if err != nil {
		t.Fatal(err)
	}
	rd := bufio.NewReader(nc)
	resp, err := http.ReadResponse(rd, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Sec-WebSocket-Accept") != "y" {
		t.Fatalf("got %+v, %v", resp, err)
	}
	_, err = nc.Write([]byte(" second"))
	if err := errors.Join(err, nc.(*net.TCPConn).CloseWrite()); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(rd); string(all) != "service first,client second" || err != nil {
		t.Errorf("read %q, %v", all, err)
	}
}

// An endless peer sends chunks for as long as there are bytes left.
type endless struct {
	script
	left int64
}

var chunk = "8000\r\n" + strings.Repeat("x", 32<<10) + "\r\n"

func (e *endless) Read(p []byte) (int, error) {
	if e.in == "" {
		if e.left > 0 {
			e.left -= 32 << 10
			e.in = chunk
		} else {
			e.in = "0\r\n\r\n"
		}
	}
	return e.script.Read(p)
}

func (e *endless) Write(p []byte) (int, error) { return len(p), nil }

// TestGigabytesAtConstantMemory passes four gigabytes of body through both roles.
func TestGigabytesAtConstantMemory(t *testing.T) {
	size := int64(4 << 30)
	if testing.Short() || raceDetector {
		size = 64 << 20
	}
	from := &endless{left: size, script: script{in: "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"}}
	server, client := NewServerConn(from, Limits{}), NewClientConn(&endless{}, Limits{})
	var r exchange.Request
	if err := errors.Join(server.ReadRequest(&r), client.WriteRequest(&r)); err != nil {
		t.Fatal(err)
	}
	var passed int64
	room := make([]byte, 16<<10)
	pass := func() error {
		n, err := server.Body().Read(room)
		passed += int64(n)
		_, werr := client.Write(room[:n])
		return errors.Join(err, werr)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for passed < size {
		if err := pass(); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if err := pass(); !errors.Is(err, io.EOF) || passed != size {
		t.Errorf("%d of %d bytes passed, then %v", passed, size, err)
	}
	if all := after.TotalAlloc - before.TotalAlloc; all > 1<<20 && !raceDetector {
		t.Errorf("%d bytes were allocated on the way", all)
	}
	if err := client.Finish(); err != nil {
		t.Error(err)
	}
}
