package ca

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/bus"
)

// TestBusKeysAreReplaced goes through the steps of the authority: each follows on the one before, and nothing that signs changes.
func TestBusKeysAreReplaced(t *testing.T) {
	c := newCluster(t)
	node := c.joined("web1", testServices...)
	keys, roots := len(c.authority.held().roster.GetKeys()), len(c.authority.held().roster.GetRoots())
	if err := c.authority.ActivateBus(0); !errors.Is(err, ErrNotRotating) {
		t.Errorf("activated before it was announced: %v", err)
	}
	if err := c.authority.AnnounceBus(); err != nil {
		t.Fatal(err)
	}
	if err := c.authority.Cancel(); !errors.Is(err, ErrRotating) {
		t.Errorf("taken back, though the bus may have its keys: %v", err)
	}
	if err := c.authority.AnnounceRoot(); !errors.Is(err, ErrRotating) {
		t.Errorf("a root beside it: %v", err)
	}
	c.clock.advance(time.Second)
	if err := c.authority.ActivateBus(0); err != nil {
		t.Fatal(err)
	}
	r := c.authority.Rotation()
	if !r.Bus || r.Phase != Renewing || !r.OldEnds.Equal(node.own.Load().Leaf.NotAfter) || r.RenewBefore.Before(c.clock.Now()) {
		t.Errorf("renewing: %+v", r)
	}
	if err := c.authority.Withdraw(false); !errors.Is(err, ErrRotating) {
		t.Errorf("withdrawn while users of before are good: %v", err)
	}
	if err := c.authority.Withdraw(true); err != nil {
		t.Fatal(err)
	}
	h := c.authority.held()
	if len(h.roster.GetKeys()) != keys || len(h.roster.GetRoots()) != roots || len(h.roster.GetRevokedSerials()) > 0 {
		t.Errorf("the roster at the end: %+v", h.roster)
	}
}

// TestUserOfBeforeIsKept: a node whose user is of new keys of the bus keeps the one of before, and shows it where the bus knows
// no other, until it has renewed.
func TestUserOfBeforeIsKept(t *testing.T) {
	c := newCluster(t)
	var rotation Rotation
	i := openIdentity(t, IdentityConfig{Dir: t.TempDir(), Now: c.clock.Now, Log: slog.New(slog.DiscardHandler), Rotated: func(r Rotation) { rotation = r }})
	if err := i.Join(t.Context(), c.token("web1", testServices...), c.wire("web1").dial); err != nil {
		t.Fatal(err)
	}
	renew := func() Rotation {
		t.Helper()
		if err := i.request(t.Context(), c.wire("web1"), false); err != nil {
			t.Fatal(err)
		}
		return rotation
	}
	shown := func() string {
		t.Helper()
		token, err := i.BusConfig().Credential.Token()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	refused := i.BusConfig().Credential.Refused
	first := i.current().GetRenewJwt()
	if renew().Bus {
		t.Error("a user of the same keys is told as one of others")
	}
	if refused(); shown() == first {
		t.Error("a user of before, where there is none")
	}
	accounts, err := c.registrar.cfg.Users.(*bus.Accounts).Successor(c.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	c.registrar.cfg.Users = accounts
	if !renew().Bus {
		t.Error("nobody is told that the user is of other keys")
	}
	working := shown()
	if working != i.current().GetBusJwt() {
		t.Error("the working user is not shown")
	}
	refused()
	if before := shown(); busIssuer(before) != busIssuer(first) {
		t.Error("the user of before is not shown where the bus does not know the other")
	}
	select {
	case <-i.refresh:
	default:
		t.Error("it does not ask for other users, and can do nothing else")
	}
	if refused(); shown() != working {
		t.Error("where the bus knows neither, the working user is not shown again")
	}
	refused()
	if renew(); shown() != i.current().GetBusJwt() {
		t.Error("after it has renewed, the working user is not shown")
	}
}
