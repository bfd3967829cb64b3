// The tests run the real kubectl, with its default flags, against the real API over the real bus.
package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/apiserver/apitest"
)

// asKubectl makes the test's own program be kubectl.
const asKubectl = "SENNIT_TEST_AS_KUBECTL"

func TestMain(m *testing.M) {
	if os.Getenv(asKubectl) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A host is somebody at a prompt: a directory, and a kubeconfig for a running API.
type host struct {
	*testing.T
	dir, config string
	api         *apitest.API
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{T: t, dir: t.TempDir(), api: apitest.Start(t, nil)}
	h.config = h.configure(apitest.Token)
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

// file writes a file and returns its path.
func (h *host) file(name, text string) string {
	h.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		h.Fatal(err)
	}
	return path
}

func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Dir = h.dir
	cmd.Env = append(os.Environ(), asKubectl+"=1", "KUBECONFIG="+h.config, "HOME="+h.dir, "KUBE_EDITOR="+filepath.Join(h.dir, "editor"))
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// run runs kubectl and returns what it printed.
func (h *host) run(args ...string) (stdout, stderr string, code int) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 2*time.Minute)
	defer cancel()
	cmd := h.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.Fatalf("kubectl %v: %v", args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// ok runs kubectl, which must succeed and print all of want.
func (h *host) ok(args string, want ...string) string {
	h.Helper()
	stdout, stderr, code := h.run(strings.Fields(args)...)
	if code != 0 {
		h.Fatalf("kubectl %s: exit code %d\n%s%s", args, code, stdout, stderr)
	}
	h.contains("kubectl "+args, stdout+stderr, want)
	return stdout
}

// fails runs kubectl, which must not succeed and print all of want.
func (h *host) fails(args string, want ...string) {
	h.Helper()
	stdout, stderr, code := h.run(strings.Fields(args)...)
	if code == 0 {
		h.Fatalf("kubectl %s: succeeded\n%s%s", args, stdout, stderr)
	}
	h.contains("kubectl "+args, stdout+stderr, want)
}

func (h *host) contains(what, text string, want []string) {
	h.Helper()
	for _, part := range want {
		if !strings.Contains(text, part) {
			h.Errorf("%s: no %q in\n%s", what, part, text)
		}
	}
}

const shop = `apiVersion: v1
kind: Service
metadata:
  name: payments
  labels: {team: money}
spec:
  ports:
  - {name: http, port: 80}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: payments
spec:
  parentRefs:
  - {group: "", kind: Service, name: payments, port: 80}
  rules:
  - backendRefs:
    - {name: payments-v1, port: 80, weight: 90}
    - {name: payments-v2, port: 80, weight: 10}
`

func TestApplyAndGet(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.file("shop.yaml", shop)
	h.ok("apply -f shop.yaml", "service/payments created", "httproute.gateway.networking.k8s.io/payments created")
	// Defaults inside of lists make kubectl believe that a route differs, as with Kubernetes; nothing is stored.
	before := h.ok("get httproute payments -o jsonpath={.metadata.resourceVersion}")
	h.ok("apply -f shop.yaml", "service/payments unchanged")
	h.ok("get httproute payments -o jsonpath={.metadata.resourceVersion}", before)
	h.file("shop.yaml", strings.Replace(shop, "weight: 90", "weight: 50", 1))
	h.ok("apply -f shop.yaml", "service/payments unchanged", "httproute.gateway.networking.k8s.io/payments configured")
	h.ok("get httproute payments -o jsonpath={.spec.rules[0].backendRefs[*].weight}", "50 10")
	h.file("shop.yaml", strings.Replace(shop, "- {name: http, port: 80}", "- {name: http, port: 80}\n  - {name: admin, port: 81}", 1))
	h.ok("apply -f shop.yaml", "service/payments configured")

	h.ok("get svc", "NAME", "TYPE", "PORT(S)", "AGE", "payments", "80/TCP,81/TCP")
	h.ok("get svc -o wide", "SELECTOR")
	h.ok("get svc,httproutes", "service/payments", "httproute.gateway.networking.k8s.io/payments", "service/payments")
	h.ok("get httproutes -o wide", "BACKENDS", "payments-v1:80=90")
	h.ok("get httproute payments -o yaml", "kind: HTTPRoute", "weight: 90", "generation: 3")
	h.ok("get httproute payments -o json", `"kind": "HTTPRoute"`)
	h.ok("get httproutes -A", "NAMESPACE", "default")
	h.ok("get svc -l team=money", "payments")
	h.ok("get svc -l team=other", "No resources found in default namespace.")
	h.ok("get ns", "default", "Active")
	h.ok("get sennit", "service/payments")
	h.ok("describe httproute payments", "payments-v2")
	h.fails("get httproute none", `Error from server (NotFound): httproutes.gateway.networking.k8s.io "none" not found`)
	h.fails("get deployments", `the server doesn't have a resource type "deployments"`)

	h.ok("delete -f shop.yaml", `service "payments" deleted`, `"payments" deleted`)
	h.ok("get svc", "No resources found")
}

func TestChangeByHand(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.file("shop.yaml", shop)
	h.ok("apply -f shop.yaml --dry-run=server", "service/payments created (server dry run)")
	h.ok("get svc", "No resources found")
	h.ok("create -f shop.yaml", "created")
	h.fails("create -f shop.yaml", "AlreadyExists")
	h.ok("label svc payments tier=gold", "service/payments labeled")
	h.ok("get svc -l tier=gold", "payments")
	h.ok("annotate httproute payments note=x", "annotated")
	h.ok(`patch svc payments -p {"spec":{"ports":[{"port":80,"targetPort":8080}]}}`, "patched")
	h.ok("get svc payments -o jsonpath={.spec.ports[*].name}/{.spec.ports[*].targetPort}", "http/8080")
	h.ok(`patch httproute payments --type=merge -p {"spec":{"hostnames":["pay.example"]}}`, "patched")
	h.ok(`patch httproute payments --type=json -p [{"op":"replace","path":"/spec/rules/0/backendRefs/0/weight","value":1}]`, "patched")
	h.fails(`patch httproute payments --type=merge -p {"spec":{"rules":[{"backendRefs":[{"name":"a","port":0}]}]}}`,
		"spec.rules[0].backendRefs[0].port: must be from 1 to 65535, is 0")

	h.file("editor", "#!/bin/sh\nsed -i 's/weight: 10/weight: 99/' \"$1\"\n")
	h.ok("edit httproute payments", "payments edited")
	h.ok("get httproute payments -o jsonpath={.spec.rules[0].backendRefs[*].weight}", "1 99")

	h.ok("delete svc --all", `service "payments" deleted`)
	h.ok("delete httproute payments", "deleted")
	h.ok("create namespace shop", "namespace/shop created")
	h.ok("apply -n shop -f shop.yaml", "created")
	h.ok("delete ns shop", `namespace "shop" deleted`)
	h.ok("get httproutes -A", "No resources found")
}

func TestMistakesAreNamed(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.file("bad.yaml", strings.Replace(shop, "weight: 90", "weight: -1", 1))
	h.fails("apply -f bad.yaml", "spec.rules[0].backendRefs[0].weight: must be from 0 to 1000000, is -1")
	h.ok("get httproutes", "No resources found")
	h.file("unknown.yaml", strings.Replace(shop, "parentRefs", "parentrefs", 1))
	h.fails("apply -f unknown.yaml", "strict decoding error", "spec.parentrefs: unknown field; did you mean parentRefs?")
	h.ok("apply -f unknown.yaml --validate=warn", "Warning: spec.parentrefs: unknown field")
	h.ok("apply -n elsewhere -f bad.yaml --validate=ignore --dry-run=client", "created (dry run)")
	h.file("elsewhere.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: elsewhere}\nspec: {ports: [{port: 1}]}\n")
	h.ok("apply -f elsewhere.yaml", `Warning: namespace "elsewhere" was not there and has been made`)
}

func TestServerSideApplyAndDiff(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.file("shop.yaml", shop)
	h.ok("apply --server-side -f shop.yaml", "payments serverside-applied")
	h.ok("apply --server-side -f shop.yaml", "payments serverside-applied")
	h.ok("get httproute payments -o jsonpath={.metadata.generation}", "1")
	h.file("other.yaml", strings.Replace(shop, "weight: 90", "weight: 80", 1))
	h.fails("apply --server-side --field-manager=other -f other.yaml", `conflict with "kubectl"`, ".spec.rules")
	h.ok("apply --server-side --field-manager=other --force-conflicts -f other.yaml", "serverside-applied")

	if _, err := exec.LookPath("diff"); err != nil {
		t.Skip("kubectl diff needs the program diff, which is not installed")
	}
	h.ok("diff --server-side --field-manager=other -f other.yaml")
	h.file("next.yaml", strings.Replace(shop, "weight: 10", "weight: 20", 1))
	h.fails("diff --server-side --force-conflicts -f next.yaml", "-      weight: 10", "+      weight: 20")
	h.fails("diff -f next.yaml", "+      weight: 20")
}

func TestDiscoveryAndExplain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ok("api-resources", "httproutes", "gateway.networking.k8s.io/v1", "endpointslices", "jointokens", "sennit.dev/v1alpha1", "svc")
	h.ok("api-versions", "gateway.networking.k8s.io/v1", "v1")
	h.ok("explain httproute.spec.rules", "KIND:", "HTTPRoute", "backendRefs", "timeouts")
	h.ok("explain service.spec.ports.targetPort", "Number or name of the port")
	h.ok("explain jointoken.spec", "services")
	h.ok("get --raw /version", "v1.37.0+sennit")
	h.ok("cluster-info", "is running at")
	h.ok("auth whoami --help", "Usage")
}

