package bus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

// letIn connects as a user once, and reports whether he is let in.
func letIn(t *testing.T, b *bustest.Bus, c bus.Credential, options ...nats.Option) (*nats.Conn, bool) {
	t.Helper()
	pair, err := nkeys.FromSeed(c.Seed)
	if err != nil {
		t.Fatal(err)
	}
	options = append([]nats.Option{
		nats.Secure(b.Roots.Clone()), nats.TLSHandshakeFirst(), nats.NoReconnect(), nats.Timeout(30 * time.Second), nats.CustomInboxPrefix(c.Inbox),
		nats.UserJWT(c.Token, pair.Sign),
	}, options...)
	conn, err := nats.Connect("tls://"+b.Addr, options...)
	if err != nil {
		if !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("not let in: %v", err)
		}
		return nil, false
	}
	t.Cleanup(conn.Close)
	return conn, true
}

// TestSuccessor replaces every key of a bus. What was stored stays; who has the seeds of before is a user of controllers no
// more, and of nodes as far as the server is told.
func TestSuccessor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var first *bus.Accounts
	var thief, node, renewing bus.Credential
	t.Run("before", func(t *testing.T) {
		b := bustest.StartIn(t, dir, nil)
		first = b.Accounts
		if _, err := b.Controller.Records(bus.StreamRegistry).Append(t.Context(), "sennit.registry.node.web1", []byte("kept"), 0); err != nil {
			t.Fatal(err)
		}
		var err error
		if thief, err = first.ControllerUser("thief"); err != nil {
			t.Fatal(err)
		}
		node = b.NodeCredential(t, "web1")
		key, seed, err := bus.NewUserKey()
		if err != nil {
			t.Fatal(err)
		}
		token, err := first.RenewUser("web1", key)
		if err != nil {
			t.Fatal(err)
		}
		renewing = bus.NodeCredential("web1", func() (string, error) { return token, nil }, seed)
		if _, in := letIn(t, b, thief); !in {
			t.Error("a user of controllers is not let in")
		}
	})
	second, err := first.Successor(time.UnixMilli(1_700_000_000_123))
	if err != nil {
		t.Fatal(err)
	}
	data, err := second.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	second = new(bus.Accounts)
	if err := second.UnmarshalBinary(data); err != nil {
		t.Fatal(err)
	}
	if second.Operator() == first.Operator() || second.FormerOperator() != first.Operator() || second.Made().UnixMilli() != 1_700_000_000_123 || len(second.Former()) != 1 {
		t.Fatalf("the successor: %s after %s, %v, %v", second.Operator(), second.FormerOperator(), second.Made(), second.Former())
	}
	former := second.Former()[0].GetKey()

	t.Run("after", func(t *testing.T) {
		b := bustest.StartFormer(t, dir, second, bus.FormerAccess{former: bus.LetIn})
		if got, err := b.Controller.Records(bus.StreamRegistry).Get(t.Context(), "sennit.registry.node.web1"); err != nil || string(got.Data) != "kept" {
			t.Errorf("what was stored: %q, %v", got.Data, err)
		}
		if _, in := letIn(t, b, thief); in {
			t.Error("a user of the controllers' account of before is let in")
		}
		requests := bus.NewRequests(bus.RequestsConfig{Conn: b.Controller, Limits: bus.DefaultLimits, Log: b.Log})
		for _, verb := range []string{bus.VerbRenew, bus.VerbAlive} {
			bustest.Run(t, func(ctx context.Context) error {
				return requests.Serve(ctx, verb, func(context.Context, string, []byte) ([]byte, error) { return []byte("yes"), nil })
			})
		}
		answered := func(conn *nats.Conn, verb string) bool {
			t.Helper()
			_, err := conn.Request("sennit.node.web1."+verb, []byte("x"), 10*time.Second)
			if err != nil && !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, nats.ErrConnectionClosed) {
				t.Errorf("ask %s: %v", verb, err)
			}
			return err == nil
		}
		await := func(what string, done func() bool) {
			t.Helper()
			for until := time.Now().Add(30 * time.Second); !done(); time.Sleep(time.Millisecond) {
				if time.Now().After(until) {
					t.Fatal(what)
				}
			}
		}
		closed := make(chan struct{})
		working, in := letIn(t, b, node, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
		if !in {
			t.Fatal("a node's user of before is not let in while nodes renew")
		}
		await("nobody answers", func() bool { return answered(working, bus.VerbAlive) })
		if err := b.Server.SetFormer(t.Context(), bus.FormerAccess{former: bus.MayRenew}); err != nil {
			t.Fatal(err)
		}
		await("a user of before may do more than renew", func() bool { return !answered(working, bus.VerbAlive) })
		if !answered(working, bus.VerbRenew) {
			t.Error("who was away for long may not renew")
		}
		if _, in := letIn(t, b, renewing); !in {
			t.Error("who may only renew is not let in")
		}
		if err := b.Server.SetFormer(t.Context(), bus.FormerAccess{}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-closed:
		case <-time.After(30 * time.Second):
			t.Error("the connection of a user of before stays")
		}
		for name, c := range map[string]bus.Credential{"working": node, "renewing": renewing} {
			if _, in := letIn(t, b, c); in {
				t.Errorf("a %s user of before is let in", name)
			}
		}
		if _, in := letIn(t, b, b.NodeCredential(t, "web1")); !in {
			t.Error("a node's new user is not let in")
		}
	})

	t.Run("a server that knows of none before", func(t *testing.T) {
		b := bustest.StartIn(t, dir, second.WithoutFormer())
		if _, in := letIn(t, b, node); in {
			t.Error("a user of an account of before is let in")
		}
		if got, err := b.Controller.Records(bus.StreamRegistry).Get(t.Context(), "sennit.registry.node.web1"); err != nil || string(got.Data) != "kept" {
			t.Errorf("what was stored: %q, %v", got.Data, err)
		}
	})
}
