package vault

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A recording is what a real server answered, with its secrets replaced. VAULT_RECORD=FILE and a server's address make one
// with TestRecord.
type recording struct {
	Server    string     `json:"server"`
	Recorded  time.Time  `json:"recorded"`
	Key       string     `json:"key"` // of the intermediates, of no use to anybody
	CSR       string     `json:"csr"`
	Root      string     `json:"root"`
	Scenarios []scenario `json:"scenarios"`
}

type scenario struct {
	Name      string     `json:"name"`
	Mount     string     `json:"mount"`
	Exchanges []exchange `json:"exchanges"`
}

type exchange struct {
	Method string          `json:"method"`
	Path   string          `json:"path"`
	Token  string          `json:"token,omitempty"`
	Body   json.RawMessage `json:"body"`
	Status int             `json:"status"`
	Answer json.RawMessage `json:"answer,omitempty"`
}

const (
	roleID   = "example-role"
	secretID = "example-secret"
	theToken = "example-token"
)

// inFront runs a server whose certificate its file has.
func inFront(t *testing.T, handler http.HandlerFunc) (url, caFile string) {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	caFile = filepath.Join(t.TempDir(), "server.crt")
	if err := os.WriteFile(caFile, []byte(pemOf(server.Certificate())), 0o600); err != nil {
		t.Fatal(err)
	}
	return server.URL, caFile
}

// TestRecord keeps what a real server answers to a role that may, to one that may not, and to a wrong secret.
func TestRecord(t *testing.T) {
	file := os.Getenv("VAULT_RECORD")
	if file == "" {
		t.Skip("VAULT_RECORD names no file")
	}
	s := serve(t)
	csr, key := request(t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	kept := recording{
		Recorded: time.Now().UTC(), CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		Key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), Server: os.Getenv("VAULT_RECORD_SERVER"),
	}
	mount, root := s.Mounts()
	kept.Root = pemOf(root)
	role := s.appRole(mount)
	read := func(file string) string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	mayNot := func() {
		s.Do("POST", "sys/policies/acl/"+mount, map[string]any{"policy": `path "of/another" { capabilities = ["read"] }`})
	}
	wrong := func() { role.SecretIDFile = s.File("wrong", "11111111-2222-3333-4444-555555555555") }
	for _, one := range []struct {
		name   string
		before func()
	}{{"without a root", func() {}}, {"with a root", func() { s.Do("POST", mount+"/issuers/import/cert", map[string]any{"pem_bundle": kept.Root}) }}, {"it may not", mayNot}, {"a wrong secret", wrong}} {
		one.before()
		now := scenario{Name: one.name, Mount: mount}
		hide := map[string]string{read(role.RoleIDFile): roleID, read(role.SecretIDFile): secretID, role.Mount: "approle"}
		hidden := func(text []byte) []byte {
			for secret, name := range hide {
				text = bytes.ReplaceAll(text, []byte(secret), []byte(name))
			}
			return text
		}
		url, caFile := inFront(t, func(w http.ResponseWriter, r *http.Request) {
			asked, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			again, err := http.NewRequestWithContext(r.Context(), r.Method, s.URL+r.URL.Path, bytes.NewReader(asked))
			if err != nil {
				t.Error(err)
				return
			}
			again.Header = r.Header.Clone()
			response, err := s.Client().Do(again)
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			answered, err := io.ReadAll(response.Body)
			if err != nil {
				t.Error(err)
			}
			var login answer
			if json.Unmarshal(answered, &login) == nil && login.Auth != nil {
				hide[login.Auth.Token] = theToken
			}
			now.Exchanges = append(now.Exchanges, exchange{
				Method: r.Method, Path: string(hidden([]byte(r.URL.Path))), Token: string(hidden([]byte(r.Header.Get("X-Vault-Token")))),
				Body: hidden(asked), Status: response.StatusCode, Answer: hidden(answered),
			})
			w.WriteHeader(response.StatusCode)
			_, _ = w.Write(answered)
		})
		a, err := New(Config{URL: url, CAFile: caFile, Mount: mount, AppRole: role})
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Certify(context.Background(), csr, key, long)
		t.Log(one.name, err)
		kept.Scenarios = append(kept.Scenarios, now)
	}
	text, err := json.MarshalIndent(kept, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRecorded replays what real servers answered: each question is the one that was recorded, and comes to the same.
func TestRecorded(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skip("none is recorded")
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var kept recording
		if err := json.Unmarshal(text, &kept); err != nil {
			t.Fatal(err)
		}
		for _, one := range kept.Scenarios {
			t.Run(kept.Server+"/"+one.Name, func(t *testing.T) { replay(t, &kept, one) })
		}
	}
}

func replay(t *testing.T, kept *recording, one scenario) {
	left := one.Exchanges
	url, caFile := inFront(t, func(w http.ResponseWriter, r *http.Request) {
		asked, err := io.ReadAll(r.Body)
		if err != nil || len(left) == 0 {
			t.Errorf("%s %s is one more: %v", r.Method, r.URL.Path, err)
			return
		}
		next := left[0]
		left = left[1:]
		var want bytes.Buffer
		if err := json.Compact(&want, next.Body); err != nil {
			t.Error(err)
		}
		if r.Method != next.Method || r.URL.Path != next.Path || r.Header.Get("X-Vault-Token") != next.Token || want.String() != string(asked) {
			t.Errorf("%s %s, %q: %s\nwant %s %s, %q: %s", r.Method, r.URL.Path, r.Header.Get("X-Vault-Token"), asked, next.Method, next.Path, next.Token, &want)
		}
		w.WriteHeader(next.Status)
		_, _ = w.Write(next.Answer)
	})
	cfg := Config{URL: url, CAFile: caFile, Mount: one.Mount, AppRole: exampleRole(t)}
	block, _ := pem.Decode([]byte(kept.CSR))
	sealed, _ := pem.Decode([]byte(kept.Key))
	private, err := x509.ParsePKCS8PrivateKey(sealed.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := private.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("a %T", private)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Certify(context.Background(), block.Bytes, key, long)
	if len(left) > 0 {
		t.Errorf("%d questions are not asked", len(left))
	}
	refusals := map[string]string{
		"without a root": "it leads to no root", "it may not": `its policies lack: path "` + one.Mount + `/root/sign-intermediate" { capabilities`,
		"a wrong secret": "vault write -f auth/approle/role/ROLE/secret-id",
	}
	if want := refusals[one.Name]; want != "" {
		var no *refused
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secretID) || one.Name != "without a root" && !errors.As(err, &no) {
			t.Errorf("%v, want %q", err, want)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Check(&key.PublicKey, "test.local", long-time.Hour, kept.Recorded); err != nil {
		t.Error(err)
	}
	if len(got.Chain) != 2 || pemOf(got.Roots[0]) != kept.Root || !got.Chain[0].MaxPathLenZero {
		t.Errorf("a chain of %d certificates, %d roots", len(got.Chain), len(got.Roots))
	}
}

func exampleRole(t *testing.T) *AppRole {
	t.Helper()
	role := &AppRole{RoleIDFile: filepath.Join(t.TempDir(), "role"), SecretIDFile: filepath.Join(t.TempDir(), "secret")}
	for file, text := range map[string]string{role.RoleIDFile: roleID, role.SecretIDFile: secretID + "\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return role
}
