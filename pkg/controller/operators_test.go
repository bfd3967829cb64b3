package controller

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

// token makes a token of somebody.
func token(t *testing.T, c *Controller, user string, groups ...string) (id, token string) {
	t.Helper()
	made, token, err := c.operators.create(t.Context(), user, groups, "tester", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return made.id, token
}

// A client asks a controller over TLS, as whoever holds a token.
type remote struct {
	*testing.T
	url  string
	http *http.Client
}

func reach(t *testing.T, c *Controller) *remote {
	t.Helper()
	awaitThat(t, "no API over TLS", func() bool { return c.apiAddress.Load() != nil })
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.authority.RootPEM())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}}
	t.Cleanup(transport.CloseIdleConnections)
	return &remote{t, "https://" + c.apiAddress.Load().String(), &http.Client{Transport: transport}}
}

func (r *remote) open(ctx context.Context, token, method, path, body string) *http.Response {
	r.Helper()
	req, err := http.NewRequestWithContext(ctx, method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := r.http.Do(req)
	if err != nil {
		r.Fatal(err)
	}
	return res
}

// ask sends a request and returns how it was answered.
func (r *remote) ask(token, method, path, body string) (int, string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
	defer cancel()
	res := r.open(ctx, token, method, path, body)
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		r.Fatal(err)
	}
	return res.StatusCode, string(data)
}

// bind gives somebody a role, in a namespace or ("") everywhere.
func (r *remote) bind(admin, namespace, user, role string) {
	r.Helper()
	path := "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
	if namespace != "" {
		path = "/apis/rbac.authorization.k8s.io/v1/namespaces/" + namespace + "/rolebindings"
	}
	code, text := r.ask(admin, "POST", path, fmt.Sprintf(`{"metadata":{"name":"%s-%s"},"subjects":[{"kind":"User","name":%q}],"roleRef":{"kind":"ClusterRole","name":%q}}`, user, role, user, role))
	if code != http.StatusCreated {
		r.Fatalf("bind %s: %d %s", user, code, text)
	}
}

// What is not of Kubernetes' shapes needs its right too, and what nothing is said of is for those who may everything.
func TestPathsNeedRoles(t *testing.T) {
	t.Parallel()
	c, _ := start(t, t.TempDir())
	r := reach(t, c)
	_, admin := token(t, c, "root", rbac.Masters)
	tokens := map[string]string{"admin": admin, "stranger": ""}
	_, tokens["stranger"] = token(t, c, "stranger")
	for _, who := range []string{"shop-viewer", "shop-operator", "viewer", "operator", "overseer"} {
		_, tokens[who] = token(t, c, who)
	}
	r.bind(admin, "shop", "shop-viewer", rbac.View)
	r.bind(admin, "shop", "shop-operator", rbac.Edit)
	r.bind(admin, "", "viewer", rbac.View)
	r.bind(admin, "", "operator", rbac.Edit)
	r.bind(admin, "", "overseer", rbac.Admin)
	const everybody = "shop-viewer shop-operator viewer operator overseer admin"
	question := func(namespace string) string {
		return fmt.Sprintf(`{"from":"x/web","to":"%s/orders"}`, namespace)
	}
	for _, tt := range []struct{ method, path, body, may string }{
		{"GET", report.PathStatus, "", everybody},
		{"GET", report.PathEdges, "", everybody},
		{"GET", report.PathQuota, "", everybody},
		{"GET", report.PathWait + "?resourceVersion=1&timeout=1ms", "", everybody},
		{"GET", report.PathRevisions + "?at=2026-01-02T15:04:05Z", "", everybody},
		{"GET", report.PathAuthzDenials, "", everybody},
		{"GET", report.PathPlaintext, "", everybody},
		{"GET", report.PathAuthority, "", "admin"},
		{"POST", report.PathAuthority + "/cancel", "", "admin"},
		{"POST", report.PathAnalyze, "", "viewer operator overseer admin"},
		{"POST", report.PathExplain, question("shop"), everybody},
		{"POST", report.PathExplain, question("bank"), "viewer operator overseer admin"},
		{"POST", report.PathAuthzCheck, question("shop"), everybody},
		{"POST", report.PathAuthzCheck, question("bank"), "viewer operator overseer admin"},
		{"GET", report.PathTap + "?node=none&to=shop/orders", "", "shop-operator operator overseer admin"},
		{"GET", report.PathTap + "?node=none&to=bank/orders", "", "operator overseer admin"},
		{"GET", report.PathTap + "?node=none&from=shop/orders", "", "shop-operator operator overseer admin"},
		{"GET", report.PathTap + "?node=none", "", "operator overseer admin"},
		{"GET", report.PathAudit, "", "overseer admin"},
		{"GET", report.PathAuditVerify, "", "overseer admin"},
		{"POST", report.PathNodes + "web9/allow", `{"service":"shop/orders"}`, "admin"},
		{"POST", report.PathNodes + "web9/accept", `{}`, "admin"},
		{"POST", report.PathNodes + "web9/remove", "", "admin"},
		{"POST", report.PathRevocations, `{"node":"web9"}`, "admin"},
		{"POST", report.PathUndo, `{"service":"shop/orders"}`, "admin"},
		{"GET", report.PathRevocations, "", "viewer operator overseer admin"},
		{"GET", report.PathCertificates, "", "viewer operator overseer admin"},
		{"GET", "/apis/sennit.dev/v1alpha1/jointokens", "", "admin"},
		{"GET", "/apis/sennit.dev/v1alpha1/operatortokens", "", "admin"},
		{"GET", "/apis/sennit.dev/v1alpha1/nodes", "", "viewer operator overseer admin"},
		{"GET", report.PathBackup, "", ""},
		{"GET", report.PathKubeconfig, "", ""},
	} {
		for who, token := range tokens {
			code, text := r.ask(token, tt.method, tt.path, tt.body)
			if may := strings.Contains(" "+tt.may+" ", " "+who+" "); may != (code != http.StatusForbidden) {
				t.Errorf("%s %s %s %s: %d %.200s", who, tt.method, tt.path, tt.body, code, text)
			}
		}
		if code, _ := r.ask("", tt.method, tt.path, tt.body); code != http.StatusUnauthorized && code != http.StatusTooManyRequests { // these are many failures
			t.Errorf("nobody %s %s: %d", tt.method, tt.path, code)
		}
	}
}

