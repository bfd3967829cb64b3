package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// onSocket returns a client of a server on a unix socket.
func onSocket(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "sn") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	c, err := New(Config{Socket: path})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func route(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": map[string]any{"namespace": "shop", "name": "a b"},
	}}
}

func TestApplySendsWhatTheAPIAsksFor(t *testing.T) {
	t.Parallel()
	c := onSocket(t, func(w http.ResponseWriter, r *http.Request) {
		want := "PATCH /apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/a%20b?dryRun=All&fieldManager=sennit&fieldValidation=Strict&force=true"
		if got := r.Method + " " + r.RequestURI; got != want {
			t.Errorf("asks for %s", got)
		}
		if got := r.Header.Get("Content-Type"); got != "application/apply-patch+yaml" {
			t.Errorf("body of type %s", got)
		}
		w.Header().Add("Warning", `299 - "the \"old\" way \\ of it"`)
		w.Header().Add("Warning", `299 - "second"`)
		w.WriteHeader(http.StatusCreated)
		_, _ = io.Copy(w, r.Body)
	})
	var warned []string
	c.Warn = func(text string) { warned = append(warned, text) }
	now, created, err := c.Apply(t.Context(), api.HTTPRoute, route(t), ApplyOptions{DryRun: true, Force: true})
	if err != nil || !created || now.GetName() != "a b" {
		t.Errorf("%v %v %v", now, created, err)
	}
	if want := []string{`the "old" way \ of it`, "second"}; !slices.Equal(warned, want) {
		t.Errorf("warned of %q", warned)
	}
}

func TestErrorsAreWhatTheServerSays(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, body string
		code       int
		is         func(error) bool
		want       string
	}{
		{"a status", `{"kind":"Status","reason":"NotFound","message":"services \"a\" not found","code":404}`, 404, apierrors.IsNotFound, `services "a" not found`},
		{"a failure", `{"message":"web1 is not a node"}`, 404, apierrors.IsNotFound, "web1 is not a node"},
		{"no text", "", 502, Answered, "502: Bad Gateway"},
		{"a proxy's page", "<html>", 503, Answered, "503: Service Unavailable"},
		{"text", "not now\n", 503, Answered, "503: not now"},
		{"a refused token", `{"message":"the token has ended"}`, 401, apierrors.IsUnauthorized, "refused the token: the token has ended (`sennit kubeconfig`"},
		{"a redirect", "", 302, Answered, "302: Found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := onSocket(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "https://elsewhere.example/")
				w.WriteHeader(tt.code)
				_, _ = io.WriteString(w, tt.body)
			})
			_, err := c.Get(t.Context(), Target{Kind: api.Service, Namespace: "default", Name: "a"})
			if err == nil || !tt.is(err) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A token goes to the server that it is for, over TLS, and nowhere else.
func TestTokensStayWithTheirServer(t *testing.T) {
	t.Parallel()
	other := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("another server was sent %q", r.Header.Get("Authorization"))
	}))
	t.Cleanup(other.Close)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			t.Errorf("was sent %q", r.Header.Get("Authorization"))
		}
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(s.Close)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Server: s.URL, TokenFile: token})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Cluster(t.Context()); err == nil || Answered(err) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("an unknown authority: %v", err)
	}
	c.conn.http.Transport = s.Client().Transport
	if _, err := c.Cluster(t.Context()); err == nil || !Answered(err) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a redirect: %v", err)
	}
}

// A controller bounds how long one answer lasts; waiting goes on with another until its own time is over.
func TestWaitGoesOnOverAnswersThatEnd(t *testing.T) {
	t.Parallel()
	asked := 0
	c := onSocket(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		if got := r.URL.Query().Get("resourceVersion"); got != "7" {
			t.Errorf("resourceVersion %s", got)
		}
		if d, err := time.ParseDuration(r.URL.Query().Get("timeout")); err != nil || d <= 0 || d > maxWait {
			t.Errorf("timeout %v, %v", d, err)
		}
		_ = json.NewEncoder(w).Encode(report.Progress{Interested: 3, Applied: asked, Done: asked == 3, Waiting: make([]string, 3-asked)})
	})
	var steps []int
	last, err := c.Wait(t.Context(), 7, time.Hour, func(p report.Progress) { steps = append(steps, p.Applied) })
	if err != nil || !last.Done || !slices.Equal(steps, []int{1, 2, 3}) {
		t.Errorf("%v after %v, %v", last, steps, err)
	}
}

