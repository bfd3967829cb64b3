package proxy

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func selfSigned(t *testing.T, serial int64) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestTLSEndsAtTheGateway: the listener, and with it the certificate and the rules, are chosen by the name that the
// client asks for; a certificate is renewed under open connections.
func TestTLSEndsAtTheGateway(t *testing.T) {
	t.Parallel()
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Host+" "+r.Header.Get("X-Forwarded-Proto"))
	})
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, process)
	var first atomic.Pointer[tls.Certificate]
	first.Store(selfSigned(t, 1))
	below := selfSigned(t, 2)
	p.outbound.Certificates = func(gateway exchange.ServiceName, listener string) []*tls.Certificate {
		switch {
		case gateway != cart:
			return nil
		case listener == "exact":
			return []*tls.Certificate{first.Load()}
		case listener == "below":
			return []*tls.Certificate{below}
		}
		return nil
	}
	address := p.gateway(t)
	hosts := func(name string) []*snapshot.IngressHost {
		return []*snapshot.IngressHost{{Hostname: name, Rules: []uint32{0}}}
	}
	secure := &snapshot.IngressTLS{}
	_, err := p.table.Apply(snapshot.InSubject("shop", "cart"), snapshot.Version{Revision: 2}, &snapshot.Inbound{Ingress: &snapshot.Ingress{
		Listeners: []*snapshot.IngressListener{
			{Name: "exact", Port: 80, Hostname: "a.shop.example", Hosts: hosts("a.shop.example"), Tls: secure},
			{Name: "below", Port: 80, Hostname: "*.shop.example", Hosts: hosts("*.shop.example"), Tls: secure},
			{Name: "none", Port: 80, Hostname: "none.example", Hosts: hosts("none.example"), Tls: secure},
		},
		Rules: []*snapshot.Rule{{Origin: "httproute/shop/r#0/0", Backends: []*snapshot.Backend{{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	dial := func(server string, edit func(*tls.Config)) (*tls.Conn, error) {
		config := &tls.Config{ServerName: server, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
		if edit != nil {
			edit(config)
		}
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 30 * time.Second}, "tcp", address, config)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			conn.SetDeadline(time.Now().Add(30 * time.Second))
		}
		return conn, err
	}
	ask := func(conn *tls.Conn, host string) string {
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err.Error()
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		if answer.StatusCode != 200 {
			return fmt.Sprint(answer.StatusCode)
		}
		return string(body)
	}
	serial := func(conn *tls.Conn) int64 { return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64() }

	kept, err := dial("A.shop.example", nil)
	if err != nil {
		t.Fatal(err)
	}
	if state := kept.ConnectionState(); serial(kept) != 1 || state.NegotiatedProtocol != "http/1.1" || state.Version != tls.VersionTLS13 {
		t.Errorf("%+v", state)
	}
	if got := ask(kept, "a.shop.example"); got != "a.shop.example https" {
		t.Error(got)
	}
	if got := ask(kept, "b.shop.example"); got != "421" {
		t.Errorf("a request for another listener was answered with %s", got)
	}
	second, err := dial("b.shop.example", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(second, "b.shop.example"); got != "b.shop.example https" || serial(second) != 2 {
		t.Error(got)
	}
	for _, tt := range []struct {
		name, server string
		edit         func(*tls.Config)
	}{
		{"no listener for the name", "shop.example", nil},
		{"no name", "", nil},
		{"no certificate", "none.example", nil},
		{"TLS 1.1", "a.shop.example", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }},
		{"a suite that HTTP/2 prohibits", "a.shop.example", func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		}},
		{"no protocol in common", "a.shop.example", func(c *tls.Config) { c.NextProtos = []string{"spdy/3"} }},
	} {
		if conn, err := dial(tt.server, tt.edit); err == nil {
			t.Errorf("%s: served with %d", tt.name, serial(conn))
		}
	}
	if answer := raw(t, address, "GET / HTTP/1.1\r\nHost: a.shop.example\r\n\r\n"); strings.Contains(answer, "200") || strings.Contains(answer, "https") {
		t.Errorf("served without TLS: %q", answer)
	}

	first.Store(selfSigned(t, 3))
	if got := ask(kept, "a.shop.example"); got != "a.shop.example https" {
		t.Errorf("a connection broke when the certificate was renewed: %s", got)
	}
	renewed, err := dial("a.shop.example", nil)
	if err != nil || serial(renewed) != 3 {
		t.Errorf("the renewed certificate is not shown: %v", err)
	}
}
