package authn

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// A key verifies signatures of some algorithms and of no others: which, is decided by what the key is, and never by what a
// token says (RFC 8725 §3.1).
type key struct {
	id         string // empty: it has none
	algorithms []jose.SignatureAlgorithm
	public     any
}

const (
	maxKeySetBytes = 256 << 10
	maxKeys        = 64
	minRSABits     = 2048
	maxRSABits     = 8192 // a larger one would let a stranger's token cost milliseconds
)

// Algorithms are those that tokens may be signed with, in the order in which they are shown. There are no others: none, and
// those with a shared secret, are no proof of anything here.
var Algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// ReadKeys reads a JWK set (RFC 7517 §5) and returns what is usable of it, as a JWK set of public keys alone, and why the
// other keys are not. It fails where the set is none, and where no key is usable.
func ReadKeys(set []byte) (usable []byte, skipped []string, err error) {
	all, skipped, err := readKeys(set)
	if err != nil {
		return nil, nil, err
	}
	if len(all) == 0 {
		if len(skipped) > 0 {
			return nil, skipped, fmt.Errorf("read JWK set: no key of it is usable; %s", skipped[0])
		}
		return nil, nil, errors.New("read JWK set: it has no keys")
	}
	out := jose.JSONWebKeySet{}
	for _, k := range all {
		one := jose.JSONWebKey{Key: k.public, KeyID: k.id}
		if len(k.algorithms) == 1 {
			one.Algorithm = string(k.algorithms[0])
		}
		out.Keys = append(out.Keys, one)
	}
	usable, err = json.Marshal(out)
	return usable, skipped, err
}

func readKeys(set []byte) (usable []key, skipped []string, err error) {
	all, err := parseUpTo(set, maxKeySetBytes)
	if err != nil {
		return nil, nil, fmt.Errorf("read JWK set: %w", err)
	}
	keys, there := all.Member("keys")
	if !there || keys.kind != List {
		return nil, nil, errors.New(`read JWK set: it has no list "keys"`)
	}
	if keys.Len() > maxKeys {
		return nil, nil, fmt.Errorf("read JWK set: it has %d keys, and at most %d may be", keys.Len(), maxKeys)
	}
	for i, source := range keys.items {
		k, err := readKey(source)
		if err != nil {
			skipped = append(skipped, fmt.Sprintf("keys[%d]: %v", i, err))
			continue
		}
		usable = append(usable, k)
	}
	return usable, skipped, nil
}

// readKey reads one key. Of its members those that say what the key is are read, and no certificate, for nobody would have
// checked it.
func readKey(source Value) (key, error) {
	public := map[string]string{}
	for i := range source.members {
		switch m := &source.members[i]; m.name {
		case "d", "p", "q", "dp", "dq", "qi", "oth", "k":
			return key{}, errors.New("it is a private key, or a shared one")
		case "use":
			if !m.value.Is("sig") {
				return key{}, errors.New("it is not for signatures")
			}
		case "key_ops":
			if m.value.kind != List || !m.value.Has("verify") {
				return key{}, errors.New("it is not to verify with")
			}
		case "kty", "kid", "alg", "crv", "x", "y", "n", "e":
			if m.value.kind != String {
				return key{}, fmt.Errorf("%s is no string", m.name)
			}
			public[m.name] = m.value.text
		}
	}
	text, err := json.Marshal(public)
	if err != nil {
		return key{}, err
	}
	var read jose.JSONWebKey
	if err := read.UnmarshalJSON(text); err != nil {
		return key{}, err
	}
	k := key{id: public["kid"], public: read.Key}
	switch of := read.Key.(type) {
	case *rsa.PublicKey:
		if bits := of.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return key{}, fmt.Errorf("it has %d bits, and must have %d to %d", bits, minRSABits, maxRSABits)
		}
		if of.E < 3 || of.E%2 == 0 {
			return key{}, errors.New("its exponent is none")
		}
		k.algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
	case *ecdsa.PublicKey:
		k.algorithms = []jose.SignatureAlgorithm{map[int]jose.SignatureAlgorithm{256: jose.ES256, 384: jose.ES384, 521: jose.ES512}[of.Params().BitSize]}
	case ed25519.PublicKey:
		k.algorithms = []jose.SignatureAlgorithm{jose.EdDSA}
	default:
		return key{}, fmt.Errorf("kty %q is none of RSA, EC and OKP", public["kty"])
	}
	if alg, named := public["alg"]; named {
		if !slices.Contains(k.algorithms, jose.SignatureAlgorithm(alg)) {
			return key{}, fmt.Errorf("alg %q is none that such a key is for", alg)
		}
		k.algorithms = []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)}
	}
	return k, nil
}
