// The tests run the real helm, with its default flags, against the real API over the real bus.
package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/apiserver/apitest"
)

// asHelm makes the test's own program be helm.
const asHelm = "SENNIT_TEST_AS_HELM"

func TestMain(m *testing.M) {
	if os.Getenv(asHelm) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A host is somebody at a prompt: a directory with a chart, and a kubeconfig for a running API.
type host struct {
	*testing.T
	dir, config string
	api         *apitest.API
}

func newHost(t *testing.T) *host {
	t.Helper()
	block, err := aes.NewCipher(bytes.Repeat([]byte("k"), 32))
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := cipher.NewGCMWithRandomNonce(block) // helm keeps its releases in Secrets
	if err != nil {
		t.Fatal(err)
	}
	h := &host{T: t, dir: t.TempDir(), api: apitest.Start(t, sealer)}
	h.config = h.configure(apitest.Token)
	for name, text := range chart {
		h.file(filepath.Join("shop", name), text)
	}
	return h
}

// configure writes a kubeconfig for a token.
func (h *host) configure(token string) string {
	h.Helper()
	return h.file("kubeconfig-"+token, h.api.Kubeconfig(token))
}

// as is somebody else at the same prompt.
func (h *host) as(user string) *host {
	other := *h
	other.config = h.configure(user)
	return &other
}

// bind gives somebody a role that is always there.
func (h *host) bind(namespace, user, role string) {
	h.Helper()
	body := fmt.Sprintf(`{"metadata":{"name":%q},"subjects":[{"kind":"User","name":%q}],"roleRef":{"kind":"ClusterRole","name":%q}}`, user, user, role)
	url := h.api.Web.URL + "/apis/rbac.authorization.k8s.io/v1/namespaces/" + namespace + "/rolebindings"
	req, err := http.NewRequestWithContext(h.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		h.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+apitest.Token)
	res, err := h.api.Web.Client().Do(req)
	if err != nil {
		h.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		h.Fatalf("bind %s: %s", user, res.Status)
	}
}

// file writes a file and returns its path.
func (h *host) file(name, text string) string {
	h.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		h.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.Fatal(err)
	}
	return path
}

// run runs helm and returns what it printed.
func (h *host) run(args ...string) (out string, code int) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Dir = h.dir
	cmd.Env = append(os.Environ(), asHelm+"=1", "KUBECONFIG="+h.config, "HOME="+h.dir)
	cmd.WaitDelay = 10 * time.Second
	data, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		h.Fatalf("helm %v: %v", args, err)
	}
	return string(data), cmd.ProcessState.ExitCode()
}

// ok runs helm, which must succeed and print all of want.
func (h *host) ok(args string, want ...string) string {
	h.Helper()
	out, code := h.run(strings.Fields(args)...)
	if code != 0 {
		h.Fatalf("helm %s: exit code %d\n%s", args, code, out)
	}
	h.contains("helm "+args, out, want)
	return out
}

// fails runs helm, which must not succeed and print all of want.
func (h *host) fails(args string, want ...string) {
	h.Helper()
	out, code := h.run(strings.Fields(args)...)
	if code == 0 {
		h.Fatalf("helm %s: succeeded\n%s", args, out)
	}
	h.contains("helm "+args, out, want)
}

func (h *host) contains(what, text string, want []string) {
	h.Helper()
	for _, part := range want {
		if !strings.Contains(text, part) {
			h.Errorf("%s: no %q in\n%s", what, part, text)
		}
	}
}

// value reads a field of a document as it is stored: "" where the document is not there.
func (h *host) value(k *api.Kind, namespace, name string, of func(map[string]any) any) any {
	h.Helper()
	all, _, err := h.api.Documents(h.Context(), k)
	if err != nil {
		h.Fatal(err)
	}
	for _, u := range all {
		if u.GetNamespace() == namespace && u.GetName() == name {
			return of(u.Object)
		}
	}
	return nil
}

// count is how many documents of a kind a namespace has.
func (h *host) count(k *api.Kind, namespace string) (n int) {
	h.Helper()
	all, _, err := h.api.Documents(h.Context(), k)
	if err != nil {
		h.Fatal(err)
	}
	for _, u := range all {
		if u.GetNamespace() == namespace {
			n++
		}
	}
	return n
}

// chart is what somebody would ship for a service of the mesh.
var chart = map[string]string{
	"Chart.yaml":  "apiVersion: v2\nname: shop\nversion: 1.2.3\nappVersion: \"7\"\n",
	"values.yaml": "port: 80\nweight: 90\ntheme: dark\npassword: hunter2\n",
	"templates/service.yaml": `apiVersion: v1
kind: Service
metadata:
  name: {{ .Release.Name }}
  labels: {app.kubernetes.io/managed-by: {{ .Release.Service }}, app: shop}
spec:
  ports:
  - {name: http, port: {{ .Values.port }}}
`,
	"templates/route.yaml": `{{- if .Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1/HTTPRoute" }}
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {{ .Release.Name }}
spec:
  parentRefs:
  - {group: "", kind: Service, name: {{ .Release.Name }}}
  rules:
  - backendRefs:
    - {name: {{ .Release.Name }}-v1, port: 80, weight: {{ .Values.weight }}}
    - {name: {{ .Release.Name }}-v2, port: 80, weight: {{ sub 100 .Values.weight }}}
{{- end }}
`,
	"templates/config.yaml": `apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data: {theme: {{ .Values.theme | quote }}}
{{- with (lookup "v1" "Service" .Release.Namespace .Release.Name) }}
  # seen at {{ .metadata.name }}
{{- end }}
`,
	"templates/secret.yaml": `apiVersion: v1
kind: Secret
metadata: {name: {{ .Release.Name }}}
stringData: {password: {{ .Values.password | quote }}}
`,
	"templates/NOTES.txt": "The shop runs at port {{ .Values.port }}.\n",
}

