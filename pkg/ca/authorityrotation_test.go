package ca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// believes says why a node does not believe another's certificate.
func believes(t *testing.T, i, peer *Identity, service exchange.ServiceName) error {
	t.Helper()
	certificate, err := peer.Certificate(service)
	if err != nil {
		return err
	}
	chain, err := parseChain(certificate.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	_, err = i.Verify(tls.ConnectionState{PeerCertificates: chain})
	return err
}

// shake shakes hands with a server of the authority's.
func shake(t *testing.T, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), client *tls.Config) error {
	t.Helper()
	left, right := net.Pipe()
	defer left.Close()
	defer right.Close()
	go func() {
		server := tls.Server(right, &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: certificate, SessionTicketsDisabled: true})
		_ = server.HandshakeContext(t.Context())
	}()
	return tls.Client(left, client).HandshakeContext(t.Context())
}

// TestRootIsRotatedUnderEverybody takes a root's place step by step. After each, whoever could know of it and whoever
// could not call each other, reach the bus and the API, and join, with what they had before; and the controller is
// killed after each.
//
// Each of the two roots is one that the controller has, or one whose key is kept elsewhere.
func TestRootIsRotatedUnderEverybody(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name             string
		offline, follows bool // the root of before, the next one
	}{
		{"both here", false, false},
		{"from here to elsewhere", false, true},
		{"from elsewhere to here", true, false},
		{"both elsewhere", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rootIsRotatedUnderEverybody(t, newMove(t, tt.offline, tt.follows))
		})
	}
}

