package ca

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// offlineRoot makes a root away from the controller, and returns what opens it.
func offlineRoot(t *testing.T) (root *OfflineRoot, file []byte) {
	t.Helper()
	root, file, err := NewOfflineRoot("test", testDomain, fixed("correct horse battery"), testStart)
	if err != nil {
		t.Fatal(err)
	}
	return root, file
}

// signed carries a request to the root and the answer back.
func signed(t *testing.T, root *OfflineRoot, request []byte, life time.Duration, now time.Time) []byte {
	t.Helper()
	parsed, err := ParseRequest(request)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := root.Sign(parsed, life, now)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// TestOfflineRoot: the controller starts with the chain alone, lets nodes join, revokes, and begins a new epoch without the
// root; only for another intermediate it asks again.
func TestOfflineRoot(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	_, file := offlineRoot(t)
	if _, err := OpenOfflineRoot(file, fixed("incorrect horse")); !errors.Is(err, ErrPassphrase) {
		t.Errorf("with another passphrase: %v", err)
	}
	root, err := OpenOfflineRoot(file, fixed("correct horse battery"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := ParseRoot(root.CertificatePEM())
	if err != nil || bytes.Contains(root.CertificatePEM(), []byte(sealedType)) {
		t.Fatal("what controllers are given of the root:", err)
	}
	cfg := authorityConfig(t)
	cfg.Now = c.clock.Now
	begun, err := AwaitRoot(cfg, public)
	if err != nil {
		t.Fatal(err)
	}
	first, err := begun.Request()
	if err != nil {
		t.Fatal(err)
	}
	if err := begun.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := NewAuthority(cfg); !errors.Is(err, ErrAwaitsRoot) {
		t.Errorf("started before the root has signed: %v", err)
	}
	if begun, err = AwaitRoot(cfg, nil); err != nil {
		t.Fatal(err)
	}
	second, err := begun.Request()
	if err != nil {
		t.Fatal(err)
	}
	if err := begun.Accept(signed(t, root, first, 0, c.clock.Now())); err == nil {
		t.Error("an answer to a request that was given up is taken")
	}
	if err := begun.Accept(signed(t, root, second, 30*24*time.Hour, c.clock.Now())); err != nil {
		t.Fatal(err)
	}
	if err := begun.Close(); err != nil {
		t.Fatal(err)
	}

	open := func() {
		t.Helper()
		c.authority = openAuthority(t, cfg)
		c.registrar.cfg.Authority = c.authority
	}
	open()
	if c.authority.held().rootKey != nil || c.authority.RootHash() != snapshot.RootHash(root.Certificate) {
		t.Error("the controller has another root, or its key")
	}
	i := c.joined("web1", orders)
	if err := shake(t, c.authority.ServerCertificate(nil), i.busTLS(c.clock.Now)); err != nil {
		t.Error(err)
	}
	c.reroster(i, func(r *snapshot.Roster) { r.RevokedSerials = append(r.RevokedSerials, leafSerial(t, i, orders)) })
	if err := believes(t, i, i, orders); !errors.Is(err, ErrPeer) {
		t.Errorf("a certificate that was revoked without the root: %v", err)
	}
	c.reroster(i, func(r *snapshot.Roster) { r.RevokedSerials, r.Epoch = nil, 7 })
	if _, err := c.authority.UpdateRoster(func(r *snapshot.Roster) { r.Keys = append(r.Keys, thiefsKey()) }); !errors.Is(err, ErrRootOffline) {
		t.Errorf("another signing key without the root: %v", err)
	}
	if err := c.authority.AnnounceRoot(); !errors.Is(err, ErrRootOffline) {
		t.Errorf("a new root without the old one: %v", err)
	}
	if err := c.authority.RotateIntermediate(0); !errors.Is(err, ErrRootOffline) {
		t.Errorf("a new intermediate without the root: %v", err)
	}

	// The intermediate comes to its end, and is renewed in time.
	c.clock.advance(20 * 24 * time.Hour)
	request, err := c.authority.Request()
	if err != nil {
		t.Fatal(err)
	}
	before := c.authority.held().intermediate
	if _, err := c.authority.IssueSVID(csrFor(t), ServiceID(testDomain, orders), 0); err != nil {
		t.Errorf("while the root is asked: %v", err)
	}
	c.clock.advance(9*24*time.Hour + 12*time.Hour)
	chain, err := c.authority.IssueSVID(csrFor(t), ServiceID(testDomain, orders), 0)
	if err != nil {
		t.Fatal(err)
	}
	if leaf, err := parseChain(chain); err != nil || leaf[0].NotAfter.After(before.NotAfter) {
		t.Errorf("a certificate outlives the intermediate: %v", err)
	}
	if err := c.authority.Accept(signed(t, root, request, 0, c.clock.Now())); err != nil {
		t.Fatal(err)
	}
	if c.authority.held().intermediate.Equal(before) {
		t.Error("the intermediate is the same")
	}
	if _, err := i.UpdateRoster(c.authority.Roster()); err != nil {
		t.Error(err)
	}
	c.clock.advance(91 * 24 * time.Hour)
	if _, err := c.authority.IssueSVID(csrFor(t), ServiceID(testDomain, orders), 0); !errors.Is(err, ErrRootOffline) {
		t.Errorf("under an intermediate that has ended: %v", err)
	}
}

func readAnswer(t *testing.T, file []byte) *RootAnswer {
	t.Helper()
	answer := &RootAnswer{}
	raw, err := decodePEM(file, answerType)
	if err == nil {
		err = proto.Unmarshal(raw, answer)
	}
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func mustEncode(t *testing.T, answer *RootAnswer) []byte {
	t.Helper()
	raw, err := proto.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	return encodeAnswer(raw)
}

func thiefsKey() *snapshot.SigningKey {
	public := bytes.Repeat([]byte{7}, 32)
	return &snapshot.SigningKey{Id: snapshot.SigningKeyID(public), Ed25519: public}
}

// TestRequestsToARootThatAreWrong are not signed, and wrong answers not taken.
func TestRequestsToARootThatAreWrong(t *testing.T) {
	t.Parallel()
	root, _ := offlineRoot(t)
	other, _ := offlineRoot(t)
	cfg := authorityConfig(t)
	a, err := AwaitRoot(cfg, root.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	file, err := a.Request()
	if err != nil {
		t.Fatal(err)
	}
	parse := func() *Request {
		r, err := ParseRequest(file)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, tt := range []struct {
		name   string
		by     *OfflineRoot
		life   time.Duration
		change func(*RootRequest)
		wrong  bool
	}{
		{"as it is", root, 0, func(*RootRequest) {}, false},
		{"by another root", other, 0, func(*RootRequest) {}, true},
		{"for ten years", root, 10 * 365 * 24 * time.Hour, func(*RootRequest) {}, true},
		{"of another trust domain", root, 0, func(r *RootRequest) { r.TrustDomain = "example.org" }, true},
		{"without a proof of the key", root, 0, func(r *RootRequest) { r.Csr[len(r.Csr)-1] ^= 1 }, true},
		{"without a signing key", root, 0, func(r *RootRequest) { r.SigningKey = nil }, true},
		{"without a number", root, 0, func(r *RootRequest) { r.Delegation = 0 }, true},
	} {
		r := parse()
		tt.change(r.message)
		if _, err := tt.by.Sign(r, tt.life, testStart); (err != nil) != tt.wrong {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	// Whoever carried it put his own key in: the people who compare fingerprints see it, and the answer is not taken.
	thief, err := AwaitRoot(authorityConfig(t), root.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	his, err := thief.Request()
	if err != nil {
		t.Fatal(err)
	}
	if r, err := ParseRequest(his); err != nil || r.Fingerprint == parse().Fingerprint {
		t.Errorf("another request has the same fingerprint (%v)", err)
	}
	if err := a.Accept(signed(t, root, his, 0, testStart)); err == nil {
		t.Error("an answer to somebody else is taken")
	}
	if _, err := AwaitRoot(cfg, other.Certificate); err == nil {
		t.Error("another root takes the place of the one that was begun with")
	}
	if _, err := ParseRoot(signed(t, root, file, 0, testStart)); err == nil {
		t.Error("an answer passes for a root")
	}
}

// TestTheRosterKeyIsReplaced: whoever has read what a controller under an offline root signs rosters with is believed no more by
// nodes that heard of the root's next answer, neither with what the root had signed for that key nor with what it signed since.
func TestTheRosterKeyIsReplaced(t *testing.T) {
	t.Parallel()
	m := newMove(t, true, false)
	i := m.joined("web1", orders)
	revoke := func(r *snapshot.Roster) {
		r.RevokedIdentities = append(r.RevokedIdentities, "spiffe://sennit.local/ns/default/svc/orders")
	}
	answered := func() holding {
		t.Helper()
		request, err := m.authority.Request()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.authority.Accept(m.agreed(m.root, request)); err != nil {
			t.Fatal(err)
		}
		return m.authority.held()
	}
	thief := answered()
	if err := thief.sign(func(r *snapshot.Roster) { revoke(r); r.Epoch, r.Serial = 99, 99 }); err != nil {
		t.Fatal(err)
	}
	if _, err := i.UpdateRoster(thief.signedRoster); err != nil || len(i.believed.Load().roster.GetRevokedIdentities()) == 0 {
		t.Errorf("whoever has the key is not believed while it counts: %v", err)
	}
	now := answered()
	if news, err := i.UpdateRoster(m.authority.Roster()); err != nil || !news {
		t.Fatalf("the root's next answer, in an epoch before: %v, %v", news, err)
	}
	if err := thief.sign(revoke); err != nil {
		t.Fatal(err)
	}
	if _, err := i.UpdateRoster(thief.signedRoster); !errors.Is(err, snapshot.ErrDelegation) {
		t.Errorf("the key of before, and what was signed for it: %v", err)
	}
	mixed := holding{root: now.root, roster: now.roster, state: proto.CloneOf(now.state)}
	mixed.state.RosterKey = thief.state.GetRosterKey()
	if err := mixed.sign(revoke); err == nil {
		t.Error("the key of before signs what was signed for the next")
	}
	if names := i.believed.Load().roster.GetRevokedIdentities(); len(names) > 0 {
		t.Errorf("%q are revoked", names)
	}
}
