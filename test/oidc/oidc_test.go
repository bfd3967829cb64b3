// Package oidc signs people in with a real OpenID Connect provider, over HTTPS, and lets them use a real controller.
package oidc

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/cmd/sennit/signin"
	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/controller"
)

const (
	username, password = "dora", "verysecure"
	subject            = username // the provider's device flow takes one for the other
)

// A world is a provider, and a controller that believes it.
type world struct {
	*testing.T
	dir    string
	web    *httptest.Server // the provider
	issuer string
	caFile string // its certificate
	socket string // the controller's
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, dir: t.TempDir()}
	var handler http.Handler
	w.web = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { handler.ServeHTTP(rw, r) }))
	w.issuer = "https://" + w.web.Listener.Addr().String()
	w.write(filepath.Join(w.dir, "users.json"), fmt.Appendf(nil, `{%q: {"ID": %q, "Username": %q, "Password": %q, "PreferredLanguage": "en"}}`, subject, subject, username, password))
	users, err := storage.StoreFromFile(filepath.Join(w.dir, "users.json"))
	if err != nil {
		t.Fatal(err)
	}
	clients := storage.NewStorageWithClients(users, map[string]*storage.Client{
		"sennit": storage.NativeClient("sennit", "http://127.0.0.1/callback"), "device": storage.DeviceClient("device", "secret"),
		"shop": storage.WebClient("shop", shopSecret, shopCallback),
	})
	handler = exampleop.SetupServer(w.issuer, clients, slog.New(slog.DiscardHandler), false)
	w.web.StartTLS()
	t.Cleanup(w.web.Close)
	w.caFile = filepath.Join(w.dir, "issuer.pem")
	w.write(w.caFile, []byte(w.ca()))
	return w
}

// ca is the provider's certificate.
func (w *world) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.web.Certificate().Raw}))
}

func (w *world) write(path string, data []byte) {
	w.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		w.Fatal(err)
	}
}

// controller runs one whose people sign in as clientID.
func (w *world) controller(clientID string) {
	w.Helper()
	run, err := os.MkdirTemp("", "s") // a socket's path is short
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { os.RemoveAll(run) })
	w.socket = filepath.Join(run, "c.sock")
	loopback := netip.MustParseAddrPort("127.0.0.1:0")
	c, err := controller.New(controller.Config{
		StateDir: filepath.Join(w.dir, "state"), Cluster: "test", TrustDomain: "test.local", Name: "c1", Bus: loopback, API: loopback,
		Socket: w.socket, Log: slog.New(slog.DiscardHandler),
		OIDC: controller.OIDCConfig{
			Issuer: w.issuer, ClientID: clientID, UsernameClaim: "sub", UsernamePrefix: "oidc:", GroupsClaim: "groups", GroupsPrefix: "oidc:", CAFile: w.caFile,
		},
	})
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	w.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
}

