package ca

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/smallstep/pkcs7"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/internal/tokentest"
	"github.com/sennit-mesh/sennit/pkg/attest"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A cloud vouches for machines, of which each has a metadata service.
type cloud struct {
	t    testing.TB
	key  *rsa.PrivateKey
	cert *x509.Certificate
	now  func() time.Time
}

func newCloud(t testing.TB, now func() time.Time) *cloud {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "region"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &cloud{t, key, cert, now}
}

func (c *cloud) verifier() *attest.Verifier {
	keys := &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: c.key.Public(), KeyID: "k"}}}
	return &attest.Verifier{Amazon: []*x509.Certificate{c.cert}, Google: func() (*jose.JSONWebKeySet, error) { return keys, nil }}
}

// machine is the address of the metadata service of a machine, which answers as AWS's and Google's do.
func (c *cloud) machine(account, id string) string {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /latest/api/token", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /latest/dynamic/instance-identity/rsa2048", func(w http.ResponseWriter, _ *http.Request) {
		data, _ := json.Marshal(map[string]string{"accountId": account, "region": "eu-central-1", "instanceId": id, "pendingTime": "2026-01-01T00:00:00Z"})
		signed, err := pkcs7.NewSignedData(data)
		if err != nil {
			c.t.Error(err)
			return
		}
		signed.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
		if err := signed.AddSigner(c.cert, c.key, pkcs7.SignerInfoConfig{}); err != nil {
			c.t.Error(err)
			return
		}
		der, err := signed.Finish()
		if err != nil {
			c.t.Error(err)
		}
		_, _ = w.Write([]byte(base64.StdEncoding.EncodeToString(der)))
	})
	mux.HandleFunc("GET /computeMetadata/v1/instance/service-accounts/default/identity", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, tokentest.SignBy(c.t, jose.SigningKey{Algorithm: jose.RS256, Key: c.key}, "k", map[string]any{
			"iss": "https://accounts.google.com", "aud": r.URL.Query().Get("audience"), "iat": c.now().Unix(), "exp": c.now().Add(time.Hour).Unix(),
			"google": map[string]any{"compute_engine": map[string]any{"project_id": account, "zone": "europe-west3-a", "instance_id": id}},
		}))
	})
	server := httptest.NewServer(mux)
	c.t.Cleanup(server.Close)
	return server.URL
}

// attestAnswer asks a metadata service.
func attestAnswer(address string) ([]byte, error) {
	response, err := http.Get(address)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

// pool makes a token for many hosts.
func (c *cluster) pool(a *Attest) *Token {
	c.t.Helper()
	token, err := c.registrar.CreateToken(c.t.Context(), TokenRequest{Node: "web", Services: []exchange.ServiceName{orders}, Attest: a})
	if err != nil {
		c.t.Fatal(err)
	}
	return token
}

// join starts a new host on a machine, with a token for many.
func (c *cluster) join(token *Token, metadata string) (*Identity, error) {
	i := openIdentity(c.t, IdentityConfig{Dir: c.t.TempDir(), Now: c.clock.Now, Metadata: metadata})
	return i, i.Join(c.t.Context(), token, c.wire("web").dial)
}

func TestMachinesJoinByTheirCloudsWord(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	cloud := newCloud(t, c.clock.Now)
	c.registrar.cfg.Attest = cloud.verifier()
	for _, provider := range []attest.Provider{attest.Amazon, attest.Google} {
		token := c.pool(&Attest{Provider: provider, Accounts: []string{"ours"}})
		for _, id := range []string{"i-1", "i-2"} {
			i, err := c.join(token, cloud.machine("ours", id))
			if err != nil {
				t.Fatal(err)
			}
			name := string(provider) + "-" + id
			if node, err := c.registrar.Node(t.Context(), name); err != nil || i.Node() != name || !slices.Equal(node.Services, []exchange.ServiceName{orders}) {
				t.Errorf("node %s: %+v, %v", i.Node(), node, err)
			}
		}
	}
	tokens := readDirectory(t, c.store).Tokens()
	if len(tokens) != 2 || tokens[0].Attest == nil || !tokens[0].Used.IsZero() {
		t.Errorf("tokens: %+v", tokens)
	}
}

func TestMachinesThatAreRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	cloud, stranger := newCloud(t, c.clock.Now), newCloud(t, c.clock.Now)
	c.registrar.cfg.Attest = cloud.verifier()
	amazon, google := &Attest{Provider: attest.Amazon, Accounts: []string{"ours"}}, &Attest{Provider: attest.Google, Accounts: []string{"ours"}}
	for _, tt := range []struct {
		name     string
		attest   *Attest
		metadata string
		says     string
	}{
		{"of another account", amazon, cloud.machine("theirs", "i-1"), "of account theirs"},
		{"of another project", google, cloud.machine("theirs", "i-1"), "of account theirs"},
		{"of another region", &Attest{Provider: attest.Amazon, Accounts: []string{"ours"}, Places: []string{"eu-west-1"}}, cloud.machine("ours", "i-1"), "is in eu-central-1"},
		{"of a cloud that somebody plays", amazon, stranger.machine("ours", "i-1"), "signature"},
		{"the same of Google", google, stranger.machine("ours", "i-1"), "signature"},
		{"of another cloud, which has no such address", &Attest{Provider: attest.Azure, Accounts: []string{"ours"}}, cloud.machine("ours", "i-1"), "404"},
		{"with a name that no node can have", amazon, cloud.machine("ours", "../web1"), "node name"},
	} {
		c.registrar.cfg.Attest.AzureRoots = x509.NewCertPool()
		i, err := c.join(c.pool(tt.attest), tt.metadata)
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if i.Joined() {
			t.Errorf("%s: has joined", tt.name)
		}
	}
}

