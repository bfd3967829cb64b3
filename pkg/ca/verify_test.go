package ca

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// handshake runs one over a pipe-like pair of connections and returns the server's and the client's errors.
func handshake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error, error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		secure := tls.Server(conn, server)
		if err = secure.Handshake(); err == nil {
			_, err = secure.Write([]byte("x")) // the session ticket is read with it
		}
		served <- err
	}()
	conn, err := tls.Dial("tcp", listener.Addr().String(), client)
	if err != nil {
		return tls.ConnectionState{}, <-served, err
	}
	defer conn.Close()
	_, err = io.ReadFull(conn, make([]byte, 1))
	return conn.ConnectionState(), <-served, err
}

// A lane's handshake verifies both sides, when a session is resumed too.
func TestHandshakesVerifyOnResumption(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		then  func(c *cluster, server, client *Identity)
		works bool
	}{
		{"nothing happens", func(*cluster, *Identity, *Identity) {}, true},
		{"the client's certificate ends", func(c *cluster, server, _ *Identity) { c.clock.advance(25 * time.Hour) }, false},
		{"the client's certificate is revoked", func(c *cluster, server, client *Identity) {
			serial := leafSerial(c.t, client, orders)
			c.reroster(server, func(r *snapshot.Roster) { r.RevokedSerials = append(r.RevokedSerials, strings.ToUpper(serial)) })
		}, false},
		{"the client is revoked", func(c *cluster, server, _ *Identity) {
			c.reroster(server, func(r *snapshot.Roster) {
				r.RevokedIdentities = append(r.RevokedIdentities, ServiceID(testDomain, orders))
			})
		}, false},
		{"the client's service is revoked", func(c *cluster, server, _ *Identity) {
			c.revoke(c.registrar.RevokeService(c.t.Context(), orders, "", ""), server)
		}, false},
		{"the client's service is revoked on its node", func(c *cluster, server, _ *Identity) {
			c.revoke(c.registrar.RevokeService(c.t.Context(), orders, "web1", ""), server)
		}, false},
		{"the client's service is revoked on another node", func(c *cluster, server, _ *Identity) {
			c.revoke(c.registrar.RevokeService(c.t.Context(), orders, "db1", ""), server)
		}, true},
		{"the client's node is revoked", func(c *cluster, server, _ *Identity) {
			c.revoke(c.registrar.RevokeNode(c.t.Context(), "web1", ""), server)
		}, false},
		{"the client's serial is revoked", func(c *cluster, server, client *Identity) {
			_, err := c.registrar.RevokeCertificate(c.t.Context(), "00"+strings.ToUpper(leafSerial(c.t, client, orders)), "")
			c.revoke(err, server)
		}, false},
		{"another is revoked", func(c *cluster, server, _ *Identity) {
			c.reroster(server, func(r *snapshot.Roster) {
				r.RevokedIdentities = append(r.RevokedIdentities, ServiceID(testDomain, billing))
			})
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			server, client := c.joined("db1", billing), c.joined("web1", orders)
			config := func(i *Identity, as exchange.ServiceName, peer exchange.ServiceName) *tls.Config {
				certificate, err := i.Certificate(as)
				if err != nil {
					t.Fatal(err)
				}
				return &tls.Config{
					MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*certificate}, ClientAuth: tls.RequireAnyClientCert,
					InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(1), Time: c.clock.Now, ServerName: "billing",
					VerifyConnection: func(state tls.ConnectionState) error {
						got, err := i.Verify(state)
						if err == nil && got != peer {
							err = errors.New("another service")
						}
						return err
					},
				}
			}
			serverConfig, clientConfig := config(server, billing, orders), config(client, orders, billing)
			if _, serverErr, err := handshake(t, serverConfig, clientConfig); errors.Join(serverErr, err) != nil {
				t.Fatal(serverErr, err)
			}
			tt.then(c, server, client)
			if !tt.works {
				clientConfig.VerifyConnection = nil // the server's check alone
			}
			state, serverErr, err := handshake(t, serverConfig, clientConfig)
			if tt.works && (errors.Join(serverErr, err) != nil || !state.DidResume) {
				t.Errorf("resumed %v: %v, %v", state.DidResume, serverErr, err)
			}
			if !tt.works && !errors.Is(serverErr, ErrPeer) {
				t.Errorf("served: %v, %v", serverErr, err)
			}
		})
	}
}