// kubeconfig is an admin's, once the controller answers.
func (w *world) kubeconfig() string {
	w.Helper()
	c, err := client.New(client.Config{Socket: w.socket})
	if err != nil {
		w.Fatal(err)
	}
	var config []byte
	for config == nil {
		if config, err = c.Kubeconfig(w.Context(), time.Hour); err != nil {
			select {
			case <-w.Context().Done():
				w.Fatal(err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	path := filepath.Join(w.dir, "admin.kubeconfig")
	w.write(path, config)
	return path
}

// browser is what a person does in one: he follows where he is led, and fills the form in.
func (w *world) browser(address string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	b := w.web.Client()
	b = &http.Client{Transport: b.Transport, Jar: jar}
	res, err := b.Get(address)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	id := res.Request.URL.Query().Get("authRequestID")
	if id == "" {
		body, _ := io.ReadAll(res.Body)
		return fmt.Errorf("the provider shows no form: %s %s", res.Status, body)
	}
	res, err = b.PostForm(w.issuer+"/login/username", url.Values{"id": {id}, "username": {username}, "password": {password}})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && !strings.Contains(string(body), "You are signed in") {
		err = fmt.Errorf("the browser shows %s: %s", res.Status, body)
	}
	return err
}

// program is the real command, with folders of its own.
func (w *world) program() func(ctx context.Context, args ...string) *exec.Cmd {
	w.Helper()
	bin := filepath.Join(w.dir, "sennit")
	build := exec.CommandContext(w.Context(), "go", "build", "-o", bin, "github.com/sennit-mesh/sennit/cmd/sennit")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		w.Fatalf("%v: %s", err, out)
	}
	return func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, bin, args...)
		cmd.Env = append(os.Environ(), "HOME="+w.dir, "XDG_CACHE_HOME="+filepath.Join(w.dir, "cache"), "DISPLAY=", "WAYLAND_DISPLAY=")
		cmd.Dir = w.dir
		cmd.WaitDelay = 10 * time.Second
		return cmd
	}
}

// A person signs in with a browser, is nobody until a role is bound to his name, and keeps working while the provider is away.
func TestSignIn(t *testing.T) {
	w := newWorld(t)
	w.controller("sennit")
	admin := w.kubeconfig()
	sennit := w.program()
	config, err := os.ReadFile(admin)
	if err != nil {
		t.Fatal(err)
	}
	server, ca := parts(t, config)
	w.write(filepath.Join(w.dir, "ca.pem"), ca)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	login := []string{"login", "--issuer", w.issuer, "--client-id", "sennit", "--issuer-ca-file", "issuer.pem"}
	run := func(args ...string) (string, error) {
		out, err := sennit(ctx, args...).CombinedOutput()
		return string(out), err
	}
	if out, err := run(append(login, "--exec-credential")...); err == nil || !strings.Contains(out, "sign in again with `sennit login`") {
		t.Errorf("before anybody signed in: %v %s", err, out)
	}

	cmd := sennit(ctx, append(login, "--server", server, "--ca-file", "ca.pem", "--file", "me.kubeconfig")...)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	address := wordAfter(t, said, "sign in at ")
	// A page that sends the browser there with a code of its own is not believed.
	back, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	forged := back.Query().Get("redirect_uri") + "?code=evil&state=guess"
	if res, err := http.Get(forged); err != nil || res.StatusCode != http.StatusBadRequest {
		t.Errorf("a code of somebody else: %v %v", res, err)
	}
	if back.Query().Get("code_challenge_method") != "S256" {
		t.Errorf("the sign-in goes without PKCE: %s", address)
	}
	if err := w.browser(address); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(said)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, rest)
	}

	// The kubeconfig holds no secret, and asks for one.
	mine, err := os.ReadFile(filepath.Join(w.dir, "me.kubeconfig"))
	if err != nil || strings.Contains(string(mine), "token:") {
		t.Errorf("%v: %s", err, mine)
	}
	if out, err := run("get", "services", "--kubeconfig", "me.kubeconfig"); err == nil || !strings.Contains(out, `operator "oidc:dora" cannot list resource "services"`) {
		t.Errorf("without a role: %v %s", err, out)
	}
	if out, err := run("operator", "add", "oidc:"+subject, "--role", "viewer", "-n", "default", "--kubeconfig", admin); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := run("get", "services", "--kubeconfig", "me.kubeconfig"); err != nil {
		t.Errorf("with a role: %v %s", err, out)
	}
	var answer struct {
		Kind   string
		Status struct{ Token string }
	}
	out, err := run(append(login, "--exec-credential")...)
	if err != nil || json.Unmarshal([]byte(out), &answer) != nil || answer.Kind != "ExecCredential" || answer.Status.Token == "" {
		t.Fatalf("%v: %s", err, out)
	}
	filepath.WalkDir(filepath.Join(w.dir, "cache"), func(path string, d os.DirEntry, err error) error {
		if info, _ := d.Info(); err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be opened by others: %s", path, info.Mode())
		}
		return err
	})

	// Who he was is in the audit, and nothing that lets anybody in.
	out, err = run("audit", "log", "--kind", "refusal", "-o", "wide", "--kubeconfig", admin)
	if err != nil || !strings.Contains(out, "oidc:dora") || strings.Contains(out, answer.Status.Token[:40]) {
		t.Errorf("%v: %s", err, out)
	}

	// The token is renewed without him, and while the provider is away what is known goes on.
	p := &signin.Provider{Issuer: w.issuer, ClientID: "sennit", Scopes: []string{"offline_access"}, HTTP: w.web.Client()}
	store := signin.Store{Dir: filepath.Join(w.dir, "cache", "sennit", "login")}
	had, err := store.Current(ctx, p)
	if err != nil || had.Refresh == "" {
		t.Fatalf("%v: there is nothing to renew with", err)
	}
	had.Expires = time.Now().Add(-time.Minute)
	if err := store.Save(p, had); err != nil {
		t.Fatal(err)
	}
	now, err := store.Current(ctx, p)
	if err != nil || !now.Expires.After(time.Now()) || now.IDToken == "" {
		t.Fatalf("renewed: %v", err)
	}
	w.write(filepath.Join(w.dir, "new.token"), []byte(now.IDToken))
	w.web.Close()
	withToken := []string{"get", "services", "--server", server, "--ca-file", "ca.pem", "--token-file", "new.token"}
	if out, err := run(withToken...); err != nil {
		t.Errorf("a token of a known key, while the provider is away: %v %s", err, out)
	}
	if out, err := run("get", "services", "--kubeconfig", "me.kubeconfig"); err != nil {
		t.Errorf("the person, while the provider is away: %v %s", err, out)
	}
	now.Expires = time.Now().Add(-time.Minute)
	if err := store.Save(p, now); err != nil {
		t.Fatal(err)
	}
	if out, err := run("get", "services", "--kubeconfig", "me.kubeconfig"); err == nil || !strings.Contains(out, "reach the identity provider") {
		t.Errorf("nothing to renew with: %v %s", err, out)
	}
	if out, err := run(append(login, "--forget")...); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := store.Current(ctx, p); !errors.Is(err, signin.ErrSignIn) {
		t.Errorf("after it was forgotten: %v", err)
	}
}

