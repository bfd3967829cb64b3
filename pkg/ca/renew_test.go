package ca

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func TestRenewal(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	serial, key := leafSerial(t, i, orders), i.Status().Key
	var told []Rotation
	i.cfg.Rotated = func(r Rotation) { told = append(told, r) }
	c.clock.advance(13 * time.Hour)
	if err := i.Renew(t.Context(), c.wire("web1")); err != nil {
		t.Fatal(err)
	}
	status := i.Status()
	if status.Generation != 2 || status.Key == key || leafSerial(t, i, orders) == serial || status.Pending {
		t.Errorf("after renewing: %+v", status)
	}
	if node := c.node("web1"); node.Generation != 2 || node.Key != status.Key {
		t.Errorf("registered as %+v", node)
	}
	if len(told) != 1 || !told[0].Key || !slices.Equal(told[0].Services, []exchange.ServiceName{orders}) {
		t.Errorf("told of %+v", told)
	}
}

// A renewal that is cut short anywhere is repeated, over a restart, and ends with one new generation.
func TestRenewalCutShort(t *testing.T) {
	t.Parallel()
	cut := errors.New("cut")
	for _, tt := range []struct {
		name string
		cut  func(*wire, *Identity)
	}{
		{"before it is sent", func(w *wire, _ *Identity) { w.request = func([]byte) ([]byte, error) { return nil, cut } }},
		{"after it is sent, before the answer", func(w *wire, _ *Identity) { w.reply = func([]byte) ([]byte, error) { return nil, cut } }},
		{"after the answer, before it is stored", func(w *wire, i *Identity) {
			w.reply = func(reply []byte) ([]byte, error) { return reply, i.Close() }
		}},
	} {
		for _, again := range []int{1, 3} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t)
				dir := t.TempDir()
				i := c.identity(dir)
				if err := i.Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
					t.Fatal(err)
				}
				for range again {
					wire := c.wire("web1")
					tt.cut(wire, i)
					if err := i.Renew(t.Context(), wire); err == nil {
						t.Fatal("renewed")
					}
					payload := []byte("registration")
					signature, err := i.Sign(payload)
					if err != nil {
						t.Fatal(err)
					}
					if err := c.registrar.VerifyNode(t.Context(), "web1", payload, signature); err != nil {
						t.Errorf("registrations fail meanwhile: %v", err)
					}
					_ = i.Close()
					i = c.identity(dir)
				}
				if err := i.Renew(t.Context(), c.wire("web1")); err != nil {
					t.Fatal(err)
				}
				node := c.node("web1")
				if node.State != "active" || node.Generation != 2 || node.Key != i.Status().Key {
					t.Errorf("registered as %+v, node has %+v", node, i.Status())
				}
				if err := i.Renew(t.Context(), c.wire("web1")); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func copyState(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(from, identityFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, identityFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCopiedHostIsFrozenUntilOneIsAccepted(t *testing.T) {
	t.Parallel()
	for _, acceptCopy := range []bool{false, true} {
		c := newCluster(t)
		dirs := [2]string{t.TempDir(), t.TempDir()}
		first := c.identity(dirs[0])
		if err := first.Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
			t.Fatal(err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		copyState(t, dirs[0], dirs[1])
		first = c.identity(dirs[0])
		second := c.identity(dirs[1])
		if err := first.Renew(t.Context(), c.wire("web1")); err != nil {
			t.Fatal(err)
		}
		if err := second.Renew(t.Context(), c.wire("web1")); !errors.Is(err, ErrFrozen) || !strings.Contains(err.Error(), "sennit node accept web1") {
			t.Fatalf("the copy: %v", err)
		}
		if err := first.Renew(t.Context(), c.wire("web1")); !errors.Is(err, ErrFrozen) {
			t.Fatalf("the original while frozen: %v", err)
		}
		if !c.reported(ErrFrozen) {
			t.Error("not reported")
		}
		if _, err := first.Certificate(orders); err != nil {
			t.Errorf("what runs stopped: %v", err)
		}
		node := c.node("web1")
		if node.State != "frozen" || node.Rival == "" || node.Why == "" {
			t.Errorf("shown as %+v", node)
		}
		if err := c.registrar.Accept(t.Context(), "web1", "0123"); err == nil {
			t.Error("accepted a key that nobody has")
		}
		winner, loser, key := first, second, node.Key
		if acceptCopy {
			winner, loser, key = second, first, node.Rival
		}
		if err := c.registrar.Accept(t.Context(), "web1", key); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := loser.Renew(t.Context(), c.wire("web1")); !errors.Is(err, ErrOldGeneration) {
				t.Errorf("accept copy %v: the other: %v", acceptCopy, err)
			}
			if err := winner.Renew(t.Context(), c.wire("web1")); err != nil {
				t.Errorf("accept copy %v: the accepted: %v", acceptCopy, err)
			}
		}
		if node := c.node("web1"); node.State != "active" || node.Key != winner.Status().Key {
			t.Errorf("accept copy %v: %+v", acceptCopy, node)
		}
		if err := c.registrar.Accept(t.Context(), "web1", ""); err == nil {
			t.Error("accepted a node that is not frozen")
		}
	}
}

func TestOldDiskImageIsRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	dir, image := t.TempDir(), t.TempDir()
	i := c.identity(dir)
	if err := i.Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
		t.Fatal(err)
	}
	copyState(t, dir, image)
	for range 3 {
		if err := i.Renew(t.Context(), c.wire("web1")); err != nil {
			t.Fatal(err)
		}
	}
	old := c.identity(image)
	if err := old.Renew(t.Context(), c.wire("web1")); !errors.Is(err, ErrOldGeneration) || !strings.Contains(err.Error(), "old image") {
		t.Errorf("the old image: %v", err)
	}
	if !c.reported(ErrOldGeneration) {
		t.Error("not reported")
	}
	if err := i.Renew(t.Context(), c.wire("web1")); err != nil {
		t.Errorf("the host itself: %v", err)
	}
}

