package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http2"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// An outside2 is a client of HTTP/2 that sends any frames.
type outside2 struct {
	*xhttp2.Framer
	t     *testing.T
	conn  net.Conn
	block bytes.Buffer
	hpack *hpack.Encoder
}

func newOutside2(t *testing.T, conn net.Conn) *outside2 {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, http2.Preface)
	c := &outside2{Framer: xhttp2.NewFramer(conn, conn), t: t, conn: conn}
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.hpack = hpack.NewEncoder(&c.block)
	c.WriteSettings()
	return c
}

func dialOutside2(t *testing.T, address string) *outside2 {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return newOutside2(t, conn)
}

// open sends the head of a POST to shop.example.
func (c *outside2) open(id uint32, end bool, more ...hpack.HeaderField) error {
	c.block.Reset()
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "shop.example"}, {Name: ":path", Value: "/"},
	}, more...) {
		c.hpack.WriteField(f)
	}
	return c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: end})
}

// next reads the next frame of a type.
func next[F xhttp2.Frame](c *outside2) (f F) {
	c.t.Helper()
	for {
		got, err := c.ReadFrame()
		if err != nil {
			c.t.Fatalf("%T: %v", f, err)
		}
		if f, ok := got.(F); ok {
			return f
		}
	}
}

// answer reads the response of a stream: its status and body, or how it was reset.
func (c *outside2) answer(id uint32) string {
	c.t.Helper()
	said := ""
	for {
		got, err := c.ReadFrame()
		if err != nil {
			return said + err.Error()
		}
		if got.Header().StreamID != id {
			continue
		}
		switch f := got.(type) {
		case *xhttp2.MetaHeadersFrame:
			said += f.PseudoValue("status") + " "
		case *xhttp2.DataFrame:
			said += string(f.Data())
		case *xhttp2.RSTStreamFrame:
			return said + f.ErrCode.String()
		}
		if got.Header().Flags.Has(xhttp2.FlagDataEndStream) {
			return said
		}
	}
}

// TestOutsideHTTP2: whoever speaks HTTP/2 to a gateway is believed as little as others, and is told how many requests it
// may have.
func TestOutsideHTTP2(t *testing.T) {
	t.Parallel()
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, r.Host, r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Proto"], r.Header["Forwarded"], r.Header["Sennit-Caller"], r.Trailer)
	})
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, process)
	c := dialOutside2(t, p.gateway(t))
	settings := next[*xhttp2.SettingsFrame](c)
	if most, _ := settings.Value(xhttp2.SettingMaxConcurrentStreams); most != outsideStreams {
		t.Errorf("%d streams are allowed", most)
	}
	if w := next[*xhttp2.WindowUpdateFrame](c); w.StreamID != 0 || 65535+w.Increment != outsideUnread {
		t.Errorf("%d more bytes are allowed of stream %d", w.Increment, w.StreamID)
	}
	c.open(1, false, hpack.HeaderField{Name: "x-forwarded-for", Value: "10.0.0.1"}, hpack.HeaderField{Name: "x-forwarded-proto", Value: "https"},
		hpack.HeaderField{Name: "sennit-caller", Value: "shop/admin"}, hpack.HeaderField{Name: "trailer", Value: "x-real-ip"})
	c.WriteData(1, false, []byte("a"))
	c.block.Reset()
	c.hpack.WriteField(hpack.HeaderField{Name: "x-real-ip", Value: "10.0.0.1"})
	c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: true})
	if got, want := c.answer(1), `200 shop.example[127.0.0.1] [http] [for=127.0.0.1;host="shop.example";proto=http] [] map[X-Real-Ip:[]]`; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	c.open(3, true, hpack.HeaderField{Name: "host", Value: "other.example"})
	if got := c.answer(3); got != "PROTOCOL_ERROR" {
		t.Errorf("two hosts: %s", got)
	}
	if seen := p.observed(1); len(seen) != 1 || seen[0].Caller != cart || seen[0].Callee != orders {
		t.Errorf("%+v", seen)
	}
}

// TestOutsideResets: who opens requests and takes them back, again and again (CVE-2023-44487), is sent away, and others
// are served meanwhile.
func TestOutsideResets(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	})
	t.Cleanup(func() { close(release) })
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, process)
	p.quiet.Store(true)
	address := p.gateway(t)
	c := dialOutside2(t, address)
	go func() {
		for id := uint32(1); id < 1<<20; id += 2 {
			if c.open(id, true) != nil || c.WriteRSTStream(id, xhttp2.ErrCodeCancel) != nil {
				return
			}
		}
	}()
	if away := next[*xhttp2.GoAwayFrame](c); away.ErrCode != xhttp2.ErrCodeEnhanceYourCalm {
		t.Errorf("sent away with %v", away.ErrCode)
	} else if began := away.LastStreamID / 2; began > 100_000 {
		t.Errorf("after %d requests", began)
	}
	if got := raw(t, address, "GET /other HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("another client got %q", got)
	}
}

