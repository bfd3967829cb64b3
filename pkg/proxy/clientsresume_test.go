package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// anySession is a tls.ClientSessionCache that shows the last session that it got, to whomever it speaks.
type anySession struct {
	mu   sync.Mutex
	last *tls.ClientSessionState
}

func (a *anySession) Get(string) (*tls.ClientSessionState, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last, a.last != nil
}

func (a *anySession) Put(_ string, s *tls.ClientSessionState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s != nil {
		a.last = s
	}
}

// startListeners has the pair's gateway serve listeners with TLS by their names, "<name>.example": "one" and "two" ask for
// certificates of one client each, and "open" for none. It returns its address and the certificates.
func startListeners(t *testing.T, p *pair) (address string, one, two *tls.Certificate) {
	t.Helper()
	server := selfSigned(t, 1)
	one, two = selfSigned(t, 2), selfSigned(t, 3)
	clients := map[string]Clients{}
	for name, c := range map[string]*tls.Certificate{"one": one, "two": two} {
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		clients[name] = Clients{Roots: x509.NewCertPool()}
		clients[name].Roots.AddCert(leaf)
	}
	p.outbound.Certificates = func(exchange.ServiceName, string) []*tls.Certificate { return []*tls.Certificate{server} }
	p.outbound.Clients = func(_ exchange.ServiceName, listener string) Clients { return clients[listener] }
	address = p.gateway(t)
	var listeners []*snapshot.IngressListener
	for _, name := range []string{"one", "two", "open"} {
		listeners = append(listeners, &snapshot.IngressListener{
			Name: name, Port: 80, Hostname: name + ".example", Tls: &snapshot.IngressTLS{}, Hosts: []*snapshot.IngressHost{{Hostname: name + ".example", Rules: []uint32{0}}},
		})
	}
	_, err := p.table.Apply(snapshot.InSubject("shop", "cart"), snapshot.Version{Revision: 2}, &snapshot.Inbound{Ingress: &snapshot.Ingress{
		Listeners: listeners,
		Rules:     []*snapshot.Rule{{Origin: "httproute/shop/r#0/0", Backends: []*snapshot.Backend{{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return address, one, two
}

// A visitor is a client's connection to a listener, over which it asks for hosts.
type visitor struct {
	t    *testing.T
	conn *tls.Conn
	id   uint32 // of the next stream
	h2   *outside2
}

// visit connects to a listener by its name, shows a certificate where there is one, and a session where there is one. The
// error is that of the handshake, or of whoever speaks first on the connection.
func visit(t *testing.T, address, listener, protocol string, version uint16, shows *tls.Certificate, sessions tls.ClientSessionCache) (*visitor, error) {
	t.Helper()
	config := &tls.Config{
		ServerName: listener + ".example", InsecureSkipVerify: true, MaxVersion: version, NextProtos: []string{protocol}, ClientSessionCache: sessions,
	}
	if shows != nil {
		config.Certificates = []tls.Certificate{*shows}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	plain, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plain.Close() })
	plain.SetDeadline(time.Now().Add(30 * time.Second))
	conn := tls.Client(plain, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	v := &visitor{t: t, conn: conn, id: 1}
	if protocol == "h2" {
		io.WriteString(conn, xhttp2.ClientPreface)
		v.h2 = &outside2{Framer: xhttp2.NewFramer(conn, conn), t: t, conn: conn}
		v.h2.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		v.h2.hpack = hpack.NewEncoder(&v.h2.block)
		v.h2.WriteSettings()
	}
	return v, nil
}

// ask is the status with which a request for a host is answered.
func (v *visitor) ask(host string) (string, error) {
	if v.h2 == nil {
		fmt.Fprintf(v.conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
		response, err := http.ReadResponse(bufio.NewReader(v.conn), nil)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(io.Discard, response.Body)
		return fmt.Sprint(response.StatusCode), err
	}
	id := v.id
	v.id += 2
	v.h2.block.Reset()
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: host}, {Name: ":path", Value: "/"},
	} {
		v.h2.hpack.WriteField(f)
	}
	v.h2.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: v.h2.block.Bytes(), EndHeaders: true, EndStream: true})
	for {
		frame, err := v.h2.ReadFrame()
		if err != nil {
			return "", err
		}
		if head, is := frame.(*xhttp2.MetaHeadersFrame); is && head.StreamID == id {
			return head.PseudoValue("status"), nil
		}
	}
}

// TestAConnectionProvesOnlyWhatItProved: what a client showed at one listener, or in a session before, is worth nothing at
// another, in either version of TLS and of HTTP. (In Caddy's issue 7953 requests of one protocol that the listener spoke were
// not checked.) There are no other protocols that listeners with TLS speak: no HTTP/3.
func TestAConnectionProvesOnlyWhatItProved(t *testing.T) {
	t.Parallel()
	process := startProcess(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "in") })
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, process)
	address, one, two := startListeners(t, p)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, protocol := range []string{"http/1.1", "h2"} {
			t.Run(fmt.Sprintf("%s, %s", tls.VersionName(version), protocol), func(t *testing.T) {
				sessions := new(anySession)
				first, err := visit(t, address, "one", protocol, version, one, sessions)
				if err != nil {
					t.Fatal(err)
				}
				// The certificate is that of the listener of this connection, and of no other that the same connection asks for.
				for _, tt := range []struct{ host, want string }{{"one.example", "200"}, {"two.example", "421"}, {"open.example", "421"}, {"ONE.example:443", "200"}} {
					if got, err := first.ask(tt.host); err != nil || got != tt.want {
						t.Errorf("%s over a connection to one: %s %v, want %s", tt.host, got, err, tt.want)
					}
				}
				open, err := visit(t, address, "open", protocol, version, nil, sessions)
				if err != nil {
					t.Fatal(err)
				}
				for host, want := range map[string]string{"open.example": "200", "one.example": "421", "two.example": "421"} {
					if got, err := open.ask(host); err != nil || got != want {
						t.Errorf("%s over a connection to open: %s %v, want %s", host, got, err, want)
					}
				}
				for _, tt := range []struct {
					name, listener string
					shows          *tls.Certificate
					in             bool
				}{
					{"the session of one, and no certificate", "one", nil, false},
					{"the session of one, and its certificate, at two", "two", one, false},
					{"the session of one, and no certificate, at two", "two", nil, false},
					{"the session of one, and the certificate of two, at one", "one", two, false},
					{"its own certificate, at two", "two", two, true},
				} {
					v, err := visit(t, address, tt.listener, protocol, version, tt.shows, sessions)
					status := ""
					if err == nil { // in TLS 1.3 the client's handshake ends before the server has looked at its certificate
						if v.conn.ConnectionState().DidResume {
							t.Errorf("%s: resumed", tt.name)
						}
						status, err = v.ask(tt.listener + ".example")
					}
					if in := err == nil && status == "200"; in != tt.in {
						t.Errorf("%s: %q %v", tt.name, status, err)
					}
				}
				if sessions.last != nil {
					t.Error("the gateway gave out sessions")
				}
			})
		}
	}
}

