// Package vault asks the PKI engine of Vault (https://developer.hashicorp.com/vault/docs/secrets/pki) or of OpenBao, which
// speaks the same, for intermediates.
//
// Each question is a login, one certificate, and the end of what the login gave: between two intermediates, which are weeks
// apart, nothing is held that Vault would let in. Start reading at Authority.Certify.
package vault

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// Config says which PKI engine is asked, and as whom. One of TokenFile, AppRole and Certificate proves who asks.
type Config struct {
	// URL is that of Vault's active node, or of what leads to it: https://host:port.
	URL string `yaml:"url"`
	// CAFile has the roots in PEM that Vault's own certificate hangs on; empty: those of this host.
	CAFile string `yaml:"caFile"`
	// Namespace is where the engine and the login are; empty: there are none.
	Namespace string `yaml:"namespace"`
	// Mount is the engine's path; empty: pki.
	Mount string `yaml:"mount"`
	// Issuer is the name or ID of one of the engine's issuers; empty: its default one.
	Issuer string `yaml:"issuer"`
	// RootFile pins the roots that nodes are to trust, in PEM; empty: the self-signed ones of Vault's answer.
	RootFile string `yaml:"rootFile"`

	TokenFile   string       `yaml:"tokenFile"`
	AppRole     *AppRole     `yaml:"appRole"`
	Certificate *Certificate `yaml:"certificate"`
}

// An AppRole logs in by a role and a secret of it.
type AppRole struct {
	Mount        string `yaml:"mount"` // empty: approle
	RoleIDFile   string `yaml:"roleIDFile"`
	SecretIDFile string `yaml:"secretIDFile"`
}

// A Certificate logs in by TLS.
type Certificate struct {
	Mount    string `yaml:"mount"` // empty: cert
	Role     string `yaml:"role"`  // empty: Vault finds the one that fits
	CertFile string `yaml:"certFile"`
	KeyFile  string `yaml:"keyFile"`
}

// An Authority is one PKI engine. It is safe for concurrent use.
type Authority struct {
	cfg    Config
	roots  []*x509.Certificate // pinned; none: those of each answer
	client *upstreamca.Client
}

// isPath is what a mount, an issuer or a namespace may be: nothing that leads elsewhere within a URL.
var isPath = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)

// New makes the authority of a configuration, and reads the roots. It asks nobody yet, and reads what proves who asks each
// time that it does.
func New(cfg Config) (*Authority, error) {
	if cfg.Mount = strings.Trim(cfg.Mount, "/"); cfg.Mount == "" {
		cfg.Mount = "pki"
	}
	paths := []struct{ field, value string }{{"mount", cfg.Mount}, {"issuer", cfg.Issuer}, {"namespace", strings.Trim(cfg.Namespace, "/")}}
	ways := 0
	if cfg.TokenFile != "" {
		ways++
	}
	if role := cfg.AppRole; role != nil {
		ways++
		if role.RoleIDFile == "" || role.SecretIDFile == "" {
			return nil, errors.New("appRole: want roleIDFile and secretIDFile")
		}
		paths = append(paths, struct{ field, value string }{"appRole.mount", role.Mount})
	}
	if by := cfg.Certificate; by != nil {
		ways++
		if by.CertFile == "" || by.KeyFile == "" {
			return nil, errors.New("certificate: want certFile and keyFile")
		}
		paths = append(paths, struct{ field, value string }{"certificate.mount", by.Mount})
	}
	if ways != 1 {
		return nil, errors.New("want one of tokenFile, appRole and certificate")
	}
	for _, path := range paths {
		if path.value != "" && !isPath.MatchString(path.value) {
			return nil, fmt.Errorf("%s %q: want a path of letters, digits and ._-", path.field, path.value)
		}
	}
	a := &Authority{cfg: cfg}
	var pool *x509.CertPool
	if cfg.CAFile != "" {
		all, err := readCertificates("caFile", cfg.CAFile)
		if err != nil {
			return nil, err
		}
		pool = x509.NewCertPool()
		for _, one := range all {
			pool.AddCert(one)
		}
	}
	if cfg.RootFile != "" {
		all, err := readCertificates("rootFile", cfg.RootFile)
		if err != nil {
			return nil, err
		}
		if a.roots = upstreamca.Split(all).Roots; len(a.roots) != len(all) {
			return nil, fmt.Errorf("rootFile %s: has certificates that are no roots", cfg.RootFile)
		}
	}
	var err error
	if a.client, err = upstreamca.NewClient(cfg.URL, pool); err != nil {
		return nil, err
	}
	if by := cfg.Certificate; by != nil {
		a.client.Present(by.CertFile, by.KeyFile)
	}
	return a, nil
}

func readCertificates(field, file string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	all, err := upstreamca.Certificates(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", field, file, err)
	}
	return all, nil
}

