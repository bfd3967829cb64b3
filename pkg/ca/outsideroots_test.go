package ca

import (
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// TestRootsOutsideAreAgreedTo, each by its certificate and no other, by both roots of a move too.
func TestRootsOutsideAreAgreedTo(t *testing.T) {
	t.Parallel()
	m := newMove(t, true, true)
	outside := newCorporate(t, m.clock.Now)
	second, _ := outside.authority("Example root 2", nil, nil)
	later := outside.again(outside.root, outside.rootKey, m.clock.Now().Add(2*rootLife))
	if _, err := m.authority.Request(outside.by); err == nil {
		t.Error("what is no root is asked for")
	}
	if _, err := m.authority.Request(slices.Repeat([]*x509.Certificate{second}, maxOutsideRoots+1)...); err == nil {
		t.Error("any number of roots is asked for")
	}
	plain, err := m.authority.Request(outside.root, second, outside.root)
	if err != nil {
		t.Fatal(err)
	}
	m.allow(outside.root, second)
	outside.answer = func(a *upstreamca.Certified) { a.Roots = append(a.Roots, second) }
	takenOver(t, m.cluster, outside)
	asked, err := m.authority.RequestSigning()
	if err != nil {
		t.Fatal(err)
	}
	moved := m.request()
	both := []*x509.Certificate{outside.root, second}
	for name, tt := range map[string]struct {
		file []byte
		by   *OfflineRoot
	}{"an intermediate": {plain, m.root}, "a signing key": {asked, m.root}, "a move, the root": {moved, m.root}, "a move, the next one": {moved, m.next}} {
		for _, agreed := range []struct {
			name  string
			roots []*x509.Certificate
			wrong error // nil: any
			good  bool
		}{
			{"both", both, nil, true},
			{"both, the other way round", []*x509.Certificate{second, outside.root}, nil, true},
			{"nobody", nil, ErrNotAgreed, false},
			{"one of them", both[:1], ErrNotAgreed, false},
			{"one more", append(both[:2:2], later), nil, false},
			{"one of the same name and key", []*x509.Certificate{later, second}, ErrNotAgreed, false},
		} {
			request, err := ParseRequest(tt.file)
			if err != nil {
				t.Fatal(err)
			}
			if request.Agreed, _, err = tt.by.Other(request); err != nil {
				t.Fatal(err)
			}
			request.AgreedOutside = agreed.roots
			if _, err := tt.by.Sign(request, 0, testStart); (err == nil) != agreed.good || agreed.wrong != nil && !errors.Is(err, agreed.wrong) {
				t.Errorf("%s, %s is agreed to: %v", name, agreed.name, err)
			}
		}
	}
	for name, roots := range map[string][]*x509.Certificate{"no root": {outside.by}, "too many": slices.Repeat([]*x509.Certificate{second}, maxOutsideRoots+1)} {
		request, err := ParseRequest(plain)
		if err != nil {
			t.Fatal(err)
		}
		request.message.OutsideRoots, request.AgreedOutside = nil, roots
		for _, root := range roots {
			request.message.OutsideRoots = append(request.message.OutsideRoots, root.Raw)
		}
		if _, err := m.root.Sign(request, 0, testStart); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

// TestAnswersThatForgetARootOutside that is in use are not taken, and change nothing.
func TestAnswersThatForgetARootOutside(t *testing.T) {
	t.Parallel()
	m, outside := certifiedOutside(t, true, true)
	for _, tt := range []struct {
		name string
		by   *OfflineRoot
		ask  func() ([]byte, error)
	}{
		{"an intermediate", m.root, func() ([]byte, error) { return m.authority.Request() }},
		{"a signing key", m.root, m.authority.RequestSigning},
		{"a move, the root", m.root, func() ([]byte, error) { return m.authority.RequestSuccessor(m.next.Certificate) }},
		{"a move, the next one", m.next, func() ([]byte, error) { return m.authority.RequestSuccessor(m.next.Certificate) }},
	} {
		m.clock.advance(time.Second)
		file, err := tt.ask()
		if err != nil {
			t.Fatal(err)
		}
		request, err := ParseRequest(file)
		if err != nil {
			t.Fatal(err)
		}
		if request.Agreed, _, err = tt.by.Other(request); err != nil {
			t.Fatal(err)
		}
		forgetful := &Request{message: proto.CloneOf(request.message), raw: request.raw, Agreed: request.Agreed}
		forgetful.message.OutsideRoots = nil
		answers := [2]*RootAnswer{}
		request.AgreedOutside = []*x509.Certificate{outside.root}
		for n, r := range []*Request{request, forgetful} {
			file, err := tt.by.Sign(r, 0, m.clock.Now())
			if err != nil {
				t.Fatal(err)
			}
			answers[n] = readAnswer(t, file)
		}
		spoilt := map[string]*RootAnswer{"both delegations": answers[1]}
		if answers[0].GetLastDelegation() != nil {
			spoilt["the one for afterwards"] = proto.CloneOf(answers[0])
			spoilt["the one for afterwards"].LastDelegation = answers[1].GetLastDelegation()
			spoilt["the one for afterwards"].LastDelegationSignature = answers[1].GetLastDelegationSignature()
			spoilt["the first"] = proto.CloneOf(answers[0])
			spoilt["the first"].Delegation, spoilt["the first"].DelegationSignature = answers[1].GetDelegation(), answers[1].GetDelegationSignature()
		}
		before := m.authority.held()
		for name, answer := range spoilt {
			if err := m.authority.Accept(mustEncode(t, answer)); !errors.Is(err, snapshot.ErrDelegation) {
				t.Errorf("%s: %s forgets it: %v", tt.name, name, err)
			}
			if now := m.authority.held(); string(now.signedRoster) != string(before.signedRoster) || !proto.Equal(now.state, before.state) || !now.intermediate.Equal(before.intermediate) {
				t.Fatalf("%s: something has changed", tt.name)
			}
		}
		if err := m.authority.Accept(mustEncode(t, answers[0])); err != nil {
			t.Errorf("%s: the answer that is not spoilt is not taken: the test shows nothing: %v", tt.name, err)
		}
		if r := m.authority.Rotation(); r.Phase == Announced {
			if err := m.authority.Cancel(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestRootsOutsideThatNobodyAgreedTo: a controller lists none, and what the authority outside certifies under one is not used.
func TestRootsOutsideThatNobodyAgreedTo(t *testing.T) {
	t.Parallel()
	m, outside := certifiedOutside(t, true, false)
	other := newCorporate(t, m.clock.Now)
	if _, err := m.authority.UpdateRoster(func(r *snapshot.Roster) { r.Roots = append(r.Roots, other.root.Raw) }); !errors.Is(err, ErrRootOffline) {
		t.Errorf("listed: %v", err)
	}
	issuing := m.authority.Upstream().Intermediate
	outside.answer = func(a *upstreamca.Certified) { a.Roots = append(a.Roots, other.root) }
	if err := m.ask(outside, true); !errors.Is(err, ErrRootOffline) || !m.authority.Upstream().Intermediate.Equal(issuing) {
		t.Errorf("renewed with a root more: %v", err)
	}
	if _, err := m.authority.Certify(t.Context(), outside); !errors.Is(err, ErrRootOffline) || !strings.Contains(err.Error(), RootFingerprint(other.root)) {
		t.Errorf("the answer is good: %v", err)
	}
	outside.answer = nil
	if err := m.ask(outside, true); err != nil || m.authority.Upstream().Intermediate.Equal(issuing) {
		t.Errorf("renewed as before: %v", err)
	}
}

// TestASigningKeyThatWasCancelledLeavesNothing that a later rotation would end with.
func TestASigningKeyThatWasCancelledLeavesNothing(t *testing.T) {
	t.Parallel()
	m, _ := certifiedOutside(t, true, false)
	if err := errors.Join(m.authority.Accept(m.askSigning()), m.authority.Cancel()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.authority.LeaveUpstream(0), m.authority.Withdraw(true)); err != nil {
		t.Error(err)
	}
}

// TestAFirstRequestNamesRootsOutside, so that a cluster can begin with both.
func TestAFirstRequestNamesRootsOutside(t *testing.T) {
	t.Parallel()
	clock := &clock{now: testStart}
	cfg := authorityConfig(t)
	cfg.Now = clock.Now
	outside := newCorporate(t, clock.Now)
	root, _ := offlineRoot(t)
	begun, err := AwaitRoot(cfg, root.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	file, err := begun.Request(outside.root)
	if err != nil {
		t.Fatal(err)
	}
	m := &move{cluster: &cluster{t: t, clock: clock, authority: begun}, root: root}
	if err := errors.Join(begun.Accept(m.agreed(root, file)), begun.Close()); err != nil {
		t.Fatal(err)
	}
	m.authority = openAuthority(t, cfg)
	takenOver(t, m.cluster, outside)
}
