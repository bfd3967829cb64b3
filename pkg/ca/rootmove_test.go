package ca

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A move is a cluster whose root another follows on. Roots are nil whose keys the controller has.
type move struct {
	*cluster
	root, next *OfflineRoot
}

func newMove(t *testing.T, offline, follows bool) *move {
	t.Helper()
	clock := &clock{now: testStart}
	cfg := authorityConfig(t)
	cfg.Now = clock.Now
	m := &move{}
	if offline {
		m.root, _ = offlineRoot(t)
		begun, err := AwaitRoot(cfg, m.root.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		request, err := begun.Request()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(begun.Accept(signed(t, m.root, request, 0, testStart)), begun.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if follows {
		m.next, _ = offlineRoot(t)
	}
	m.cluster = newClusterOf(t, cfg)
	m.clock = clock
	return m
}

func (m *move) isOffline() bool { return m.next != nil }

// request asks for the next root to follow.
func (m *move) request() []byte {
	m.t.Helper()
	var next *x509.Certificate
	if m.next != nil {
		next = m.next.Certificate
	}
	request, err := m.authority.RequestSuccessor(next)
	if err != nil {
		m.t.Fatal(err)
	}
	return request
}

// answers are of the roots whose keys are kept elsewhere, the next one's first.
func (m *move) answers(request []byte) (all [][]byte) {
	m.t.Helper()
	for _, root := range []*OfflineRoot{m.next, m.root} {
		if root != nil {
			all = append(all, m.agreed(root, request))
		}
	}
	return all
}

// agreed carries a request to a root where people agree to the other root in it.
func (m *move) agreed(root *OfflineRoot, request []byte) []byte {
	m.t.Helper()
	parsed, err := ParseRequest(request)
	if err != nil {
		m.t.Fatal(err)
	}
	if parsed.Agreed, _, err = root.Other(parsed); err != nil {
		m.t.Fatal(err)
	}
	if parsed.AgreedOutside, err = parsed.OutsideRoots(); err != nil {
		m.t.Fatal(err)
	}
	answer, err := root.Sign(parsed, 0, m.clock.Now())
	if err != nil {
		m.t.Fatal(err)
	}
	return answer
}

// announce takes the first step of the rotation. kill is called in between.
func (m *move) announce(kill func()) {
	m.t.Helper()
	if m.root == nil && m.next == nil {
		if err := m.authority.AnnounceRoot(); err != nil {
			m.t.Fatal(err)
		}
		return
	}
	all := m.answers(m.request())
	for n, answer := range all {
		kill()
		if _, awaited := m.authority.Awaited(); len(awaited) != len(all)-n {
			m.t.Errorf("the answers of %v are awaited, want %d", awaited, len(all)-n)
		}
		if r := m.authority.Rotation(); r.Phase != NotRotating {
			m.t.Errorf("announced before all have agreed: %+v", r)
		}
		if err := m.authority.Accept(answer); err != nil {
			m.t.Fatal(err)
		}
	}
}

// TestRootsThatAreKeptElsewhereAgree to another at their side only where people named that one.
func TestRootsThatAreKeptElsewhereAgree(t *testing.T) {
	t.Parallel()
	m := newMove(t, true, true)
	foreign, _ := offlineRoot(t)
	domain, _, err := NewOfflineRoot("test", "example.org", fixed("correct horse battery"), testStart)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.authority.RequestSuccessor(domain.Certificate); err == nil {
		t.Error("a root of another trust domain is asked to follow")
	}
	if _, err := m.authority.RequestSuccessor(m.root.Certificate); err == nil {
		t.Error("a root is asked to follow on itself")
	}
	file := m.request()
	for _, tt := range []struct {
		name   string
		by     *OfflineRoot
		agreed *x509.Certificate
		wrong  bool
	}{
		{"the root agrees to its successor", m.root, m.next.Certificate, false},
		{"the next one to the one before", m.next, m.root.Certificate, false},
		{"the root, to nobody", m.root, nil, true},
		{"the root, to another", m.root, foreign.Certificate, true},
		{"the next one, to nobody", m.next, nil, true},
		{"the next one, to itself", m.next, m.next.Certificate, true},
		{"a third one", foreign, m.root.Certificate, true},
	} {
		request, err := ParseRequest(file)
		if err != nil {
			t.Fatal(err)
		}
		request.Agreed = tt.agreed
		if _, err := tt.by.Sign(request, 0, testStart); (err != nil) != tt.wrong {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestAnswersToAMoveThatAreWrong are not taken, and change nothing.
func TestAnswersToAMoveThatAreWrong(t *testing.T) {
	t.Parallel()
	m := newMove(t, true, true)
	other := newMove(t, true, true)
	foreign := other.answers(other.request())
	first := m.answers(m.request())
	answers := m.answers(m.request())
	changed := func(file []byte, change func(*RootAnswer)) []byte {
		answer := readAnswer(t, file)
		change(answer)
		return mustEncode(t, answer)
	}
	read := func(file []byte) *RootAnswer { return readAnswer(t, file) }
	next, root := read(answers[0]), read(answers[1])
	before := m.authority.Roster()
	for name, file := range map[string][]byte{
		"to a request that was given up":                    first[0],
		"of another cluster's root":                         foreign[1],
		"a succession to another root":                      changed(answers[1], func(a *RootAnswer) { a.Succession = read(foreign[1]).Succession }),
		"another's certificate of the next root":            changed(answers[1], func(a *RootAnswer) { a.Cross = read(foreign[1]).Cross }),
		"the intermediate in the place of the next root":    changed(answers[1], func(a *RootAnswer) { a.Cross = next.Intermediate }),
		"no delegation of the root":                         changed(answers[1], func(a *RootAnswer) { a.Delegation = nil }),
		"the next one's delegation in the place of its own": changed(answers[1], func(a *RootAnswer) { a.Delegation, a.DelegationSignature = next.Delegation, next.DelegationSignature }),
		"an intermediate of the root":                       changed(answers[0], func(a *RootAnswer) { a.Intermediate = root.Cross }),
		"a delegation that lists one root alone":            changed(answers[0], func(a *RootAnswer) { a.Delegation, a.DelegationSignature = a.LastDelegation, a.LastDelegationSignature }),
		"no delegation for afterwards":                      changed(answers[0], func(a *RootAnswer) { a.LastDelegation = nil }),
	} {
		if err := m.authority.Accept(file); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	m.clock.advance(-24 * time.Hour)
	if err := m.authority.Accept(answers[0]); err == nil {
		t.Error("an intermediate that is not valid yet is taken")
	}
	m.clock.advance(24 * time.Hour)
	if _, awaited := m.authority.Awaited(); len(awaited) != 2 || string(m.authority.Roster()) != string(before) {
		t.Errorf("something has changed: %v", awaited)
	}
	if err := m.authority.Cancel(); err != nil {
		t.Fatal(err)
	}
	if err := m.authority.Accept(answers[0]); err == nil {
		t.Error("an answer is taken after the request was taken back")
	}
}

// TestAnAnswerWaitsForWhatIsRotated since it was asked for: it takes nothing's place.
func TestAnAnswerWaitsForWhatIsRotated(t *testing.T) {
	t.Parallel()
	m := newMove(t, false, true)
	answer := m.answers(m.request())[0]
	if err := m.authority.RotateIntermediate(0); err != nil {
		t.Fatal(err)
	}
	if err := m.authority.Accept(answer); !errors.Is(err, ErrRotating) {
		t.Errorf("taken while the intermediate is rotated: %v", err)
	}
	if r := m.authority.Rotation(); r.Root || r.Phase != Renewing {
		t.Errorf("what was rotated is forgotten: %+v", r)
	}
	if err := m.authority.Withdraw(true); err != nil {
		t.Fatal(err)
	}
	if err := m.authority.Accept(answer); err != nil || !m.authority.Rotation().Root {
		t.Errorf("afterwards: %v, %+v", err, m.authority.Rotation())
	}
}

// TestADelegateCannotBringTheOldRootBack: what the next root lets a controller sign lists the old one until it is withdrawn,
// and not afterwards. An intermediate can be asked for in between.
func TestADelegateCannotBringTheOldRootBack(t *testing.T) {
	t.Parallel()
	for _, offline := range []bool{false, true} {
		m := newMove(t, offline, true)
		i := m.joined("web1", orders)
		m.announce(func() {})
		old := m.authority.Root()
		if _, err := m.authority.Request(); err == nil || offline && !errors.Is(err, ErrRotating) {
			t.Errorf("asked while a root is announced: %v", err)
		}
		if err := m.authority.ActivateRoot(0); err != nil {
			t.Fatal(err)
		}
		request, err := m.authority.Request()
		if err != nil {
			t.Fatal(err)
		}
		if parsed, err := ParseRequest(request); err != nil {
			t.Fatal(err)
		} else if _, err := m.next.Sign(parsed, 0, m.clock.Now()); !errors.Is(err, ErrNotAgreed) {
			t.Errorf("the next root lists the old one, and nobody agreed: %v", err)
		}
		if err := m.authority.Accept(m.agreed(m.next, request)); err != nil {
			t.Fatal(err)
		}
		again := func(r *snapshot.Roster) { r.Roots = [][]byte{r.Roots[0], old.Raw} }
		if _, err := m.authority.UpdateRoster(again); err != nil {
			t.Errorf("while both are trusted: %v", err)
		}
		late, err := m.authority.Request()
		if err != nil {
			t.Fatal(err)
		}
		thief := m.authority.held()
		if err := m.authority.Withdraw(true); err != nil {
			t.Fatal(err)
		}
		if _, err := i.UpdateRoster(m.authority.Roster()); err != nil {
			t.Fatal(err)
		}
		if _, err := m.authority.UpdateRoster(again); !errors.Is(err, ErrRootOffline) {
			t.Errorf("the old root is brought back: %v", err)
		}
		if err := thief.sign(func(r *snapshot.Roster) { again(r); r.Epoch = 99 }); err != nil {
			t.Fatal(err)
		}
		if _, err := i.UpdateRoster(thief.signedRoster); !errors.Is(err, snapshot.ErrDelegation) {
			t.Errorf("the old root is brought back by whoever kept the delegation of before: %v", err)
		}
		if err := m.authority.Accept(m.agreed(m.next, late)); err != nil { // asked while both were trusted
			t.Fatal(err)
		}
		if _, err := m.authority.UpdateRoster(again); !errors.Is(err, ErrRootOffline) {
			t.Errorf("the old root is brought back by an answer that is late: %v", err)
		}
		if _, err := i.UpdateRoster(m.authority.Roster()); err != nil {
			t.Error(err)
		}
	}
}

// TestRootsFollowToAndFro, elsewhere and here, under a node that hears of none but the last.
func TestRootsFollowToAndFro(t *testing.T) {
	t.Parallel()
	m := newMove(t, false, true)
	i := m.joined("web1", orders)
	for range 2 {
		m.announce(func() {})
		if err := m.authority.ActivateRoot(0); err != nil {
			t.Fatal(err)
		}
		if err := m.authority.Withdraw(true); err != nil {
			t.Fatal(err)
		}
		m.root, m.next = m.next, nil // and back
	}
	if _, err := i.UpdateRoster(m.authority.Roster()); err != nil {
		t.Fatal(err)
	}
	if err := i.request(t.Context(), m.wire("web1"), false); err != nil {
		t.Fatal(err)
	}
	if i.RootHash() != m.authority.RootHash() || m.authority.Offline() {
		t.Error("the node has not come to the newest root")
	}
}
