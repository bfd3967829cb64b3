package acme

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBindingKey is base64url, padded or not; what is none is said before anybody is asked, and not shown.
func TestBindingKey(t *testing.T) {
	t.Parallel()
	for text, good := range map[string]bool{"c2VjcmV0cw==": true, "c2VjcmV0cw": true, "-_-_": true, "top secret": false, "c2Vj+mV0": false, "=": false} {
		asked := false
		p := &peer{}
		p.instead = map[string]http.HandlerFunc{"/directory": func(w http.ResponseWriter, r *http.Request) {
			asked = true
			p.usual(w, r)
		}}
		cfg, csr, key := p.start(t)
		cfg.EAB = &EAB{KeyID: "one", HMACKeyFile: filepath.Join(t.TempDir(), "hmac")}
		if err := os.WriteFile(cfg.EAB.HMACKeyFile, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := New(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Certify(context.Background(), csr, key, time.Hour)
		if good && (err != nil || !asked) || !good && (err == nil || asked || !strings.Contains(err.Error(), "hmacKeyFile") || text != "=" && strings.Contains(err.Error(), text)) {
			t.Errorf("%q: %v, asked: %v", text, err, asked)
		}
	}
}
