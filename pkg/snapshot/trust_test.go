package snapshot

import (
	"crypto"
	"crypto/x509"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"
)

// roots makes a row of roots and the successions between them.
func roots(t testing.TB, n int) (keys []crypto.Signer, certificates []*x509.Certificate, successions []*Succession) {
	t.Helper()
	for i := range n {
		key, certificate := testRoot(t)
		keys, certificates = append(keys, key), append(certificates, certificate)
		if i > 0 {
			s, err := Succeed(keys[i-1], certificates[i-1], certificate)
			if err != nil {
				t.Fatal(err)
			}
			successions = append(successions, s)
		}
	}
	return keys, certificates, successions
}

func sealed(t testing.TB, s RosterSigner, roster *Roster) []byte {
	t.Helper()
	roster.Cluster = "shop"
	raw, err := s.Seal(roster)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestRootsSucceed follows roots from any that was pinned to the newest, and never back.
func TestRootsSucceed(t *testing.T) {
	keys, certificates, successions := roots(t, 3)
	forged := proto.CloneOf(successions[1])
	forged.Root = certificates[0].Raw
	newest := func(successions ...*Succession) []byte {
		return sealed(t, RosterSigner{Root: certificates[2], Key: keys[2], Successions: successions}, &Roster{Serial: 7})
	}
	for _, tt := range []struct {
		name   string
		pinned int
		raw    []byte
		want   error
	}{
		{"the one before", 1, newest(successions...), nil},
		{"two before", 0, newest(successions...), nil},
		{"the newest itself", 2, newest(successions...), nil},
		{"the newest, without a word of those before", 2, newest(), nil},
		{"nobody says who follows", 1, newest(), ErrRoot},
		{"one is missing in between", 0, newest(successions[1]), ErrRoot},
		{"in the wrong order", 0, newest(successions[1], successions[0]), ErrRoot},
		{"a succession that another root signed", 0, newest(forged), ErrSignature},
		{"an unreadable succession", 0, newest(&Succession{Root: []byte("x")}), ErrMalformed},
	} {
		trust := NewTrust("shop", RootHash(certificates[tt.pinned]))
		replaced, err := trust.Update(tt.raw)
		if !errors.Is(err, tt.want) || replaced != (tt.want == nil) {
			t.Errorf("%s: replaced %v, %v; want %v", tt.name, replaced, err, tt.want)
		}
		if tt.want == nil && trust.Root() != RootHash(certificates[2]) {
			t.Errorf("%s: believes %x", tt.name, trust.Root())
		}
	}
}

// TestARootWhosePlaceWasTakenIsNotBelieved: whoever has its key cannot go on as if nothing had happened.
func TestARootWhosePlaceWasTakenIsNotBelieved(t *testing.T) {
	keys, certificates, successions := roots(t, 2)
	trust := NewTrust("shop", RootHash(certificates[0]))
	if replaced, err := trust.Update(sealed(t, RosterSigner{Root: certificates[1], Key: keys[1], Successions: successions}, &Roster{Serial: 2})); !replaced || err != nil {
		t.Fatal(replaced, err)
	}
	if _, err := trust.Update(sealed(t, RosterSigner{Root: certificates[0], Key: keys[0]}, &Roster{Epoch: 9, Serial: 99})); !errors.Is(err, ErrRoot) {
		t.Errorf("a roster of the older root: %v, want %v", err, ErrRoot)
	}
	// An older roster of the newest root moves nothing.
	late := NewTrust("shop", RootHash(certificates[0]))
	if _, err := late.Update(sealed(t, RosterSigner{Root: certificates[0], Key: keys[0]}, &Roster{Serial: 5})); err != nil {
		t.Fatal(err)
	}
	if replaced, err := late.Update(sealed(t, RosterSigner{Root: certificates[1], Key: keys[1], Successions: successions}, &Roster{Serial: 4})); replaced || err != nil || late.Root() != RootHash(certificates[0]) {
		t.Errorf("replaced %v, %v, believes %x", replaced, err, late.Root())
	}
}

func TestSuccessionsAreBounded(t *testing.T) {
	keys, certificates, successions := roots(t, MaxSuccessions+2)
	last := len(keys) - 1
	raw := sealed(t, RosterSigner{Root: certificates[last], Key: keys[last], Successions: successions}, &Roster{})
	if _, err := OpenRoster("shop", RootHash(certificates[0]), raw); !errors.Is(err, ErrRoot) {
		t.Errorf("%d successions: %v, want %v", len(successions), err, ErrRoot)
	}
}

// TestDelegatesSayWhatTheyMay: whoever signs for a root that is kept elsewhere names no root and no key by itself.
func TestDelegatesSayWhatTheyMay(t *testing.T) {
	rootKey, root := testRoot(t)
	key, _ := testRoot(t)
	_, foreign := testRoot(t)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	delegate := func(by crypto.Signer, number uint64, cluster string) RosterSigner {
		s := RosterSigner{Root: root, Key: key}
		s.Delegation, s.DelegationSignature, err = Delegate(by, &Delegation{
			Cluster: cluster, Number: number, PublicKey: public, Roots: [][]byte{root.Raw}, Keys: []*SigningKey{testSigner(1).Public()},
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	own := delegate(rootKey, 2, "shop")
	stolen := own
	stolen.Key, _ = testRoot(t)
	for _, tt := range []struct {
		name   string
		by     RosterSigner
		roster *Roster
		want   error
	}{
		{"what is listed", own, &Roster{Delegation: 2, Roots: [][]byte{root.Raw}, Keys: []*SigningKey{testSigner(1).Public()}, RevokedSerials: []string{"7"}}, nil},
		{"less", own, &Roster{Delegation: 2}, nil},
		{"another signing key", own, &Roster{Delegation: 2, Keys: []*SigningKey{testSigner(2).Public()}}, ErrDelegation},
		{"another key under the name of one", own, &Roster{Delegation: 2, Keys: []*SigningKey{{Id: testSigner(1).ID, Ed25519: testSigner(2).Public().Ed25519}}}, ErrDelegation},
		{"another root", own, &Roster{Delegation: 2, Roots: [][]byte{foreign.Raw}}, ErrDelegation},
		{"a newer number than the root gave", own, &Roster{Delegation: 3}, ErrDelegation},
		{"no number", own, &Roster{}, ErrDelegation},
		{"of another cluster", delegate(rootKey, 2, "other"), &Roster{Delegation: 2}, ErrCluster},
		{"delegated by itself", delegate(key, 2, "shop"), &Roster{Delegation: 2}, ErrSignature},
		{"signed by another key", stolen, &Roster{Delegation: 2}, ErrSignature},
		{"signed by the delegate without its delegation", RosterSigner{Root: root, Key: key}, &Roster{}, ErrSignature},
		{"an older delegation", delegate(rootKey, 1, "shop"), &Roster{Delegation: 1, Epoch: 99}, ErrDelegation},
		{"the root itself, as it did before it delegated", RosterSigner{Root: root, Key: rootKey}, &Roster{Epoch: 99}, ErrDelegation},
	} {
		trust := NewTrust("shop", RootHash(root))
		if _, err := trust.Update(sealed(t, own, &Roster{Delegation: 2})); err != nil {
			t.Fatal(err)
		}
		tt.roster.Serial = 9
		if replaced, err := trust.Update(sealed(t, tt.by, tt.roster)); !errors.Is(err, tt.want) || replaced != (tt.want == nil) {
			t.Errorf("%s: replaced %v, %v; want %v", tt.name, replaced, err, tt.want)
		}
	}
}
