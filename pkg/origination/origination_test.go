package origination

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// issue makes an authority, and a certificate of it with names and a URI; roots is the authority in PEM.
func issue(t *testing.T, uri string, names ...string) (roots []byte, certificate tls.Certificate) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	signer, own := key(), key()
	root, err := x509.CreateCertificate(rand.Reader, authority, authority, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: names, NotAfter: time.Now().Add(time.Hour)}
	if uri != "" {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		leaf.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, authority, own.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root}), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own}
}

// begin shakes hands with a server that shows a certificate, and returns the name that it was asked for.
func begin(t *testing.T, s *Settings, protocol string, server *tls.Config) (conn *Conn, asked string, err error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	names := make(chan string, 1)
	server = server.Clone()
	server.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		names <- hello.ServerName
		return nil, nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		t.Cleanup(func() { conn.Close() })
		_ = tls.Server(conn, server).Handshake()
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err = s.Begin(ctx, raw.(*net.TCPConn), protocol)
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	} else if _, werr := raw.Write([]byte("x")); !errors.Is(werr, net.ErrClosed) {
		t.Errorf("the connection is open after %v: %v", err, werr)
	}
	l.Close()
	<-done
	select {
	case asked = <-names:
	default:
	}
	return conn, asked, err
}

func TestBegin(t *testing.T) {
	roots, certificate := issue(t, "spiffe://a.test/orders", "orders.test", "*.wild.test")
	others, _ := issue(t, "", "orders.test")
	for _, tt := range []struct {
		name string
		of   *snapshot.Origination
		fail string // empty: it is believed
	}{
		{"its name", &snapshot.Origination{ServerName: "orders.test", Roots: roots}, ""},
		{"a name of its wildcard", &snapshot.Origination{ServerName: "a.wild.test", Roots: roots}, ""},
		{"another name", &snapshot.Origination{ServerName: "cart.test", Roots: roots}, "cart.test"},
		{"another authority", &snapshot.Origination{ServerName: "orders.test", Roots: others}, "unknown authority"},
		{"those of this host, which do not know it", &snapshot.Origination{ServerName: "orders.test", HostRoots: true}, "unknown authority"},
		{"nobody", &snapshot.Origination{Origin: "shop/p", ServerName: "orders.test"}, "policy shop/p has no certificate"},
		{"one of the names", &snapshot.Origination{ServerName: "asked.test", Roots: roots, Names: []string{"cart.test", "orders.test"}}, ""},
		{"names that are not the one that is asked for", &snapshot.Origination{ServerName: "orders.test", Roots: roots, Names: []string{"cart.test"}}, "none of the names cart.test"},
		{"names, and another authority", &snapshot.Origination{ServerName: "orders.test", Roots: others, Names: []string{"orders.test"}}, "unknown authority"},
		{"whatever is below", &snapshot.Origination{ServerName: "asked.test", Roots: roots, Names: []string{"*.test"}}, ""},
		{"nothing is below", &snapshot.Origination{ServerName: "asked.test", Roots: roots, Names: []string{"*.orders.test"}}, "none of the names"},
		{"a URI", &snapshot.Origination{ServerName: "asked.test", Roots: roots, Uris: []string{"spiffe://a.test/orders"}}, ""},
		{"another URI", &snapshot.Origination{ServerName: "orders.test", Roots: roots, Uris: []string{"spiffe://a.test/order"}}, "none of the names spiffe://a.test/order"},
		{"another URI, and its name", &snapshot.Origination{ServerName: "asked.test", Roots: roots, Uris: []string{"spiffe://a.test/x"}, Names: []string{"orders.test"}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := New(tt.of)
			if err != nil {
				t.Fatal(err)
			}
			_, asked, err := begin(t, s, HTTP1, &tls.Config{Certificates: []tls.Certificate{certificate}})
			switch {
			case tt.fail == "" && err != nil:
				t.Fatal(err)
			case tt.fail != "" && (!errors.Is(err, ErrPeer) || !strings.Contains(err.Error(), tt.fail)):
				t.Fatalf("%v, want one with %q", err, tt.fail)
			}
			if want := tt.of.ServerName; asked != want && (tt.of.Roots != nil || tt.of.HostRoots) {
				t.Errorf("asked for %q, want %q", asked, want)
			}
		})
	}
}

func TestProtocols(t *testing.T) {
	roots, certificate := issue(t, "", "orders.test")
	s, err := New(&snapshot.Origination{ServerName: "orders.test", Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, asks string
		server     *tls.Config
		speaks     string
		want       error
	}{
		{"HTTP/1.1", HTTP1, &tls.Config{NextProtos: []string{"h2", "http/1.1"}}, "http/1.1", nil},
		{"HTTP/1.1 of a server that says nothing", HTTP1, &tls.Config{}, "", nil},
		{"HTTP/2", HTTP2, &tls.Config{NextProtos: []string{"h2", "http/1.1"}}, "h2", nil},
		{"HTTP/2 of a server that says nothing", HTTP2, &tls.Config{}, "", ErrProtocol},
		{"HTTP/2 of a server of HTTP/1.1", HTTP2, &tls.Config{NextProtos: []string{"http/1.1"}}, "", ErrPeer},
		{"bytes", Bytes, &tls.Config{NextProtos: []string{"h2", "http/1.1"}}, "", nil},
		{"a version that is not spoken", HTTP1, &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}, "", ErrPeer},
	} {
		tt.server.Certificates = []tls.Certificate{certificate}
		conn, _, err := begin(t, s, tt.asks, tt.server)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if err == nil {
			if got := conn.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != tt.speaks || conn.Scheme() != "https" {
				t.Errorf("%s: speaks %q as %s", tt.name, got, conn.Scheme())
			}
		}
	}
}

func TestSettingsThatAreRefused(t *testing.T) {
	for _, of := range []*snapshot.Origination{nil, {HostRoots: true}, {ServerName: "a.test", Roots: []byte("no PEM")}} {
		if _, err := New(of); err == nil {
			t.Errorf("%v is taken", of)
		}
	}
}

func TestTellsOnceAMinute(t *testing.T) {
	s, now := &Settings{}, time.Unix(1000, 0)
	if !s.Tell(now) || s.Tell(now.Add(59*time.Second)) || !s.Tell(now.Add(time.Minute)) {
		t.Error("an operator is told more than once a minute, or never")
	}
}
