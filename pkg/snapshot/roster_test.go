package snapshot

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"

	"google.golang.org/protobuf/proto"
)

func testRoot(t testing.TB) (crypto.Signer, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, certificate
}

func TestRosterNeverGoesBack(t *testing.T) {
	key, root := testRoot(t)
	trust := NewTrust("shop", RootHash(root))
	for _, tt := range []struct {
		name          string
		epoch, serial uint64
		replaced      bool
	}{
		{"first", 0, 2, true},
		{"older serial", 0, 1, false},
		{"same again", 0, 2, false},
		{"newer serial", 0, 3, true},
		{"newer epoch, older serial", 5, 1, true},
		{"older epoch, newer serial", 0, 9, false},
	} {
		raw, err := SealRoster(key, root, &Roster{Cluster: "shop", Epoch: tt.epoch, Serial: tt.serial, Keys: []*SigningKey{testSigner(1).Public()}})
		if err != nil {
			t.Fatal(err)
		}
		replaced, err := trust.Update(raw)
		if err != nil || replaced != tt.replaced {
			t.Errorf("%s: replaced %v, %v; want %v", tt.name, replaced, err, tt.replaced)
		}
	}
	if r := trust.Roster(); r.GetEpoch() != 5 || r.GetSerial() != 1 {
		t.Errorf("trusts %d.%d", r.GetEpoch(), r.GetSerial())
	}
	if keys := trust.Roster().SigningKeys(); len(keys) != 1 || keys[testSigner(1).ID] == nil {
		t.Errorf("keys %v", keys)
	}
}

func TestRosterOfOthersIsRefused(t *testing.T) {
	key, root := testRoot(t)
	otherKey, otherRoot := testRoot(t)
	seal := func(key crypto.Signer, root *x509.Certificate, cluster string) []byte {
		raw, err := SealRoster(key, root, &Roster{Cluster: cluster, Serial: 9})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	changed := func(f func(*SignedRoster)) []byte {
		var s SignedRoster
		if err := proto.Unmarshal(seal(key, root, "shop"), &s); err != nil {
			t.Fatal(err)
		}
		f(&s)
		return mustMarshal(t, &s)
	}
	for _, tt := range []struct {
		name string
		raw  []byte
		want error
	}{
		{"its own", seal(key, root, "shop"), nil},
		{"another root", seal(otherKey, otherRoot, "shop"), ErrRoot},
		{"another key under the pinned certificate", seal(otherKey, root, "shop"), ErrSignature},
		{"another cluster", seal(key, root, "other"), ErrCluster},
		{"changed", changed(func(s *SignedRoster) { s.Roster = append(s.Roster, 0x18, 99) }), ErrSignature},
		{"no certificate", changed(func(s *SignedRoster) { s.Root = nil }), ErrMalformed},
		{"noise", []byte("\xff"), ErrMalformed},
		{"too large", make([]byte, maxRoster+1), ErrTooLarge},
	} {
		trust := NewTrust("shop", RootHash(root))
		if _, err := trust.Update(tt.raw); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if (trust.Roster() != nil) != (tt.want == nil) {
			t.Errorf("%s: trusts %v", tt.name, trust.Roster())
		}
	}
}
