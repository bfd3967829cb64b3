package authn

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

func TestTokensOfEveryAlgorithm(t *testing.T) {
	all := []jose.SignatureAlgorithm{}
	for _, a := range Algorithms {
		all = append(all, jose.SignatureAlgorithm(a))
	}
	p := compiled(t, bodyOf(t, all...))
	for _, a := range all {
		user, refusal := p.Verify(token(t, a, nil), noon)
		if refusal != nil || user.Subject() != "alice" {
			t.Errorf("%s: %+v, %+v", a, user, refusal)
		}
		good := token(t, a, nil)
		for _, at := range []int{10, len(good) / 2, len(good) - 10} {
			c := byte('A')
			if good[at] == c {
				c = 'B'
			}
			if user, refusal := p.Verify(good[:at]+string(c)+good[at+1:], noon); refusal == nil {
				t.Errorf("%s: changed at %d it is of %+v", a, at, user)
			}
		}
	}
}

// TestForgeries has tokens of those who do not have the issuer's key, or do something with it that it is not for.
func TestForgeries(t *testing.T) {
	claims := claimsOf(nil)
	p := compiled(t, bodyOf(t, jose.RS256, jose.ES256))
	public := signers()[jose.RS256].Public()
	der, _ := x509.MarshalPKIXPublicKey(public)
	shared := func(header any, secret []byte) string {
		input := encoded(t, header) + "." + encoded(t, claims)
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(input))
		return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	with := func(a jose.SignatureAlgorithm, more map[string]any) string {
		header := map[string]any{"alg": a, "kid": "k-" + string(a)}
		for name, v := range more {
			header[name] = v
		}
		return signed(t, a, header, claims)
	}
	good := with(jose.ES256, nil)
	stranger, _ := rsa.GenerateKey(rand.Reader, 2048)
	for _, tt := range []struct{ name, token, want string }{
		{"no signature at all", encoded(t, map[string]any{"alg": "none"}) + "." + encoded(t, claims) + ".", "alg"},
		{"none in other letters", encoded(t, map[string]any{"alg": "nOnE"}) + "." + encoded(t, claims) + ".", "alg"},
		{"no alg", encoded(t, map[string]any{"typ": "JWT"}) + "." + encoded(t, claims) + ".AAAA", "alg"},
		{"alg that is no string", encoded(t, `{"alg":["ES256"]}`) + "." + encoded(t, claims) + ".AAAA", "alg"},
		{"the public key as a shared secret, PEM", shared(map[string]any{"alg": "HS256", "kid": "k-RS256"}, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "alg"},
		{"the public key as a shared secret, DER", shared(map[string]any{"alg": "HS256", "kid": "k-RS256"}, der), "alg"},
		{"signed with shared secret, said to be RS256", shared(map[string]any{"alg": "RS256", "kid": "k-RS256"}, der), "signature is wrong"},
		{"an algorithm of another kind of key", signed(t, jose.ES256, map[string]any{"alg": "RS256", "kid": "k-ES256"}, claims), "no key of that name"},
		{"an algorithm of a larger curve", signed(t, jose.ES256, map[string]any{"alg": "ES384", "kid": "k-ES256"}, claims), "no key of that name"},
		{"a key that has another name", signed(t, jose.ES256, map[string]any{"alg": "ES256", "kid": "k-RS256"}, claims), "no key of that name"},
		{"a key that nobody has", signed(t, jose.ES256, map[string]any{"alg": "ES256", "kid": "../../dev/null"}, claims), "not known to have"},
		{"a key's name that is a query", signed(t, jose.ES256, map[string]any{"alg": "ES256", "kid": "x' UNION SELECT 'key"}, claims), "not known to have"},
		{"a key's name that is no string", signed(t, jose.ES256, `{"alg":"ES256","kid":7}`, claims), "kid"},
		{"a key of its own that it brings", broughtAs(t, stranger, "own", claims), "signature is wrong"},
		{"a key of its own by the issuer's name", broughtAs(t, stranger, "k-RS256", claims), "signature is wrong"},
		{"critical header that nobody knows", with(jose.ES256, map[string]any{"crit": []string{"urn:x"}, "urn:x": 1}), "crit"},
		{"critical header that is known to some", with(jose.ES256, map[string]any{"crit": []string{"b64"}, "b64": true}), "not understood"},
		{"empty critical header", with(jose.ES256, map[string]any{"crit": []string{}}), "crit"},
		{"a payload that is not encoded", with(jose.ES256, map[string]any{"b64": false}), "b64"},
		{"a nested token", with(jose.ES256, map[string]any{"cty": "JWT"}), "cty"},
		{"compressed", with(jose.ES256, map[string]any{"zip": "DEF"}), "zip"},
		{"encrypted", with(jose.ES256, map[string]any{"enc": "A128GCM"}), "enc"},
		{"made for signing out", with(jose.ES256, map[string]any{"typ": "logout+jwt"}), "typ"},
		{"a name twice in the header", signed(t, jose.ES256, `{"alg":"ES256","alg":"none","kid":"k-ES256"}`, claims), "twice"},
		{"a claim twice", signed(t, jose.ES256, `{"alg":"ES256","kid":"k-ES256"}`, `{"iss":"https://id.example","aud":"shop","sub":"bob","exp":1999999999,"sub":"alice"}`), "twice"},
		{"a header that is no object", signed(t, jose.ES256, `["alg"]`, claims), "alg"},
		{"a header that is huge", signed(t, jose.ES256, `{"alg":"ES256","x":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`}`, claims), "within each other"},
		{"claims that are deep", signed(t, jose.ES256, `{"alg":"ES256","kid":"k-ES256"}`, `{"a":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`}`), "within each other"},
		{"oversized", signed(t, jose.ES256, map[string]any{"alg": "ES256"}, `{"a":"`+strings.Repeat("x", 20<<10)+`"}`), "at most 16384"},
		{"two parts", good[:strings.LastIndexByte(good, '.')], "three parts"},
		{"four parts", good + ".AAAA", "three parts"},
		{"five parts, encrypted", "a.b.c.d.e", "three parts"},
		{"nothing", "", "three parts"},
		{"JSON serialization", `{"payload":"` + encoded(t, claims) + `"}`, "base64url"},
		{"a line break within", good[:20] + "\n" + good[20:], "base64url"},
		{"padding", good + "=", "base64url"},
		{"bits behind the end", loose(good), "base64url"},
		{"an empty signature", good[:strings.LastIndexByte(good, '.')+1], "signature is wrong"},
		{"a signature of zeros", good[:strings.LastIndexByte(good, '.')+1] + strings.Repeat("A", 86), "signature is wrong"},
		{"a signature in ASN.1", inASN1(t, good), "signature is wrong"},
		{"another's claims under a good signature", splice(t, good, claimsOf(map[string]any{"sub": "root"})), "signature is wrong"},
		{"of an issuer that nobody trusts", token(t, jose.ES256, map[string]any{"iss": "https://id.example.evil"}), "issuer"},
		{"of an issuer that is nearly the one", token(t, jose.ES256, map[string]any{"iss": idp + "/"}), "issuer"},
		{"of no issuer", token(t, jose.ES256, map[string]any{"iss": nil}), "issuer"},
		{"of several issuers", token(t, jose.ES256, map[string]any{"iss": []string{idp, "x"}}), "iss"},
		{"for somebody else", token(t, jose.ES256, map[string]any{"aud": []string{"bank", "shop2"}}), "somebody else"},
		{"for nobody", token(t, jose.ES256, map[string]any{"aud": nil}), "somebody else"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			user, refusal := p.Verify(tt.token, noon)
			if refusal == nil || !strings.Contains(refusal.Detail, tt.want) {
				t.Fatalf("it is of %+v; refusal %+v, want one that says %q", user, refusal, tt.want)
			}
			if refusal.Status != 401 || !strings.HasPrefix(refusal.Challenge, `Bearer error="invalid_token", error_description="`) || strings.Count(refusal.Challenge, `"`) != 4 {
				t.Errorf("it is answered with %d and %s", refusal.Status, refusal.Challenge)
			}
		})
	}
}

