package ca

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/attest"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// revoke tells nodes what is revoked, once that was done.
func (c *cluster) revoke(err error, nodes ...*Identity) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
	all, err := c.registrar.Revocations(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, i := range nodes {
		news, err := i.UpdateRevocations(snapshot.Version{Epoch: c.authority.Epoch(), Revision: c.store.last}, Published(all).GetRevocations())
		if err != nil || !news {
			c.t.Fatalf("revocations taken: %v, %v", news, err)
		}
	}
}

// shows is what a peer sees of a service that a node runs.
func shows(t *testing.T, i *Identity, service exchange.ServiceName) tls.ConnectionState {
	t.Helper()
	chain, err := parseChain((*i.certificates.Load())[service].Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return tls.ConnectionState{PeerCertificates: chain}
}

// TestRevokedAndAllowedAgain revokes in each way what web1 holds, of which web2 holds the same: who is meant is refused,
// by himself too, and nobody else; and what is issued after it was allowed again holds, while what was before does not.
func TestRevokedAndAllowedAgain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		revoke func(c *cluster, web1 *Identity) error
		again  func(c *cluster, web1 *Identity) error
		web2   bool // is meant too
	}{
		{"a certificate", func(c *cluster, web1 *Identity) error {
			_, err := c.registrar.RevokeCertificate(c.t.Context(), leafSerial(c.t, web1, orders), "leaked")
			return err
		}, func(*cluster, *Identity) error { return nil }, false},
		{"a service on a node", func(c *cluster, _ *Identity) error {
			return errors.Join(c.registrar.Deny(c.t.Context(), "web1", orders), c.registrar.RevokeService(c.t.Context(), orders, "web1", ""))
		}, func(c *cluster, _ *Identity) error { return c.registrar.Allow(c.t.Context(), "web1", orders) }, false},
		{"a service", func(c *cluster, _ *Identity) error {
			return errors.Join(c.registrar.Deny(c.t.Context(), "web1", orders), c.registrar.RevokeService(c.t.Context(), orders, "", ""))
		}, func(c *cluster, _ *Identity) error { return c.registrar.Allow(c.t.Context(), "web1", orders) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			web1, web2, peer := c.joined("web1", orders, billing), c.joined("web2", orders), c.joined("db1", billing)
			stolen := shows(t, web1, orders)
			c.clock.advance(time.Minute)
			c.revoke(tt.revoke(c, web1), web1, web2, peer)
			if _, err := peer.Verify(stolen); !errors.Is(err, ErrPeer) || !strings.Contains(err.Error(), "revoked") {
				t.Errorf("a peer takes it: %v", err)
			}
			if _, err := web1.Certificate(orders); !errors.Is(err, ErrNoCertificate) || !strings.Contains(err.Error(), "revoked") {
				t.Errorf("its node uses it: %v", err)
			}
			if _, err := peer.Verify(shows(t, web1, billing)); err != nil {
				t.Errorf("another service of the node: %v", err)
			}
			if _, err := peer.Verify(shows(t, web2, orders)); (err == nil) == tt.web2 {
				t.Errorf("the same service of another node: %v", err)
			}
			select {
			case <-web1.refresh: // Run asks for others
			default:
				t.Error("its node does not ask for another")
			}
			if tt.name != "a certificate" {
				err := web1.Want(t.Context(), c.wire("web1"), orders)
				if _, held := (*web1.certificates.Load())[orders]; !errors.Is(err, ErrNotAllowed) || held {
					t.Errorf("while it is revoked it is issued: %v, held %v", err, held)
				}
			}
			if err := errors.Join(tt.again(c, web1), web1.request(t.Context(), c.wire("web1"), false, orders)); err != nil {
				t.Fatal(err)
			}
			if _, err := peer.Verify(shows(t, web1, orders)); err != nil {
				t.Errorf("what was issued since: %v", err)
			}
			if _, err := web1.Certificate(orders); err != nil {
				t.Errorf("its node does not use what was issued since: %v", err)
			}
			if _, err := peer.Verify(stolen); !errors.Is(err, ErrPeer) {
				t.Errorf("what was stolen is good again: %v", err)
			}
		})
	}
}

