// Package vaulttest runs a real OpenBao, or asks a Vault that runs already, for tests.
package vaulttest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
)

// A Server is a Vault or an OpenBao that runs, with root's token. Tests mount what they need at paths that have their names.
type Server struct {
	testing.TB
	URL, CAFile string

	token, dir string
	client     *http.Client
}

// Serve is the server that VAULT_ADDR, VAULT_CACERT and VAULT_TOKEN name; without them it is one of `bao` in development mode, which
// ends with the test. The test is skipped where there is neither.
func Serve(t testing.TB) *Server {
	t.Helper()
	s := &Server{TB: t, URL: os.Getenv("VAULT_ADDR"), CAFile: os.Getenv("VAULT_CACERT"), token: os.Getenv("VAULT_TOKEN"), dir: t.TempDir()}
	var failed <-chan error
	if s.URL == "" {
		program, err := exec.LookPath("bao")
		if err != nil {
			t.Skip("no bao in PATH, and VAULT_ADDR, VAULT_CACERT and VAULT_TOKEN name no server")
		}
		failed = s.start(program)
	}
	s.await(failed)
	return s
}

func (s *Server) start(program string) <-chan error {
	s.Helper()
	ports, err := launch.FreePorts(1)
	if err != nil {
		s.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", ports[0])
	s.URL, s.CAFile, s.token = "https://"+address, filepath.Join(s.dir, "vault-ca.pem"), "root-of-a-test"
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		s.Fatal(err)
	}
	cmd := exec.Command(program, "server", "-dev", "-dev-tls", "-dev-tls-cert-dir="+s.dir, "-dev-listen-address="+address, "-dev-no-store-token")
	cmd.Env = append(os.Environ(), "BAO_DEV_ROOT_TOKEN_ID="+s.token)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait(); close(ended) }()
	s.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range ended {
		}
		log.Close()
		if s.Failed() {
			text, _ := os.ReadFile(log.Name())
			s.Logf("the server says:\n%s", text)
		}
	})
	return ended
}

// await returns when the server answers that it can be used.
func (s *Server) await(ended <-chan error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.trust()
		if err == nil {
			err = s.answers(ctx)
		}
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case end := <-ended:
			s.Fatalf("the server ended: %v", end)
		case <-ctx.Done():
			s.Fatalf("no server answers at %s: %v", s.URL, err)
		}
	}
}

func (s *Server) trust() error {
	text, err := os.ReadFile(s.CAFile)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}}}
	return nil
}

func (s *Server) answers(ctx context.Context) error {
	status, text, err := s.ask(ctx, http.MethodGet, "sys/mounts", nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("it answers %d: %s", status, text)
	}
	return err
}

// ask sends a request as root, and returns the answer's status and body.
func (s *Server) ask(ctx context.Context, method, path string, body []byte) (status int, answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, s.URL+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("X-Vault-Token", s.token)
	response, err := s.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// Client trusts the server's certificate.
func (s *Server) Client() *http.Client { return s.client }

// File writes a file that ends with the test, and returns its path.
func (s *Server) File(name, text string) string {
	s.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
	return path
}

// Do asks something as root, and returns the answer's data, or what a login gave.
func (s *Server) Do(method, path string, body map[string]any) map[string]any {
	s.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		s.Fatal(err)
	}
	status, text, err := s.ask(context.Background(), method, path, text)
	if err != nil {
		s.Fatal(err)
	}
	if status/100 != 2 {
		s.Fatalf("%s %s: %d %s", method, path, status, text)
	}
	var answer struct{ Data, Auth map[string]any }
	if len(text) > 0 {
		if err := json.Unmarshal(text, &answer); err != nil {
			s.Fatal(err)
		}
	}
	if answer.Auth != nil {
		return answer.Auth
	}
	return answer.Data
}

// Text is a value of an answer, which is "" where it is no text.
func Text(value any) string {
	is, _ := value.(string)
	return is
}

// Tokens counts the tokens that the server lets in.
func (s *Server) Tokens() int {
	s.Helper()
	keys, _ := s.Do("LIST", "auth/token/accessors", nil)["keys"].([]any)
	return len(keys)
}

// Mounts makes a root and an issuing authority below it in two engines, and a policy for the second, and returns the second's path,
// which is the policy's name too.
func (s *Server) Mounts() (issuing string, root *x509.Certificate) {
	s.Helper()
	name := strings.ToLower(s.Name())
	for _, path := range []string{name + "-root", name} {
		s.Do("POST", "sys/mounts/"+path, map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "87600h"}})
		s.Cleanup(func() { s.Do("DELETE", "sys/mounts/"+path, nil) })
	}
	made := s.Do("POST", name+"-root/root/generate/internal", map[string]any{"common_name": "Example root", "key_type": "ec", "key_bits": 256, "ttl": "87000h"})
	asked := s.Do("POST", name+"/intermediate/generate/internal", map[string]any{"common_name": "Example issuing", "key_type": "ec", "key_bits": 256})
	signed := s.Do("POST", name+"-root/root/sign-intermediate", map[string]any{"csr": asked["csr"], "common_name": "Example issuing", "ttl": "80000h", "max_path_length": 1})
	s.Do("POST", name+"/intermediate/set-signed", map[string]any{"certificate": signed["certificate"]})
	s.Do("POST", "sys/policies/acl/"+name, map[string]any{"policy": `path "` + name + `/root/sign-intermediate" { capabilities = ["create", "update"] }`})
	return name, s.certificateOf(made["certificate"])
}

// AppRole makes a role that has a policy, and returns where one logs in as it, and the files of its ID and secret.
func (s *Server) AppRole(policy string) (mount, roleIDFile, secretIDFile string) {
	s.Helper()
	mount = strings.ToLower(s.Name()) + "-approle"
	s.Do("POST", "sys/auth/"+mount, map[string]any{"type": "approle"})
	s.Cleanup(func() { s.Do("DELETE", "sys/auth/"+mount, nil) })
	s.Do("POST", "auth/"+mount+"/role/sennit", map[string]any{"token_policies": policy, "token_ttl": "5m"})
	role := s.Do("GET", "auth/"+mount+"/role/sennit/role-id", nil)
	secret := s.Do("POST", "auth/"+mount+"/role/sennit/secret-id", map[string]any{})
	return mount, s.File("role", Text(role["role_id"])), s.File("secret", Text(secret["secret_id"]))
}

// certificateOf reads the first certificate of a text.
func (s *Server) certificateOf(value any) *x509.Certificate {
	s.Helper()
	block, _ := pem.Decode([]byte(Text(value)))
	if block == nil {
		s.Fatalf("no PEM: %v", value)
	}
	one, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		s.Fatal(err)
	}
	return one
}
