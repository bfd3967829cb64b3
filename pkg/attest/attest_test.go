package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/smallstep/pkcs7"
)

var (
	now  = time.Now().UTC().Truncate(time.Second) // the library that signs takes the time from the machine
	ours = Challenge(sha256.Sum256([]byte("a request to join")))
	sha1 = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
)

// A cloud signs documents in the formats of the three; its keys are made for the test.
type cloud struct {
	t        testing.TB
	key      *rsa.PrivateKey
	region   *x509.Certificate // Amazon's
	root     *x509.Certificate // of Azure
	signer   *x509.Certificate // below root
	verifier *Verifier
}

func newCloud(t testing.TB) *cloud {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return cloudOf(t, key)
}

func cloudOf(t testing.TB, key *rsa.PrivateKey) *cloud {
	t.Helper()
	c := &cloud{t: t, key: key}
	c.region = c.certificate("region", nil)
	c.root = c.certificate("root", nil)
	c.signer = c.certificate("eastus.metadata.azure.com", c.root)
	roots := x509.NewCertPool()
	roots.AddCert(c.root)
	keys := &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "RS256", Use: "sig"}}}
	c.verifier = &Verifier{
		Amazon: []*x509.Certificate{c.region}, Google: func() (*jose.JSONWebKeySet, error) { return keys, nil }, AzureRoots: roots,
	}
	return c
}

// certificate is one of the cloud's key; parent nil: it signs itself.
func (c *cloud) certificate(name string, parent *x509.Certificate) *x509.Certificate {
	c.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(name))), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: parent == nil, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, c.key.Public(), c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return certificate
}

// sign makes base64 of a SignedData.
func (c *cloud) sign(content any, certificate *x509.Certificate, digest asn1.ObjectIdentifier) string {
	c.t.Helper()
	return base64.StdEncoding.EncodeToString(c.signedData(content, digest, func(signed *pkcs7.SignedData) error {
		return signed.AddSigner(certificate, c.key, pkcs7.SignerInfoConfig{})
	}))
}

func (c *cloud) signedData(content any, digest asn1.ObjectIdentifier, sign func(*pkcs7.SignedData) error) []byte {
	c.t.Helper()
	data, err := json.Marshal(content)
	if err != nil {
		c.t.Fatal(err)
	}
	signed, err := pkcs7.NewSignedData(data)
	if err != nil {
		c.t.Fatal(err)
	}
	signed.SetDigestAlgorithm(digest)
	if err := sign(signed); err != nil {
		c.t.Fatal(err)
	}
	der, err := signed.Finish()
	if err != nil {
		c.t.Fatal(err)
	}
	return der
}

// signAsAzure makes base64 of a SignedData as Azure does: nothing is signed but the content, and the algorithm of the signature
// stands where its hash's belongs.
func (c *cloud) signAsAzure(content any, certificate *x509.Certificate) string {
	c.t.Helper()
	der := c.signedData(content, sha256OID, func(signed *pkcs7.SignedData) error {
		return signed.SignWithoutAttr(certificate, c.key, pkcs7.SignerInfoConfig{})
	})
	hash, signature := encoded(c.t, sha256OID), encoded(c.t, sha256WithRSA)
	if len(hash) != len(signature) || bytes.Count(der, hash) != 2 { // of the document and of the signer
		c.t.Fatalf("SHA-256 is named %d times", bytes.Count(der, hash))
	}
	return base64.StdEncoding.EncodeToString(bytes.ReplaceAll(der, hash, signature))
}