// TestRevokedNode: nothing that the host holds is taken from anybody, its bus users are ended, it cannot renew, and
// another host may join under its name, whose certificates hold, and whose user is another.
func TestRevokedNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	thief, peer := c.joined("web1", orders, billing), c.joined("db1", billing)
	stolen := []tls.ConnectionState{shows(t, thief, orders), shows(t, thief, billing)}
	user, err := c.registrar.Node(t.Context(), "web1")
	if err != nil || len(user.EndedUsers) > 0 {
		t.Fatalf("%+v, %v", user, err)
	}
	c.revoke(c.registrar.RevokeNode(t.Context(), "web1", "stolen"), thief, peer)
	refused := func(when string) {
		t.Helper()
		for _, state := range stolen {
			if _, err := peer.Verify(state); !errors.Is(err, ErrPeer) || !strings.Contains(err.Error(), "node web1") {
				t.Errorf("%s: %v", when, err)
			}
		}
		if err := thief.Renew(t.Context(), c.wire("web1")); !errors.Is(err, ErrRemoved) && !errors.Is(err, ErrOldGeneration) && !errors.Is(err, ErrFrozen) {
			t.Errorf("%s: it renews: %v", when, err)
		}
	}
	refused("revoked")
	if _, err := thief.Certificate(exchange.ServiceName{}); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("its own: %v", err)
	}
	node := c.node("web1")
	if node.State != "revoked" || node.Why != "stolen" || len(node.EndedUsers) != 1 {
		t.Errorf("the registry has %+v", node)
	}
	if err := c.registrar.VerifyNode(t.Context(), "web1", []byte("x"), nil); !errors.Is(err, ErrRemoved) {
		t.Errorf("its registrations: %v", err)
	}
	again := c.joined("web1", orders) // in the same second
	if _, err := peer.Verify(shows(t, again, orders)); err != nil {
		t.Errorf("the host that joined under its name: %v", err)
	}
	refused("its name is another's")
	if after := c.node("web1"); !slices.Equal(after.EndedUsers, node.EndedUsers) || after.State == "revoked" {
		t.Errorf("the host that joined under its name: %+v", after)
	}
	if err := c.registrar.RevokeNode(t.Context(), "web9", ""); !errors.Is(err, ErrUnknownNode) {
		t.Errorf("a node that is none: %v", err)
	}
}

// TestATokenLetsNobodyBackIn: a host that was removed or revoked has the token that let it in, and the key that the token
// was used with, which may repeat a join whose answer was lost.
func TestATokenLetsNobodyBackIn(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(c *cluster) error{
		"removed": func(c *cluster) error { return c.registrar.Remove(c.t.Context(), "web1") },
		"revoked": func(c *cluster) error { return c.registrar.RevokeNode(c.t.Context(), "web1", "") },
	} {
		c := newCluster(t)
		i, token, wire := c.identity(t.TempDir()), c.token("web1", orders), c.wire("web1")
		wire.reply = func([]byte) ([]byte, error) { return nil, errors.New("lost") }
		for range 2 {
			if err := i.Join(t.Context(), token, wire.dial); err == nil {
				t.Fatal("the answer arrived")
			}
		}
		if err := end(c); err != nil {
			t.Fatal(err)
		}
		if err := i.Join(t.Context(), token, c.wire("web1").dial); !errors.Is(err, ErrRemoved) {
			t.Errorf("%s, it joins again with its token: %v", name, err)
		}
		if state := c.node("web1").State; state != name {
			t.Errorf("the registry says that it is %s", state)
		}
		c.clock.advance(time.Minute)
		if err := c.identity(t.TempDir()).Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
			t.Errorf("another host, with another token: %v", err)
		}
	}
}

