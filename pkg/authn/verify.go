package authn

import (
	"crypto"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// maxTokenBytes bounds a token. A head of a request is not much larger.
const maxTokenBytes = 16 << 10

// maxTried bounds the keys that a token is tried with which names none.
const maxTried = 8

var (
	errMalformed  = errors.New("the token is malformed")
	errAlgorithm  = errors.New("the token is signed in a way that is not accepted")
	errUnknownKey = errors.New("the token is signed with a key that the issuer is not known to have")
	errSignature  = errors.New("the token's signature is wrong")
)

// A jws is a token in JWS compact serialization (RFC 7515 §7.1), taken apart. Nothing of it is proven.
type jws struct {
	text      string
	algorithm jose.SignatureAlgorithm
	keyID     string // empty: it names none
	payload   []byte
}

// base64url is read in one way: what is left of the last byte is zero, and there are no line breaks.
var base64url = base64.RawURLEncoding.Strict()

// split takes a token apart. Of its header it reads how it is signed, and with which key of the issuer's. A key that the
// token brings, or says where to get (jwk, x5c, jku, x5u), is nobody's.
func split(token string) (jws, error) {
	if len(token) > maxTokenBytes {
		return jws{}, fmt.Errorf("%w: it has %d bytes, and at most %d may be", errMalformed, len(token), maxTokenBytes)
	}
	for i := range len(token) {
		c := token[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return jws{}, fmt.Errorf("%w: byte %d is none of base64url", errMalformed, i)
		}
	}
	parts := strings.SplitN(token, ".", 4)
	if len(parts) != 3 {
		return jws{}, fmt.Errorf("%w: it has not three parts", errMalformed)
	}
	var decoded [3][]byte
	for i, p := range parts {
		var err error
		if decoded[i], err = base64url.DecodeString(p); err != nil {
			return jws{}, fmt.Errorf("%w: part %d is not base64url", errMalformed, i+1)
		}
	}
	header, err := parse(decoded[0])
	if err != nil {
		return jws{}, fmt.Errorf("%w: header: %w", errMalformed, err)
	}
	out := jws{text: token, payload: decoded[1]}
	for i := range header.members {
		switch m := &header.members[i]; m.name {
		case "alg":
			out.algorithm = jose.SignatureAlgorithm(m.value.text)
		case "kid":
			if m.value.kind != String {
				return jws{}, fmt.Errorf("%w: kid is no string", errMalformed)
			}
			out.keyID = m.value.text
		case "typ": // one that was made for something else is none for requests (RFC 8725 §3.11)
			typ := strings.TrimPrefix(strings.ToLower(m.value.text), "application/")
			if typ != "jwt" && typ != "at+jwt" && typ != "jws" && typ != "jose" {
				return jws{}, fmt.Errorf("%w: typ %q is not that of a token for requests", errMalformed, m.value.text)
			}
		case "crit", "b64", "enc", "zip", "cty":
			return jws{}, fmt.Errorf("%w: a header with %s is not understood", errMalformed, m.name)
		}
	}
	if !slices.Contains(Algorithms, string(out.algorithm)) {
		return jws{}, fmt.Errorf("%w: alg is %q", errAlgorithm, out.algorithm)
	}
	return out, nil
}

// verify reports whether one of keys signed the token, with one of algorithms; none: with any that a key is for.
func (t *jws) verify(keys []key, algorithms []string) error {
	if len(algorithms) > 0 && !slices.Contains(algorithms, string(t.algorithm)) {
		return fmt.Errorf("%w: alg is %q", errAlgorithm, t.algorithm)
	}
	parsed, err := jose.ParseSignedCompact(t.text, []jose.SignatureAlgorithm{t.algorithm})
	if err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	tried, named := 0, false
	for i := range keys {
		k := &keys[i]
		if t.keyID != "" && k.id != "" && k.id != t.keyID {
			continue
		}
		named = true
		if !slices.Contains(k.algorithms, t.algorithm) {
			continue
		}
		if tried++; tried > maxTried {
			break
		}
		if _, err := parsed.Verify(k.public); err == nil && t.salted(k.public) {
			return nil
		}
	}
	switch {
	case !named:
		return errUnknownKey
	case tried == 0:
		return fmt.Errorf("%w: no key of that name is for alg %q", errAlgorithm, t.algorithm)
	}
	return errSignature
}

// salted reports whether a signature of RSASSA-PSS has a salt as long as its hash, as it must (RFC 7518 §3.5): the library
// takes any. Of other algorithms there is none.
func (t *jws) salted(public any) bool {
	of, is := public.(*rsa.PublicKey)
	if !is || t.algorithm[0] != 'P' {
		return true
	}
	hash := map[jose.SignatureAlgorithm]crypto.Hash{jose.PS256: crypto.SHA256, jose.PS384: crypto.SHA384, jose.PS512: crypto.SHA512}[t.algorithm]
	at := strings.LastIndexByte(t.text, '.')
	signature, err := base64url.DecodeString(t.text[at+1:])
	if err != nil {
		return false
	}
	h := hash.New()
	h.Write([]byte(t.text[:at]))
	return rsa.VerifyPSS(of, hash, h.Sum(nil), signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
}