func encoded(t testing.TB, value any) []byte {
	t.Helper()
	der, err := asn1.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (c *cloud) amazon() string {
	return c.sign(map[string]any{
		"accountId": "123456789012", "region": "eu-central-1", "instanceId": "i-0abc", "pendingTime": now.Add(-time.Minute), "imageId": "ami-1",
	}, c.region, sha256OID)
}

// azure is attested data, changed by change.
func (c *cloud) azure(certificate *x509.Certificate, change func(document map[string]any)) string {
	return attested(c.signAsAzure(azureData(change), certificate))
}

func azureData(change func(document map[string]any)) map[string]any {
	document := map[string]any{
		"nonce": ours.nonce(), "subscriptionId": "s-1", "vmId": "vm-1",
		"timeStamp": map[string]string{"createdOn": now.Format(azureTime), "expiresOn": now.Add(6 * time.Hour).Format(azureTime)},
	}
	if change != nil {
		change(document)
	}
	return document
}

// attested is the answer of Azure's endpoint.
func attested(signature string) string {
	return fmt.Sprintf(`{"encoding":"pkcs7","signature":%q}`, signature)
}

// google is an identity token, changed by change.
func (c *cloud) google(key jose.SigningKey, kid string, change func(claims map[string]any)) string {
	c.t.Helper()
	claims := map[string]any{
		"iss": "https://accounts.google.com", "aud": ours.audience(), "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"google": map[string]any{"compute_engine": map[string]any{"project_id": "p-1", "zone": "europe-west3-a", "instance_id": "42"}},
	}
	if change != nil {
		change(claims)
	}
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithHeader("kid", kid))
	if err != nil {
		c.t.Fatal(err)
	}
	data, err := json.Marshal(claims)
	if err != nil {
		c.t.Fatal(err)
	}
	token, err := signer.Sign(data)
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := token.CompactSerialize()
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

func (c *cloud) rs256() jose.SigningKey { return jose.SigningKey{Algorithm: jose.RS256, Key: c.key} }

func TestEvidenceNamesTheInstance(t *testing.T) {
	c := newCloud(t)
	for _, tt := range []struct {
		provider Provider
		evidence string
		want     Instance
	}{
		{Amazon, c.amazon(), Instance{Amazon, "123456789012", "eu-central-1", "i-0abc", now.Add(-time.Minute)}},
		{Amazon, wrapped(c.amazon()), Instance{Amazon, "123456789012", "eu-central-1", "i-0abc", now.Add(-time.Minute)}},
		{Google, c.google(c.rs256(), "k1", nil), Instance{Google, "p-1", "europe-west3-a", "42", now}},
		{Azure, c.azure(c.signer, nil), Instance{Azure, "s-1", "", "vm-1", now}},
		{Azure, attested(c.sign(azureData(nil), c.signer, sha256OID)), Instance{Azure, "s-1", "", "vm-1", now}}, // as RFC 2315 has it
		{Azure, c.azure(c.certificate("metadata.azure.com", c.root), nil), Instance{Azure, "s-1", "", "vm-1", now}},
		{Azure, c.azure(c.certificate("usgovvirginia.metadata.azure.us", c.root), nil), Instance{Azure, "s-1", "", "vm-1", now}},
		{Azure, c.azure(c.certificate("metadata.azure.us", c.root), nil), Instance{Azure, "s-1", "", "vm-1", now}},
	} {
		got, err := c.verifier.Verify(tt.provider, []byte(tt.evidence), ours, now)
		if err != nil {
			t.Errorf("%s: %v", tt.provider, err)
			continue
		}
		read, err := Read(tt.provider, []byte(tt.evidence))
		if err != nil || read.Name() != got.Name() {
			t.Errorf("%s: read as %+v, %v", tt.provider, read, err)
		}
		if !got.Since.Equal(tt.want.Since) {
			t.Errorf("%s: since %s, want %s", tt.provider, got.Since, tt.want.Since)
		}
		got.Since = tt.want.Since
		if *got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.provider, got, tt.want)
		}
	}
}

// wrapped breaks lines as the metadata service does.
func wrapped(text string) string {
	var b strings.Builder
	for len(text) > 64 {
		b.WriteString(text[:64] + "\n")
		text = text[64:]
	}
	return b.String() + text + "\n"
}