func rootIsRotatedUnderEverybody(t *testing.T, m *move) {
	c := m.cluster
	told, cut, away := c.joined("told", orders), c.joined("cut", orders), c.joined("away", orders)
	early := c.token("early", orders)
	kubeconfig := x509.NewCertPool()
	kubeconfig.AppendCertsFromPEM(c.authority.RootPEM())
	old := c.authority.Root()
	hosts := []string{"mesh.example.com"}

	serve := c.authority.ServerCertificate(hosts)
	nodes := []*Identity{told, cut, away}
	configs := map[*Identity]*tls.Config{} // made once, as a process does that connects again and again
	for _, i := range nodes {
		configs[i] = i.BusConfig().TLS
	}
	check := func(when string) {
		t.Helper()
		for _, pair := range [][2]*Identity{{told, cut}, {cut, told}, {told, told}} {
			if err := believes(t, pair[0], pair[1], orders); err != nil {
				t.Errorf("%s: %s does not believe %s: %v", when, pair[0].Node(), pair[1].Node(), err)
			}
		}
		for _, i := range nodes {
			if err := shake(t, serve, configs[i]); err != nil {
				t.Errorf("%s: %s does not reach the bus: %v", when, i.Node(), err)
			}
		}
		if err := shake(t, serve, &tls.Config{ServerName: hosts[0], RootCAs: kubeconfig, Time: c.clock.Now}); err != nil {
			t.Errorf("%s: a kubeconfig of before does not reach the API: %v", when, err)
		}
		if err := shake(t, serve, controllerTLS([32]byte(early.body.GetRootHash()), testDomain, c.clock.Now)); err != nil {
			t.Errorf("%s: a token of before does not reach the bus: %v", when, err)
		}
	}
	kill := func() {
		t.Helper()
		if err := c.authority.Close(); err != nil {
			t.Fatal(err)
		}
		c.authority = openAuthority(t, c.authority.cfg)
		c.registrar.cfg.Authority = c.authority
		serve = c.authority.ServerCertificate(hosts)
	}
	tell := func(i *Identity) {
		t.Helper()
		if _, err := i.UpdateRoster(c.authority.Roster()); err != nil {
			t.Fatalf("%s takes the roster: %v", i.Node(), err)
		}
	}
	renew := func(i *Identity) {
		t.Helper()
		if err := i.request(t.Context(), c.wire(i.Node()), false); err != nil {
			t.Fatalf("%s renews: %v", i.Node(), err)
		}
	}

	check("before")
	m.announce(kill)
	tell(told)
	check("announced")
	kill()
	check("announced, and killed")
	if r := c.authority.Rotation(); r.Phase != Announced || !r.Root || r.To == "" || r.To == r.From || c.authority.Root().Equal(old) == false {
		t.Errorf("announced: %+v", r)
	}
	if err := c.authority.Withdraw(true); !errors.Is(err, ErrNotRotating) {
		t.Errorf("withdrawn before it issues: %v", err)
	}
	c.clock.advance(time.Minute)
	if err := c.authority.ActivateRoot(0); err != nil {
		t.Fatal(err)
	}
	tell(told)
	check("active")
	if _, recalled := told.recalled(c.clock.Now()); !recalled {
		t.Error("the node is not asked to renew")
	}
	c.clock.advance(time.Millisecond)
	renew(told)
	if _, recalled := told.recalled(c.clock.Now()); recalled {
		t.Error("the node is asked to renew once more")
	}
	if told.RootHash() != c.authority.RootHash() || c.authority.Root().Equal(old) {
		t.Error("the node does not pin the new root")
	}
	check("active, and one has renewed")
	kill()
	check("active, and killed")
	c.joined("late", orders)
	first := c.identity(t.TempDir())
	if err := first.Join(t.Context(), early, c.wire("early").dial); err != nil {
		t.Errorf("a token of before the rotation: %v", err)
	} else if first.RootHash() != c.authority.RootHash() {
		t.Error("who joined with it pins the old root")
	}

	// Nobody's certificate is lost: the old root stays until the last one of it has ended.
	r := c.authority.Rotation()
	if err := c.authority.Withdraw(false); !errors.Is(err, ErrRotating) || r.OldEnds.Before(c.clock.Now().Add(DefaultTTL-time.Hour)) {
		t.Errorf("withdrawn while certificates hang on it, to %s: %v", r.OldEnds, err)
	}
	c.clock.advance(10 * time.Hour)
	tell(cut) // its bus is back
	renew(cut)
	check("both have renewed")
	c.clock.advance(DefaultTTL - 10*time.Hour)
	renew(told)
	renew(cut)
	if err := c.authority.Withdraw(false); err != nil {
		t.Fatal(err)
	}
	tell(told)
	tell(cut)
	check("withdrawn")
	kill()
	check("withdrawn, and killed")
	err := c.authority.db.View(func(tx *bbolt.Tx) error {
		if kept := tx.Bucket(bucketKeys).Get([]byte(purposeRootKey)); (kept == nil) != m.isOffline() {
			return fmt.Errorf("the file has the key of a root: %v", kept != nil)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if h := c.authority.held(); (h.rootKey == nil) != m.isOffline() || h.state.GetRootMove() != nil || h.state.GetPendingKey() != nil {
		t.Errorf("the controller has the root's key: %v, or keeps what is not needed any more", h.rootKey != nil)
	}
	if r := c.authority.Rotation(); r.Phase != NotRotating || len(c.authority.held().roster.GetRoots()) != 1 {
		t.Errorf("at the end: %+v", r)
	}

	// Who was away for all of it comes back with what it has.
	renew(told) // nothing leads from its certificate to the old root any more
	if err := believes(t, away, told, orders); err == nil {
		t.Error("who was away believes a root that it was not told of")
	}
	tell(away)
	renew(away)
	for _, pair := range [][2]*Identity{{away, told}, {told, away}} {
		if err := believes(t, pair[0], pair[1], orders); err != nil {
			t.Errorf("%s does not believe %s: %v", pair[0].Node(), pair[1].Node(), err)
		}
	}
}

// TestWithdrawnRootIsNotBelieved: whoever has its key can neither be a service, nor a controller, nor make a roster.
func TestWithdrawnRootIsNotBelieved(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	thief := c.authority.held()
	for _, step := range []func() error{c.authority.AnnounceRoot, func() error { return c.authority.ActivateRoot(0) }, func() error { return c.authority.Withdraw(true) }} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		if _, err := i.UpdateRoster(c.authority.Roster()); err != nil {
			t.Fatal(err)
		}
	}
	if err := thief.sign(func(r *snapshot.Roster) { r.Epoch, r.Serial = 99, 99 }); err != nil {
		t.Fatal(err)
	}
	if _, err := i.UpdateRoster(thief.signedRoster); !errors.Is(err, snapshot.ErrRoot) {
		t.Errorf("a roster of the withdrawn root: %v", err)
	}
	template, err := leafTemplate(ServiceID(testDomain, orders), "", c.clock.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := certify(template, &key.PublicKey, thief.intermediate, thief.intermediateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, chain := range map[string][]*x509.Certificate{
		"alone":                {leaf, thief.intermediate},
		"with its root":        {leaf, thief.intermediate, thief.root},
		"with the way forward": {leaf, thief.intermediate, thief.root, c.authority.Root()},
	} {
		if _, err := i.Verify(tls.ConnectionState{PeerCertificates: chain}); !errors.Is(err, ErrPeer) {
			t.Errorf("a certificate of the withdrawn root, %s: %v", name, err)
		}
	}
}

// TestTheBusOfAWithdrawnRootIsNotBelieved, also by a connection that was configured while it was.
func TestTheBusOfAWithdrawnRootIsNotBelieved(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	connects := i.BusConfig().TLS
	serve := c.authority.ServerCertificate(nil)
	theirs, err := serve(nil)
	if err != nil {
		t.Fatal(err)
	}
	stolen := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return theirs, nil }
	if err := shake(t, stolen, connects); err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{c.authority.AnnounceRoot, func() error { return c.authority.ActivateRoot(0) }, func() error { return c.authority.Withdraw(true) }} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		if _, err := i.UpdateRoster(c.authority.Roster()); err != nil {
			t.Fatal(err)
		}
	}
	if err := shake(t, stolen, connects); !errors.Is(err, ErrPeer) {
		t.Errorf("a server with a certificate of the withdrawn root: %v", err)
	}
	if err := shake(t, serve, connects); err != nil {
		t.Errorf("the controller goes on to show its certificate of before: %v", err)
	}
}

// TestANodeFollowsAnyNumberOfRotations that it hears of one after the other.
func TestANodeFollowsAnyNumberOfRotations(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	dir := t.TempDir()
	i := c.identity(dir)
	if err := i.Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
		t.Fatal(err)
	}
	for n := range snapshot.MaxSuccessions + 2 {
		for _, step := range []func() error{c.authority.AnnounceRoot, func() error { return c.authority.ActivateRoot(0) }, func() error { return c.authority.Withdraw(true) }} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := i.UpdateRoster(c.authority.Roster()); err != nil {
			t.Fatalf("rotation %d: %v", n+1, err)
		}
	}
	if err := i.request(t.Context(), c.wire("web1"), false); err != nil {
		t.Error(err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	if again := c.identity(dir); again.RootHash() != c.authority.RootHash() {
		t.Error("after a restart it believes another root")
	}
}

// TestWhoWasAwayForManyRotations comes back by itself, over as many as a roster leads: a node, a join token, a kubeconfig.
func TestWhoWasAwayForManyRotations(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	early := c.token("early", orders)
	kubeconfig := x509.NewCertPool()
	kubeconfig.AppendCertsFromPEM(c.authority.RootPEM())
	serve := c.authority.ServerCertificate([]string{"mesh.example.com"})
	rotate := func() {
		t.Helper()
		for _, step := range []func() error{c.authority.AnnounceRoot, func() error { return c.authority.ActivateRoot(0) }, func() error { return c.authority.Withdraw(true) }} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := 1; n <= snapshot.MaxSuccessions; n++ {
		rotate()
		if err := shake(t, serve, i.busTLS(c.clock.Now)); err != nil {
			t.Errorf("after %d rotations the node does not reach the bus: %v", n, err)
		}
		if err := shake(t, serve, controllerTLS([32]byte(early.body.GetRootHash()), testDomain, c.clock.Now)); err != nil {
			t.Errorf("after %d rotations a token does not reach the bus: %v", n, err)
		}
		if err := shake(t, serve, &tls.Config{ServerName: "mesh.example.com", RootCAs: kubeconfig, Time: c.clock.Now}); err != nil {
			t.Errorf("after %d rotations a kubeconfig does not reach the API: %v", n, err)
		}
	}
	late := c.identity(t.TempDir())
	if err := late.Join(t.Context(), early, c.wire("early").dial); err != nil {
		t.Errorf("a host joins with a token of before: %v", err)
	}
	c.clock.advance(DefaultTTL + time.Hour) // its certificates have ended meanwhile
	if err := i.request(t.Context(), c.wire("web1"), true); err != nil || i.RootHash() != c.authority.RootHash() {
		t.Errorf("it renews: %v", err)
	}
	rotate()
	if err := shake(t, serve, &tls.Config{ServerName: "mesh.example.com", RootCAs: kubeconfig, Time: c.clock.Now}); err == nil {
		t.Error("a kubeconfig leads over more rotations than a node goes")
	}
}

// TestIntermediateIsRotated: what the old one issued is good until it is withdrawn, and nothing that it signs is afterwards.
func TestIntermediateIsRotated(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	told, cut := c.joined("told", orders), c.joined("cut", orders)
	root := c.authority.RootHash()
	if err := c.authority.RotateIntermediate(0); err != nil {
		t.Fatal(err)
	}
	if err := c.authority.RotateIntermediate(0); !errors.Is(err, ErrRotating) {
		t.Errorf("rotated while it is rotated: %v", err)
	}
	if _, err := told.UpdateRoster(c.authority.Roster()); err != nil {
		t.Fatal(err)
	}
	if err := told.request(t.Context(), c.wire("told"), false); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]*Identity{{told, cut}, {cut, told}} {
		if err := believes(t, pair[0], pair[1], orders); err != nil {
			t.Errorf("%s does not believe %s: %v", pair[0].Node(), pair[1].Node(), err)
		}
	}
	if err := c.authority.Withdraw(false); !errors.Is(err, ErrRotating) {
		t.Errorf("withdrawn while certificates hang on it: %v", err)
	}
	if err := c.authority.Withdraw(true); err != nil {
		t.Fatal(err)
	}
	if _, err := told.UpdateRoster(c.authority.Roster()); err != nil {
		t.Fatal(err)
	}
	if err := believes(t, told, cut, orders); !errors.Is(err, ErrPeer) {
		t.Errorf("a certificate of the withdrawn intermediate: %v", err)
	}
	if err := believes(t, told, told, orders); err != nil {
		t.Errorf("a certificate of the new intermediate: %v", err)
	}
	if c.authority.RootHash() != root {
		t.Error("the root was rotated as well")
	}
}

// TestAnnouncedRootIsTakenBack before it has issued anything.
func TestAnnouncedRootIsTakenBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	root := c.authority.RootHash()
	for _, step := range []func() error{c.authority.AnnounceRoot, c.authority.Cancel} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		if _, err := i.UpdateRoster(c.authority.Roster()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(i.believed.Load().certificates); n != 1 || i.RootHash() != root || c.authority.Rotation().Phase != NotRotating {
		t.Errorf("%d roots are believed, %+v", n, c.authority.Rotation())
	}
	if err := c.authority.ActivateRoot(0); !errors.Is(err, ErrNotRotating) {
		t.Errorf("a root that was taken back issues: %v", err)
	}
}

// TestNodesRenewWithinTheSpread when a roster asks them to: not together, and none later.
func TestNodesRenewWithinTheSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes, spread = 12, time.Hour
		c := newClusterAt(t, time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		all := make([]*Identity, nodes)
		for n := range all {
			name := string(rune('a' + n))
			all[n] = openIdentity(t, IdentityConfig{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
			if err := all[n].Join(t.Context(), c.token(name, orders), c.wire(name).dial); err != nil {
				t.Fatal(err)
			}
			go func() { done <- all[n].Run(ctx, c.wire(name)) }()
		}
		time.Sleep(time.Second)
		if err := c.authority.RotateIntermediate(spread); err != nil {
			t.Fatal(err)
		}
		asked := time.Now()
		for _, i := range all {
			if _, err := i.UpdateRoster(c.authority.Roster()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(spread / 2)
		synctest.Wait()
		half := 0
		for _, i := range all {
			if _, _, issued := i.Standing(); issued.After(asked) {
				half++
			}
		}
		if half == 0 || half == nodes { // one in two thousand
			t.Errorf("%d of %d nodes have renewed in half of the time", half, nodes)
		}
		time.Sleep(spread/2 + time.Second)
		synctest.Wait()
		for n, i := range all {
			if _, _, issued := i.Standing(); !issued.After(asked) {
				t.Errorf("node %d has not renewed", n)
			}
		}
		cancel()
		for range all {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}
