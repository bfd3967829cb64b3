package http2

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// echoTunnel switches to what was asked for, says what that is, and sends back what comes; /no it refuses.
func echoTunnel(s *ServerStream) {
	r := s.Request()
	if r.Path == "/no" {
		_ = s.WriteError(403, exchange.Completed)
		return
	}
	if err := s.WriteResponse(&exchange.Response{Status: 200}); !errors.Is(err, ErrSequence) {
		panic(fmt.Sprint("a success that is no tunnel: ", err))
	}
	if s.WriteResponse(&exchange.Response{Status: 101, Upgrade: r.Upgrade, Fields: exchange.Fields{{Name: "x-proto", Value: "as asked"}}}) != nil {
		return
	}
	_, _ = fmt.Fprintf(s, "%s %s %s %s %d\n", r.Method, r.Authority, r.Path, r.Upgrade, r.BodyLength)
	_ = s.Flush()
	_ = pass(s, s.Body())
}

// TestTunnelsOfXNet has x/net's client open tunnels through our server: an extended CONNECT (RFC 8441) and a plain one
// (RFC 9113 §8.5).
func TestTunnelsOfXNet(t *testing.T) {
	address := serve(t, Limits{}, echoTunnel)
	dial := func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	client := &http.Client{Transport: &http2.Transport{AllowHTTP: true, DialTLSContext: dial}} //nolint:staticcheck // net/http has no extended CONNECT
	t.Cleanup(client.CloseIdleConnections)
	for _, tt := range []struct{ protocol, path, want string }{
		{"websocket", "/chat?room=1", "GET " + address + " /chat?room=1 websocket 0\n"},
		{"", "", "CONNECT " + address + "   0\n"},
		{"websocket", "/no", ""},
	} {
		from, to := io.Pipe()
		r := &http.Request{
			Method: "CONNECT", URL: &url.URL{Scheme: "http", Host: address}, Host: address, Header: http.Header{}, Body: from, ContentLength: -1,
		}
		if tt.protocol != "" {
			at, err := url.Parse("http://" + address + tt.path)
			if err != nil {
				t.Fatal(err)
			}
			r.URL = at
			r.Header.Set(":protocol", tt.protocol)
		}
		resp, err := client.Do(r.WithContext(t.Context()))
		if err != nil {
			t.Fatalf("%q %s: %v", tt.protocol, tt.path, err)
		}
		defer resp.Body.Close()
		if tt.want == "" {
			if resp.StatusCode != 403 {
				t.Errorf("%s: %s", tt.path, resp.Status)
			}
			continue
		}
		if resp.StatusCode != 200 || resp.Header.Get("X-Proto") != "as asked" {
			t.Fatalf("%q: %s %v", tt.protocol, resp.Status, resp.Header)
		}
		first := make([]byte, len(tt.want))
		if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != tt.want {
			t.Fatalf("%q, %v; want %q", first, err, tt.want)
		}
		large := bytes.Repeat([]byte("tunnel "), 1<<16)
		go func() {
			_, _ = to.Write(large)
			to.Close()
		}()
		if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, large) {
			t.Errorf("%d bytes came back of %d, %v", len(got), len(large), err)
		}
	}
}