// A person types a code on another device.
func TestDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.controller("device")
	admin := w.kubeconfig()
	p := &signin.Provider{Issuer: w.issuer, ClientID: "device", ClientSecret: "secret", HTTP: w.web.Client()}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	asked := make(chan error, 1)
	got, err := p.Device(ctx, func(_, code string) { asked <- w.confirm(code) })
	if err := errors.Join(<-asked, err); err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(admin)
	if err != nil {
		t.Fatal(err)
	}
	server, ca := parts(t, config)
	w.write(filepath.Join(w.dir, "ca.pem"), ca)
	w.write(filepath.Join(w.dir, "token"), []byte(got.IDToken))
	c, err := client.New(client.Config{Server: server, CAFile: filepath.Join(w.dir, "ca.pem"), TokenFile: filepath.Join(w.dir, "token")})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.List(ctx, client.Target{Kind: api.Service}); err == nil || !strings.Contains(err.Error(), "oidc:dora") {
		t.Errorf("recognised as nobody: %v", err)
	}
	if _, err := p.Renew(ctx, got); got.Refresh == "" && !errors.Is(err, signin.ErrSignIn) {
		t.Errorf("renewed with nothing: %v", err)
	}
}

// confirm is what a person does on another device.
func (w *world) confirm(code string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	b := &http.Client{Transport: w.web.Client().Transport, Jar: jar}
	res, err := b.PostForm(w.issuer+"/device/login", url.Values{"user_code": {code}, "username": {username}, "password": {password}})
	if err == nil {
		res.Body.Close()
		res, err = b.PostForm(w.issuer+"/device/confirm", url.Values{"action": {"allowed"}})
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); !strings.Contains(string(body), "allowed") {
		return fmt.Errorf("the device is not let in: %s", body)
	}
	return nil
}

// The browser comes back to this host alone.
func TestListensOnLoopbackAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := &signin.Provider{Issuer: w.issuer, ClientID: "sennit", HTTP: w.web.Client()}
	for _, listen := range []string{"0.0.0.0:0", "[::]:0"} {
		if _, err := p.Browser(t.Context(), listen, func(string) error { return errors.New("the person was led away") }); err == nil || !strings.Contains(err.Error(), "of this host alone") && !errors.As(err, new(*net.OpError)) {
			t.Errorf("%s: %v", listen, err)
		}
	}
}
