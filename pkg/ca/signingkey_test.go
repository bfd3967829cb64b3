package ca

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// askSigning has the root, whose key is kept elsewhere, let another signing key follow, and returns its answer.
func (m *move) askSigning() []byte {
	m.t.Helper()
	request, err := m.authority.RequestSigning()
	if err != nil {
		m.t.Fatal(err)
	}
	return m.agreed(m.root, request)
}

// announceSigning takes the first step of the rotation. kill is called in between.
func (m *move) announceSigning(kill func()) error {
	m.t.Helper()
	if m.root == nil {
		return m.authority.AnnounceSigning()
	}
	if err := m.authority.AnnounceSigning(); !errors.Is(err, ErrRootOffline) {
		m.t.Errorf("announced without the root: %v", err)
	}
	before := m.authority.Roster()
	answer := m.askSigning()
	kill()
	if r := m.authority.Rotation(); m.authority.AwaitedSigning() == "" || r.Phase != NotRotating || string(m.authority.Roster()) != string(before) {
		m.t.Errorf("announced before the root has answered: %+v", r)
	}
	return m.authority.Accept(answer)
}

// TestSigningKeyIsReplaced step by step, the controller killed after each. Nodes that were told go over, one that was away
// for all of it comes back with its old receipt, and whoever has the old key makes nothing that counts.
func TestSigningKeyIsReplaced(t *testing.T) {
	t.Parallel()
	for _, offline := range []bool{false, true} {
		t.Run(fmt.Sprintf("offline root %v", offline), func(t *testing.T) {
			t.Parallel()
			signingKeyIsReplaced(t, newMove(t, offline, false))
		})
	}
}

func signingKeyIsReplaced(t *testing.T, m *move) {
	c := m.cluster
	told, away := c.joined("told", orders), c.joined("away", orders)
	thief := c.authority.Signer()
	kill := func() {
		t.Helper()
		if err := c.authority.Close(); err != nil {
			t.Fatal(err)
		}
		c.authority = openAuthority(t, c.authority.cfg)
		c.registrar.cfg.Authority = c.authority
	}
	step := func(f func() error) {
		t.Helper()
		if err := f(); err != nil {
			t.Fatal(err)
		}
		kill()
		if _, err := told.UpdateRoster(c.authority.Roster()); err != nil {
			t.Fatal(err)
		}
	}
	believed := func() snapshot.Keys { return told.believed.Load().roster.SigningKeys() }

	announce := func() error { return m.announceSigning(kill) }
	step(announce)
	if r := c.authority.Rotation(); !r.Signing || r.Phase != Announced || r.From != thief.ID || r.To == r.From || c.authority.Signer().ID != thief.ID || len(believed()) != 2 {
		t.Fatalf("announced: %+v, %d keys are believed", r, len(believed()))
	}
	step(c.authority.Cancel)
	if r := c.authority.Rotation(); r.Phase != NotRotating || len(believed()) != 1 || c.authority.Signer().ID != thief.ID {
		t.Fatalf("taken back: %+v, %d keys are believed", r, len(believed()))
	}
	step(announce)
	next := c.authority.Rotation().To
	c.clock.advance(time.Minute)
	step(func() error { return c.authority.ActivateSigning(0) })
	if r := c.authority.Rotation(); r.Phase != Renewing || r.From != thief.ID || r.To != next || c.authority.Signer().ID != next {
		t.Fatalf("active: %+v, %s signs", r, c.authority.Signer().ID)
	}
	c.clock.advance(time.Millisecond)
	if _, recalled := told.recalled(c.clock.Now()); !recalled {
		t.Error("the node is not asked for another receipt")
	}
	if err := told.request(t.Context(), c.wire("told"), false); err != nil {
		t.Fatal(err)
	}
	if by := told.current().GetReceipt().GetKeyId(); by != next {
		t.Errorf("the receipt is signed by %s", by)
	}
	if err := c.authority.Withdraw(false); !errors.Is(err, ErrRotating) {
		t.Errorf("withdrawn while receipts are signed by it: %v", err)
	}
	intermediate := c.authority.held().intermediate
	step(func() error { return c.authority.Withdraw(true) })
	if len(believed()) != 1 || believed()[next] == nil {
		t.Errorf("withdrawn: %v is believed", believed())
	}
	if told.believed.Load().serials[serialOf(intermediate)] {
		t.Error("the intermediate was withdrawn with it")
	}
	if err := believes(t, told, away, orders); err != nil {
		t.Errorf("a certificate of before: %v", err)
	}

	// The thief makes himself a receipt of another node's, with a key of his own.
	forged := proto.CloneOf(away.current())
	receipt := &Receipt{}
	if err := proto.Unmarshal(forged.GetReceipt().GetReceipt(), receipt); err != nil {
		t.Fatal(err)
	}
	receipt.Number += 100
	raw, err := proto.Marshal(receipt)
	if err != nil {
		t.Fatal(err)
	}
	forged.Receipt = &SignedReceipt{Receipt: raw, KeyId: thief.ID, Signature: thief.Sign(receiptDomain, raw)}
	honest := away.current()
	away.state = forged
	if err := away.request(t.Context(), c.wire("away"), false); err == nil {
		t.Error("a receipt that a withdrawn key signed is believed")
	}
	// And answers a node in the controller's place.
	liar := *c.registrar
	liar.cfg.Authority = openAuthority(t, authorityConfig(t))
	liar.cfg.Authority.holding = c.authority.held()
	liar.cfg.Authority.signing.Signer = thief
	if err := told.request(t.Context(), &wire{registrar: &liar, node: "told"}, false); !errors.Is(err, ErrUntrusted) {
		t.Errorf("an answer that a withdrawn key signed: %v", err)
	}

	away.state = honest
	if err := away.request(t.Context(), c.wire("away"), false); err != nil {
		t.Errorf("who was away for all of it: %v", err)
	} else if by := away.current().GetReceipt().GetKeyId(); by != next {
		t.Errorf("its receipt is signed by %s", by)
	}
}

