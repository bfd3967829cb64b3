package proxy

import (
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/egress"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/origination"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestIdleConnectionThatAHostOutsideEnds: what is not idempotent cannot be sent again, so that a connection over TLS that
// the host has closed must not be taken.
func TestIdleConnectionThatAHostOutsideEnds(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	host, err := egress.New(&snapshot.Outside{
		Host: "127.0.0.1", Port: uint32(server.Listener.Addr().(*net.TCPAddr).Port), Protocol: snapshot.Protocol_PROTOCOL_HTTP,
		Tls: true, ServerName: "example.com", CaBundle: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})),
	}, []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")})
	if err != nil {
		t.Fatal(err)
	}
	place, u := Place{Outside: host}, &upstreams{limits: pairLimits}
	c, err := u.dial(t.Context(), place)
	if err != nil {
		t.Fatal(err)
	}
	u.put(place, c, time.Now())
	server.CloseClientConnections()
	for deadline := time.Now().Add(10 * time.Second); ; {
		c := u.take(place)
		if c == nil {
			return
		}
		u.put(place, c, time.Now())
		if time.Now().After(deadline) {
			t.Fatal("a connection that has ended is still taken")
		}
	}
}

// TestHTTP2ToAHostOutside: a request of HTTP/1.1 and one of gRPC reach a host outside by one connection of HTTP/2, on which it
// was agreed, with the host's own name and scheme; a host that does not speak it is not spoken to.
func TestHTTP2ToAHostOutside(t *testing.T) {
	var conns atomic.Int32
	outside := func(both bool) Place {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "Grpc-Status")
			fmt.Fprint(w, r.Proto, " ", r.Host, " ", r.TLS != nil, " ")
			io.Copy(w, r.Body)
			w.Header().Set("Grpc-Status", "0")
		}))
		server.EnableHTTP2 = both
		server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				conns.Add(1)
			}
		}
		server.StartTLS()
		t.Cleanup(server.Close)
		host, err := egress.New(&snapshot.Outside{
			Host: "127.0.0.1", Port: uint32(server.Listener.Addr().(*net.TCPAddr).Port), Protocol: snapshot.Protocol_PROTOCOL_HTTP2,
			Tls: true, ServerName: "example.com", CaBundle: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})),
		}, []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")})
		if err != nil {
			t.Fatal(err)
		}
		return Place{Outside: host, HTTP2: host.HTTP2}
	}
	place := outside(true)
	p := startHTTP2(t, nil, onePlace(place))
	for _, client := range []*http.Client{p.client(), p.client2()} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://bank/pay", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/grpc")
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := "HTTP/2.0 " + place.Outside.Authority + " true body"; string(got) != want || err != nil || resp.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("%q, %v, %v; want %q", got, err, resp.Trailer, want)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	p = startHTTP2(t, nil, onePlace(outside(false)))
	resp, err := p.client().Get("http://bank/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadGateway && resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without HTTP/2: %s", resp.Status)
	}
}

type onePlace Place

func (o onePlace) Secure(exchange.ServiceName, exchange.Kind, *exchange.Target) (*origination.Settings, bool) {
	return o.TLS, true
}

func (o onePlace) Find(exchange.ServiceName, exchange.Target) (Place, bool) { return Place(o), true }
