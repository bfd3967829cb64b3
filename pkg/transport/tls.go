package transport

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// alpn names the protocol and its version.
const alpn = "sennit/1"

// Credentials are the node's identities and its judgement of others. Its methods are called from many
// goroutines.
type Credentials interface {
	// Certificate returns the SVID of a service that this node may speak as, with its Leaf. Another leaf
	// than before makes the lanes of the service be replaced.
	Certificate(service exchange.ServiceName) (*tls.Certificate, error)
	// Verify judges the peer of a handshake, full or resumed: chain, times, revocation, and returns whose
	// SVID it showed.
	Verify(state tls.ConnectionState) (exchange.ServiceName, error)
	// Home tells where a peer is from that Verify has approved: its trust domain, and the node that its SVID was
	// issued to; "" where the SVID does not tell.
	Home(state tls.ConnectionState) (trustDomain, node string)
}

// identity is what a handshake found out.
type identity struct {
	local   exchange.ServiceName
	peer    exchange.ServiceName
	home    Home             // of the peer
	cert    *tls.Certificate // the local one
	expires time.Time        // when the first of both certificates ends
	judged  uint64           // Transport.rechecks when the peer was judged
}

// A Home says where a peer is from, as far as its SVID tells.
type Home struct {
	TrustDomain string
	Node        string
}

// sameLeaf reports whether two certificates are one.
func sameLeaf(a, b *tls.Certificate) bool { return a == b || a.Leaf.Equal(b.Leaf) }

// verify judges the peer and fills in who it is and when that ends.
func (id *identity) verify(t *Transport, state tls.ConnectionState) error {
	id.judged = t.rechecks.Load()
	if len(state.PeerCertificates) == 0 {
		return fmt.Errorf("%w: peer showed no certificate", ErrIdentity)
	}
	peer, err := t.credentials.Verify(state)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	id.peer = peer
	id.home.TrustDomain, id.home.Node = t.credentials.Home(state)
	id.expires = state.PeerCertificates[0].NotAfter
	if id.cert.Leaf.NotAfter.Before(id.expires) {
		id.expires = id.cert.Leaf.NotAfter
	}
	return nil
}

// sessionCaches keep the tickets of a lane. A cache belongs to one key and one certificate: a shared one
// would let a connection of service B resume the session of A, and appear as A.
type sessionCaches struct {
	mu    sync.Mutex
	cert  *tls.Certificate
	cache tls.ClientSessionCache
}

func (c *sessionCaches) of(cert *tls.Certificate) tls.ClientSessionCache {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cert == nil || !sameLeaf(c.cert, cert) {
		c.cert, c.cache = cert, tls.NewLRUClientSessionCache(2)
	}
	return c.cache
}

// dialTLS returns the configuration of one dial; the handshake fills id.
func (t *Transport) dialTLS(key Key, cert *tls.Certificate, sessions tls.ClientSessionCache, id *identity) *tls.Config {
	id.local, id.cert = key.Local, cert
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{alpn},
		ServerName:         serverName(key.Remote),
		ClientSessionCache: sessions,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return cert, nil
		},
		InsecureSkipVerify: true, // VerifyConnection does it, by SPIFFE ID, and on resumption too
		VerifyConnection: func(state tls.ConnectionState) error {
			if err := id.verify(t, state); err != nil {
				return err
			}
			if id.peer != key.Remote {
				return fmt.Errorf("%w: peer is %s, not %s", ErrIdentity, id.peer, key.Remote)
			}
			return nil
		},
	}
}

// identityKey finds the identity of a connection that a peer opens in the contexts of its handshake.
type identityKey struct{}

// listenTLS returns the configuration for connections that peers open over a carrier.
func (t *Transport) listenTLS(over Carrier) *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{alpn},
		ClientAuth: tls.RequireAnyClientCert,
	}
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		id, ok := hello.Context().Value(identityKey{}).(*identity)
		if !ok {
			return nil, errors.New("handshake without its connection")
		}
		from := hello.Conn.RemoteAddr()
		if err := t.identify(id, hello.ServerName); err != nil {
			t.refuse(RefusedService, from, err)
			return nil, err
		}
		own := base.Clone()
		own.SetSessionTicketKeys([][32]byte{t.ticketKey(over, id.cert)})
		own.GetConfigForClient = nil
		own.Certificates = []tls.Certificate{*id.cert}
		own.VerifyConnection = func(state tls.ConnectionState) error {
			err := id.verify(t, state)
			if err != nil {
				t.refuse(RefusedIdentity, from, err)
			}
			return err
		}
		return own, nil
	}
	return base
}

// ticketKey is the key of the tickets that go with a certificate of this node's. A resumed handshake shows no
// certificate: the peer counts the one of the first handshake, and would close the connection when that ends,
// in the middle of exchanges, although this node has had another for long.
// Neither does a ticket of one carrier hold for another.
func (t *Transport) ticketKey(over Carrier, cert *tls.Certificate) (key [32]byte) {
	mac := hmac.New(sha256.New, t.tickets[:])
	mac.Write([]byte{byte(over)})
	mac.Write(cert.Leaf.Raw)
	mac.Sum(key[:0])
	return key
}

// identify selects the local identity by SNI, on resumption too: what is no longer served is refused.
func (t *Transport) identify(id *identity, sni string) error {
	service, ok := parseServerName(sni)
	if !ok {
		return fmt.Errorf("%w: server name %q names no service", ErrIdentity, sni)
	}
	cert, err := t.credentials.Certificate(service)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	id.local, id.cert = service, cert
	return nil
}
