package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const idp = "https://id.example"

// noon is when all tests take place.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// signers are keys of each kind, made once.
var signers = sync.OnceValue(func() map[jose.SignatureAlgorithm]crypto.Signer {
	all := map[jose.SignatureAlgorithm]crypto.Signer{}
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	for _, a := range []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512} {
		all[a] = rsaKey
	}
	for a, curve := range map[jose.SignatureAlgorithm]elliptic.Curve{jose.ES256: elliptic.P256(), jose.ES384: elliptic.P384(), jose.ES512: elliptic.P521()} {
		all[a], _ = ecdsa.GenerateKey(curve, rand.Reader)
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	all[jose.EdDSA] = ed
	return all
})

// setOfKeys is a JWK set of the public keys of some signers, each named by its algorithm in lower case with "k-" before.
func setOfKeys(t testing.TB, algorithms ...jose.SignatureAlgorithm) []byte {
	t.Helper()
	set := jose.JSONWebKeySet{}
	for _, a := range algorithms {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: signers()[a].Public(), KeyID: "k-" + string(a)})
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// claimsOf are good claims, with some changed; nil removes one.
func claimsOf(changed map[string]any) map[string]any {
	all := map[string]any{"iss": idp, "sub": "alice", "aud": "shop", "exp": noon.Add(time.Hour).Unix(), "iat": noon.Add(-time.Minute).Unix()}
	maps.Copy(all, changed)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return all
}

func encoded(t testing.TB, v any) string {
	t.Helper()
	if text, is := v.(string); is {
		return base64.RawURLEncoding.EncodeToString([]byte(text))
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// signed is a token with this very header and these claims, each JSON or what makes it.
func signed(t testing.TB, with jose.SignatureAlgorithm, header, claims any) string {
	t.Helper()
	input := encoded(t, header) + "." + encoded(t, claims)
	key := signers()[with]
	var signature []byte
	var err error
	hash := map[jose.SignatureAlgorithm]crypto.Hash{
		jose.RS256: crypto.SHA256, jose.PS256: crypto.SHA256, jose.ES256: crypto.SHA256, jose.RS384: crypto.SHA384, jose.PS384: crypto.SHA384,
		jose.ES384: crypto.SHA384, jose.RS512: crypto.SHA512, jose.PS512: crypto.SHA512, jose.ES512: crypto.SHA512,
	}[with]
	digest := []byte(input)
	if hash != 0 {
		h := hash.New()
		h.Write(digest)
		digest = h.Sum(nil)
	}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		r, s, serr := ecdsa.Sign(rand.Reader, k, digest)
		size := (k.Params().BitSize + 7) / 8
		signature = make([]byte, 2*size)
		r.FillBytes(signature[:size])
		s.FillBytes(signature[size:])
		err = serr
	case *rsa.PrivateKey:
		if with[0] == 'P' {
			signature, err = rsa.SignPSS(rand.Reader, k, hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			signature, err = rsa.SignPKCS1v15(rand.Reader, k, hash, digest)
		}
	case ed25519.PrivateKey:
		signature = ed25519.Sign(k, digest)
	}
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// token is a good one, but for claims that are changed.
func token(t testing.TB, with jose.SignatureAlgorithm, changed map[string]any) string {
	t.Helper()
	return signed(t, with, map[string]any{"alg": with, "kid": "k-" + string(with), "typ": "JWT"}, claimsOf(changed))
}

// bodyOf is a policy with one issuer, whose keys are of some algorithms.
func bodyOf(t testing.TB, algorithms ...jose.SignatureAlgorithm) *snapshot.Authentication {
	t.Helper()
	return &snapshot.Authentication{Origin: "shop/users", Issuers: []*snapshot.Issuer{{
		Issuer: idp, Audiences: []string{"shop"}, LeewayMs: 30_000, Keys: setOfKeys(t, algorithms...), Url: idp + "/keys",
	}}}
}

func compiled(t testing.TB, body *snapshot.Authentication) *Policy {
	t.Helper()
	p, err := Compile(body, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// withToken is a request that shows a token as most do.
func withToken(token string) *exchange.Request {
	return &exchange.Request{Method: "GET", Path: "/", Fields: exchange.Fields{{Name: "Authorization", Value: "Bearer " + token}}}
}
