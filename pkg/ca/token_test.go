package ca

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"
)

func testTokenBody() *TokenBody {
	return &TokenBody{
		Cluster: "test", TrustDomain: "mesh.example.com", Node: "web1", RootHash: make([]byte, sha256.Size),
		Addresses: []string{"127.0.0.1:4222"}, BusJwt: "jwt", BusSeed: "seed", Id: make([]byte, tokenIDSize),
		Seed: bytes.Repeat([]byte{7}, seedSize), ExpiresUnixMs: 1_000_000, Services: []string{"default/orders"},
	}
}

func TestTokenRoundTrip(t *testing.T) {
	t.Parallel()
	token, err := newToken(testTokenBody())
	if err != nil {
		t.Fatal(err)
	}
	secret := token.Secret()
	if !strings.HasPrefix(secret, "sjt1.") {
		t.Errorf("token begins with %.8q", secret)
	}
	wrapped := "  " + secret[:40] + "\n   " + secret[40:] + "\r\n"
	parsed, err := ParseToken(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Node() != "web1" || parsed.Cluster() != "test" || parsed.Secret() != secret {
		t.Errorf("read back as %v", parsed)
	}
	if strings.Contains(parsed.String(), string(token.body.GetSeed())) {
		t.Error("the log form holds the seed")
	}
}

func TestTokenDamageIsRecognised(t *testing.T) {
	t.Parallel()
	token, err := newToken(testTokenBody())
	if err != nil {
		t.Fatal(err)
	}
	secret := token.Secret()
	for cut := range secret {
		if _, err := ParseToken(secret[:cut]); !errors.Is(err, ErrTokenMalformed) {
			t.Fatalf("cut to %d characters: %v", cut, err)
		}
	}
	for i := range secret {
		replacement := byte('A')
		if secret[i] == 'A' {
			replacement = 'B'
		}
		mistyped := secret[:i] + string(replacement) + secret[i+1:]
		_, err := ParseToken(mistyped)
		if !errors.Is(err, ErrTokenMalformed) {
			t.Fatalf("character %d changed: %v", i, err)
		}
		if !strings.Contains(err.Error(), "sennit join-token create") {
			t.Fatalf("no remedy in: %v", err)
		}
	}
}

func TestTokenContentIsChecked(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*TokenBody)
	}{
		{"short seed", func(b *TokenBody) { b.Seed = b.Seed[1:] }},
		{"short id", func(b *TokenBody) { b.Id = nil }},
		{"short root hash", func(b *TokenBody) { b.RootHash = b.RootHash[:31] }},
		{"node that is no name", func(b *TokenBody) { b.Node = "../web1" }},
		{"no cluster", func(b *TokenBody) { b.Cluster = "" }},
		{"trust domain with a path", func(b *TokenBody) { b.TrustDomain = "a/b" }},
		{"no addresses", func(b *TokenBody) { b.Addresses = nil }},
		{"service twice", func(b *TokenBody) { b.Services = []string{"default/a", "a"} }},
	} {
		body := testTokenBody()
		tt.change(body)
		if _, err := newToken(body); err == nil {
			t.Errorf("%s: made", tt.name)
		}
	}
}

func TestTokenExpiry(t *testing.T) {
	t.Parallel()
	token, err := newToken(testTokenBody())
	if err != nil {
		t.Fatal(err)
	}
	if err := token.Expired(token.Expires()); err != nil {
		t.Errorf("at its end: %v", err)
	}
	err = token.Expired(token.Expires().Add(time.Second))
	if !errors.Is(err, ErrTokenExpired) || !strings.Contains(err.Error(), "--node web1") {
		t.Errorf("past its end: %v", err)
	}
}

func FuzzParseToken(f *testing.F) {
	token, err := newToken(testTokenBody())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token.Secret(), []byte{})
	f.Add("sjt1.", token.raw)
	f.Fuzz(func(t *testing.T, s string, raw []byte) {
		sum := sha256.Sum256(raw)
		for _, in := range []string{s, tokenPrefix + base64.RawURLEncoding.EncodeToString(append(raw, sum[:tokenSumSize]...))} {
			parsed, err := ParseToken(in)
			if err != nil {
				if !errors.Is(err, ErrTokenMalformed) {
					t.Fatalf("%q: %v", in, err)
				}
				continue
			}
			if again, err := ParseToken(parsed.Secret()); err != nil || again.Secret() != parsed.Secret() {
				t.Fatalf("%q: does not survive: %v", in, err)
			}
		}
	})
}