func TestRestoredRegistryBelievesTheNewestReceipt(t *testing.T) {
	t.Parallel()
	for _, beforeJoining := range []bool{false, true} {
		c := newCluster(t)
		empty := c.store.backup()
		i := c.joined("web1", orders)
		backup := c.store.backup()
		if beforeJoining {
			backup = empty
		}
		if err := c.registrar.Allow(t.Context(), "web1", billing); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := i.Renew(t.Context(), c.wire("web1")); err != nil {
				t.Fatal(err)
			}
		}
		c.store.restore(backup)
		if err := i.Renew(t.Context(), c.wire("web1")); err != nil {
			t.Fatalf("before joining %v: %v", beforeJoining, err)
		}
		node := c.node("web1")
		if node.Generation != 5 || node.Key != i.Status().Key || !slices.Contains(node.Services, billing) {
			t.Errorf("before joining %v: %+v", beforeJoining, node)
		}
		if !c.reported(nil) {
			t.Error("not reported")
		}
	}
}

// What a node was allowed without a new key is on a receipt of the same generation.
func TestRestoredRegistryBelievesAServiceMore(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	backup := c.store.backup()
	if err := c.registrar.Allow(t.Context(), "web1", billing); err != nil {
		t.Fatal(err)
	}
	if err := i.Want(t.Context(), c.wire("web1"), billing); err != nil {
		t.Fatal(err)
	}
	key := c.node("web1").Key
	c.store.restore(backup)
	third := exchange.ServiceName{Namespace: "default", Name: "third"} // that an operator allows before the node has come
	if err := c.registrar.Allow(t.Context(), "web1", third); err != nil {
		t.Fatal(err)
	}
	if err := i.Want(t.Context(), c.wire("web1"), billing); err != nil {
		t.Fatalf("after the restore: %v", err)
	}
	for _, service := range []exchange.ServiceName{orders, billing, third} {
		if _, err := i.Certificate(service); err != nil {
			t.Error(err)
		}
	}
	if node := c.node("web1"); node.Generation != 1 || node.Key != key || !slices.Contains(node.Services, billing) {
		t.Errorf("registered as %+v", node)
	}
	if !c.reported(nil) {
		t.Error("not reported")
	}
}

