// Package stepca has a real step-ca certify the intermediate of a real controller.
package stepca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"
	"github.com/smallstep/certificates/ca"
	"github.com/smallstep/certificates/db"
	"go.step.sm/crypto/jose"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	sennitca "github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/upstreamca"
	"github.com/sennit-mesh/sennit/pkg/upstreamca/stepca"
	"github.com/sennit-mesh/sennit/test/mesh"
)

// template makes an intermediate, as docs/how-to/use-an-external-authority.md has it.
const template = `{
	"subject": {{ toJson .Subject }},
	"sans": {{ toJson .SANs }},
	"keyUsage": ["certSign", "crlSign"],
	"basicConstraints": {"isCA": true, "maxPathLen": 0}
}`

const password = "a long password"

// An authority is a step-ca that runs.
type authority struct {
	*testing.T
	dir  string
	stop func()
}

func (a *authority) file(name string, data []byte) string {
	a.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		a.Fatal(err)
	}
	return path
}

func (a *authority) certificate(name string, pathLen int, by *x509.Certificate, byKey crypto.Signer) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLen: pathLen,
	}
	if by == nil {
		by, byKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), byKey)
	if err != nil {
		a.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		a.Fatal(err)
	}
	return certificate, key
}

func pemOf(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

// start runs a step-ca with a provisioner of type JWK and others, and returns how a controller is to ask it by the first.
func start(t *testing.T, more ...provisioner.Interface) (*authority, stepca.Config) {
	t.Helper()
	a := &authority{T: t, dir: t.TempDir()}
	root, rootKey := a.certificate("Example root", 2, nil, nil)
	issuing, issuingKey := a.certificate("Example issuing", 1, root, rootKey)
	der, err := x509.MarshalPKCS8PrivateKey(issuingKey)
	if err != nil {
		t.Fatal(err)
	}
	public, sealed, err := jose.GenerateDefaultKeyPair([]byte(password))
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := sealed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	long := &provisioner.Duration{Duration: 100 * 24 * time.Hour}
	jwk := &provisioner.JWK{
		Type: "JWK", Name: "sennit", Key: public, EncryptedKey: encrypted, Claims: &provisioner.Claims{MaxTLSDur: long, DefaultTLSDur: long},
		Options: &provisioner.Options{X509: &provisioner.X509Options{Template: template}},
	}
	cfg := &config.Config{
		Root: []string{a.file("root_ca.crt", pemOf(root))}, IntermediateCert: a.file("intermediate_ca.crt", pemOf(issuing)),
		IntermediateKey: a.file("intermediate_ca_key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		Address:         address, DNSNames: []string{"127.0.0.1"}, Logger: json.RawMessage(`{"format": "text"}`),
		AuthorityConfig: &config.AuthConfig{Provisioners: append(provisioner.List{jwk}, more...)},
		DB:              &db.Config{Type: "bbolt", DataSource: filepath.Join(a.dir, "db")},
	}
	server, err := ca.New(cfg, ca.WithQuiet(true))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Run() }()
	a.stop = sync.OnceFunc(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
		<-done
	})
	t.Cleanup(a.stop)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	return a, stepca.Config{
		URL: "https://" + address, RootFile: cfg.Root[0], Provisioner: "sennit",
		KeyFile: a.file("provisioner.jwe", []byte(encrypted)), PasswordFile: a.file("password", []byte(password+"\n")),
	}
}

func request(t *testing.T) (csr []byte, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "test c1"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr, key
}

