package proxy

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/egress"
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
