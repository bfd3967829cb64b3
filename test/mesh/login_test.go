package mesh

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// signIn has the idp sign everybody in as alice, by OpenID Connect.
func (p *idp) signIn(t *testing.T, secret string) {
	nonces := map[string]string{}
	p.mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
		})
	})
	p.mux.HandleFunc("/authorize", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		p.mu.Lock()
		nonces["code"] = q.Get("nonce")
		p.mu.Unlock()
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {"code"}, "state": {q.Get("state")}}.Encode(), http.StatusFound)
	})
	p.mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		nonce := nonces[r.FormValue("code")]
		p.mu.Unlock()
		if _, given, _ := r.BasicAuth(); given != secret || nonce == "" || r.FormValue("code_verifier") == "" {
			http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": p.sign(t, map[string]any{"sub": "alice", "nonce": nonce})})
	})
}

// TestPeopleSignIn has a browser come to a gateway, sign in at a provider, and stay signed in over a restart of the gateway's
// node with no controller there; what the node needs for that lies in no file of the mesh in the clear.
func TestPeopleSignIn(t *testing.T) {
	t.Parallel()
	const secret = "correct-horse-battery-staple"
	provider := startIDP(t)
	provider.signIn(t, secret)
	e := startEdge(t, "default/storefront", "default/edge")
	port := e.Mesh.port()
	certificate, _ := certificateSecret(t, 1)
	e.MustApply(certificate)
	e.MustApply(fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  gatewayClassName: sennit\n  listeners:\n"+
		"  - {name: http-%d, port: %d, protocol: HTTPS, tls: {certificateRefs: [{name: shop}]}}\n", port, port))
	e.awaitListener(port, "True Programmed")
	e.MustApply("apiVersion: v1\nkind: Secret\nmetadata: {name: idp}\ndata: {client-secret: " + base64.StdEncoding.EncodeToString([]byte(secret)) + "}\n")
	var policy map[string]any
	if err := json.Unmarshal([]byte(provider.policy("people", "default", `{"kind":"Gateway","name":"edge"}`)), &policy); err != nil {
		t.Fatal(err)
	}
	bundle := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: provider.Certificate().Raw}))
	policy["spec"].(map[string]any)["oidc"] = map[string]any{
		"issuer": provider.URL, "clientID": "shop", "clientSecretRef": map[string]any{"name": "idp"}, "caBundle": bundle,
	}
	text, _ := json.Marshal(policy)
	e.MustApply(string(text) + "\n")

	jar, _ := cookiejar.New(nil)
	pool := provider.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	browser := &http.Client{Jar: jar, Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			config := &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
			if strings.HasPrefix(address, "shop.example:") {
				config.InsecureSkipVerify, config.ServerName, address = true, "shop.example", fmt.Sprintf("127.0.0.1:%d", port)
			}
			return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
		},
	}}
	led := 0
	browser.CheckRedirect = func(*http.Request, []*http.Request) error { led++; return nil }
	visit := func(ctx context.Context) error {
		led = 0
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://shop.example:%d/", port), nil)
		if err != nil {
			return err
		}
		request.Header.Set("Accept", "text/html")
		response, err := browser.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && (response.StatusCode != http.StatusOK || string(body) != "v1") {
			err = fmt.Errorf("%s %q", response.Status, body)
		}
		return err
	}
	e.Eventually("somebody signs in", func(ctx context.Context) error {
		if err := visit(ctx); err != nil || led != 3 && led != 0 {
			return fmt.Errorf("led %d times, %w", led, err)
		}
		return nil
	})
	if err := visit(t.Context()); err != nil || led != 0 {
		t.Errorf("who has signed in is led %d times, %v", led, err)
	}
	e.StopPart(e.Controller())
	e.RestartNode("one")
	e.Eventually("the session goes on after a restart, without a controller", func(ctx context.Context) error {
		if err := visit(ctx); err != nil || led != 0 {
			return fmt.Errorf("led %d times, %w", led, err)
		}
		return nil
	})

	err := filepath.WalkDir(e.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))} {
			if bytes.Contains(data, []byte(form)) {
				t.Errorf("%s holds the client's secret", path)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