// broughtAs is a token signed with a key that its header has in every way that there is.
func broughtAs(t *testing.T, key *rsa.PrivateKey, kid string, claims any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{EmbedJWK: kid == "own"}).
		WithHeader("jku", "https://evil.example/keys").WithHeader("x5u", "https://evil.example/cert"))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(claims)
	made, err := signer.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := made.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

// TestKeysThatATokenBringsAreNobodys has a good token that says where to get other keys: it is good all the same, and
// nobody asks there.
func TestKeysThatATokenBringsAreNobodys(t *testing.T) {
	p := compiled(t, bodyOf(t, jose.ES256))
	good := signed(t, jose.ES256, map[string]any{"alg": "ES256", "kid": "k-ES256", "jku": "https://evil.example", "x5u": "https://evil.example"}, claimsOf(nil))
	if _, refusal := p.Verify(good, noon); refusal != nil {
		t.Errorf("%+v", refusal)
	}
}

func splice(t *testing.T, token string, claims any) string {
	t.Helper()
	parts := strings.Split(token, ".")
	return parts[0] + "." + encoded(t, claims) + "." + parts[2]
}

// loose is a token whose last byte has bits that no reader looks at but the strict.
func loose(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(token) - 1
	return token[:last] + string(alphabet[strings.IndexByte(alphabet, token[last])|1])
}

