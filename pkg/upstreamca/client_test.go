package upstreamca

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestClient: whoever stands in an authority's place learns nothing that was not sent to it, and fills no memory.
func TestClient(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		case "/large":
			_, _ = w.Write(make([]byte, MaxAnswer+1))
		case "/small":
			_, _ = w.Write(make([]byte, MaxAnswer))
		}
	}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	roots.AddCert(elsewhere.Certificate())
	c, err := NewClient(server.URL, roots)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, err := c.Do(context.Background(), http.MethodPost, "/redirect", nil, []byte("a token")); err != nil || status != http.StatusTemporaryRedirect {
		t.Errorf("a redirect: %d, %v", status, err)
	}
	if _, _, err := c.Do(context.Background(), http.MethodGet, "/large", nil, nil); err == nil {
		t.Error("an answer without end is read")
	}
	if _, answer, err := c.Do(context.Background(), http.MethodGet, "/small", nil, nil); err != nil || len(answer) != MaxAnswer {
		t.Errorf("%d bytes, %v", len(answer), err)
	}
	stranger, err := NewClient(server.URL, x509.NewCertPool())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := stranger.Do(context.Background(), http.MethodGet, "/small", nil, nil); err == nil {
		t.Error("a certificate of another authority is believed")
	}
	if words := Failure("GET /", 400, "a\n"+strings.Repeat("b", 1000)).Error(); len(words) > 500 || strings.Contains(words, "\n") {
		t.Errorf("%d bytes: %s", len(words), words)
	}
}

func TestReadSecret(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	for _, tt := range []struct {
		text, want string
		mode       os.FileMode
	}{{" secret\n", "secret", 0o600}, {"secret", "secret", 0o400}, {"secret", "", 0o640}, {"secret", "", 0o604}, {"\n", "", 0o600}, {strings.Repeat("s", maxSecret+1), "", 0o600}} {
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, tt.mode); err != nil {
			t.Fatal(err)
		}
		got, err := ReadSecret(file)
		if string(got) != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%d bytes of mode %o: %d bytes, %v", len(tt.text), tt.mode, len(got), err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}