// TestTrustThatIsTakenBack: who was let in is not let in again once its root is gone, whatever it kept of the time before.
func TestTrustThatIsTakenBack(t *testing.T) {
	t.Parallel()
	process := startProcess(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "in") })
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, process)
	address, one, two := startListeners(t, p)
	trusted := p.outbound.Clients
	var mu sync.Mutex
	gone := false
	p.outbound.Clients = func(gateway exchange.ServiceName, listener string) Clients {
		mu.Lock()
		defer mu.Unlock()
		if gone {
			return trusted(gateway, "two")
		}
		return trusted(gateway, listener)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, protocol := range []string{"http/1.1", "h2"} {
			sessions := new(anySession)
			ask := func(shows *tls.Certificate) string {
				v, err := visit(t, address, "one", protocol, version, shows, sessions)
				if err != nil {
					return "refused"
				}
				status, err := v.ask("one.example")
				if err != nil {
					return "refused"
				}
				return status
			}
			var got bytes.Buffer
			for _, taken := range []bool{false, true} {
				mu.Lock()
				gone = taken
				mu.Unlock()
				fmt.Fprintf(&got, "%s %s, ", ask(one), ask(two))
			}
			if want := "200 refused, refused 200, "; got.String() != want {
				t.Errorf("%s, %s: %s, want %s", tls.VersionName(version), protocol, got.String(), want)
			}
		}
	}
}