func inASN1(t *testing.T, token string) string {
	t.Helper()
	at := strings.LastIndexByte(token, '.') + 1
	raw, err := base64.RawURLEncoding.DecodeString(token[at:])
	if err != nil {
		t.Fatal(err)
	}
	integer := func(b []byte) []byte {
		b = append([]byte{0}, new(big.Int).SetBytes(b).Bytes()...)
		return append([]byte{2, byte(len(b))}, b...)
	}
	body := append(integer(raw[:32]), integer(raw[32:])...)
	return token[:at] + base64.RawURLEncoding.EncodeToString(append([]byte{0x30, byte(len(body))}, body...))
}

func TestAPolicyMayNarrowAlgorithms(t *testing.T) {
	body := bodyOf(t, jose.RS256, jose.ES256)
	body.Issuers[0].Algorithms = []string{"ES256"}
	p := compiled(t, body)
	if _, refusal := p.Verify(token(t, jose.ES256, nil), noon); refusal != nil {
		t.Errorf("%+v", refusal)
	}
	if _, refusal := p.Verify(token(t, jose.RS256, nil), noon); refusal == nil {
		t.Error("RS256 was taken")
	}
}

// TestKeysOfNoName are tried, and not without end.
func TestKeysOfNoName(t *testing.T) {
	set := jose.JSONWebKeySet{}
	for range maxTried + 1 {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: signers()[jose.ES384].Public()}) // none of ES256
	}
	set.Keys = append(set.Keys, jose.JSONWebKey{Key: signers()[jose.ES256].Public()})
	text, _ := json.Marshal(set)
	body := bodyOf(t, jose.ES256)
	body.Issuers[0].Keys = text
	if _, refusal := compiled(t, body).Verify(signed(t, jose.ES256, map[string]any{"alg": "ES256"}, claimsOf(nil)), noon); refusal != nil {
		t.Errorf("%+v", refusal)
	}
	other, _ := rsa.GenerateKey(rand.Reader, 2048)
	set.Keys = nil
	for range maxTried {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: &other.PublicKey})
	}
	set.Keys = append(set.Keys, jose.JSONWebKey{Key: signers()[jose.RS256].Public()})
	body.Issuers[0].Keys, _ = json.Marshal(set)
	if _, refusal := compiled(t, body).Verify(signed(t, jose.RS256, map[string]any{"alg": "RS256"}, claimsOf(nil)), noon); refusal == nil {
		t.Errorf("the key behind %d others was tried", maxTried)
	}
}

