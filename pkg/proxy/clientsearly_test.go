package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestClientsComeIntoForceAmidAHandshake: a handshake that began before the node knew a listener's certificate and whom it
// lets in does not end with the certificate alone.
func TestClientsComeIntoForceAmidAHandshake(t *testing.T) {
	t.Parallel()
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, startProcess(t, nil))
	server := selfSigned(t, 1)
	var known atomic.Bool
	p.outbound.Certificates = func(exchange.ServiceName, string) []*tls.Certificate {
		if !known.Load() {
			return nil
		}
		return []*tls.Certificate{server}
	}
	p.outbound.Clients = func(exchange.ServiceName, string) Clients {
		if !known.Swap(true) { // and right after this answer both are known
			return Clients{}
		}
		return Clients{Roots: x509.NewCertPool()}
	}
	address := p.gateway(t)
	_, err := p.table.Apply(snapshot.InSubject("shop", "cart"), snapshot.Version{Revision: 2}, &snapshot.Inbound{Ingress: &snapshot.Ingress{
		Listeners: []*snapshot.IngressListener{{Name: "known", Port: 80, Tls: &snapshot.IngressTLS{}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	// In TLS 1.2 the client's handshake ends after the server has seen its certificate.
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	if err == nil {
		conn.Close()
		t.Error("a client without a certificate is let in, at a listener that wants one")
	}
}
