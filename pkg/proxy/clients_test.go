package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestClientsOfAGateway: a listener that asks for certificates lets in who shows one that it knows, and, where anybody may
// come, whoever comes.
func TestClientsOfAGateway(t *testing.T) {
	t.Parallel()
	process := startProcess(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "in") })
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, process)
	server, known, stranger := selfSigned(t, 1), selfSigned(t, 2), selfSigned(t, 3)
	roots := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(known.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(leaf)
	p.outbound.Certificates = func(exchange.ServiceName, string) []*tls.Certificate { return []*tls.Certificate{server} }
	p.outbound.Clients = func(_ exchange.ServiceName, listener string) Clients {
		return map[string]Clients{"known": {Roots: roots}, "anybody": {Roots: roots, Anybody: true}}[listener]
	}
	address := p.gateway(t)
	var listeners []*snapshot.IngressListener
	for _, name := range []string{"known", "anybody", "unasked"} {
		host := name + ".example"
		listeners = append(listeners, &snapshot.IngressListener{
			Name: name, Port: 80, Hostname: host, Tls: &snapshot.IngressTLS{}, Hosts: []*snapshot.IngressHost{{Hostname: host, Rules: []uint32{0}}},
		})
	}
	_, err = p.table.Apply(snapshot.InSubject("shop", "cart"), snapshot.Version{Revision: 2}, &snapshot.Inbound{Ingress: &snapshot.Ingress{
		Listeners: listeners,
		Rules:     []*snapshot.Rule{{Origin: "httproute/shop/r#0/0", Backends: []*snapshot.Backend{{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		listener string
		shows    *tls.Certificate
		in       bool
	}{
		{"known", known, true}, {"known", stranger, false}, {"known", nil, false},
		{"anybody", known, true}, {"anybody", stranger, true}, {"anybody", nil, true},
		{"unasked", nil, true},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			asked := false
			client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
				DisableKeepAlives: true,
				DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return (&tls.Dialer{Config: &tls.Config{
						ServerName: tt.listener + ".example", InsecureSkipVerify: true, MaxVersion: version,
						GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
							if asked = true; tt.shows == nil {
								return &tls.Certificate{}, nil
							}
							return tt.shows, nil
						},
					}}).DialContext(ctx, "tcp", address)
				},
			}}
			response, err := client.Get("https://" + tt.listener + ".example/")
			if err == nil {
				response.Body.Close()
			}
			name := fmt.Sprintf("%s, TLS %#x, shows %v", tt.listener, version, tt.shows != nil)
			if got := err == nil && response.StatusCode == http.StatusOK; got != tt.in {
				t.Errorf("%s: let in %v, %v", name, got, err)
			}
			if asked != (tt.listener != "unasked") {
				t.Errorf("%s: asked %v", name, asked)
			}
		}
	}
}