func TestWaitEndsWithItsTime(t *testing.T) {
	t.Parallel()
	c := onSocket(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(report.Progress{Interested: 2, Applied: 1, Waiting: []string{"web1"}})
	})
	last, err := c.Wait(t.Context(), 7, 300*time.Millisecond, func(report.Progress) {})
	if err != nil || last.Done || !slices.Equal(last.Waiting, []string{"web1"}) {
		t.Errorf("%v, %v", last, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := c.Wait(ctx, 7, time.Hour, func(report.Progress) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled one: %v", err)
	}
}

// A watch that ends is no error; one that breaks off, or that the server fails, is.
func TestWatchTellsHowItEnded(t *testing.T) {
	t.Parallel()
	event := func(kind, object string) string { return fmt.Sprintf(`{"type":%q,"object":%s}`+"\n", kind, object) }
	for _, tt := range []struct {
		name, stream string
		events       int
		is           func(error) bool
	}{
		{"ended", event("ADDED", `{"kind":"Service"}`) + event("DELETED", `{"kind":"Service"}`), 2, func(err error) bool { return err == nil }},
		{"broken off", event("ADDED", `{"kind":"Service"}`) + `{"type":"MOD`, 1, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		{"failed", event("ERROR", `{"kind":"Status","reason":"Expired","code":410,"message":"too old"}`), 0, apierrors.IsResourceExpired},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := onSocket(t, func(w http.ResponseWriter, r *http.Request) {
				if got, want := r.RequestURI, "/api/v1/services?fieldSelector=metadata.name%3Da&resourceVersion=5&watch=1"; got != want {
					t.Errorf("asks for %s", got)
				}
				_, _ = io.WriteString(w, tt.stream)
			})
			n := 0
			err := c.Watch(t.Context(), Target{Kind: api.Service, Name: "a"}, "5", false, func(Event) error { n++; return nil })
			if !tt.is(err) || n != tt.events {
				t.Errorf("%d events, %v", n, err)
			}
		})
	}
}

func TestNodesAreAllowedAndAccepted(t *testing.T) {
	t.Parallel()
	var got []string
	c := onSocket(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, r.Method+" "+r.RequestURI+" "+string(body))
	})
	if err := errors.Join(c.Allow(t.Context(), "web/1", "default/orders"), c.Accept(t.Context(), "web1", "5f3a"), c.Remove(t.Context(), "web1")); err != nil {
		t.Fatal(err)
	}
	if want := []string{`POST /sennit/v1/nodes/web%2F1/allow {"service":"default/orders"}`, `POST /sennit/v1/nodes/web1/accept {"key":"5f3a"}`, "POST /sennit/v1/nodes/web1/remove "}; !slices.Equal(got, want) {
		t.Errorf("asks for %q", got)
	}
}

func TestKubeconfigs(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(report.Cluster{Cluster: r.Header.Get("Authorization")})
	}))
	t.Cleanup(s.Close)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("token", "from-file\n")
	config := func(context, user string) string {
		return write(context+user, fmt.Sprintf(`
current-context: %s
contexts: [{name: a, context: {cluster: c, user: %s}}, {name: b, context: {cluster: missing, user: u}}]
clusters: [{name: c, cluster: {server: %q}}]
users: [{name: u, user: {token: t0ken}}, {name: f, user: {tokenFile: token}}, {name: none, user: {}}]
`, context, user, s.URL))
	}
	for _, tt := range []struct{ name, file, token, err string }{
		{"token", config("a", "u"), "t0ken", ""},
		{"token in a file beside it", config("a", "f"), "from-file", ""},
		{"no token", config("a", "none"), "", `user "none" has no token`},
		{"no such cluster", config("b", "u"), "", `no cluster "missing"`},
		{"no such context", config("z", "u"), "", `current-context "z" is none of its contexts`},
		{"no YAML", write("bad", "token: t0ken: ["), "", "is no kubeconfig"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New(Config{Kubeconfig: tt.file})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "t0ken") {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c.conn.http.Transport = s.Client().Transport
			if st, err := c.Cluster(t.Context()); err != nil || st.Cluster != "Bearer "+tt.token {
				t.Errorf("%+v, %v", st, err)
			}
		})
	}
}

// Who may not open a socket is told who may.
func TestPermissionDeniedNamesWhoMay(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		who   string
		token bool // it can be reached by one, too
	}{{"controller", true}, {"node", false}} {
		c := unixConn("/run/s", tt.who, "start it")
		text := c.unreachable(fmt.Errorf("dial unix /run/s: %w", os.ErrPermission)).Error()
		if !strings.Contains(text, "only root and the user that the "+tt.who+" runs as") || strings.Contains(text, "--server") != tt.token {
			t.Errorf("%s: %s", tt.who, text)
		}
	}
}

// FuzzKubeconfigs: no file breaks this client, and what it says of one never holds the token.
func FuzzKubeconfigs(f *testing.F) {
	const secret = "t0ken-of-somebody"
	f.Add([]byte("current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: \"https://a:1\"}}]\nusers: [{name: u, user: {token: " + secret + "}}]\n"))
	f.Add([]byte("current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {token: " + secret + ", exec: {command: ./x, args: [a], env: [{name: a, value: b}]}}}]\n"))
	f.Add([]byte("clusters: [{name: c, cluster: {server: \"::\", certificate-authority-data: AAAA}}]\ncontexts: [{name: \"\", context: {cluster: c}}]\nusers: [{user: {token: " + secret + "}}]\n"))
	f.Add([]byte("token: " + secret + ": ["))
	path := filepath.Join(f.TempDir(), "config")
	f.Fuzz(func(t *testing.T, data []byte) {
		var k kubeconfig
		if yaml.Unmarshal(data, &k) == nil {
			for _, u := range k.Users {
				if u.User.TokenFile != "" || strings.Contains(u.Name, secret) {
					return // it reads a file of this host, or is named like the secret
				}
			}
			for _, c := range k.Clusters {
				if c.Cluster.CAFile != "" {
					return
				}
			}
			if strings.Contains(k.CurrentContext+fmt.Sprint(k.Contexts, k.Clusters), secret) {
				return
			}
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := fromKubeconfig(path); err != nil && strings.Contains(err.Error(), secret) || (c == nil) == (err == nil) {
			t.Errorf("%v, %v", c, err)
		}
	})
}