// TestAnswersToASigningKeyThatAreWrong are not taken, and change nothing.
func TestAnswersToASigningKeyThatAreWrong(t *testing.T) {
	t.Parallel()
	m := newMove(t, true, false)
	read := func(file []byte) *RootAnswer { return readAnswer(t, file) }
	other := newMove(t, true, false)
	foreign := read(other.askSigning())
	request, err := m.authority.Request()
	if err != nil {
		t.Fatal(err)
	}
	plain := read(m.agreed(m.root, request))
	given := m.askSigning()
	m.clock.advance(time.Second)
	good := m.askSigning()
	before, intermediate, awaited := string(m.authority.Roster()), m.authority.held().intermediate, m.authority.AwaitedSigning()
	for _, tt := range []struct {
		name   string
		change func(*RootAnswer)
	}{
		{"to a request that was given up", func(a *RootAnswer) { proto.Reset(a); proto.Merge(a, read(given)) }},
		{"of another cluster's root", func(a *RootAnswer) {
			a.Delegation, a.DelegationSignature = foreign.GetDelegation(), foreign.GetDelegationSignature()
			a.LastDelegation, a.LastDelegationSignature = foreign.GetLastDelegation(), foreign.GetLastDelegationSignature()
		}},
		{"no intermediate", func(a *RootAnswer) { a.Intermediate = nil }},
		{"an intermediate of another key", func(a *RootAnswer) { a.Intermediate = plain.GetIntermediate() }},
		{"no delegation", func(a *RootAnswer) { a.Delegation = nil }},
		{"a delegation that lists the new key alone", func(a *RootAnswer) {
			a.Delegation, a.DelegationSignature = a.GetLastDelegation(), a.GetLastDelegationSignature()
		}},
		{"a delegation that lists the old key alone", func(a *RootAnswer) {
			a.Delegation, a.DelegationSignature = plain.GetDelegation(), plain.GetDelegationSignature()
		}},
		{"no delegation for afterwards", func(a *RootAnswer) { a.LastDelegation = nil }},
		{"a delegation for afterwards that lists the old key alone", func(a *RootAnswer) {
			a.LastDelegation, a.LastDelegationSignature = plain.GetDelegation(), plain.GetDelegationSignature()
		}},
		{"a delegation for afterwards that the root did not sign", func(a *RootAnswer) { a.LastDelegationSignature = a.GetDelegationSignature() }},
	} {
		answer := read(good)
		tt.change(answer)
		if err := m.authority.Accept(mustEncode(t, answer)); err == nil {
			t.Fatalf("%s: taken", tt.name)
		}
		if r := m.authority.Rotation(); r.Phase != NotRotating || string(m.authority.Roster()) != before || !m.authority.held().intermediate.Equal(intermediate) || m.authority.AwaitedSigning() != awaited {
			t.Fatalf("%s: something has changed: %+v", tt.name, r)
		}
	}
	if err := m.authority.Accept(good); err != nil {
		t.Error("the answer that is not spoilt is not taken: the test shows nothing:", err)
	}
	if err := m.authority.Accept(good); err == nil {
		t.Error("an answer is taken twice")
	}
}

