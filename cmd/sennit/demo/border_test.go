package demo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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

// The bank serves HTTPS with the certificate that it writes, and for its name alone.
func TestBankShowsItsCertificate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bank.pem")
	own, err := ownCertificate(bankName, file)
	if err != nil {
		t.Fatal(err)
	}
	handler, err := shopHandler(ShopConfig{Role: "bank", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{own}}
	server.StartTLS()
	t.Cleanup(server.Close)
	written, err := os.ReadFile(file)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(written) || strings.Contains(string(written), "PRIVATE") {
		t.Fatalf("%v: %s", err, written)
	}
	for name, good := range map[string]bool{bankName: true, "other.example": false} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name}}}
		response, err := client.Get(server.URL + "/rates")
		if (err == nil) != good {
			t.Errorf("as %s: %v", name, err)
		}
		if err == nil {
			if body, _ := io.ReadAll(response.Body); string(body) != `{"service":"bank","version":"v1"}`+"\n" {
				t.Errorf("it answers %q", body)
			}
			response.Body.Close()
		}
		client.CloseIdleConnections()
	}
}

// What is answered, and not as it must be, does not count as shown.
func TestAnswerOfSomebodyElse(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"other": 1}`) }))
	t.Cleanup(server.Close)
	if err := untilAnswered(t.Context(), server.URL, "other"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := untilAnswered(ctx, server.URL, "service"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