// String names it.
func (a *Authority) String() string { return "Vault " + a.client.URL("/v1/"+a.cfg.Mount) }

// path is where intermediates are signed.
func (a *Authority) path() string {
	if a.cfg.Issuer != "" {
		return a.cfg.Mount + "/issuer/" + a.cfg.Issuer + "/sign-intermediate"
	}
	return a.cfg.Mount + "/root/sign-intermediate"
}

// Certify logs in, asks for an intermediate (POST /v1/<mount>/root/sign-intermediate) and gives back what the login gave.
func (a *Authority) Certify(ctx context.Context, csr []byte, _ crypto.Signer, life time.Duration) (upstreamca.Certified, error) {
	s, err := a.login(ctx)
	if err != nil {
		return upstreamca.Certified{}, err
	}
	defer s.end(ctx)
	var signed struct {
		Certificate string   `json:"certificate"`
		Issuer      string   `json:"issuing_ca"`
		Chain       []string `json:"ca_chain"`
	}
	err = s.post(ctx, a.path(), map[string]any{
		"csr":            string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		"use_csr_values": true, "max_path_length": 0, "format": "pem", "ttl": fmt.Sprintf("%ds", int64(life/time.Second)),
	}, &signed)
	if err != nil {
		return upstreamca.Certified{}, err
	}
	return a.certified(signed.Certificate, append(signed.Chain, signed.Issuer))
}

// certified reads an answer: a certificate, and those above it in any order, the same one twice or not.
func (a *Authority) certified(certificate string, above []string) (c upstreamca.Certified, err error) {
	failed := func(err error) (upstreamca.Certified, error) {
		return upstreamca.Certified{}, fmt.Errorf("%w: %s: %w", upstreamca.ErrAnswer, a.path(), err)
	}
	if len(above) > upstreamca.MaxChain+upstreamca.MaxRoots+1 {
		return failed(fmt.Errorf("a chain of %d certificates", len(above)))
	}
	var all []*x509.Certificate
	for _, text := range append([]string{certificate}, above...) {
		if text == "" && len(all) > 0 {
			continue
		}
		some, err := upstreamca.Certificates(text)
		if err != nil {
			return failed(err)
		}
		for _, one := range some {
			if !contains(all, one) {
				all = append(all, one)
			}
		}
	}
	if c = upstreamca.Split(all); a.roots != nil {
		c.Roots = a.roots
	}
	if len(c.Roots) == 0 {
		return failed(errors.New("it leads to no root: import the root's certificate into the engine, or name it with rootFile"))
	}
	return c, nil
}

func contains(all []*x509.Certificate, one *x509.Certificate) bool {
	for _, other := range all {
		if other.Equal(one) {
			return true
		}
	}
	return false
}

// answer is what is common to all of Vault's.
type answer struct {
	Errors []string        `json:"errors"`
	Data   json.RawMessage `json:"data"`
	Auth   *struct {
		Token string `json:"client_token"`
	} `json:"auth"`
}

// ask sends a question with a token, which may be empty, and hides secrets where the answer repeats them.
func (a *Authority) ask(ctx context.Context, token, path string, body any, secrets ...string) (*answer, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	header := http.Header{"X-Vault-Request": {"true"}}
	if token != "" {
		header.Set("X-Vault-Token", token)
		secrets = append(secrets, token)
	}
	if a.cfg.Namespace != "" {
		header.Set("X-Vault-Namespace", a.cfg.Namespace)
	}
	status, text, err := a.client.Do(ctx, http.MethodPost, "/v1/"+path, header, data)
	if err != nil {
		return nil, err
	}
	got := &answer{}
	err = json.Unmarshal(text, got)
	if status/100 == 2 && (len(text) == 0 || err == nil) { // 204 has no body
		return got, nil
	}
	words := strings.Join(got.Errors, "; ")
	for _, secret := range secrets {
		words = strings.ReplaceAll(words, secret, "…")
	}
	failure := upstreamca.Failure("POST /v1/"+path, status, words)
	switch {
	case status/100 == 2:
		return nil, fmt.Errorf("%w: POST /v1/%s: it is not JSON", upstreamca.ErrAnswer, path) // the error could show parts of it
	case status/100 == 3:
		return nil, fmt.Errorf("%w (it points to another host, which is not followed: let url lead to the active node)", failure)
	case status == http.StatusServiceUnavailable:
		return nil, fmt.Errorf("%w (is it sealed?)", failure)
	}
	return nil, &refused{status: status, err: failure}
}

// refused is Vault's no, whose remedy depends on what was asked.
type refused struct {
	status int
	err    error
}

func (r *refused) Error() string { return r.err.Error() }
func (r *refused) Unwrap() error { return r.err }