func TestFalseEvidenceIsRefused(t *testing.T) {
	c, stranger := newCloud(t), newCloud(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(c.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	other := Challenge(sha256.Sum256([]byte("another request")))
	for _, tt := range []struct {
		name     string
		provider Provider
		evidence string
	}{
		{"nothing", Amazon, ""},
		{"no base64", Amazon, "-"},
		{"no PKCS #7", Amazon, base64.StdEncoding.EncodeToString([]byte("hello"))},
		{"too large", Amazon, c.amazon() + strings.Repeat("\n", MaxEvidence)},
		{"another's signature, with his certificate in it", Amazon, stranger.amazon()},
		{"another certificate of the same name and number", Amazon, stranger.sign(map[string]any{"accountId": "1", "instanceId": "i"}, stranger.region, sha256OID)},
		{"a certificate of the cloud's that is for something else", Amazon, c.sign(map[string]any{"accountId": "1", "instanceId": "i"}, c.signer, sha256OID)},
		{"a hash that is broken", Amazon, c.sign(map[string]any{"accountId": "1", "instanceId": "i"}, c.region, sha1)},
		{"a document that is another's evidence", Amazon, c.azure(c.signer, nil)},
		{"a document without a machine", Amazon, c.sign(map[string]any{"accountId": "1"}, c.region, sha256OID)},
		{"no document", Amazon, c.sign("hello", c.region, sha256OID)},

		{"no token", Google, "a.b.c"},
		{"a token of another key with the same id", Google, stranger.google(stranger.rs256(), "k1", nil)},
		{"a token of an unknown key", Google, c.google(c.rs256(), "k2", nil)},
		{"another algorithm", Google, c.google(jose.SigningKey{Algorithm: jose.ES256, Key: ec}, "k1", nil)},
		{"the public key as a secret", Google, c.google(jose.SigningKey{Algorithm: jose.HS256, Key: public}, "k1", nil)},
		{"no algorithm", Google, unsigned(c.google(c.rs256(), "k1", nil))},
		{"another issuer", Google, c.google(c.rs256(), "k1", func(m map[string]any) { m["iss"] = "https://accounts.example.com" })},
		{"made for another request", Google, c.google(c.rs256(), "k1", func(m map[string]any) { m["aud"] = other.audience() })},
		{"ended", Google, c.google(c.rs256(), "k1", func(m map[string]any) { m["exp"] = now.Add(-2 * leeway).Unix() })},
		{"not begun", Google, c.google(c.rs256(), "k1", func(m map[string]any) { m["iat"] = now.Add(2 * leeway).Unix() })},
		{"of a user and no machine", Google, c.google(c.rs256(), "k1", func(m map[string]any) { delete(m, "google") })},

		{"no answer of the endpoint", Azure, c.sign(map[string]any{}, c.signer, sha256OID)},
		{"another authority", Azure, stranger.azure(stranger.signer, nil)},
		{"another name", Azure, c.azure(c.certificate("metadata.azure.com.example.com", c.root), nil)},
		{"a name that ends alike", Azure, c.azure(c.certificate("notmetadata.azure.com", c.root), nil)},
		{"a name that ends like the Government's", Azure, c.azure(c.certificate("notmetadata.azure.us", c.root), nil)},
		{"the name of China's, which another company runs", Azure, c.azure(c.certificate("chinaeast2.metadata.azure.cn", c.root), nil)},
		{"any host of Azure", Azure, c.azure(c.certificate("cloudapp.azure.us", c.root), nil)},
		{"made for another request", Azure, c.azure(c.signer, func(m map[string]any) { m["nonce"] = other.nonce() })},
		{"ended", Azure, c.azure(c.signer, func(m map[string]any) {
			m["timeStamp"] = map[string]string{"createdOn": now.Add(-time.Hour).Format(azureTime), "expiresOn": now.Add(-2 * leeway).Format(azureTime)}
		})},
		{"not begun", Azure, c.azure(c.signer, func(m map[string]any) {
			m["timeStamp"] = map[string]string{"createdOn": now.Add(2 * leeway).Format(azureTime), "expiresOn": now.Add(time.Hour).Format(azureTime)}
		})},
		{"no time", Azure, c.azure(c.signer, func(m map[string]any) { delete(m, "timeStamp") })},

		{"a cloud that nobody knows", "cloud", c.amazon()},
	} {
		if got, err := c.verifier.Verify(tt.provider, []byte(tt.evidence), ours, now); err == nil || !errors.Is(err, ErrEvidence) {
			t.Errorf("%s, %s: %+v, %v", tt.provider, tt.name, got, err)
		}
	}
}

// TestChangedEvidenceIsRefused turns each byte of what is signed.
func TestChangedEvidenceIsRefused(t *testing.T) {
	c := newCloud(t)
	der, err := base64.StdEncoding.DecodeString(c.amazon())
	if err != nil {
		t.Fatal(err)
	}
	want, err := c.verifier.Verify(Amazon, []byte(base64.StdEncoding.EncodeToString(der)), ours, now)
	if err != nil {
		t.Fatal(err)
	}
	for i := range der {
		der[i] ^= 0x20
		got, err := c.verifier.Verify(Amazon, []byte(base64.StdEncoding.EncodeToString(der)), ours, now)
		der[i] ^= 0x20
		if err == nil && *got != *want { // of the certificates in there nothing is believed, so that they may be anything
			t.Errorf("byte %d changed: %+v", i, got)
		}
	}
}

// unsigned makes a token of algorithm "none" of another.
func unsigned(token string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"k1"}`)) + "." + strings.Split(token, ".")[1] + "."
}

func TestWithoutKeysNothingIsBelieved(t *testing.T) {
	c, empty := newCloud(t), new(Verifier)
	for provider, evidence := range map[Provider]string{Amazon: c.amazon(), Google: c.google(c.rs256(), "k1", nil), Azure: c.azure(c.signer, nil)} {
		if _, err := empty.Verify(provider, []byte(evidence), ours, now); !errors.Is(err, errNoKeys) {
			t.Errorf("%s: %v", provider, err)
		}
	}
}

// TestAsk asks servers that refuse what the clouds' metadata services refuse.
func TestAsk(t *testing.T) {
	for _, tt := range []struct {
		provider Provider
		handler  http.HandlerFunc
	}{
		{Amazon, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" && r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") != "":
				fmt.Fprint(w, "session")
			case r.Method == http.MethodGet && r.URL.Path == "/latest/dynamic/instance-identity/rsa2048" && r.Header.Get("X-aws-ec2-metadata-token") == "session":
				fmt.Fprint(w, "evidence")
			default:
				http.Error(w, "", http.StatusUnauthorized)
			}
		}},
		{Google, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Metadata-Flavor") != "Google" || r.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/identity" ||
				r.URL.Query().Get("audience") != ours.audience() || r.URL.Query().Get("format") != "full" {
				http.Error(w, "", http.StatusForbidden)
				return
			}
			fmt.Fprint(w, "evidence")
		}},
		{Azure, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Metadata") != "true" || r.URL.Path != "/metadata/attested/document" || len(r.URL.Query().Get("nonce")) != 10 {
				http.Error(w, "", http.StatusBadRequest)
				return
			}
			fmt.Fprint(w, "evidence")
		}},
	} {
		server := httptest.NewServer(tt.handler)
		got, err := Ask(t.Context(), server.Client(), server.URL, tt.provider, ours)
		if err != nil || string(got) != "evidence" {
			t.Errorf("%s: %q, %v", tt.provider, got, err)
		}
		server.Close()
		if _, err := Ask(t.Context(), server.Client(), server.URL, tt.provider, ours); err == nil {
			t.Errorf("%s: nobody answers, and there is evidence", tt.provider)
		}
	}
}

// sameKey is one key of RSA in every process.
func sameKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	one := big.NewInt(1)
	prime := func(name string) *big.Int {
		var text []byte
		for i := range 4 {
			sum := sha256.Sum256(fmt.Append(nil, name, i))
			text = append(text, sum[:]...)
		}
		text[0] |= 0xc0
		text[len(text)-1] |= 1
		p := new(big.Int).SetBytes(text)
		for !p.ProbablyPrime(0) {
			p.Add(p, big.NewInt(2))
		}
		return p
	}
	p, q := prime("p"), prime("q")
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	key := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: 65537}, D: new(big.Int).ModInverse(big.NewInt(65537), phi), Primes: []*big.Int{p, q},
	}
	key.Precompute()
	if err := key.Validate(); err != nil {
		t.Fatal(err)
	}
	return key
}

// FuzzVerify: whatever is sent as a cloud's word, what is believed is what the cloud signed, whose key is the same in every process
// that fuzzes. Where it is bare, it is a SignedData without what clouds wrap it in.
func FuzzVerify(f *testing.F) {
	c := cloudOf(f, sameKey(f))
	words := []string{c.amazon(), c.google(c.rs256(), "k1", nil), c.azure(c.signer, nil)}
	signed := map[Provider]Instance{}
	for i, provider := range Providers {
		instance, err := c.verifier.Verify(provider, []byte(words[i]), ours, now)
		if err != nil {
			f.Fatal(err)
		}
		signed[provider] = *instance
		f.Add(i, []byte(words[i]), false)
	}
	for i, word := range []string{words[0], c.sign(map[string]any{}, c.signer, sha256OID), c.sign(map[string]any{"accountId": "1"}, c.region, sha1)} {
		der, err := base64.StdEncoding.DecodeString(word)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(2*(i%2), der, true)
	}
	f.Fuzz(func(t *testing.T, provider int, evidence []byte, bare bool) {
		if provider < 0 || provider >= len(Providers) {
			return
		}
		if text := base64.StdEncoding.EncodeToString(evidence); bare && Providers[provider] == Azure {
			evidence = []byte(attested(text))
		} else if bare {
			evidence = []byte(text)
		}
		got, err := c.verifier.Verify(Providers[provider], evidence, ours, now)
		if err != nil {
			return
		}
		want := signed[Providers[provider]]
		if got.Since = want.Since; *got != want { // the time is that of the process that signed
			t.Errorf("%+v", got)
		}
	})
}