// TestAttestedTokenAloneAdmitsNobody takes the evidence out of a request, and puts another host's in.
func TestAttestedTokenAloneAdmitsNobody(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	cloud := newCloud(t, c.clock.Now)
	c.registrar.cfg.Attest = cloud.verifier()
	token := c.pool(&Attest{Provider: attest.Google, Accounts: []string{"ours"}})
	var overheard []byte // of a machine that joins
	spied := cloud.machine("ours", "i-1")
	relay := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := attestAnswer(spied + r.URL.RequestURI())
		if err != nil {
			t.Error(err)
		}
		overheard = answer
		_, _ = w.Write(answer)
	}))
	t.Cleanup(relay.Close)
	if _, err := c.join(token, relay.URL); err != nil {
		t.Fatal(err)
	}
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(overheard) }))
	t.Cleanup(thief.Close)
	if _, err := c.join(token, thief.URL); !errors.Is(err, ErrNotAttested) || !strings.Contains(err.Error(), "another request") {
		t.Errorf("with what another machine showed: %v", err)
	}
	plain, err := c.registrar.CreateToken(t.Context(), TokenRequest{Node: "web", Services: []exchange.ServiceName{orders}})
	if err != nil {
		t.Fatal(err)
	}
	i := openIdentity(t, IdentityConfig{Dir: t.TempDir(), Now: c.clock.Now})
	forged := *token
	forged.body = proto.CloneOf(token.body)
	forged.body.Attest = "" // so that the host asks no cloud
	if err := i.Join(t.Context(), &forged, c.wire("web").dial); !errors.Is(err, ErrNotAttested) {
		t.Errorf("without evidence: %v", err)
	}
	if err := i.Join(t.Context(), plain, c.wire("web").dial); err != nil {
		t.Errorf("a token for one host asks for evidence: %v", err)
	}
}

// TestAmazonsEvidenceAdmitsOnce shows it again when the machine's node is away for long, and when it was removed.
func TestAmazonsEvidenceAdmitsOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	cloud := newCloud(t, c.clock.Now)
	c.registrar.cfg.Attest = cloud.verifier()
	metadata := cloud.machine("ours", "i-1")
	year := func(a *Attest) *Token {
		token, err := c.registrar.CreateToken(t.Context(), TokenRequest{Node: "web", TTL: 300 * 24 * time.Hour, Attest: a})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	amazon, google := year(&Attest{Provider: attest.Amazon, Accounts: []string{"ours"}}), year(&Attest{Provider: attest.Google, Accounts: []string{"ours"}})
	for _, token := range []*Token{amazon, google} {
		if _, err := c.join(token, metadata); err != nil {
			t.Fatal(err)
		}
		if _, err := c.join(token, metadata); err == nil {
			t.Errorf("%s: a second host is the same machine", token)
		}
	}
	c.clock.advance(DefaultAbsence + time.Hour)
	if _, err := c.join(amazon, metadata); !errors.Is(err, ErrNotAttested) || !strings.Contains(err.Error(), "join-token create --node aws-i-1") {
		t.Errorf("after a long absence: %v", err)
	}
	if err := c.registrar.Remove(t.Context(), "aws-i-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.join(amazon, metadata); !errors.Is(err, ErrNotAttested) {
		t.Errorf("after it was removed: %v", err)
	}
	if _, err := c.join(google, metadata); err != nil {
		t.Errorf("Google's is new each time, and the machine lost its state: %v", err)
	}
}

func TestTokensForMachines(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for name, a := range map[string]*Attest{
		"of no account":     {Provider: attest.Amazon},
		"of no cloud":       {Provider: "cloud", Accounts: []string{"a"}},
		"of Azure's places": {Provider: attest.Azure, Accounts: []string{"a"}, Places: []string{"b"}},
	} {
		if _, err := c.registrar.CreateToken(t.Context(), TokenRequest{Node: "web", Attest: a}); err == nil {
			t.Errorf("a token for machines %s", name)
		}
	}
	if _, err := c.registrar.CreateToken(t.Context(), TokenRequest{Node: "web", Attest: &Attest{Provider: attest.Amazon, Accounts: []string{"a"}}}); !errors.Is(err, ErrNotAttested) {
		t.Errorf("a token that no controller could check: %v", err)
	}
	if _, err := c.registrar.CreateToken(t.Context(), TokenRequest{Node: "web", TTL: 31 * 24 * time.Hour}); err == nil {
		t.Error("a token for one host lives longer than a month")
	}
}
