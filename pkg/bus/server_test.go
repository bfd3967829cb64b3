package bus_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

func TestTheServerSyncsBeforeItAcknowledges(t *testing.T) {
	t.Parallel()
	if !bustest.Start(t).Server.SyncsAlways() {
		t.Error("the server acknowledges before it syncs")
	}
}

// Nothing is said in the clear, and nobody gets in without a user.
func TestThePortAnswersToNobodyUnknown(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	plain, err := net.Dial("tcp", b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := plain.Write([]byte("CONNECT {}\r\nPING\r\n")); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 4096)
	plain.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, _ := plain.Read(said)
	if bytes.Contains(said[:n], []byte("INFO")) || bytes.Contains(said[:n], []byte("PONG")) {
		t.Errorf("in the clear it answers %q", said[:n])
	}
	for name, options := range map[string][]nats.Option{
		"nobody":   nil,
		"password": {nats.UserInfo("admin", "admin")},
		"token":    {nats.Token("x")},
	} {
		conn, err := nats.Connect("tls://"+b.Addr, append(options, nats.Secure(b.Roots.Clone()), nats.TLSHandshakeFirst(), nats.Timeout(30*time.Second))...)
		if err == nil {
			conn.Close()
			t.Errorf("%s is let in", name)
		}
	}
}

func TestConnectingSaysWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	_, otherRoots := bustest.TLS(t)
	key, seed, err := bus.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	expired, err := b.Accounts.NodeUser("web1", nil, key, time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	good := b.NodeCredential(t, "web1")
	for _, tt := range []struct {
		name       string
		server     string
		roots      *tls.Config
		credential bus.Credential
		want       string
	}{
		{"another cluster's certificate", b.Addr, otherRoots, good, "certificate"},
		{"roots that verify nothing are not obeyed", b.Addr, &tls.Config{RootCAs: otherRoots.RootCAs, InsecureSkipVerify: true}, good, "certificate"},
		{"a clock two days ahead", b.Addr, &tls.Config{RootCAs: b.Roots.RootCAs, Time: func() time.Time { return time.Now().Add(48 * time.Hour) }}, good, "clock"},
		{"a clock two hours behind", b.Addr, &tls.Config{RootCAs: b.Roots.RootCAs, Time: func() time.Time { return time.Now().Add(-2 * time.Hour) }}, good, "timedatectl"},
		{"an expired token", b.Addr, b.Roots, bus.NodeCredential("web1", func() (string, error) { return expired, nil }, seed), "expired"},
		{"nobody listens", nobody, b.Roots, good, "refused"},
	} {
		conn, err := bus.Dial(bus.ConnConfig{Name: "web1", Servers: []string{tt.server}, TLS: tt.roots, Credential: tt.credential, Log: b.Log})
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		defer conn.Close()
		now, cancel := context.WithCancel(t.Context())
		cancel()
		awaitThat(t, fmt.Sprintf("%s: it says %q", tt.name, tt.want), func() bool {
			err = conn.Ready(now)
			return err != nil && strings.Contains(err.Error(), tt.want)
		})
	}
}

func TestTheServerSaysWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	certificate, _ := bustest.TLS(t)
	accounts, err := bus.NewAccounts()
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().(*net.TCPAddr).AddrPort()
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		config bus.ServerConfig
		want   string
	}{
		{"port in use", bus.ServerConfig{Listen: address, StateDir: t.TempDir(), TLS: certificate}, "another process has the port"},
		{"no certificate", bus.ServerConfig{Listen: netip.MustParseAddrPort("127.0.0.1:0"), StateDir: t.TempDir()}, "certificate"},
		{"state is a file", bus.ServerConfig{Listen: netip.MustParseAddrPort("127.0.0.1:0"), StateDir: file, TLS: certificate}, "not a directory"},
	} {
		tt.config.Name, tt.config.Accounts, tt.config.Log = "c", accounts, bustest.Log(t)
		server, err := bus.NewServer(tt.config)
		if err == nil {
			err = server.Run(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want it to say %q", tt.name, err, tt.want)
		}
	}
}