func weights(o map[string]any) any {
	rules := o["spec"].(map[string]any)["rules"].([]any)
	refs := rules[0].(map[string]any)["backendRefs"].([]any)
	return refs[0].(map[string]any)["weight"]
}

func data(o map[string]any) any { return o["data"].(map[string]any)["theme"] }

func TestReleases(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ok("install web ./shop -n prod --create-namespace --dry-run=server", "kind: HTTPRoute", "port: 80")
	if n := h.count(api.HTTPRoute, "prod"); n != 0 {
		t.Fatalf("a dry run made %d routes", n)
	}
	h.ok("install web ./shop -n prod --create-namespace --wait", "STATUS: deployed", "REVISION: 1", "The shop runs at port 80.")
	h.ok("list -n prod", "web", "shop-1.2.3", "deployed")
	h.ok("list -A -o json", `"name":"web"`)
	h.ok("status web -n prod", "STATUS: deployed", "HTTPRoute")
	h.ok("get manifest web -n prod", "kind: HTTPRoute", "kind: Secret")
	h.fails("install web ./shop -n prod", "still in use")
	if w := h.value(api.HTTPRoute, "prod", "web", weights); w != int64(90) {
		t.Errorf("weight %v", w)
	}

	h.ok("upgrade web ./shop -n prod --set weight=50,theme=light --wait", "REVISION: 2")
	if w := h.value(api.HTTPRoute, "prod", "web", weights); w != int64(50) {
		t.Errorf("weight %v after the upgrade", w)
	}
	h.ok("get values web -n prod", "theme: light", "weight: 50")
	h.ok("history web -n prod", "superseded", "deployed", "Upgrade complete")
	// What is wrong is named, and rolled back where that is asked for.
	h.fails("upgrade web ./shop -n prod --set weight=-1 --rollback-on-failure --timeout 30s", "spec.rules[0].backendRefs[0].weight: must be from 0 to 1000000, is -1")
	if w := h.value(api.HTTPRoute, "prod", "web", weights); w == int64(-1) {
		t.Error("a wrong weight is stored")
	}

	h.ok("rollback web 1 -n prod --wait", "Rollback was a success")
	if w, d := h.value(api.HTTPRoute, "prod", "web", weights), h.value(api.ConfigMap, "prod", "web", data); w != int64(90) || d != "dark" {
		t.Errorf("weight %v, theme %v after the rollback", w, d)
	}
	// A template that is gone takes its document away, and one that is changed by hand comes back.
	if err := os.Remove(filepath.Join(h.dir, "shop/templates/config.yaml")); err != nil {
		t.Fatal(err)
	}
	h.ok("upgrade web ./shop -n prod", "deployed")
	if n := h.count(api.ConfigMap, "prod"); n != 0 {
		t.Errorf("%d ConfigMaps are left", n)
	}
	h.ok("upgrade --install other ./shop -n prod --server-side=false", "other")
	h.ok("upgrade --install other ./shop -n prod --server-side=false --set port=81", "REVISION: 2")
	h.ok("list -n prod -q", "other", "web")

	h.ok("uninstall web other -n prod --wait", `release "web" uninstalled`, `release "other" uninstalled`)
	for _, k := range []*api.Kind{api.Service, api.HTTPRoute, api.ConfigMap, api.Secret} {
		if n := h.count(k, "prod"); n != 0 {
			t.Errorf("%d %s are left", n, k.Plural)
		}
	}
}

// An operator of one namespace ships to it, and to no other; a viewer sees no release, which is a Secret.
func TestReleasesOfAnOperator(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ok("install web ./shop -n prod --create-namespace")
	for _, b := range [][2]string{{"otto", "edit"}, {"vera", "view"}} {
		h.bind("prod", b[0], b[1])
	}
	otto, vera := h.as("otto"), h.as("vera")
	otto.ok("upgrade web ./shop -n prod --set weight=10", "REVISION: 2")
	otto.ok("list -n prod", "web")
	otto.fails("upgrade --install web ./shop -n staging", "cannot")
	vera.fails("list -n prod", `cannot list resource "secrets"`)
	vera.fails("uninstall web -n prod", "cannot")
	if w := h.value(api.HTTPRoute, "prod", "web", weights); w != int64(10) {
		t.Errorf("weight %v", w)
	}
}