func TestCertify(t *testing.T) {
	_, cfg := start(t)
	a, err := stepca.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	csr, key := request(t)
	got, err := a.Certify(context.Background(), csr, key, 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Check(&key.PublicKey, "test.local", 89*24*time.Hour, time.Now()); err != nil {
		t.Fatal(err)
	}
	if len(got.Chain) != 2 || !got.Chain[0].MaxPathLenZero {
		t.Errorf("chain of %d certificates", len(got.Chain))
	}
}

// TestWrongKeys are refused by step-ca, and said to be; no error shows a password or a key.
func TestWrongKeys(t *testing.T) {
	a, cfg := start(t)
	_, other, err := jose.GenerateDefaultKeyPair([]byte(password))
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := other.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	open := a.file("open.jwe", []byte(stranger))
	if err := os.Chmod(open, 0o640); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*stepca.Config)
		want   string
	}{
		"another key":      {func(c *stepca.Config) { c.KeyFile = a.file("other.jwe", []byte(stranger)) }, "the authority answers 401"},
		"another name":     {func(c *stepca.Config) { c.Provisioner = "nobody" }, "the authority answers 401"},
		"another password": {func(c *stepca.Config) { c.PasswordFile = a.file("wrong", []byte("wrong")) }, "the password of"},
		"no password":      {func(c *stepca.Config) { c.PasswordFile = "" }, "a JWE needs passwordFile"},
		"others can read":  {func(c *stepca.Config) { c.KeyFile = open }, "run `chmod 600"},
		"another root": {func(c *stepca.Config) {
			root, _ := a.certificate("another", 2, nil, nil)
			c.RootFile = a.file("another.crt", pemOf(root))
		}, "certificate signed by unknown authority"},
	} {
		one := cfg
		tt.change(&one)
		asked, err := stepca.New(one, nil)
		if err != nil {
			t.Fatal(name, err)
		}
		csr, key := request(t)
		_, err = asked.Certify(context.Background(), csr, key, time.Hour)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), password) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

const orders = `
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: default}
spec: {ports: [{port: 80}]}
`

// TestTakesOver lets step-ca certify the intermediate of a mesh under load, renews it, and goes back to the own root, also
// while step-ca is away. No request fails.
func TestTakesOver(t *testing.T) {
	takesOver(t, false)
}

// TestTakesOverUnderAnOfflineRoot, which agrees to step-ca's root first. A node that is away is waited for until its certificates
// have ended.
func TestTakesOverUnderAnOfflineRoot(t *testing.T) {
	takesOver(t, true)
}

