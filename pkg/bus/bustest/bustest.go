// Package bustest gives tests a whole bus: an embedded server on loopback with TLS, its streams in a
// directory of the test, the connection of a controller, and those of nodes. Everything ends with the test,
// and a failing test prints what the parts logged.
package bustest

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/bus"
)

// startTimeout is generous: tests run beside many others.
const startTimeout = 60 * time.Second

// CutOffTime is how long a node that floods is kept out the first time, but by StartCuttingOff.
const CutOffTime = 2 * time.Second

// Bus is a running bus.
type Bus struct {
	Accounts   *bus.Accounts
	Server     *bus.Server
	Controller *bus.Conn   // the streams are there
	Addr       string      // host:port
	Roots      *tls.Config // for clients
	Log        *slog.Logger

	mu      sync.Mutex
	refused map[bus.Refusal]int // without their counts and details
}

// Refused is how often a node was refused something of a kind, as the server told.
func (b *Bus) Refused(node, kind string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refused[bus.Refusal{Node: node, Kind: kind}]
}

func (b *Bus) refuse(r bus.Refusal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused[bus.Refusal{Node: r.Node, Kind: r.Kind}] += r.Count
}

// Start runs a bus until the test ends.
func Start(t testing.TB) *Bus {
	t.Helper()
	return StartIn(t, t.TempDir(), nil)
}

// StartIn runs a bus on a state directory, with these accounts or with new ones where they are nil. Users that are ended,
// by public nkey, are not let in.
func StartIn(t testing.TB, dir string, accounts *bus.Accounts, ended ...string) *Bus {
	t.Helper()
	return start(t, dir, accounts, bus.ServerConfig{Ended: ended})
}

// StartFormer is StartIn where users of accounts of before are let in too.
func StartFormer(t testing.TB, dir string, accounts *bus.Accounts, former bus.FormerAccess) *Bus {
	t.Helper()
	return start(t, dir, accounts, bus.ServerConfig{Former: former})
}

// StartCuttingOff is Start where a node that floods is kept out for so long the first time, at most ten minutes.
func StartCuttingOff(t testing.TB, first time.Duration) *Bus {
	t.Helper()
	return start(t, t.TempDir(), nil, bus.ServerConfig{FirstCutOff: first})
}

func start(t testing.TB, dir string, accounts *bus.Accounts, cfg bus.ServerConfig) *Bus {
	t.Helper()
	serverTLS, clientTLS := TLS(t)
	b := &Bus{Accounts: accounts, Roots: clientTLS, Log: Log(t), refused: map[bus.Refusal]int{}} // first: its cleanup comes last
	var err error
	if accounts == nil {
		if b.Accounts, err = bus.NewAccounts(); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Name, cfg.Listen, cfg.StateDir, cfg.TLS, cfg.Accounts = "controller", netip.MustParseAddrPort("127.0.0.1:0"), dir, serverTLS, b.Accounts
	cfg.Log, cfg.MaxStore, cfg.FirstCutOff, cfg.Refused = b.Log, 1<<30, cmp.Or(cfg.FirstCutOff, CutOffTime), b.refuse
	if b.Server, err = bus.NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	Run(t, b.Server.Run)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if b.Controller, err = b.Server.Controller(ctx, b.Log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Controller.Close)
	if err := b.Controller.EnsureStreams(ctx, 1); err != nil {
		t.Fatal(err)
	}
	addr, err := b.Server.Addr(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b.Addr = addr.String()
	return b
}

// Run runs a part until the test ends, and waits for it.
func Run(t testing.TB, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := run(ctx); err != nil {
			t.Errorf("a part of the test ended with: %v", err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}

// Node connects a node that may run services ("<ns>/<name>"), and waits until the connection stands.
func (b *Bus) Node(t testing.TB, name string, services ...string) *bus.Conn {
	t.Helper()
	return b.Dial(t, name, b.NodeCredential(t, name, services...))
}

// NodeCredential makes a working user that is good for an hour.
func (b *Bus) NodeCredential(t testing.TB, name string, services ...string) bus.Credential {
	t.Helper()
	key, seed, err := bus.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	token, err := b.Accounts.NodeUser(name, services, key, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return bus.NodeCredential(name, func() (string, error) { return token, nil }, seed)
}

// Dial connects with a credential, and waits until the connection stands.
func (b *Bus) Dial(t testing.TB, name string, credential bus.Credential) *bus.Conn {
	t.Helper()
	conn, err := bus.Dial(bus.ConnConfig{
		Name: name, Servers: []string{b.Addr}, TLS: b.Roots, Credential: credential, Log: b.Log.With("node", name),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := conn.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TLS makes a certificate for loopback, and the roots that know it.
func TLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "bus"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return server, &tls.Config{RootCAs: roots}
}

// Log writes to the test's output, which go test shows when the test fails. What is logged after the test
// has ended, by callbacks of closed connections, is dropped.
func Log(t testing.TB) *slog.Logger {
	out := &output{to: t.Output()}
	t.Cleanup(func() {
		out.mu.Lock()
		defer out.mu.Unlock()
		out.to = io.Discard
	})
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type output struct {
	mu sync.Mutex
	to io.Writer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.to.Write(p)
}

// Insist asks until a controller has answered, or ctx ends: where the disk is slow it may not manage in the time that it has.
// again is what an attempt may be answered with behind one that came too late; with none that was slow it stays an error.
func Insist(ctx context.Context, again error, ask func() error) error {
	for slow := false; ; {
		start := time.Now()
		err := ask()
		slow = slow || time.Since(start) > 4*time.Second // most of what a handler has
		late := errors.Is(err, bus.ErrNoController) || bus.Code(err) == bus.ErrorCode_ERROR_CODE_UNAVAILABLE || slow && errors.Is(err, again)
		if !late || ctx.Err() != nil {
			return err
		}
	}
}