// TestAKeyStaysForItsAlgorithm: nodes read a set again that a controller has read, and a key is for no more there.
func TestAKeyStaysForItsAlgorithm(t *testing.T) {
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: signers()[jose.PS256].Public(), Algorithm: "PS256"}}})
	if err != nil {
		t.Fatal(err)
	}
	body := bodyOf(t, jose.RS256)
	if body.Issuers[0].Keys, _, err = ReadKeys(set); err != nil {
		t.Fatal(err)
	}
	p := compiled(t, body)
	for with, good := range map[jose.SignatureAlgorithm]bool{jose.PS256: true, jose.RS256: false, jose.PS384: false} {
		if _, refusal := p.Verify(token(t, with, nil), noon); (refusal == nil) != good {
			t.Errorf("%s: %+v", with, refusal)
		}
	}
}

func TestKeySets(t *testing.T) {
	good := func(more string) string {
		var k map[string]any
		text, _ := json.Marshal(jose.JSONWebKey{Key: signers()[jose.ES256].Public(), KeyID: "a"})
		_ = json.Unmarshal(text, &k)
		text, _ = json.Marshal(k)
		return strings.TrimSuffix(string(text), "}") + more + "}"
	}
	small, _ := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // which is the point
	smallSet, _ := json.Marshal(jose.JSONWebKey{Key: &small.PublicKey})
	exponent := func(e int) string {
		text, err := json.Marshal(jose.JSONWebKey{Key: &rsa.PublicKey{N: signers()[jose.RS256].Public().(*rsa.PublicKey).N, E: e}})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, tt := range []struct{ name, key, want string }{
		{"a good one", good(""), ""},
		{"for signatures", good(`,"use":"sig","key_ops":["verify"]`), ""},
		{"with a certificate that nobody reads", good(`,"x5c":["AAAA"],"x5t":"AA"`), ""},
		{"for encryption", good(`,"use":"enc"`), "not for signatures"},
		{"to sign with", good(`,"key_ops":["sign"]`), "not to verify with"},
		{"for another algorithm", good(`,"alg":"RS256"`), `alg "RS256"`},
		{"for a shared secret", good(`,"alg":"HS256"`), `alg "HS256"`},
		{"private", good(`,"d":"AAAA"`), "private"},
		{"shared", `{"kty":"oct","k":"AAAA"}`, "private key, or a shared"},
		{"no point of its curve", `{"kty":"EC","crv":"P-256","x":"` + strings.Repeat("A", 43) + `","y":"` + strings.Repeat("A", 43) + `"}`, "keys[0]"},
		{"too small", string(smallSet), "1024 bits"},
		{"of the exponent 1", exponent(1), "keys[0]"},
		{"of an even exponent", exponent(65536), "exponent"},
		{"of the least exponent", exponent(3), ""},
		{"of a curve for agreeing on keys", `{"kty":"OKP","crv":"X25519","x":"` + strings.Repeat("A", 43) + `"}`, "keys[0]"},
		{"of a kind that is unknown", `{"kty":"AKP"}`, "keys[0]"},
		{"no object", `5`, "keys[0]"},
		{"a name that is none", good(`,"alg":5`), "alg is no string"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			usable, _, err := ReadKeys([]byte(`{"keys":[` + tt.key + `]}`))
			if tt.want == "" {
				if again, _, aerr := ReadKeys(usable); err != nil || aerr != nil || string(again) != string(usable) {
					t.Errorf("%v, %v: %s and %s", err, aerr, usable, again)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s with error %v, want %q", usable, err, tt.want)
			}
			both, skipped, err := ReadKeys([]byte(`{"keys":[` + tt.key + "," + good("") + `]}`))
			if err != nil || len(skipped) != 1 || !strings.Contains(string(both), `"a"`) {
				t.Errorf("beside a good one: %s, %q, %v", both, skipped, err)
			}
		})
	}
	for name, set := range map[string]string{
		"nothing": ``, "no set": `{}`, "a key alone": good(""), "an empty set": `{"keys":[]}`, "a list": `[]`, "a set twice": `{"keys":[],"keys":[]}`,
		"too many": `{"keys":[` + strings.Repeat(good("")+",", maxKeys) + good("") + `]}`, "too large": fmt.Sprintf(`{"keys":[],"x":"%s"}`, strings.Repeat("x", maxKeySetBytes)),
	} {
		if usable, _, err := ReadKeys([]byte(set)); err == nil {
			t.Errorf("%s: %s", name, usable)
		}
	}
}
