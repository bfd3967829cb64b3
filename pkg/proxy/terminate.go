package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http2"
)

// Certificates returns those of a gateway's listener, which must not be changed; none: nobody can be served.
type Certificates func(gateway exchange.ServiceName, listener string) []*tls.Certificate

// A duplex is a connection whose directions end one by one: a *net.TCPConn, or TLS over one.
type duplex interface {
	net.Conn
	CloseWrite() error
	SetLinger(seconds int) error
}

// A secured connection is TLS, of which the kernel's part is kept in hand.
type secured struct {
	*tls.Conn
	tcp *net.TCPConn
}

// SetLinger is net.TCPConn's.
func (s secured) SetLinger(seconds int) error { return s.tcp.SetLinger(seconds) }

// errNoListener is told to clients as unrecognized_name, in substance: the handshake fails.
var errNoListener = errors.New("no listener of the gateway is for the server name")

// terminate ends TLS from outside. It takes no longer than patience for the whole handshake.
func (o *Outbound) terminate(ctx context.Context, conn *net.TCPConn, l capture.Listener, patience time.Duration) (*tls.Conn, error) {
	config := o.tlsConfig(l)
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	secure := tls.Server(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return secure, conn.SetDeadline(time.Time{})
}

// agreeable are the suites of TLS 1.2 that HTTP/2 does not prohibit (RFC 9113 §9.2.2), so that no client agrees on both it
// and one of those that it does. Those of TLS 1.3 are as they are.
var agreeable = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// agreedOn is the version of HTTP that a client chose by ALPN; one that chose none speaks HTTP/1.1.
func agreedOn(conn *tls.Conn) http2.Guess {
	if conn.ConnectionState().NegotiatedProtocol == "h2" {
		return http2.IsHTTP2
	}
	return http2.NotHTTP2
}

// tlsConfig is that of one connection. Certificates are looked up for each handshake, so that a renewal breaks no
// connection; there are no session tickets, so that none outlives the certificate that its client saw.
func (o *Outbound) tlsConfig(l capture.Listener) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		CipherSuites:           agreeable,
		NextProtos:             []string{"h2", "http/1.1"},
		SessionTicketsDisabled: true,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			listener, _, found := o.Table.IngressListener(l.As, l.Port, strings.TrimSuffix(hello.ServerName, "."))
			if !found {
				return nil, errNoListener
			}
			var all []*tls.Certificate
			if o.Certificates != nil {
				all = o.Certificates(l.As, listener)
			}
			if len(all) == 0 {
				return nil, fmt.Errorf("listener %s has no certificate on this node", listener)
			}
			for _, c := range all {
				if hello.SupportsCertificate(c) == nil {
					return c, nil
				}
			}
			return all[0], nil
		},
	}
}