// What was taken from a node after a backup stays taken, where its receipt says so.
func TestRestoredRegistryBelievesAServiceLess(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	if err := c.registrar.Allow(t.Context(), "web1", billing); err != nil {
		t.Fatal(err)
	}
	if err := i.Want(t.Context(), c.wire("web1"), billing); err != nil {
		t.Fatal(err)
	}
	backup := c.store.backup()
	if err := c.registrar.Deny(t.Context(), "web1", billing); err != nil {
		t.Fatal(err)
	}
	if err := i.Renew(t.Context(), c.wire("web1")); err != nil {
		t.Fatal(err)
	}
	c.store.restore(backup)
	if err := i.Want(t.Context(), c.wire("web1"), billing); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("after the restore: %v", err)
	}
}

// Receipts of a controller that was given up do not bring back what was taken away since.
func TestReceiptOfAnOlderEpochIsNotBelieved(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	dir, stale := t.TempDir(), t.TempDir()
	i := c.identity(dir)
	if err := i.Join(t.Context(), c.token("web1", orders, billing), c.wire("web1").dial); err != nil {
		t.Fatal(err)
	}
	backup := c.store.backup()
	copyState(t, dir, stale)
	old := c.identity(stale)
	for range 3 { // at the controller that is given up, with the same key
		if err := old.Want(t.Context(), c.wire("web1"), billing); err != nil {
			t.Fatal(err)
		}
	}
	c.store.restore(backup)
	c.reroster(i, func(r *snapshot.Roster) { r.Epoch = 5 })
	if err := i.Want(t.Context(), c.wire("web1"), billing); err != nil {
		t.Fatal(err)
	}
	if err := c.registrar.Deny(t.Context(), "web1", billing); err != nil {
		t.Fatal(err)
	}
	if err := old.Want(t.Context(), c.wire("web1"), billing); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("a receipt of epoch 0 gave back what was taken in epoch 5: %v", err)
	}
}

// Nobody makes a receipt but a controller.
func TestForgedReceiptIsNotBelieved(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	receipt := i.receipt()
	receipt.Services = append(receipt.Services, "default/billing")
	receipt.Generation = 9
	state := cloneState(i.current())
	var err error
	if state.Receipt.Receipt, err = proto.Marshal(receipt); err != nil {
		t.Fatal(err)
	}
	if err := i.store(state); err != nil {
		t.Fatal(err)
	}
	if err := i.Renew(t.Context(), c.wire("web1")); !errors.Is(err, ErrBadRequest) {
		t.Errorf("renewed with a forged receipt: %v", err)
	}
}

// A thief of an old key who also saw the successor's request cannot ask in the successor's name.
func TestOldKeyCannotUseTheSuccessorsRequest(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	dir, stolen := t.TempDir(), t.TempDir()
	i := c.identity(dir)
	if err := i.Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
		t.Fatal(err)
	}
	copyState(t, dir, stolen)
	var seen []byte
	wire := c.wire("web1")
	wire.request = func(payload []byte) ([]byte, error) { seen = payload; return payload, nil }
	if err := i.Renew(t.Context(), wire); err != nil {
		t.Fatal(err)
	}
	thief := c.identity(stolen)
	wire = c.wire("web1")
	wire.request = func(payload []byte) ([]byte, error) {
		mine, theirs := &SignedRequest{}, &SignedRequest{}
		myRequest, theirRequest := &RenewRequest{}, &RenewRequest{}
		err := errors.Join(proto.Unmarshal(payload, mine), proto.Unmarshal(mine.GetRequest(), myRequest),
			proto.Unmarshal(seen, theirs), proto.Unmarshal(theirs.GetRequest(), theirRequest))
		if err != nil {
			t.Fatal(err)
		}
		myRequest.Wanted.Csr = theirRequest.GetWanted().GetCsr()
		if mine.Request, err = proto.Marshal(myRequest); err != nil {
			t.Fatal(err)
		}
		key, err := parseKey(thief.current().GetKey())
		if err != nil {
			t.Fatal(err)
		}
		if mine.CurrentSignature, err = signECDSA(key, renewDomain, mine.GetRequest()); err != nil {
			t.Fatal(err)
		}
		return proto.Marshal(mine)
	}
	granted := c.authority
	before := 0
	if err := granted.IssuedTo(func(Issued) error { before++; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := thief.Renew(t.Context(), wire); err == nil {
		t.Error("the thief was served")
	}
	after := 0
	if err := granted.IssuedTo(func(Issued) error { after++; return nil }); err != nil || after != before {
		t.Errorf("%d certificates were issued (%v)", after-before, err)
	}
}

func TestAbsence(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	c.clock.advance(DefaultAbsence - time.Hour) // its certificates ended long ago
	if _, err := i.Certificate(orders); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("an expired certificate is in use: %v", err)
	}
	if !i.Status().RenewOnly {
		t.Error("the working bus user did not end")
	}
	if token, err := i.busToken(); err != nil || token != i.current().GetRenewJwt() {
		t.Errorf("connects with another user than the one that may renew: %v", err)
	}
	if err := i.Renew(t.Context(), c.wire("web1")); err != nil {
		t.Fatalf("off longer than its certificates lived: %v", err)
	}
	if _, err := i.Certificate(orders); err != nil {
		t.Error(err)
	}
	if token, err := i.busToken(); err != nil || token != i.current().GetBusJwt() {
		t.Errorf("does not work again: %v", err)
	}
	c.clock.advance(DefaultAbsence + time.Hour)
	if err := i.Renew(t.Context(), c.wire("web1")); !errors.Is(err, ErrAbsent) || !strings.Contains(err.Error(), "join-token create --node web1") {
		t.Errorf("past the limit: %v", err)
	}
	if err := c.identity(t.TempDir()).Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
		t.Errorf("its name is free then: %v", err)
	}
}

func TestRemovedNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	if err := c.registrar.Remove(t.Context(), "web1"); err != nil {
		t.Fatal(err)
	}
	if err := i.Renew(t.Context(), c.wire("web1")); !errors.Is(err, ErrRemoved) {
		t.Error(err)
	}
	signature, err := i.Sign([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.registrar.VerifyNode(t.Context(), "web1", []byte("x"), signature); !errors.Is(err, ErrRemoved) {
		t.Error(err)
	}
}

func TestAllowAndDeny(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	if err := i.Want(t.Context(), c.wire("web1"), billing); !errors.Is(err, ErrNotAllowed) || !strings.Contains(err.Error(), "sennit node allow web1 default/billing") {
		t.Errorf("before it is allowed: %v", err)
	}
	if _, err := i.Certificate(billing); !errors.Is(err, ErrNoCertificate) {
		t.Error("it has the certificate all the same")
	}
	if err := c.registrar.Allowed(t.Context(), "web1", billing); !errors.Is(err, ErrNotAllowed) {
		t.Error(err)
	}
	if err := c.registrar.Allow(t.Context(), "web1", billing); err != nil {
		t.Fatal(err)
	}
	if err := i.Want(t.Context(), c.wire("web1"), billing); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Certificate(billing); err != nil {
		t.Error(err)
	}
	if generation := c.node("web1").Generation; generation != 1 {
		t.Errorf("a certificate more made generation %d", generation)
	}
	if err := c.registrar.Deny(t.Context(), "web1", orders); err != nil {
		t.Fatal(err)
	}
	if err := i.Renew(t.Context(), c.wire("web1")); err != nil {
		t.Fatalf("the rest is renewed: %v", err)
	}
	if _, err := i.Certificate(orders); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("kept what was taken away: %v", err)
	}
	if _, err := i.Certificate(billing); err != nil {
		t.Error(err)
	}
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	web, db := c.joined("web1", orders), c.joined("db1", billing)
	signature, err := web.Sign([]byte("payload"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.registrar.VerifyNode(t.Context(), "web1", []byte("payload"), signature); err != nil {
		t.Error(err)
	}
	if err := c.registrar.VerifyNode(t.Context(), "web1", []byte("other"), signature); err == nil {
		t.Error("verifies another payload")
	}
	if err := c.registrar.VerifyNode(t.Context(), db.Node(), []byte("payload"), signature); err == nil {
		t.Error("verifies as another node")
	}
	if err := c.registrar.VerifyNode(t.Context(), "nobody", []byte("payload"), signature); !errors.Is(err, ErrUnknownNode) {
		t.Error(err)
	}
}
