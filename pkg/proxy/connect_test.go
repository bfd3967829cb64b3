package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http2"
	"github.com/sennit-mesh/sennit/pkg/origination"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A forwardProxy is a process that was registered to take CONNECT, or not.
type forwardProxy Place

func (forwardProxy) Secure(exchange.ServiceName, exchange.Kind, *exchange.Target) (*origination.Settings, bool) {
	return nil, true
}

func (p forwardProxy) Find(exchange.ServiceName, exchange.Target) (Place, bool) {
	return Place(p), true
}

// tunnels is a proxy of HTTP/1.1 that leads back what comes, behind the host that it was asked for.
func tunnels(w http.ResponseWriter, r *http.Request) {
	if r.Method != "CONNECT" || r.Host == "secret.example:443" {
		http.Error(w, "no", http.StatusForbidden)
		return
	}
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 200 Connected\r\nVia: proxy\r\n\r\n%s %s\n", r.Method, r.Host)
	io.Copy(conn, rw)
}

// tunnels2 is the same by HTTP/2.
func tunnels2(s *http2.ServerStream) {
	r := s.Request()
	if r.Method != "CONNECT" || r.Authority == "secret.example:443" {
		_ = s.WriteError(403, exchange.Completed)
		return
	}
	if s.WriteResponse(&exchange.Response{Status: 101, Fields: exchange.Fields{{Name: "via", Value: "proxy"}}}) != nil {
		return
	}
	fmt.Fprintf(s, "%s %s\n", r.Method, r.Authority)
	echoStream(s)
}

func startProxy(t *testing.T, rule *snapshot.Rule, place Place) *pair {
	inbound := NewInbound(forwardProxy(place), pairLimits, slog.New(slog.DiscardHandler))
	run(t, inbound.Run)
	return startCaller(t, http11, rule, inbound.Serve)
}

// connect1 asks for a tunnel by HTTP/1.1.
func (p *pair) connect1(t *testing.T, host string) switchedConn {
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", host, host)
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, &http.Request{Method: "CONNECT"})
	if err != nil {
		t.Fatal(err)
	}
	return switchedConn{status: response.StatusCode, header: response.Header, Reader: reader, say: halfClosed{conn.(*net.TCPConn)}}
}

// TestConnect: where a rule names the method and the process was registered to take it, a caller of each version has a
// tunnel by a proxy of each.
func TestConnect(t *testing.T) {
	named := &snapshot.Rule{Match: &snapshot.Match{Method: "CONNECT"}}
	old := netip.MustParseAddrPort(startProcess(t, tunnels))
	for to, p := range map[string]*pair{
		"HTTP/1.1": startProxy(t, named, Place{Process: old, Connect: true}),
		"HTTP/2":   startProxy(t, &snapshot.Rule{Match: named.Match}, Place{Process: serveStreams(t, tunnels2), HTTP2: true, Connect: true}),
	} {
		for from, ask := range map[string]func(*testing.T, string) switchedConn{
			"HTTP/1.1": p.connect1,
			"HTTP/2":   func(t *testing.T, host string) switchedConn { return p.ask2(t, host, "", "") },
		} {
			t.Run(from+" to "+to, func(t *testing.T) {
				c := ask(t, "host.example:443")
				if c.status != 200 || c.header.Get("Via") != "proxy" {
					t.Fatalf("%d %v", c.status, c.header)
				}
				said := bytes.Repeat([]byte("tunnel "), 1<<16)
				go func() {
					c.say.Write(said)
					c.say.Close()
				}()
				if got, err := io.ReadAll(c); err != nil || string(got) != "CONNECT host.example:443\n"+string(said) {
					t.Errorf("%d bytes, %v: %.40q", len(got), err, got)
				}
				if c := ask(t, "secret.example:443"); c.status != 403 {
					t.Errorf("what the proxy refuses: %d", c.status)
				}
			})
		}
	}
}

// TestConnectIsMeant: a tunnel passes by rules and limits, so that it is for those who mean it.
func TestConnectIsMeant(t *testing.T) {
	process := netip.MustParseAddrPort(startProcess(t, tunnels))
	named := func() *snapshot.Rule { return &snapshot.Rule{Match: &snapshot.Match{Method: "CONNECT"}} }
	for name, p := range map[string]*pair{
		"a rule for everything":       startProxy(t, nil, Place{Process: process, Connect: true}),
		"a rule for another method":   startProxy(t, &snapshot.Rule{Match: &snapshot.Match{Method: "GET"}}, Place{Process: process, Connect: true}),
		"a process that takes none":   startProxy(t, named(), Place{Process: process}),
		"one of HTTP/2 takes none":    startProxy(t, named(), Place{Process: process, HTTP2: true}),
		"a rule, and a process of no": startProxy(t, nil, Place{Process: process}),
	} {
		for from, c := range map[string]switchedConn{"HTTP/1.1": p.connect1(t, "host.example:443"), "HTTP/2": p.ask2(t, "host.example:443", "", "")} {
			if c.status != 501 || c.header.Get("Sennit-Reason") != string(exchange.NoRoute) {
				t.Errorf("%s, by %s: %d %v", name, from, c.status, c.header)
			}
		}
	}
}

// TestConnectFromOutside: no rule of a gateway gives those outside a tunnel.
func TestConnectFromOutside(t *testing.T) {
	p := startProxy(t, nil, Place{Process: netip.MustParseAddrPort(startProcess(t, tunnels)), Connect: true})
	address := p.gateway(t)
	backend := &snapshot.Backend{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1}
	_, err := p.table.Apply(snapshot.InSubject("shop", "cart"), snapshot.Version{Revision: 2}, &snapshot.Inbound{Ingress: &snapshot.Ingress{
		Listeners: []*snapshot.IngressListener{{Name: "http", Port: 80, Hosts: []*snapshot.IngressHost{{Rules: []uint32{0}}}}},
		Rules:     []*snapshot.Rule{{Match: &snapshot.Match{Method: "CONNECT"}, Backends: []*snapshot.Backend{backend}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got := raw(t, address, "CONNECT host.example:443 HTTP/1.1\r\nHost: host.example:443\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 501 ") {
		t.Errorf("%q", got)
	}
}
