// Package origination begins TLS as a client: with the processes of this host that speak it, and with hosts outside.
//
// What a peer must show is compiled configuration alone (snapshot.Origination): roots that its certificate chains to, and
// the names of which it has one. Who names neither roots nor the host's own believes nobody, so that a policy whose
// certificates are missing refuses every connection, and sends nothing in the clear. Versions below TLS 1.2 are not spoken.
//
// It does not connect: whoever dials hands the connection in. Start reading at Settings.Begin.
package origination

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Begin's errors wrap one of these.
var (
	ErrPeer     = errors.New("the peer did not show that it is the one")
	ErrProtocol = errors.New("the peer does not agree on HTTP/2")
)

// The protocols that Begin asks for (RFC 7301).
const (
	HTTP1 = "http/1.1"
	HTTP2 = "h2"
	Bytes = "" // no protocol is asked for
)

// Settings say whom to believe. They do not change, and are safe for concurrent use.
type Settings struct {
	Origin string // "<ns>/<policy>" of the policy that says so; empty: another document does

	name    string // that is asked for
	names   []string
	uris    []string
	roots   *x509.CertPool // nil: those of this host
	nobody  bool
	configs map[string]*tls.Config // by protocol

	told atomic.Int64 // Unix time in seconds of the last word about it
}

// New reads settings of a snapshot.
func New(of *snapshot.Origination) (*Settings, error) {
	s := &Settings{Origin: of.GetOrigin(), name: of.GetServerName(), names: of.GetNames(), uris: of.GetUris(), configs: map[string]*tls.Config{}}
	if s.name == "" {
		return nil, fmt.Errorf("TLS of %q: nobody says which name to ask for", s.Origin)
	}
	switch roots := of.GetRoots(); {
	case len(roots) > 0:
		s.roots = x509.NewCertPool()
		if !s.roots.AppendCertsFromPEM(roots) {
			return nil, fmt.Errorf("TLS of %q: its roots have no certificate", s.Origin)
		}
	case !of.GetHostRoots():
		s.nobody = true
	}
	for _, protocol := range []string{HTTP1, HTTP2, Bytes} {
		config := &tls.Config{ServerName: s.name, RootCAs: s.roots, MinVersion: tls.VersionTLS12}
		if protocol != Bytes {
			config.NextProtos = []string{protocol}
		}
		if len(s.names)+len(s.uris) > 0 {
			config.InsecureSkipVerify = true // the name that is asked for is none of those that count: verify does it all
			config.VerifyConnection = s.verify
		}
		s.configs[protocol] = config
	}
	return s, nil
}

// Begin shakes hands on raw, which it closes where that fails. Nothing of a caller's was sent then. With HTTP2 the peer has
// agreed on that; whoever does not answer what was asked for speaks HTTP/1.1, as anybody did before there was ALPN.
func (s *Settings) Begin(ctx context.Context, raw *net.TCPConn, protocol string) (*Conn, error) {
	if s.nobody {
		raw.Close()
		return nil, fmt.Errorf("TLS with %s at %s: %w: policy %s has no certificate of an authority", s.name, raw.RemoteAddr(), ErrPeer, s.Origin)
	}
	secured := tls.Client(raw, s.configs[protocol])
	if err := secured.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("TLS with %s at %s: %w: %w", s.name, raw.RemoteAddr(), ErrPeer, err)
	}
	if protocol == HTTP2 && secured.ConnectionState().NegotiatedProtocol != HTTP2 {
		raw.Close()
		return nil, fmt.Errorf("TLS with %s at %s: %w", s.name, raw.RemoteAddr(), ErrProtocol)
	}
	return &Conn{Conn: secured, raw: raw, closed: func() {}}, nil
}

// Tell reports whether it is time to tell the operator of a failure again: nobody was told for a minute.
func (s *Settings) Tell(now time.Time) bool {
	last := s.told.Load()
	return now.Unix()-last >= 60 && s.told.CompareAndSwap(last, now.Unix())
}

// verify does what crypto/tls does for one name, for the names and URIs that are given: one of them suffices.
func (s *Settings) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("it showed no certificate")
	}
	leaf := state.PeerCertificates[0]
	options := x509.VerifyOptions{Roots: s.roots, Intermediates: x509.NewCertPool()}
	for _, c := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(options); err != nil {
		return err
	}
	for _, name := range s.names {
		if hasName(leaf, name) {
			return nil
		}
	}
	for _, uri := range leaf.URIs {
		if slices.Contains(s.uris, uri.String()) {
			return nil
		}
	}
	return fmt.Errorf("its certificate has none of the names %s", strings.Join(slices.Concat(s.names, s.uris), ", "))
}

// hasName reports whether a certificate has a name, or one that a wildcard stands for.
func hasName(leaf *x509.Certificate, name string) bool {
	below, wild := strings.CutPrefix(name, "*")
	if !wild {
		return leaf.VerifyHostname(name) == nil
	}
	return slices.ContainsFunc(leaf.DNSNames, func(has string) bool {
		return len(has) > len(below) && strings.HasSuffix(strings.ToLower(has), strings.ToLower(below))
	})
}