// TestTunnelsOfBothRoles has our client open the same.
func TestTunnelsOfBothRoles(t *testing.T) {
	c := dial(t, serve(t, Limits{}, echoTunnel), Limits{})
	for _, tt := range []struct {
		request exchange.Request
		status  int
		want    string
	}{
		{exchange.Request{Method: "GET", Authority: "orders", Path: "/chat", Upgrade: "websocket"}, 101, "GET orders /chat websocket 0\n"},
		{exchange.Request{Method: "CONNECT", Authority: "host.example:443"}, 101, "CONNECT host.example:443   0\n"},
		{exchange.Request{Method: "GET", Authority: "orders", Path: "/no", Upgrade: "websocket"}, 403, ""},
	} {
		s, err := c.Open()
		if err != nil {
			t.Fatal(err)
		}
		if takes, err := s.Tunnels(); !takes || err != nil {
			t.Fatalf("takes tunnels: %v, %v", takes, err)
		}
		var response exchange.Response
		if err := errors.Join(s.WriteRequest(&tt.request), s.Flush(), s.ReadResponse(&response)); err != nil {
			t.Fatal(err)
		}
		if response.Status != tt.status {
			t.Errorf("%s %s: %d", tt.request.Method, tt.request.Path, response.Status)
		}
		if tt.status == 101 {
			if _, err := s.Write([]byte("said")); err != nil {
				t.Error(err)
			}
			if err := s.Finish(); err != nil {
				t.Error(err)
			}
			if got, err := io.ReadAll(s.Body()); err != nil || string(got) != tt.want+"said" {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		}
		s.Release()
	}
}

// TestTunnelsThatAreNotTaken: a server says in its settings whether it takes them, and our client knows.
func TestTunnelsThatAreNotTaken(t *testing.T) {
	c := dial(t, origin(t, http.NotFoundHandler()), Limits{})
	s, err := c.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	if takes, err := s.Tunnels(); takes || err != nil {
		t.Errorf("takes tunnels: %v, %v", takes, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // whose peer never says anything
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	silent := dial(t, l.Addr().String(), Limits{})
	waiting, err := silent.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Release()
	go silent.Close()
	if _, err := waiting.Tunnels(); !errors.Is(err, ErrClosed) {
		t.Errorf("of a connection that ends: %v", err)
	}
}

// TestTunnelHeads: what RFC 8441 §4 and RFC 9113 §8.5 say of the heads that ask for a tunnel.
func TestTunnelHeads(t *testing.T) {
	address := serve(t, Limits{}, echoTunnel)
	f := func(fields ...string) (all []hpack.HeaderField) {
		for i := 0; i < len(fields); i += 2 {
			all = append(all, hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		return all
	}
	for _, tt := range []struct {
		name string
		head []hpack.HeaderField
		bad  bool
	}{
		{"extended", f(":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a", ":path", "/"), false},
		{"of another method", f(":method", "GET", ":protocol", "websocket", ":scheme", "http", ":authority", "a", ":path", "/"), true},
		{"without a path", f(":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a"), true},
		{"without a scheme", f(":method", "CONNECT", ":protocol", "websocket", ":authority", "a", ":path", "/"), true},
		{"without a host", f(":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/"), true},
		{"no protocol", f(":method", "CONNECT", ":protocol", "web socket", ":scheme", "http", ":authority", "a", ":path", "/"), true},
		{"a protocol twice", f(":method", "CONNECT", ":protocol", "a", ":protocol", "a", ":scheme", "http", ":authority", "a", ":path", "/"), true},
		{"with a length", f(":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a", ":path", "/", "content-length", "1"), true},
		{"plain", f(":method", "CONNECT", ":authority", "a:1"), false},
		{"plain, with a path", f(":method", "CONNECT", ":authority", "a:1", ":scheme", "http", ":path", "/"), true},
		{"plain, with a length", f(":method", "CONNECT", ":authority", "a:1", "content-length", "0"), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := dialRaw(t, address)
			for _, field := range tt.head {
				_ = p.hpack.WriteField(field)
			}
			if err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block.Bytes(), EndHeaders: true}); err != nil {
				t.Fatal(err)
			}
			for {
				frame, err := p.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				switch frame := frame.(type) {
				case *http2.RSTStreamFrame:
					if !tt.bad || frame.ErrCode != http2.ErrCodeProtocol {
						t.Errorf("reset: %v", frame.ErrCode)
					}
					return
				case *http2.HeadersFrame:
					if tt.bad {
						t.Error("it is answered")
					}
					if frame.StreamEnded() {
						t.Error("the tunnel ends at once")
					}
					return
				}
			}
		})
	}
}