// A token is good on every controller that reads the registry, after a restart and after a restore that keeps it, and is
// nowhere in what is kept.
func TestTokensLastAndAreKeptAsHashes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, stop := start(t, dir)
	keep, kept := token(t, c, "kate")
	gone, revoked := token(t, c, "rose")
	if err := c.operators.revoke(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	file := backUp(t, c)
	elsewhere := t.TempDir()
	cfg := restoreConfig(t, c, file, elsewhere)
	cfg.KeepTokens = []string{keep}
	if _, err := Restore(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	stop()
	secret := kept[strings.LastIndexByte(kept, '.')+1:]
	raw, err := base64.RawURLEncoding.DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(secret)) || bytes.Contains(data, raw) {
			t.Errorf("%s holds the token", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{dir, elsewhere} {
		again, stop := start(t, at)
		id, err := again.operators.authenticate(t.Context(), kept)
		if err != nil || id.User != "kate" {
			t.Errorf("in %s: %q, %v", at, id.User, err)
		}
		if _, err := again.operators.authenticate(t.Context(), revoked); err == nil {
			t.Errorf("in %s: a token that was taken back is good", at)
		}
		stop()
	}
}

// operatorsOn runs what knows of tokens on a bus of its own, with a clock that the test sets.
func operatorsOn(t *testing.T) (*operators, *bus.Records, *atomic.Int64) {
	b := bustest.Start(t)
	var offset atomic.Int64
	records := b.Controller.Records(bus.StreamRegistry)
	o := newOperators(records, slog.New(slog.DiscardHandler), func() time.Time { return time.Now().Add(time.Duration(offset.Load())) })
	bustest.Run(t, o.run)
	return o, records, &offset
}

func TestTokensThatAreNotGood(t *testing.T) {
	t.Parallel()
	o, records, offset := operatorsOn(t)
	made, good, err := o.create(t.Context(), "kate", []string{"ci"}, "tester", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := o.create(t.Context(), "rose", nil, "tester", 30*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	id, err := o.authenticate(t.Context(), good)
	if err != nil || id.User != "kate" || len(id.Groups) != 1 || id.Token != made.id || id.Lives.Err() != nil {
		t.Fatalf("%+v: %v", id, err)
	}
	head, secret := good[:len(good)-43], good[len(good)-43:]
	for name, token := range map[string]string{
		"empty": "", "another secret": head + other[len(other)-43:], "a shorter one": good[:len(good)-1], "a longer one": good + "A",
		"another id": other[:len(head)] + secret, "no prefix": good[5:], "no secret": head, "the hash": fmt.Sprintf("%s%x", head, made.Hash)[:len(good)],
	} {
		if id, err := o.authenticate(t.Context(), token); err == nil {
			t.Errorf("%s: is %+v", name, id)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error tells it: %v", name, err)
		}
	}
	offset.Store(int64(45 * time.Minute))
	if _, err := o.authenticate(t.Context(), other); err == nil || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("a token that expired: %v", err)
	}
	if err := o.revoke(t.Context(), made.id); err != nil {
		t.Fatal(err)
	}
	if _, err := o.authenticate(t.Context(), good); err == nil {
		t.Error("a token that was taken back is good")
	}
	if id.Lives.Err() == nil {
		t.Error("what is answered to its holder goes on")
	}
	if err := o.revoke(t.Context(), made.id); err == nil {
		t.Error("a token was taken back twice")
	}
	// A record that is damaged, or of somebody who can write no better, lets nobody in.
	if _, err := records.Append(t.Context(), operatorPrefix+"00", []byte("{"), 0); err != nil {
		t.Fatal(err)
	}
	// Long after, nothing is kept of it.
	offset.Store(int64(30 * 24 * time.Hour))
	if _, _, err := o.create(t.Context(), "nora", nil, "tester", time.Hour); err != nil {
		t.Fatal(err)
	}
	all, _, err := o.list(t.Context())
	if err != nil || len(all) != 1 || all[0].User != "nora" {
		t.Errorf("%d tokens are listed: %v", len(all), err)
	}
	if _, _, err := o.create(t.Context(), "nora", nil, "tester", maxTokenTTL+time.Second); err == nil {
		t.Error("a token for longer than a year was made")
	}
}

// A watch, and a tap, of somebody whose token is taken back end at once, and those of others go on.
func TestRevocationEndsWhatGoesOn(t *testing.T) {
	t.Parallel()
	c, _ := start(t, t.TempDir())
	r := reach(t, c)
	id, gone := token(t, c, "rose", rbac.Masters)
	_, kept := token(t, c, "kate", rbac.Masters)
	ends := make(chan string, 4)
	begin := func(who, token, path string) {
		res := r.open(t.Context(), token, "GET", path, "")
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%s %s: %s", who, path, res.Status)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		go func() {
			_, _ = io.Copy(io.Discard, res.Body)
			ends <- who + " " + path
		}()
	}
	const watch = "/api/v1/services?watch=1&resourceVersion=0"
	const wait = report.PathWait + "?resourceVersion=999999&timeout=1h"
	for _, path := range []string{watch, wait} {
		begin("rose", gone, path)
		begin("kate", kept, path)
	}
	began := time.Now()
	if err := c.operators.revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case what := <-ends:
			if !strings.HasPrefix(what, "rose ") {
				t.Errorf("%s ended", what)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("what is answered to a token that was taken back goes on")
		}
	}
	t.Logf("ended after %s", time.Since(began))
	select {
	case what := <-ends:
		t.Errorf("%s ended too", what)
	default:
	}
	// The same where his token is good and his role goes.
	_, vera := token(t, c, "vera")
	r.bind(kept, "", "vera", rbac.View)
	begin("vera", vera, wait)
	if code, text := r.ask(kept, "DELETE", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/vera-view", ""); code != http.StatusOK {
		t.Fatal(code, text)
	}
	select {
	case what := <-ends:
		if !strings.HasPrefix(what, "vera ") {
			t.Errorf("%s ended", what)
		}
	case <-time.After(20 * time.Second):
		t.Error("what is answered to somebody who may it no longer goes on")
	}
	if code, _ := r.ask(gone, "GET", "/api/v1/services", ""); code != http.StatusUnauthorized {
		t.Errorf("the token that was taken back: %d", code)
	}
}