func takesOver(t *testing.T, offline bool) {
	t.Helper()
	a, cfg := start(t)
	settings := a.file("upstream.yaml", fmt.Appendf(nil, "stepCA:\n  url: %s\n  rootFile: %s\n  provisioner: %s\n  keyFile: %s\n  passwordFile: %s\n", cfg.URL, cfg.RootFile, cfg.Provisioner, cfg.KeyFile, cfg.PasswordFile))
	m := mesh.Start(t, mesh.Config{
		Services: []string{"default/web", "default/orders"}, Nodes: []string{"one", "two", "three"}, CertificateTTL: 30 * time.Second,
		ControllerFlags: []string{"--upstream-ca", settings},
	})
	m.Serve("two", mesh.Service{Name: "default/orders", Version: "v2"})
	m.Serve("three", mesh.Service{Name: "default/orders", Version: "v3"})
	address := m.Listen("one", "default/web", "default/orders:80")
	m.MustApply(orders)
	m.AwaitAnswer("one", address, "v2", "v3")
	authority := func() (now report.Authority) {
		t.Helper()
		if err := launch.Call(t.Context(), m.Socket(), http.MethodGet, report.PathAuthority, nil, &now); err != nil {
			t.Fatal(err)
		}
		return now
	}
	rotate := func(what report.Rotate) error {
		return launch.Call(t.Context(), m.Socket(), http.MethodPost, report.PathAuthority+"/rotate", what, nil)
	}
	await := func(what string, done func(report.Authority) bool) report.Authority {
		t.Helper()
		const most = 3 * time.Minute // a rotation waits for who is away for as long as its certificates last
		for until := time.Now().Add(most); ; time.Sleep(50 * time.Millisecond) {
			now := authority()
			if done(now) {
				return now
			}
			if time.Now().After(until) {
				t.Fatalf("%s: not within %s: it is %+v", what, most, now)
			}
		}
	}
	ended := func(now report.Authority) bool { return now.Rotation == nil }

	if now := authority(); now.Upstream != nil || now.UpstreamCA != "step-ca "+cfg.URL {
		t.Errorf("before: %+v", now)
	}
	if offline {
		root, _, err := sennitca.NewOfflineRoot("sennit", "sennit.local", func() ([]byte, error) { return []byte(password), nil }, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		sign := func(what report.RootRequest, agreed ...*x509.Certificate) {
			t.Helper()
			var file report.RootFile
			err := launch.Call(t.Context(), m.Socket(), http.MethodPost, report.PathAuthority+"/request", what, &file)
			if err != nil {
				t.Fatal(err)
			}
			request, err := sennitca.ParseRequest([]byte(file.PEM))
			if err == nil {
				request.Agreed, _, err = root.Other(request)
			}
			if err != nil {
				t.Fatal(err)
			}
			request.AgreedOutside = agreed
			answer, err := root.Sign(request, 0, time.Now())
			if err == nil {
				err = launch.Call(t.Context(), m.Socket(), http.MethodPost, report.PathAuthority+"/accept", report.RootFile{PEM: string(answer)}, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		sign(report.RootRequest{NextRoot: string(root.CertificatePEM())})
		await("the root is elsewhere", func(now report.Authority) bool { return now.Offline && now.Rotation == nil })
		if err := rotate(report.Rotate{Of: "intermediate"}); err == nil || !strings.Contains(authority().Failure, "--outside-root") || authority().Rotation != nil {
			t.Errorf("before the own root has agreed: %v, %+v", err, authority())
		}
		text, err := os.ReadFile(cfg.RootFile)
		if err != nil {
			t.Fatal(err)
		}
		roots, err := upstreamca.Certificates(string(text))
		if err != nil {
			t.Fatal(err)
		}
		sign(report.RootRequest{OutsideRoots: []string{string(text)}}, roots...)
		m.StopPart(m.Node("three"))
	}
	load := m.Load(mesh.LoadConfig{Node: "one", Address: address, Connections: 2, Methods: []string{"GET", "POST"}, Pace: 20 * time.Millisecond})
	if err := rotate(report.Rotate{Of: "intermediate"}); err != nil {
		t.Fatal(err)
	}
	if offline {
		began := await("all but who is away know of step-ca's root", func(now report.Authority) bool {
			return now.Rotation != nil && now.Nodes.Done == 2
		})
		if began.Rotation.Phase != report.Announced || len(began.Nodes.Waiting) != 1 || began.Nodes.Waiting[0] != "three" {
			t.Errorf("a node is away that would not believe step-ca's root: %+v, nodes %+v", began.Rotation, began.Nodes)
		}
	}
	first := await("step-ca's intermediate issues", func(now report.Authority) bool {
		return now.Upstream != nil && len(now.Nodes.Waiting) == 0
	})
	if len(first.Upstream.Roots) != 1 || first.Upstream.Roots[0].Name != "Example root" {
		t.Errorf("status: %+v", first.Upstream)
	}
	if offline {
		m.RestartNode("three")
	}
	m.Kill(m.Controller())
	m.RestartController()
	await("the old intermediate is withdrawn", ended)
	m.AwaitAnswers(load, "the load goes on", "v2", 20)
	if err := rotate(report.Rotate{Of: "intermediate"}); err != nil { // another, of another key
		t.Fatal(err)
	}
	await("another intermediate issues", func(now report.Authority) bool {
		return now.Upstream != nil && now.Upstream.Key != first.Upstream.Key && len(now.Nodes.Waiting) == 0
	})
	await("the old intermediate is withdrawn", ended)

	a.stop()
	if err := rotate(report.Rotate{Of: "intermediate"}); err == nil || authority().Failure == "" {
		t.Errorf("step-ca is away: %v, %+v", err, authority())
	}
	m.AwaitAnswers(load, "the load goes on", "v3", 20)
	if err := rotate(report.Rotate{Of: "intermediate", OwnRoot: true}); err != nil {
		t.Fatal(err)
	}
	await("the own root certifies again", func(now report.Authority) bool { return now.Upstream == nil && len(now.Nodes.Waiting) == 0 })
	await("step-ca's root is withdrawn", ended)
	m.AwaitAnswers(load, "the load goes on", "v2", 20)
	tally := load.Stop()
	t.Log(tally)
	if tally.Failed > 0 {
		t.Errorf("%d requests failed: %q", tally.Failed, tally.Failures)
	}
}

func TestMain(m *testing.M) { mesh.Main(m) }