func TestVerifyRefusesStrangers(t *testing.T) {
	t.Parallel()
	c, other := newCluster(t), newCluster(t)
	i, stranger := c.joined("web1", orders), other.joined("web1", orders)
	stateOf := func(certificate *tls.Certificate) tls.ConnectionState {
		chain, err := parseChain(certificate.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		return tls.ConnectionState{PeerCertificates: chain}
	}
	certificate, err := i.Certificate(orders)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := i.Verify(stateOf(certificate)); err != nil || got != orders {
		t.Errorf("itself is %v: %v", got, err)
	}
	foreign, err := stranger.Certificate(orders)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Verify(stateOf(foreign)); !errors.Is(err, ErrPeer) {
		t.Errorf("of another root: %v", err)
	}
	node, err := i.Certificate(exchange.ServiceName{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Verify(stateOf(node)); !errors.Is(err, ErrPeer) {
		t.Errorf("a node passes for a service: %v", err)
	}
	if _, err := i.Verify(tls.ConnectionState{}); !errors.Is(err, ErrPeer) {
		t.Errorf("nobody: %v", err)
	}
	leafAlone := tls.ConnectionState{PeerCertificates: stateOf(certificate).PeerCertificates[:1]}
	if _, err := i.Verify(leafAlone); !errors.Is(err, ErrPeer) {
		t.Errorf("without its chain: %v", err)
	}
	if _, err := other.authority.UpdateRoster(func(*snapshot.Roster) {}); err != nil {
		t.Fatal(err)
	}
	if _, err := i.UpdateRoster(other.authority.Roster()); !errors.Is(err, snapshot.ErrRoot) {
		t.Errorf("took the roster of another root: %v", err)
	}
}

func TestRosterDoesNotGoBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	old := i.Roster()
	c.reroster(i, func(r *snapshot.Roster) { r.RevokedIdentities = []string{"spiffe://" + testDomain + "/node/x"} })
	if newer, err := i.UpdateRoster(old); err != nil || newer {
		t.Errorf("took an older roster: %v, %v", newer, err)
	}
	if bytes.Equal(i.Roster(), old) {
		t.Error("holds the old one")
	}
	// A controller whose key was removed is not believed, though it shows the old roster.
	before := c.authority.Signer()
	c.reroster(i, func(r *snapshot.Roster) { r.Keys = nil })
	c.authority.signedRoster = old
	wire := c.wire("web1")
	if err := i.Renew(t.Context(), wire); !errors.Is(err, ErrUntrusted) {
		t.Errorf("believed key %s: %v", before.ID, err)
	}
}

func TestServerCertificate(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	get := c.authority.ServerCertificate([]string{"controller.example.com", "127.0.0.1"})
	certificate, err := get(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := certificate.Leaf.Verify(x509.VerifyOptions{
		Roots: rootsOf(c.authority), Intermediates: func() *x509.CertPool {
			pool := x509.NewCertPool()
			pool.AddCert(c.authority.intermediate)
			return pool
		}(), CurrentTime: testStart, DNSName: "127.0.0.1",
	}); err != nil {
		t.Error(err)
	}
	if again, err := get(nil); err != nil || again != certificate {
		t.Errorf("made anew at once: %v", err)
	}
	c.clock.advance(13 * time.Hour)
	again, err := get(nil)
	if err != nil || again == certificate {
		t.Errorf("not renewed past half of its life: %v", err)
	}
	// On a disk that takes nothing more it is shown until it ends: nodes and operators still reach the controller.
	stored := c.authority.db
	c.authority.db = fullDB(t)
	c.clock.advance(23 * time.Hour)
	if kept, err := get(nil); err != nil || kept != again {
		t.Errorf("where it cannot be renewed: %v", err)
	}
	c.clock.advance(2 * time.Hour)
	if _, err := get(nil); err == nil {
		t.Error("it is shown past its end")
	}
	c.authority.db = stored
	if renewed, err := get(nil); err != nil || renewed == again {
		t.Errorf("when there is room again: %v", err)
	}
	server := &tls.Config{GetCertificate: get, Time: c.clock.Now}
	token := c.token("web1", orders)
	client := controllerTLS([32]byte(token.body.GetRootHash()), testDomain, c.clock.Now)
	client.Time = c.clock.Now
	if _, serverErr, err := handshake(t, server, client); errors.Join(serverErr, err) != nil {
		t.Error(serverErr, err)
	}
	late := &clock{now: testStart.Add(-time.Hour)}
	if _, _, err := handshake(t, server, controllerTLS([32]byte(token.body.GetRootHash()), testDomain, late.Now)); !errors.Is(err, ErrClock) || !strings.Contains(err.Error(), "timedatectl") {
		t.Errorf("clock an hour behind: %v", err)
	}
	other := newCluster(t)
	if _, _, err := handshake(t, server, controllerTLS(other.authority.RootHash(), testDomain, c.clock.Now)); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a controller of another root: %v", err)
	}
	node, err := c.joined("web1", orders).Certificate(exchange.ServiceName{})
	if err != nil {
		t.Fatal(err)
	}
	impostor := *node
	impostor.Certificate = append(slices.Clone(node.Certificate), c.authority.Root().Raw)
	if _, _, err := handshake(t, &tls.Config{Certificates: []tls.Certificate{impostor}}, client); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a node passes for a controller: %v", err)
	}
}

// TestHomeIsWhatTheAuthorityWrote: the node that a certificate names is the one that asked the registry for it, whatever its
// request says, and an authority of another trust domain names none of ours.
func TestHomeIsWhatTheAuthorityWrote(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	certificate, err := i.Certificate(orders)
	if err != nil {
		t.Fatal(err)
	}
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificate.Leaf}}
	if domain, node := i.Home(state); domain != testDomain || node != "web1" {
		t.Errorf("trust domain %q, node %q", domain, node)
	}
	foreign := *certificate.Leaf
	foreign.URIs = []*url.URL{{Scheme: "spiffe", Host: "other.example.com", Path: "/ns/default/svc/orders"}}
	if domain, node := i.Home(tls.ConnectionState{PeerCertificates: []*x509.Certificate{&foreign}}); domain != "other.example.com" || node != "" {
		t.Errorf("of another trust domain: %q, node %q", domain, node)
	}
	before := *certificate.Leaf
	before.Subject.OrganizationalUnit = nil
	if _, node := i.Home(tls.ConnectionState{PeerCertificates: []*x509.Certificate{&before}}); node != "" {
		t.Errorf("of an older controller: node %q", node)
	}
}
