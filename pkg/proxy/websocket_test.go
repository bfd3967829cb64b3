package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http2"
)

// switchingProcess speaks HTTP/1.1 and sends back what comes behind a handshake of WebSockets, and behind any other
// upgrade; /no refuses, /deaf answers as if nothing had been asked for, /wrong accepts what nobody asked for.
func switchingProcess(t *testing.T) string {
	return startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		protocol, key := r.Header.Get("Upgrade"), r.Header.Get("Sec-WebSocket-Key")
		switch {
		case r.URL.Path == "/no":
			http.Error(w, "no", http.StatusForbidden)
			return
		case r.URL.Path == "/deaf" || protocol == "":
			fmt.Fprintf(w, "%s %q", r.Method, protocol)
			return
		case r.Method != "GET" || protocol == "websocket" && len(key) != 24:
			http.Error(w, "no handshake", http.StatusBadRequest)
			return
		case r.URL.Path == "/wrong":
			key = "another"
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Accept: %s\r\nX-Version: %s\r\n\r\n", protocol, acceptOf(key), r.Header.Get("Sec-WebSocket-Version"))
		io.Copy(conn, rw)
	})
}

// switchingProcess2 is the same by HTTP/2, where a WebSocket has no key.
func switchingProcess2(t *testing.T) netip.AddrPort { return serveStreams(t, switch2) }

func switch2(s *http2.ServerStream) {
	r := s.Request()
	key, _ := r.Fields.Get("sec-websocket-key")
	if r.Path == "/no" || key != "" || r.Upgrade == "" {
		_ = s.WriteError(403, exchange.Completed)
		return
	}
	version, _ := r.Fields.Get("sec-websocket-version")
	if s.WriteResponse(&exchange.Response{Status: 101, Fields: exchange.Fields{{Name: "x-version", Value: version}}}) == nil {
		echoStream(s)
	}
}

// echoStream sends back what comes behind a switch.
func echoStream(s *http2.ServerStream) {
	if s.Flush() != nil {
		return
	}
	room := make([]byte, 4<<10)
	for {
		n, err := s.Body().Read(room)
		if _, werr := s.Write(room[:n]); werr != nil || s.Flush() != nil {
			return
		}
		if errors.Is(err, io.EOF) {
			_ = s.Finish()
		}
		if err != nil {
			return
		}
	}
}

// serveStreams serves HTTP/2 by our own codec, whose peers may ask to switch, and returns the address.
func serveStreams(t *testing.T, handle func(*http2.ServerStream)) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	run(t, func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { l.Close() })()
		for {
			conn, err := l.Accept()
			if err != nil {
				return nil
			}
			defer conn.Close()
			go http2.NewServerConn(conn, http2.Limits{}).Serve(handle)
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// A switchedConn is what a caller has once it asked to switch: what came behind the head, and what it says.
type switchedConn struct {
	status int
	header http.Header
	io.Reader
	say io.WriteCloser // Close ends what it says
}

// askHTTP1 asks for a WebSocket as HTTP/1.1 has it.
func (p *pair) askHTTP1(t *testing.T, path, protocol, key string) switchedConn {
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", path, protocol, key)
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := switchedConn{status: response.StatusCode, header: response.Header, Reader: reader, say: halfClosed{conn.(*net.TCPConn)}}
	if c.status != 101 {
		c.Reader = response.Body
	}
	return c
}

type halfClosed struct{ *net.TCPConn }

func (h halfClosed) Close() error { return h.CloseWrite() }

// askHTTP2 asks for it as RFC 8441 has it.
func (p *pair) askHTTP2(t *testing.T, path, protocol string) switchedConn {
	return p.ask2(t, "orders", path, protocol)
}

// ask2 asks for a tunnel by x/net's client, of a protocol or of none.
func (p *pair) ask2(t *testing.T, host, path, protocol string) switchedConn {
	dial := func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, p.address)
	}
	client := &http.Client{Transport: &xhttp2.Transport{AllowHTTP: true, DialTLSContext: dial}} //nolint:staticcheck // net/http has no extended CONNECT
	t.Cleanup(client.CloseIdleConnections)
	from, to := io.Pipe()
	t.Cleanup(func() { to.Close() })
	r := &http.Request{
		Method: "CONNECT", URL: &url.URL{Scheme: "http", Host: host, Path: path}, Host: host, Body: from, ContentLength: -1,
		Header: http.Header{"Sec-Websocket-Version": {"13"}},
	}
	if protocol != "" {
		r.Header[":protocol"] = []string{protocol}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	response, err := client.Do(r.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return switchedConn{status: response.StatusCode, header: response.Header, Reader: response.Body, say: to}
}

// TestWebSockets has callers of each version switch to WebSockets with processes of each.
func TestWebSockets(t *testing.T) {
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	for to, p := range map[string]*pair{
		"HTTP/1.1": startPair(t, http11, nil, switchingProcess(t)),
		"HTTP/2":   startHTTP2(t, nil, http2Process(switchingProcess2(t))),
	} {
		for from, ask := range map[string]func(*testing.T, string) switchedConn{
			"HTTP/1.1": func(t *testing.T, path string) switchedConn { return p.askHTTP1(t, path, "websocket", key) },
			"HTTP/2":   func(t *testing.T, path string) switchedConn { return p.askHTTP2(t, path, "websocket") },
		} {
			t.Run(from+" to "+to, func(t *testing.T) {
				c := ask(t, "/chat")
				status, accept := 200, ""
				if from == "HTTP/1.1" {
					status, accept = 101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" // of RFC 6455 §1.3
				}
				if got := c.header.Get("Sec-WebSocket-Accept"); c.status != status || got != accept || c.header.Get("X-Version") != "13" {
					t.Fatalf("%d %v", c.status, c.header)
				}
				fmt.Fprint(c.say, "one")
				answer := make([]byte, 3)
				if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "one" {
					t.Fatalf("%q, %v", answer, err)
				}
				large := bytes.Repeat([]byte("frames "), 1<<16)
				go func() {
					c.say.Write(large)
					c.say.Close()
				}()
				if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, large) {
					t.Errorf("%d bytes came back of %d, %v", len(got), len(large), err)
				}
				if c := ask(t, "/no"); c.status != 403 {
					t.Errorf("refused: %d", c.status)
				}
			})
		}
	}
}

