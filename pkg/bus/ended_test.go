package bus_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

// TestEndedUsersStayOut ends a node's users: its connection is closed, neither its working user nor the one that may
// only renew is let in, here or by a server that starts with the list, a flood of another's changes nothing about that,
// and nobody else is touched. A list without them lets them in.
func TestEndedUsersStayOut(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	key, seed, err := bus.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	working, err := b.Accounts.NodeUser("web1", nil, key, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	renewing, err := b.Accounts.RenewUser("web1", key)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	letIn := func(b *bustest.Bus, token string) bool {
		t.Helper()
		conn, err := nats.Connect("tls://"+b.Addr, nats.Secure(b.Roots.Clone()), nats.TLSHandshakeFirst(), nats.NoReconnect(), nats.Timeout(30*time.Second),
			nats.UserJWT(func() (string, error) { return token, nil }, pair.Sign))
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	closed := make(chan struct{})
	connectRaw(t, b, bus.NodeCredential("web1", func() (string, error) { return working, nil }, seed), func(error) {},
		nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	other := b.Node(t, "web2")
	if err := b.Server.End(t.Context(), []string{key}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
	case <-time.After(30 * time.Second):
		t.Fatal("its connection stays")
	}
	b.Server.CutOff("web2", bus.VerbApplied) // changes the account again
	for other.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	again := bustest.StartIn(t, t.TempDir(), b.Accounts, key)
	for name, b := range map[string]*bustest.Bus{"the server": b, "the next server": again} {
		for which, token := range map[string]string{"working": working, "renewing": renewing} {
			if letIn(b, token) {
				t.Errorf("%s lets in its %s user", name, which)
			}
		}
	}
	again.Node(t, "web3")
	if err := b.Server.End(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if !letIn(b, working) {
		t.Error("it is not let in when nothing is ended any more")
	}
}
