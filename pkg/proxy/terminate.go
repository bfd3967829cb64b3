package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http2"
	"github.com/sennit-mesh/sennit/pkg/routing"
)

// Certificates returns those of a gateway's listener, which must not be changed; none: nobody can be served.
type Certificates func(gateway exchange.ServiceName, listener string) []*tls.Certificate

// Clients are those that a listener lets in: with Roots, who shows a certificate that chains to them, or, where they are
// Anybody, whoever comes, who is asked all the same. Without Roots nobody is asked.
type Clients struct {
	Roots   *x509.CertPool
	Anybody bool
}

// ask has a handshake ask for the client's certificate, as far as the listener wants one.
func (c Clients) ask(config *tls.Config) {
	switch {
	case c.Roots == nil:
	case c.Anybody:
		config.ClientAuth = tls.RequestClientCert
	default:
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, c.Roots
	}
}

// A duplex is a connection whose directions end one by one: a *net.TCPConn, or TLS over one.
type duplex interface {
	net.Conn
	CloseWrite() error
	SetLinger(seconds int) error
}

// A secured connection is TLS, of which what is below it is kept in hand.
type secured struct {
	*tls.Conn
	below *hello
	tcp   *net.TCPConn
}

// Read is net.Conn's. An end that TLS did not announce is none: anybody on the way can make one.
func (s secured) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if errors.Is(err, io.EOF) && s.below.ended {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// SetLinger is net.TCPConn's.
func (s secured) SetLinger(seconds int) error { return s.tcp.SetLinger(seconds) }

// Abort closes it with a reset, and without the word that would make an end of it.
func (s secured) Abort() {
	_ = s.tcp.SetLinger(0)
	_ = s.tcp.Close()
}

var errNoListener = errors.New("no listener of the gateway is for the server name")

// A meeting is what is known of a connection with TLS once its client has said whom it asks for.
type meeting struct {
	listener routing.IngressListener
	server   string   // that it asked for, in lower case; empty: none
	secure   *secured // agreed on; nil: TLS passes through
	early    []byte   // of TLS that passes through, what was read
}

// meet finds out which listener a connection with TLS is for, and ends TLS where that does. It takes no longer than
// patience. Where it fails the client is told nothing.
func (o *Outbound) meet(ctx context.Context, conn *net.TCPConn, l capture.Listener, patience time.Duration) (meeting, error) {
	var m meeting
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return m, err
	}
	hello := &hello{Conn: conn}
	secure := tls.Server(hello, &tls.Config{GetConfigForClient: func(asked *tls.ClientHelloInfo) (*tls.Config, error) {
		m.server = strings.ToLower(strings.TrimSuffix(asked.ServerName, "."))
		var found bool
		if m.listener, found = o.Table.IngressListener(l.As, l.Port, m.server); !found {
			return nil, errNoListener
		}
		if m.listener.Passthrough {
			return nil, errPassed
		}
		hello.pass()
		// Before Clients: where both come into force just now, they must not be unknown when clients are asked for
		// certificates, and known when the gateway shows its own.
		if o.Certificates == nil || len(o.Certificates(l.As, m.listener.Name)) == 0 {
			return nil, noCertificate(m.listener)
		}
		return o.tlsConfig(l, m.listener), nil
	}})
	err := secure.HandshakeContext(ctx)
	switch {
	case errors.Is(err, errPassed):
		m.early = hello.kept
	case err != nil:
		return m, err
	default:
		m.secure = &secured{secure, hello, conn}
	}
	return m, conn.SetDeadline(time.Time{})
}

func noCertificate(of routing.IngressListener) error {
	return fmt.Errorf("listener %s has no certificate on this node", of.Name)
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

// tlsConfig is that of one connection to a listener. Certificates are looked up for each handshake, so that a renewal
// breaks no connection; there are no session tickets, so that none outlives the certificate that its client saw.
func (o *Outbound) tlsConfig(l capture.Listener, of routing.IngressListener) *tls.Config {
	config := &tls.Config{
		MinVersion:             tls.VersionTLS12,
		CipherSuites:           agreeable,
		SessionTicketsDisabled: true,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			var all []*tls.Certificate
			if o.Certificates != nil {
				all = o.Certificates(l.As, of.Name)
			}
			if len(all) == 0 {
				return nil, noCertificate(of)
			}
			for _, c := range all {
				if hello.SupportsCertificate(c) == nil {
					return c, nil
				}
			}
			return all[0], nil
		},
	}
	if o.Clients != nil {
		o.Clients(l.As, of.Name).ask(config)
	}
	if !of.TCP { // what is carried otherwise is nobody's to choose here
		config.NextProtos = []string{"h2", "http/1.1"}
	}
	return config
}