// TestASigningKeyThatWasAskedForIsGivenUp by another request, and by an operator: its answer is not taken then.
func TestASigningKeyThatWasAskedForIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, give := range map[string]func(*move) error{
		"another request": func(m *move) error { _, err := m.authority.Request(); return err },
		"cancelled":       func(m *move) error { return m.authority.Cancel() },
	} {
		m := newMove(t, true, false)
		answer := m.askSigning()
		if err := give(m); err != nil {
			t.Fatal(name, err)
		}
		if err := m.authority.Accept(answer); err == nil || m.authority.AwaitedSigning() != "" || m.authority.Rotation().Phase != NotRotating {
			t.Errorf("%s: %v, %+v", name, err, m.authority.Rotation())
		}
		if err := m.announceSigning(func() {}); err != nil {
			t.Errorf("%s: asked again: %v", name, err)
		}
	}
	m := newMove(t, false, false)
	if _, err := m.authority.RequestSigning(); err == nil {
		t.Error("a root is asked whose key is here")
	}
}

// TestADelegateCannotBringTheOldSigningKeyBack: what the root lets a controller sign lists the old one until it is withdrawn,
// and not afterwards. An intermediate can be asked for in between.
func TestADelegateCannotBringTheOldSigningKeyBack(t *testing.T) {
	t.Parallel()
	m := newMove(t, true, false)
	i := m.joined("web1", orders)
	old := m.authority.Signer().Public()
	if err := m.announceSigning(func() {}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.authority.Request(); !errors.Is(err, ErrRotating) {
		t.Errorf("asked while a key is announced: %v", err)
	}
	if err := m.authority.ActivateSigning(0); err != nil {
		t.Fatal(err)
	}
	again := func(r *snapshot.Roster) { r.Keys = append(withoutKey(r.GetKeys(), old.GetId()), old) }
	ask := func() []byte {
		t.Helper()
		request, err := m.authority.Request()
		if err != nil {
			t.Fatal(err)
		}
		return m.agreed(m.root, request)
	}
	if err := m.authority.Accept(ask()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.authority.UpdateRoster(again); err != nil {
		t.Errorf("while both are believed: %v", err)
	}
	late, thief := ask(), m.authority.held()
	if err := m.authority.Withdraw(true); err != nil {
		t.Fatal(err)
	}
	if _, err := i.UpdateRoster(m.authority.Roster()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.authority.UpdateRoster(again); !errors.Is(err, ErrRootOffline) {
		t.Errorf("the old key is brought back: %v", err)
	}
	if err := thief.sign(func(r *snapshot.Roster) { again(r); r.Epoch = 99 }); err != nil {
		t.Fatal(err)
	}
	if _, err := i.UpdateRoster(thief.signedRoster); !errors.Is(err, snapshot.ErrDelegation) {
		t.Errorf("the old key is brought back by whoever kept the delegation of before: %v", err)
	}
	if err := m.authority.Accept(late); err != nil { // asked while both were believed
		t.Fatal(err)
	}
	if _, err := m.authority.UpdateRoster(again); !errors.Is(err, ErrRootOffline) {
		t.Errorf("the old key is brought back by an answer that is late: %v", err)
	}
	if _, err := i.UpdateRoster(m.authority.Roster()); err != nil {
		t.Error(err)
	}
}