// TestRevocationsAreRememberedByNodes: after a restart nothing has to be heard before they hold, older ones never come
// back, and what an epoch had that was restored away is kept until it ends.
func TestRevocationsAreRememberedByNodes(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	dir := t.TempDir()
	peer, web1 := c.identity(dir), c.joined("web1", orders)
	if err := peer.Join(t.Context(), c.token("db1", billing), c.wire("db1").dial); err != nil {
		t.Fatal(err)
	}
	stolen := shows(t, web1, orders)
	c.revoke(c.registrar.RevokeNode(t.Context(), "web1", ""), peer)
	if err := peer.Close(); err != nil {
		t.Fatal(err)
	}
	peer = c.identity(dir)
	refused := func(when string) {
		t.Helper()
		if _, err := peer.Verify(stolen); !errors.Is(err, ErrPeer) {
			t.Errorf("%s: %v", when, err)
		}
	}
	refused("after a restart")
	if news, err := peer.UpdateRevocations(snapshot.Version{Revision: 1}, nil); news || err != nil {
		t.Errorf("an older one: %v, %v", news, err)
	}
	refused("after an older one")
	for revision := range uint64(3) { // of a registry that never heard of it
		if news, err := peer.UpdateRevocations(snapshot.Version{Epoch: 7, Revision: revision + 1}, nil); !news || err != nil {
			t.Fatalf("of a newer epoch: %v, %v", news, err)
		}
		refused(fmt.Sprintf("revision %d of a newer epoch", revision+1))
	}
	if carried := len(peer.current().GetRevocations().GetCarried()); carried != 1 {
		t.Errorf("%d are carried on", carried)
	}
	c.clock.advance(DefaultTTL + 2*maxSkew)
	if _, err := peer.UpdateRevocations(snapshot.Version{Epoch: 7, Revision: 9}, nil); err != nil {
		t.Fatal(err)
	}
	if held := peer.current().GetRevocations(); len(held.GetCarried())+len(held.GetTold()) > 0 {
		t.Errorf("what ended is kept: %v", held)
	}
	if _, err := peer.UpdateRevocations(snapshot.Version{Epoch: 8}, make([]*snapshot.Revocation, maxRevocations+1)); err == nil {
		t.Error("more than may be are taken")
	}
}

// TestRevokedTwiceInASecond: what was issued behind a revocation is revoked by the next, without any time between them.
func TestRevokedTwiceInASecond(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	web1, peer := c.joined("web1", orders), c.joined("db1", billing)
	c.revoke(c.registrar.RevokeService(t.Context(), orders, "web1", ""), web1, peer)
	if err := web1.request(t.Context(), c.wire("web1"), false); err != nil {
		t.Fatal(err)
	}
	between := shows(t, web1, orders)
	if _, err := peer.Verify(between); err != nil {
		t.Fatal(err)
	}
	c.revoke(c.registrar.RevokeNode(t.Context(), "web1", ""), peer)
	all, err := c.registrar.Certificates(t.Context(), func(one Issued) bool { return one.Node == "web1" })
	for _, one := range all {
		if one.State != CertificateRevoked {
			t.Errorf("%+v is not listed as revoked", one)
		}
	}
	if err != nil || len(all) == 0 {
		t.Errorf("%d certificates, %v", len(all), err)
	}
	if _, err := peer.Verify(between); !errors.Is(err, ErrPeer) {
		t.Errorf("what was issued between the two: %v", err)
	}
}