// A certificate that is replaced while the server runs is the one that the next client sees.
func TestTheCertificateIsReplacedWhileRunning(t *testing.T) {
	t.Parallel()
	old, oldRoots := bustest.TLS(t)
	next, nextRoots := bustest.TLS(t)
	var current atomic.Pointer[tls.Certificate]
	current.Store(&old.Certificates[0])
	accounts, err := bus.NewAccounts()
	if err != nil {
		t.Fatal(err)
	}
	b := &bustest.Bus{Accounts: accounts, Roots: oldRoots, Log: bustest.Log(t)}
	b.Server, err = bus.NewServer(bus.ServerConfig{
		Name: "c", Listen: netip.MustParseAddrPort("127.0.0.1:0"), StateDir: t.TempDir(), Accounts: accounts, Log: b.Log, MaxStore: 1 << 20,
		TLS: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	bustest.Run(t, b.Server.Run)
	address, err := b.Server.Addr(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.Addr = address.String()
	first := b.Node(t, "web1")
	current.Store(&next.Certificates[0])
	b.Roots = nextRoots
	b.Node(t, "web2")
	if err := first.Err(); err != nil {
		t.Errorf("who was connected is not any more: %v", err)
	}
}

// proxy forwards to whatever server runs at present, so that one address outlives servers.
type proxy struct {
	net.Listener
	to    atomic.Pointer[string]
	conns sync.Map // net.Conn of clients that it forwards
}

// cut breaks every connection that it forwards.
func (p *proxy) cut() {
	p.conns.Range(func(conn, _ any) bool { return conn.(net.Conn).Close() == nil })
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: listener}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			go p.forward(from)
		}
	}()
	return p
}

func (p *proxy) forward(from net.Conn) {
	p.conns.Store(from, nil)
	defer p.conns.Delete(from)
	defer from.Close()
	address := p.to.Load()
	if address == nil {
		return
	}
	to, err := net.Dial("tcp", *address)
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		defer from.Close()
		defer to.Close()
		buffer := make([]byte, 32<<10)
		for {
			n, err := from.Read(buffer)
			if err != nil {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := to.Read(buffer)
		if err != nil {
			return
		}
		if _, err := from.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// Follow goes on behind the last record that it gave, whatever happens to the server in between.
func TestFollowOutlivesServers(t *testing.T) {
	t.Parallel()
	dir, front := t.TempDir(), newProxy(t)
	accounts, err := bus.NewAccounts()
	if err != nil {
		t.Fatal(err)
	}
	user, err := accounts.ControllerUser("follower")
	if err != nil {
		t.Fatal(err)
	}
	serverTLS, clientTLS := bustest.TLS(t)
	log := bustest.Log(t)
	conn, err := bus.Dial(bus.ConnConfig{Name: "follower", Servers: []string{front.Addr().String()}, TLS: clientTLS, Credential: user, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	const rounds, each = 4, 25
	done, seen := errors.New("done"), make(chan uint64, rounds*each)
	ended := make(chan error, 1)
	go func() { // follows from before the first server until the last record
		expect := uint64(1)
		ended <- conn.Records(bus.StreamResource).Follow(t.Context(), 1, func(entry bus.Entry) error {
			if entry.Sequence != expect || string(entry.Data) != fmt.Sprint(expect) {
				return fmt.Errorf("sequence %d with %q came, want %d", entry.Sequence, entry.Data, expect)
			}
			seen <- expect
			if expect == rounds*each {
				return done
			}
			expect++
			return nil
		})
	}()
	next := 1
	for round := range rounds {
		server, err := bus.NewServer(bus.ServerConfig{
			Name: "controller", Listen: netip.MustParseAddrPort("127.0.0.1:0"), StateDir: dir, TLS: serverTLS, Accounts: accounts, Log: log, MaxStore: 1 << 30,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		running := make(chan error, 1)
		go func() { running <- server.Run(ctx) }()
		address, err := server.Addr(ctx)
		if err != nil {
			t.Fatal(err)
		}
		text := address.String()
		front.to.Store(&text)
		controller, err := server.Controller(ctx, log)
		if err != nil {
			t.Fatal(err)
		}
		if err := controller.EnsureStreams(ctx, 1); err != nil {
			t.Fatal(err)
		}
		for range each {
			if _, err := controller.Records(bus.StreamResource).Append(ctx, fmt.Sprintf("sennit.resource.r%d", next), fmt.Append(nil, next), 0); err != nil {
				t.Fatal(err)
			}
			next++
		}
		if round%2 == 1 { // every other time the follower is still behind when the server ends
			for got := uint64(0); got < uint64(next-1); got = <-seen {
			}
		}
		if round == rounds-1 {
			if err := <-ended; !errors.Is(err, done) {
				t.Errorf("Follow ended with %v", err)
			}
		}
		controller.Close()
		stop()
		if err := <-running; err != nil {
			t.Fatal(err)
		}
	}
}
