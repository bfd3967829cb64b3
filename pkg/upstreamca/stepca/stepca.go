// Package stepca asks step-ca (https://smallstep.com/docs/step-ca) for intermediates, by a provisioner of type JWK whose
// template makes them.
package stepca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// Config says which step-ca is asked, and as whom.
type Config struct {
	// URL is that of step-ca: https://host:port.
	URL string `yaml:"url"`
	// RootFile is its root certificate in PEM, as `step ca root` writes it, that its own certificate hangs on.
	RootFile string `yaml:"rootFile"`
	// Provisioner is the name of one of type JWK, whose template makes an intermediate.
	Provisioner string `yaml:"provisioner"`
	// KeyFile holds the provisioner's private key: a JWK, or the JWE that step-ca keeps of it.
	KeyFile string `yaml:"keyFile"`
	// PasswordFile holds the password of such a JWE; empty: there is none.
	PasswordFile string `yaml:"passwordFile"`
}

// tokenLives is how long a token is good that asks for one certificate.
const tokenLives = 5 * time.Minute

// An Authority is one step-ca. It is safe for concurrent use.
type Authority struct {
	cfg    Config
	sum    string // of the root's certificate
	client *upstreamca.Client
	now    func() time.Time
}

// New makes the authority of a configuration, and reads the root. It asks nobody yet, and reads the key each time it is
// used. now dates the tokens; nil: time.Now.
func New(cfg Config, now func() time.Time) (*Authority, error) {
	if cfg.Provisioner == "" || cfg.KeyFile == "" || cfg.RootFile == "" {
		return nil, errors.New("want rootFile, provisioner and keyFile")
	}
	text, err := os.ReadFile(cfg.RootFile)
	if err != nil {
		return nil, fmt.Errorf("rootFile: %w", err)
	}
	all, err := upstreamca.Certificates(string(text))
	if err != nil {
		return nil, fmt.Errorf("rootFile %s: %w", cfg.RootFile, err)
	}
	pool := x509.NewCertPool()
	for _, root := range all {
		pool.AddCert(root)
	}
	a := &Authority{cfg: cfg, now: now}
	if a.client, err = upstreamca.NewClient(cfg.URL, pool); err != nil {
		return nil, err
	}
	if a.now == nil {
		a.now = time.Now
	}
	sum := sha256.Sum256(all[0].Raw)
	a.sum = hex.EncodeToString(sum[:])
	return a, nil
}

// String names it.
func (a *Authority) String() string { return "step-ca " + a.client.URL("") }

// Certify asks for an intermediate (POST /1.0/sign), and for the roots of this moment (GET /roots).
func (a *Authority) Certify(ctx context.Context, csr []byte, _ crypto.Signer, life time.Duration) (upstreamca.Certified, error) {
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return upstreamca.Certified{}, err
	}
	token, err := a.token(request)
	if err != nil {
		return upstreamca.Certified{}, fmt.Errorf("token of provisioner %s: %w", a.cfg.Provisioner, err)
	}
	body, err := json.Marshal(map[string]any{
		"csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})), "ott": token, "notAfter": life.String(),
	})
	if err != nil {
		return upstreamca.Certified{}, err
	}
	var signed struct {
		Certificate string   `json:"crt"`
		Issuer      string   `json:"ca"`
		Chain       []string `json:"certChain"`
	}
	if err := a.ask(ctx, http.MethodPost, "/1.0/sign", body, http.StatusCreated, &signed); err != nil {
		return upstreamca.Certified{}, err
	}
	if len(signed.Chain) == 0 {
		signed.Chain = []string{signed.Certificate, signed.Issuer}
	}
	var roots struct {
		Certificates []string `json:"crts"`
	}
	if err := a.ask(ctx, http.MethodGet, "/roots", nil, http.StatusCreated, &roots); err != nil {
		return upstreamca.Certified{}, err
	}
	chain, err := read(signed.Chain)
	if err != nil {
		return upstreamca.Certified{}, fmt.Errorf("%w: chain: %w", upstreamca.ErrAnswer, err)
	}
	anchors, err := read(roots.Certificates)
	if err != nil {
		return upstreamca.Certified{}, fmt.Errorf("%w: roots: %w", upstreamca.ErrAnswer, err)
	}
	return upstreamca.Certified{Chain: upstreamca.Split(chain).Chain, Roots: upstreamca.Split(anchors).Roots}, nil
}

func read(texts []string) (all []*x509.Certificate, err error) {
	for _, text := range texts {
		some, err := upstreamca.Certificates(text)
		if err != nil {
			return nil, err
		}
		if all = append(all, some...); len(all) > upstreamca.MaxChain+upstreamca.MaxRoots {
			return nil, errors.New("there are too many")
		}
	}
	return all, nil
}

func (a *Authority) ask(ctx context.Context, method, path string, body []byte, want int, into any) error {
	status, answer, err := a.client.Do(ctx, method, path, nil, body)
	if err != nil {
		return err
	}
	if status != want && status != http.StatusOK {
		var failure struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(answer, &failure) // what it is not is told without words
		return upstreamca.Failure(method+" "+path, status, failure.Message)
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("%w: %s %s: %w", upstreamca.ErrAnswer, method, path, err)
	}
	return nil
}

// token proves that the provisioner asks for the names of the request, once.
func (a *Authority) token(request *x509.CertificateRequest) (string, error) {
	key, err := a.key()
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	names := []string{}
	for _, uri := range request.URIs {
		names = append(names, uri.String())
	}
	now := a.now()
	return jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: a.cfg.Provisioner, Subject: request.Subject.CommonName, Audience: jwt.Audience{a.client.URL("/1.0/sign")}, ID: rand.Text(),
		NotBefore: jwt.NewNumericDate(now), IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(tokenLives)),
	}).Claims(map[string]any{"sans": names, "sha": a.sum}).Serialize()
}

// key reads the provisioner's key.
func (a *Authority) key() (*jose.JSONWebKey, error) {
	data, err := upstreamca.ReadSecret(a.cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	if a.cfg.PasswordFile != "" {
		password, err := upstreamca.ReadSecret(a.cfg.PasswordFile)
		if err != nil {
			return nil, err
		}
		sealed, err := jose.ParseEncryptedCompact(string(data), []jose.KeyAlgorithm{jose.PBES2_HS256_A128KW, jose.PBES2_HS384_A192KW, jose.PBES2_HS512_A256KW}, []jose.ContentEncryption{jose.A128GCM, jose.A192GCM, jose.A256GCM, jose.A128CBC_HS256, jose.A256CBC_HS512})
		if err != nil {
			return nil, fmt.Errorf("keyFile %s: not a JWE: %w", a.cfg.KeyFile, err)
		}
		if data, err = sealed.Decrypt(password); err != nil {
			return nil, fmt.Errorf("keyFile %s: the password of %s does not open it", a.cfg.KeyFile, a.cfg.PasswordFile)
		}
	}
	key := &jose.JSONWebKey{}
	if err := key.UnmarshalJSON(data); err != nil {
		return nil, fmt.Errorf("keyFile %s: not a JWK (a JWE needs passwordFile)", a.cfg.KeyFile) // the error could show parts of it
	}
	if key.IsPublic() || !key.Valid() {
		return nil, fmt.Errorf("keyFile %s: not a private key", a.cfg.KeyFile)
	}
	if key.Algorithm == "" {
		key.Algorithm = string(jose.ES256)
	}
	if key.KeyID == "" {
		sum, err := key.Thumbprint(crypto.SHA256)
		if err != nil {
			return nil, err
		}
		key.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	}
	return key, nil
}