// TestRevocationsEnd: each is forgotten once nothing is left that it could refuse, and there are so many at most.
func TestRevocationsEnd(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	web1 := c.joined("web1", orders)
	if _, err := c.registrar.RevokeCertificate(t.Context(), "5f", ""); !errors.Is(err, ErrUnknownCertificate) {
		t.Errorf("a certificate that is none: %v", err)
	}
	certificate, err := web1.Certificate(orders)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.registrar.RevokeCertificate(t.Context(), serialOf(certificate.Leaf), ""); err != nil {
		t.Fatal(err)
	}
	for range 3 { // the same again takes no more place
		if err := c.registrar.RevokeService(t.Context(), billing, "", strings.Repeat("x", 1000)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := c.registrar.Revocations(t.Context())
	if err != nil || len(all) != 2 || len(all[1].Why) > maxWhy {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, one := range all {
		if one.Ends.Before(certificate.Leaf.NotAfter) || one.Ends.After(c.clock.Now().Add(DefaultTTL+2*maxSkew)) {
			t.Errorf("%+v ends %s, the certificate %s", one, one.Ends, certificate.Leaf.NotAfter)
		}
	}
	c.clock.advance(DefaultTTL + 2*maxSkew)
	if all, err = c.registrar.Revocations(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("when all have expired: %+v, %v", all, err)
	}
	list := &RevocationList{}
	for i := range maxRevocations {
		list.Revocations = append(list.Revocations, &RevocationRecord{Node: fmt.Sprint(i), EndsUnixMs: c.clock.Now().Add(time.Hour).UnixMilli()})
	}
	data, err := proto.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := c.store.Get(t.Context(), revokedSubject)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.store.Append(t.Context(), revokedSubject, data, entry.Sequence); err != nil {
		t.Fatal(err)
	}
	if err := c.registrar.RevokeService(t.Context(), billing, "", ""); err == nil || !strings.Contains(err.Error(), "sennit revoke list") {
		t.Errorf("one too many: %v", err)
	}
	c.clock.advance(2 * time.Hour)
	if err := c.registrar.RevokeService(t.Context(), billing, "", ""); err != nil {
		t.Errorf("when those have ended: %v", err)
	}
	if data, err := c.store.Get(t.Context(), revokedSubject); err != nil || len(data.Data) > 1000 {
		t.Errorf("those that have ended are kept: %d bytes, %v", len(data.Data), err)
	}
}

// TestAHostHasFewBusUsers: each user of the bus that a host was given has to be ended with it.
func TestAHostHasFewBusUsers(t *testing.T) {
	t.Parallel()
	record := &NodeRecord{Node: "web1"}
	own := userKey(t)
	for range 10 {
		if err := record.useBus(own); err != nil {
			t.Fatal(err)
		}
	}
	for range maxBusUsers - 1 {
		if err := record.useBus(userKey(t)); err != nil {
			t.Fatal(err)
		}
	}
	if err := record.useBus(userKey(t)); !errors.Is(err, ErrBadRequest) {
		t.Errorf("one too many: %v", err)
	}
	if err := (&NodeRecord{EndedUsers: []string{own}}).useBus(own); !errors.Is(err, ErrRemoved) {
		t.Errorf("one that was ended: %v", err)
	}
	if err := record.useBus(strings.Repeat("U", 1<<20)); !errors.Is(err, ErrBadRequest) {
		t.Errorf("what is no key: %v", err)
	}
	if len(record.GetBusUsers()) != maxBusUsers {
		t.Errorf("%d are kept", len(record.GetBusUsers()))
	}
}

// TestWhoHoldsWhat tells the states of certificates apart.
func TestWhoHoldsWhat(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	web1, web2 := c.joined("web1", orders), c.joined("web2", orders)
	states := func(node string) (found []string) {
		t.Helper()
		all, err := c.registrar.Certificates(t.Context(), func(one Issued) bool { return one.Node == node && strings.HasSuffix(one.SPIFFEID, "/orders") })
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range all {
			if one.Issuer == "" || one.NotAfter.Before(one.NotBefore) {
				t.Errorf("%+v", one)
			}
			found = append(found, one.State)
		}
		return found
	}
	expect := func(when, node string, want ...string) {
		t.Helper()
		if got := states(node); !slices.Equal(got, want) {
			t.Errorf("%s: %s holds %q, want %q", when, node, got, want)
		}
	}
	expect("at first", "web1", CertificateCurrent)
	c.clock.advance(12*time.Hour - time.Minute)
	expect("before half", "web1", CertificateCurrent)
	c.clock.advance(2 * time.Minute)
	expect("past half", "web1", CertificateRenewing)
	c.clock.advance(time.Hour)
	if err := web1.Renew(t.Context(), c.wire("web1")); err != nil {
		t.Fatal(err)
	}
	expect("renewed", "web1", CertificateCurrent, CertificateReplaced)
	c.registrar.cfg.TTL = time.Hour // those of before live longer
	c.clock.advance(time.Second)
	if err := web1.Renew(t.Context(), c.wire("web1")); err != nil {
		t.Fatal(err)
	}
	c.registrar.cfg.TTL = 0
	expect("renewed, for less time", "web1", CertificateCurrent, CertificateReplaced, CertificateReplaced)
	newest := leafSerial(t, web1, orders)
	others, err := c.registrar.Certificates(t.Context(), func(one Issued) bool { return one.Serial != newest && one.Node == "web1" })
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range others {
		if one.State == CertificateCurrent && strings.HasSuffix(one.SPIFFEID, "/orders") {
			t.Errorf("one that was replaced is current where its successor is not asked for: %+v", one)
		}
	}
	if _, err := c.registrar.RevokeCertificate(t.Context(), leafSerial(t, web2, orders), ""); err != nil {
		t.Fatal(err)
	}
	expect("revoked", "web2", CertificateRevoked)
	c.clock.advance(12 * time.Hour)
	if err := c.registrar.RevokeNode(t.Context(), "web1", ""); err != nil {
		t.Fatal(err)
	}
	expect("the node is revoked", "web1", CertificateRevoked, CertificateRevoked, CertificateRevoked)
	c.clock.advance(24 * time.Hour)
	expect("much later", "web2", CertificateExpired)
}

// TestCertificatesAreListedInOrder: by node, then identity, the newest first.
func TestCertificatesAreListedInOrder(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for _, node := range []string{"c", "a", "d", "b"} {
		i := c.joined(node, orders, billing)
		c.clock.advance(time.Minute)
		if err := i.Renew(t.Context(), c.wire(node)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := c.registrar.Certificates(t.Context(), func(one Issued) bool { return one.Node != "" })
	if err != nil || len(all) != 4*3*2 {
		t.Fatalf("%d certificates, %v", len(all), err)
	}
	for n, one := range all[1:] {
		before := all[n]
		if order := cmp.Or(strings.Compare(before.Node, one.Node), strings.Compare(before.SPIFFEID, one.SPIFFEID), one.NotBefore.Compare(before.NotBefore)); order >= 0 {
			t.Errorf("%s %s of %s comes before %s %s of %s", before.Node, before.SPIFFEID, before.NotBefore, one.Node, one.SPIFFEID, one.NotBefore)
		}
	}
}

// TestWhatExpiredIsKeptForADay, and not for longer, whatever else is issued.
func TestWhatExpiredIsKeptForADay(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.joined("web1", orders)
	listed := func() (states []string) {
		t.Helper()
		all, err := c.registrar.Certificates(t.Context(), func(one Issued) bool { return one.Node == "web1" })
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range all {
			states = append(states, one.State)
		}
		return states
	}
	c.clock.advance(DefaultTTL + 23*time.Hour)
	c.joined("web2", orders)
	if got := listed(); !slices.Equal(got, []string{CertificateExpired, CertificateExpired}) {
		t.Errorf("after 23 hours: %q", got)
	}
	c.clock.advance(2 * time.Hour)
	c.joined("web3", orders)
	if got := listed(); len(got) > 0 {
		t.Errorf("after 25 hours: %q", got)
	}
}

// TestRevocationsAreCarriedOverEpochs: over any number of them, those that end last where there are too many, and nothing
// within one epoch.
func TestRevocationsAreCarriedOverEpochs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	peer := c.joined("db1", billing)
	now := c.clock.Now()
	take := func(epoch, revision uint64, told ...*snapshot.Revocation) bool {
		t.Helper()
		news, err := peer.UpdateRevocations(snapshot.Version{Epoch: epoch, Revision: revision}, told)
		if err != nil {
			t.Fatal(err)
		}
		return news
	}
	refused := func(serial string) bool { return peer.revoked.Load().serials[serial] }
	one := &snapshot.Revocation{Serial: "a1", EndsUnixMs: now.Add(3 * time.Hour).UnixMilli()}
	two := &snapshot.Revocation{Serial: "b2", EndsUnixMs: now.Add(3 * time.Hour).UnixMilli()}
	take(1, 1, one, two)
	if take(1, 1) || !refused("a1") {
		t.Error("the same version is news")
	}
	take(1, 2, two)
	if refused("a1") || len(peer.current().GetRevocations().GetCarried()) > 0 {
		t.Error("what is told no more is carried on within its epoch")
	}
	take(2, 1)
	take(3, 1, one)
	if !refused("a1") || !refused("b2") {
		t.Error("what was told two epochs before is forgotten")
	}
	many := func(prefix string, ends time.Time) (told []*snapshot.Revocation) {
		for n := range maxRevocations {
			told = append(told, &snapshot.Revocation{Serial: fmt.Sprint(prefix, n), EndsUnixMs: ends.UnixMilli()})
		}
		return told
	}
	take(4, 1, many("early", now.Add(time.Hour))...)
	take(5, 1, many("late", now.Add(2*time.Hour))...)
	take(6, 1)
	carried := peer.current().GetRevocations().GetCarried()
	if len(carried) != maxRevocations || !refused("a1") || !refused("late1") {
		t.Errorf("%d are carried, those that end last: %v, %v", len(carried), refused("a1"), refused("late1"))
	}
	c.clock.advance(2*time.Hour + time.Second)
	take(6, 2)
	if carried := len(peer.current().GetRevocations().GetCarried()); carried != 2 {
		t.Errorf("when all but two have ended %d are carried", carried)
	}
}

// TestARevokedMachineIsNotLetInByItsCloud: a machine goes on to be what its cloud says, and the image that it started from
// has a token for many.
func TestARevokedMachineIsNotLetInByItsCloud(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	cloud := newCloud(t, c.clock.Now)
	c.registrar.cfg.Attest = cloud.verifier()
	token := c.pool(&Attest{Provider: attest.Google, Accounts: []string{"ours"}})
	if _, err := c.join(token, cloud.machine("ours", "i-1")); err != nil {
		t.Fatal(err)
	}
	name := string(attest.Google) + "-i-1"
	if err := c.registrar.RevokeNode(t.Context(), name, ""); err != nil {
		t.Fatal(err)
	}
	c.clock.advance(time.Hour)
	if _, err := c.join(token, cloud.machine("ours", "i-1")); !errors.Is(err, ErrRemoved) {
		t.Errorf("it joins again: %v", err)
	}
	if _, err := c.join(token, cloud.machine("ours", "i-2")); err != nil {
		t.Errorf("another machine: %v", err)
	}
}

// TestRevokedTokens: while a service or a node is revoked no JWT-SVID of it is made, nodes refuse those of before, also when
// it is allowed again in the same second, and those of others hold.
func TestRevokedTokens(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		revoke func(c *cluster) error
		again  func(c *cluster) error // nil: it cannot be
		want   error                  // while it is revoked
		web2   bool                   // is meant too
	}{
		{"a service on a node", func(c *cluster) error {
			return errors.Join(c.registrar.Deny(c.t.Context(), "web1", orders), c.registrar.RevokeService(c.t.Context(), orders, "web1", ""))
		}, func(c *cluster) error { return c.registrar.Allow(c.t.Context(), "web1", orders) }, ErrNotAllowed, false},
		{"a service", func(c *cluster) error {
			return errors.Join(c.registrar.Deny(c.t.Context(), "web1", orders), c.registrar.RevokeService(c.t.Context(), orders, "", ""))
		}, func(c *cluster) error { return c.registrar.Allow(c.t.Context(), "web1", orders) }, ErrNotAllowed, true},
		{"a node", func(c *cluster) error { return c.registrar.RevokeNode(c.t.Context(), "web1", "") }, nil, ErrRemoved, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			web1, web2, peer := c.joined("web1", orders), c.joined("web2", orders), c.joined("db1", billing)
			check := func(token string) error {
				t.Helper()
				claims, more := jwt.Claims{}, map[string]any{}
				parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
				if err == nil {
					err = parsed.UnsafeClaimsWithoutVerification(&claims, &more)
				}
				if err != nil {
					t.Fatal(err)
				}
				return peer.CheckToken(claims.Subject, more[NodeClaim].(string), claims.IssuedAt.Time())
			}
			token := func(i *Identity) string {
				t.Helper()
				made, err := i.WorkloadToken(t.Context(), c.wire(i.Node()), orders, []string{"db"})
				if err != nil {
					t.Fatal(err)
				}
				return made
			}
			stolen, other := token(web1), token(web2)
			c.revoke(tt.revoke(c), peer)
			if _, err := web1.WorkloadToken(t.Context(), c.wire("web1"), orders, []string{"db"}); !errors.Is(err, tt.want) {
				t.Errorf("while it is revoked: %v, want %v", err, tt.want)
			}
			if err := check(stolen); !errors.Is(err, ErrPeer) {
				t.Errorf("one of before: %v", err)
			}
			if err := check(other); (err == nil) == tt.web2 {
				t.Errorf("one of another node: %v", err)
			}
			if tt.again == nil {
				return
			}
			if err := tt.again(c); err != nil {
				t.Fatal(err)
			}
			if err := check(token(web1)); err != nil {
				t.Errorf("one of since: %v", err)
			}
			if err := check(stolen); !errors.Is(err, ErrPeer) {
				t.Errorf("one of before, when it is allowed again: %v", err)
			}
		})
	}
	c := newCluster(t)
	i := c.joined("web1", orders)
	c.reroster(i, func(r *snapshot.Roster) {
		r.RevokedIdentities = append(r.RevokedIdentities, ServiceID(testDomain, orders))
	})
	if err := i.CheckToken(ServiceID(testDomain, orders), "web1", c.clock.Now()); !errors.Is(err, ErrPeer) {
		t.Errorf("one that the roster revokes: %v", err)
	}
}

// TestSuspended: a service that a node lost because it was revoked everywhere comes back when that is undone, and nothing
// else does: not what the node never ran, nor what was taken from it alone, nor anything of a host that was removed.
func TestSuspended(t *testing.T) {
	t.Parallel()
	node, ctx, third := "web1", t.Context(), exchange.ServiceName{Namespace: "default", Name: "third"}
	for _, tt := range []struct {
		name string
		do   func(r *Registrar) error
		back bool
	}{
		{"suspended", func(r *Registrar) error { return r.Suspend(ctx, node, orders) }, true},
		{"suspended twice", func(r *Registrar) error {
			return errors.Join(r.Suspend(ctx, node, orders), r.Suspend(ctx, node, orders))
		}, true},
		{"denied", func(r *Registrar) error { return r.Deny(ctx, node, orders) }, false},
		{"denied, then suspended", func(r *Registrar) error {
			return errors.Join(r.Deny(ctx, node, orders), r.Suspend(ctx, node, orders))
		}, false},
		{"suspended, then denied", func(r *Registrar) error {
			return errors.Join(r.Suspend(ctx, node, orders), r.Deny(ctx, node, orders))
		}, false},
		{"allowed again, then denied", func(r *Registrar) error {
			return errors.Join(r.Suspend(ctx, node, orders), r.Allow(ctx, node, orders), r.Deny(ctx, node, orders))
		}, false},
		{"removed", func(r *Registrar) error { return errors.Join(r.Suspend(ctx, node, orders), r.Remove(ctx, node)) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.joined(node, orders, billing)
			if err := tt.do(c.registrar); err != nil {
				t.Fatal(err)
			}
			if n, err := c.registrar.Node(t.Context(), node); err != nil || slices.Contains(n.Services, orders) || !slices.Contains(n.Services, billing) {
				t.Errorf("before it is undone: %+v, %v", n, err)
			}
			if err := errors.Join(c.registrar.Resume(t.Context(), node, orders), c.registrar.Resume(t.Context(), node, third)); err != nil {
				t.Fatal(err)
			}
			n, err := c.registrar.Node(t.Context(), node)
			if err != nil || slices.Contains(n.Services, orders) != tt.back || !slices.Contains(n.Services, billing) || slices.Contains(n.Services, third) {
				t.Errorf("after it was undone: %+v, %v", n, err)
			}
			if tt.back && len(n.Suspended) > 0 {
				t.Errorf("it stays suspended: %+v", n)
			}
		})
	}
}