// TestSwitchesThatAreNone (CVE-2024-23326): a caller of HTTP/2 takes every success for the switch, so that it must not get any other.
func TestSwitchesThatAreNone(t *testing.T) {
	p := startPair(t, http11, nil, switchingProcess(t))
	for _, path := range []string{"/deaf", "/wrong"} {
		if c := p.askHTTP2(t, path, "websocket"); c.status != 502 || c.header.Get("Sennit-Reason") != string(exchange.ServiceBroke) {
			t.Errorf("%s: %d %v", path, c.status, c.header)
		}
	}
	if c := p.askHTTP1(t, "/deaf", "websocket", "key"); c.status != 200 {
		t.Errorf("by HTTP/1.1: %d", c.status)
	}
	if c := p.askHTTP2(t, "/chat", "echo"); c.status != 200 { // what is no WebSocket needs no key
		t.Errorf("another protocol: %d %v", c.status, c.header)
	}
	process := serveBoth(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", r.Method, r.Proto) })
	deaf := startHTTP2(t, nil, http2Process(process))
	c := deaf.askHTTP1(t, "/", "websocket", "key")
	if got, err := io.ReadAll(c); c.status != 200 || string(got) != "GET HTTP/2.0" || err != nil {
		t.Errorf("a process of HTTP/2 that takes no upgrades: %d %q, %v", c.status, got, err)
	}
	if c := deaf.askHTTP2(t, "/", "websocket"); c.status != 502 {
		t.Errorf("the same, by HTTP/2: %d", c.status)
	}
}

// TestWebSocketBreaksOff: what breaks off at one side of a tunnel by HTTP/2 breaks off at the other, and is no end.
func TestWebSocketBreaksOff(t *testing.T) {
	closed := make(chan error, 1)
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", acceptOf(r.Header.Get("Sec-WebSocket-Key")))
		if r.URL.Path == "/break" {
			conn.(*net.TCPConn).SetLinger(0)
			return
		}
		_, err = io.ReadAll(rw)
		closed <- err
	})
	p := startPair(t, http11, nil, process)
	if got, err := io.ReadAll(p.askHTTP2(t, "/break", "websocket")); err == nil {
		t.Errorf("the process broke off, and its caller has %q and an end", got)
	}
	c := p.askHTTP2(t, "/", "websocket")
	c.Reader.(io.Closer).Close() // x/net's client resets the stream
	if err := <-closed; err == nil {
		t.Error("the caller broke off, and the process has an end")
	}
}