func TestWatchShowsChanges(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.file("shop.yaml", shop)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	h.ok("apply -f shop.yaml")
	cmd := h.command(ctx, "get", "httproutes", "-w")
	lines, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	buf := make([]byte, 4096)
	until := func(part string) {
		t.Helper()
		for !strings.Contains(seen.String(), part) {
			n, err := lines.Read(buf)
			seen.Write(buf[:n])
			if err != nil {
				t.Fatalf("no %q in %q: %v", part, seen.String(), err)
			}
		}
	}
	until("payments")
	h.ok(`patch httproute payments --type=merge -p {"spec":{"hostnames":["pay.example"]}}`)
	until("pay.example")
	all, _, err := h.api.Documents(ctx, api.HTTPRoute)
	if err != nil || len(all) != 1 {
		t.Fatal(len(all), err)
	}
	status := map[string]any{"parents": []any{map[string]any{
		"parentRef": map[string]any{"name": "payments"}, "controllerName": "sennit.dev/controller",
		"conditions": []any{map[string]any{
			"type": "Accepted", "status": "False", "reason": "UnsupportedValue", "message": "x", "lastTransitionTime": "2026-01-01T00:00:00Z",
		}},
	}}}
	if err := h.api.WriteStatus(ctx, api.HTTPRoute, "default", "payments", string(all[0].GetUID()), status); err != nil {
		t.Fatal(err)
	}
	until("False (UnsupportedValue)")
	if n := strings.Count(seen.String(), "HOSTNAMES"); n != 1 {
		t.Errorf("%d headings", n)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}
