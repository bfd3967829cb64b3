package ca

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

// busCluster is a controller as it is composed: the embedded bus shows a certificate of the authority, and
// the registrar answers over it, on the registry's stream.
func busCluster(t *testing.T) (*Registrar, *bus.Records) {
	t.Helper()
	log := bustest.Log(t)
	authority := openAuthority(t, AuthorityConfig{Dir: t.TempDir(), Cluster: "test", TrustDomain: testDomain, Name: "c1"})
	accounts, err := bus.NewAccounts()
	if err != nil {
		t.Fatal(err)
	}
	server, err := bus.NewServer(bus.ServerConfig{
		Name: "c1", Listen: netip.MustParseAddrPort("127.0.0.1:0"), StateDir: t.TempDir(), Accounts: accounts, Log: log, MaxStore: 1 << 30,
		TLS: &tls.Config{GetCertificate: authority.ServerCertificate([]string{"127.0.0.1"})},
	})
	if err != nil {
		t.Fatal(err)
	}
	bustest.Run(t, server.Run)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	conn, err := server.Controller(ctx, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if err := conn.EnsureStreams(ctx, 1); err != nil {
		t.Fatal(err)
	}
	address, err := server.Addr(ctx)
	if err != nil {
		t.Fatal(err)
	}
	records := conn.Records(bus.StreamRegistry)
	registrar, err := NewRegistrar(RegistrarConfig{Authority: authority, Store: records, Users: accounts, Addresses: []string{address.String()}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	requests := bus.NewRequests(bus.RequestsConfig{Conn: conn, Limits: bus.DefaultLimits, CutOff: func(string, string) {}, Log: log})
	for verb, handler := range map[string]bus.Handler{bus.VerbJoin: registrar.Join, bus.VerbRenew: registrar.Renew} {
		bustest.Run(t, func(ctx context.Context) error { return requests.Serve(ctx, verb, handler) })
	}
	return registrar, records
}

func TestJoinAndRenewOverTheBus(t *testing.T) {
	t.Parallel()
	registrar, records := busCluster(t)
	token, err := registrar.CreateToken(t.Context(), TokenRequest{Node: "web1", Services: testServices})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	dir := t.TempDir()
	i := openIdentity(t, IdentityConfig{Dir: dir, Log: bustest.Log(t)})
	if err := bustest.Insist(ctx, ErrTryAgain, func() error { return i.Join(ctx, token, nil) }); err != nil {
		t.Fatal(err)
	}
	other := openIdentity(t, IdentityConfig{Dir: t.TempDir()})
	if err := bustest.Insist(ctx, ErrTryAgain, func() error { return other.Join(ctx, token, nil) }); !errors.Is(err, ErrTokenUsed) {
		t.Errorf("the token works twice: %v", err)
	}
	// A reboot: everything is read from the disk.
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	i = openIdentity(t, IdentityConfig{Dir: dir, Log: bustest.Log(t)})
	renewOver := func() error {
		cfg := i.BusConfig()
		cfg.TLS = i.busTLS(time.Now) // the controller's clock does not go on with the host's
		conn, err := bus.Dial(cfg)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.Ready(ctx); err != nil {
			return err
		}
		return i.Renew(ctx, conn)
	}
	if err := bustest.Insist(ctx, ErrTryAgain, renewOver); err != nil {
		t.Fatal(err)
	}
	// Off for longer than the certificates live: the working bus user has ended as well.
	i.cfg.Now = func() time.Time { return time.Now().Add(30 * 24 * time.Hour) }
	if _, err := i.Certificate(orders); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("an expired certificate is in use: %v", err)
	}
	if err := bustest.Insist(ctx, ErrTryAgain, renewOver); err != nil {
		t.Fatal(err)
	}
	nodes := readDirectory(t, records).Nodes()
	if len(nodes) != 1 || nodes[0].Generation != 3 || nodes[0].Key != i.Status().Key {
		t.Errorf("registered %+v", nodes)
	}
}

// A token of another cluster, at the address of this one: the host learns it before it shows anything.
func TestForeignTokenOverTheBus(t *testing.T) {
	t.Parallel()
	registrar, _ := busCluster(t)
	other := openAuthority(t, AuthorityConfig{Dir: t.TempDir(), Cluster: "test", TrustDomain: testDomain, Name: "c1"})
	accounts, err := bus.NewAccounts()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := NewRegistrar(RegistrarConfig{Authority: other, Store: &memory{}, Users: accounts, Addresses: registrar.cfg.Addresses})
	if err != nil {
		t.Fatal(err)
	}
	token, err := foreign.CreateToken(t.Context(), TokenRequest{Node: "web1", Services: testServices})
	if err != nil {
		t.Fatal(err)
	}
	i := openIdentity(t, IdentityConfig{Dir: t.TempDir()})
	err = i.Join(t.Context(), token, nil)
	if !errors.Is(err, ErrUntrusted) || !errors.Is(err, ErrTokenForeign) || !strings.Contains(err.Error(), registrar.cfg.Addresses[0]) {
		t.Errorf("joined with it: %v", err)
	}
}