// TestOutsideHTTP2HasLittlePatience: what TestOutsideHasLittlePatience has of HTTP/1.1. A call of gRPC may be silent for
// longer than other bodies, and as long as one of its sides is not.
func TestOutsideHTTP2HasLittlePatience(t *testing.T) {
	t.Parallel()
	process := serveBoth(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" && r.Header.Get("X-Talks") == "" {
			_, _ = io.Copy(io.Discard, r.Body)
			return
		}
		for range 9 { // in all longer than the patience for a call
			io.WriteString(w, "b")
			http.NewResponseController(w).Flush()
			select {
			case <-time.After(700 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	})
	p := startHTTP2(t, nil, http2Process(process))
	p.outbound.Outside = Patience{Idle: 20 * time.Second, Head: 4 * time.Second, Body: 4 * time.Second, Call: 5 * time.Second}
	address := p.gateway(t)
	grpc := hpack.HeaderField{Name: "content-type", Value: "application/grpc"}
	c := dialOutside2(t, address)
	c.open(1, false)
	c.WriteData(1, false, []byte("half"))
	if got := c.answer(1); got != "CANCEL" {
		t.Errorf("half a body: %s", got)
	}
	began := time.Now()
	c.open(3, false, grpc)
	c.WriteData(3, false, []byte("half"))
	if got := c.answer(3); !strings.HasSuffix(got, "CANCEL") || time.Since(began) < 5*time.Second {
		t.Errorf("half a call: %s after %v", got, time.Since(began))
	}
	c.open(5, false, grpc, hpack.HeaderField{Name: "x-talks", Value: "yes"})
	if got := c.answer(5); !strings.HasPrefix(got, "200 bbbbbbbbb") {
		t.Errorf("a call that is answered bit by bit: %s", got)
	}

	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(conn, http2.Preface[:20])
	_, err = io.Copy(io.Discard, conn)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		t.Error("half a preface keeps its connection")
	}
}

// TestOutsideAgreesOnHTTP2: a client of TLS that offers HTTP/2 gets it, on one connection for all that it asks for, but not
// for the hosts of other listeners.
func TestOutsideAgreesOnHTTP2(t *testing.T) {
	t.Parallel()
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Host+" "+r.Header.Get("X-Forwarded-Proto"))
	})
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, process)
	certificate := selfSigned(t, 1)
	p.outbound.Certificates = func(exchange.ServiceName, string) []*tls.Certificate { return []*tls.Certificate{certificate} }
	address := p.gateway(t)
	secure := &snapshot.IngressTLS{}
	_, err := p.table.Apply(snapshot.InSubject("shop", "cart"), snapshot.Version{Revision: 2}, &snapshot.Inbound{Ingress: &snapshot.Ingress{
		Listeners: []*snapshot.IngressListener{
			{Name: "a", Port: 80, Hostname: "a.example", Hosts: []*snapshot.IngressHost{{Hostname: "a.example", Rules: []uint32{0}}}, Tls: secure},
			{Name: "b", Port: 80, Hostname: "b.example", Hosts: []*snapshot.IngressHost{{Hostname: "b.example", Rules: []uint32{0}}}, Tls: secure},
		},
		Rules: []*snapshot.Rule{{Origin: "httproute/shop/r#0/0", Backends: []*snapshot.Backend{{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		dials := 0
		client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
			ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MaxVersion: version},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				dials++
				return new(net.Dialer).DialContext(ctx, "tcp", address)
			},
		}}
		for _, tt := range []struct {
			host, want string
			status     int
		}{{"", "a.example https", 200}, {"a.example:8443", "a.example:8443 https", 200}, {"b.example", "", 421}, {"a.example", "a.example https", 200}} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://a.example/", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = tt.host
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.ProtoMajor != 2 || resp.StatusCode != tt.status || tt.want != "" && string(body) != tt.want {
				t.Errorf("%s: %s %s %q, %v", tt.host, resp.Proto, resp.Status, body, err)
			}
		}
		if dials != 1 {
			t.Errorf("%d connections", dials)
		}
		client.CloseIdleConnections()
	}

	conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(conn, http2.Preface)
	if answer, _ := io.ReadAll(conn); !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
		t.Errorf("HTTP/2 where HTTP/1.1 was agreed on: %q", answer)
	}
}
