// Package tokentest signs tokens for tests, in the place of an issuer.
package tokentest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// NewKey makes a key for ES256.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Sign makes a token of claims by ES256, in compact form, with the id of the key in its head.
func Sign(t testing.TB, key *ecdsa.PrivateKey, id string, claims map[string]any) string {
	t.Helper()
	return SignBy(t, jose.SigningKey{Algorithm: jose.ES256, Key: key}, id, claims)
}

// SignBy is Sign by any algorithm, with a key that is for it.
func SignBy(t testing.TB, by jose.SigningKey, id string, claims map[string]any) string {
	t.Helper()
	by.Key = jose.JSONWebKey{Key: by.Key, KeyID: id}
	signer, err := jose.NewSigner(by, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}
