package mesh

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sennit-mesh/sennit/internal/tokentest"
	"github.com/sennit-mesh/sennit/pkg/api"
)

// An idp publishes its newest key over TLS, and signs tokens with it.
type idp struct {
	*httptest.Server
	mux    *http.ServeMux
	mu     sync.Mutex
	key    *ecdsa.PrivateKey
	keyID  string
	broken bool
}

func startIDP(t *testing.T) *idp {
	t.Helper()
	p := &idp{mux: http.NewServeMux()}
	p.rotate(t)
	p.mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.broken {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: p.keyID, Algorithm: "ES256", Use: "sig"}}})
	})
	p.Server = httptest.NewTLSServer(p.mux)
	p.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	t.Cleanup(p.Close)
	return p
}

// rotate has it sign with a new key, and publish no other.
func (p *idp) rotate(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.key, p.keyID = tokentest.NewKey(t), fmt.Sprint("key ", time.Now().UnixNano())
}

func (p *idp) token(t *testing.T, subject string) string {
	t.Helper()
	return p.sign(t, map[string]any{"sub": subject})
}

// sign makes a token for an hour, with these claims more.
func (p *idp) sign(t *testing.T, claims map[string]any) string {
	t.Helper()
	claims["iss"], claims["aud"], claims["exp"] = p.URL, "shop", time.Now().Add(time.Hour).Unix()
	p.mu.Lock()
	defer p.mu.Unlock()
	return tokentest.Sign(t, p.key, p.keyID, claims)
}

// policy is an AuthenticationPolicy for a target that takes its tokens.
func (p *idp) policy(name, namespace, target string) string {
	bundle := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
	text, _ := json.Marshal(map[string]any{
		"apiVersion": "sennit.dev/v1alpha1", "kind": "AuthenticationPolicy", "metadata": map[string]any{"namespace": namespace, "name": name},
		"spec": map[string]any{
			"targetRefs": []any{json.RawMessage(target)},
			"issuers":    []any{map[string]any{"issuer": p.URL, "audiences": []string{"shop"}, "keys": map[string]any{"url": p.URL + "/keys", "caBundle": bundle}}},
		},
	})
	return string(text) + "\n"
}

// TestEndUsers has an issuer whose keys controllers fetch, and a service whose callers show its tokens: through the change of
// its key, its absence, that of the controllers, and restarts.
func TestEndUsers(t *testing.T) {
	t.Parallel()
	issuer := startIDP(t)
	m := Start(t, Config{Services: []string{"shop/cart", "shop/orders"}})
	m.Serve("two", Service{Name: "shop/orders", Version: "v1"})
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	cart := m.Listen("one", "shop/cart", "shop/orders:80")
	m.AwaitAnswer("one", cart, "v1")
	m.MustApply(issuer.policy("users", "shop", `{"kind":"Service","name":"orders"}`))
	ask := func(ctx context.Context, token string) (int, string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+cart+"/", nil)
		if err != nil {
			return 0, "", err
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := m.Client("one").Do(request)
		if err != nil {
			return 0, "", err
		}
		response.Body.Close()
		return response.StatusCode, response.Header.Get("WWW-Authenticate"), nil
	}
	await := func(what, token string, status int, challenge string) {
		t.Helper()
		m.Eventually(what, func(ctx context.Context) error {
			if got, said, err := ask(ctx, token); err != nil || got != status || !strings.Contains(said, challenge) {
				return fmt.Errorf("%d %q %w", got, said, err)
			}
			return nil
		})
	}
	await("no token is refused", "", http.StatusUnauthorized, "Bearer")
	first := issuer.token(t, "alice")
	await("the keys are there", first, http.StatusOK, "")
	if got, said, err := ask(t.Context(), first[:len(first)-8]+"AAAAAAAA"); err != nil || got != http.StatusUnauthorized || !strings.Contains(said, "invalid_token") {
		t.Errorf("a bad token: %d %q %v", got, said, err)
	}

	issuer.rotate(t)
	second := issuer.token(t, "alice")
	await("a key that was not known is fetched", second, http.StatusOK, "")
	await("a key that is gone proves nothing", first, http.StatusUnauthorized, "invalid_token")

	issuer.mu.Lock()
	issuer.broken = true
	issuer.mu.Unlock()
	m.StopPart(m.Controller())
	m.StopPart(m.Node("two"))
	m.RestartNode("two")
	await("without a controller and an issuer, after a restart", second, http.StatusOK, "")
	await("no token is refused then", "", http.StatusUnauthorized, "Bearer")
	m.RestartController()
	m.Eventually("the controller says that the issuer does not answer", func(context.Context) error {
		var p api.AuthenticationPolicy
		if err := m.Read("AuthenticationPolicy", "shop/users", &p); err != nil {
			return err
		}
		if got := conditionOf(p.Status.Conditions, "ResolvedRefs"); !strings.Contains(got, "are used until") {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	if got, said, err := ask(t.Context(), second); err != nil || got != http.StatusOK {
		t.Errorf("with a controller that started without the issuer: %d %q %v", got, said, err)
	}
}

// TestEndUsersFromOutside has a gateway ask.
func TestEndUsersFromOutside(t *testing.T) {
	t.Parallel()
	issuer := startIDP(t)
	e := startEdge(t, "default/edge", "default/storefront")
	e.MustApply(issuer.policy("users", "default", `{"kind":"Gateway","name":"edge"}`))
	e.awaitHost("shop.example", http.StatusUnauthorized, "unauthenticated")
	token := issuer.token(t, "alice")
	e.Eventually("a token is taken", func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", e.port), nil)
		if err != nil {
			return err
		}
		request.Host = "shop.example"
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := e.Client("two").Do(request)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", response.Status)
		}
		return nil
	})
}
