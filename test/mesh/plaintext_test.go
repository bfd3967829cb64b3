package mesh

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// TestTheMeshIsIntroducedGradually has a service that callers without a node reach as before, while those in the mesh
// call it by their identity. Policies see who shows none; both are told apart in what operators see; and when the
// service is strict, nobody without an identity gets in, on a connection that was open before neither.
func TestTheMeshIsIntroducedGradually(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Services: []string{"shop/web", "shop/orders"}, Waits: true})
	plain := fmt.Sprintf("127.0.0.1:%d", m.port())
	m.Serve("two", Service{Name: "shop/orders", Version: "v1", Plaintext: plain})
	mode := func(mode string) {
		t.Helper()
		m.MustApply(`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders, annotations: {sennit.dev/plaintext: ` + mode + `}}, ` +
			`spec: {ports: [{port: 80, appProtocol: http}]}}`)
	}
	mode("permissive")
	meshed := m.Listen("one", "shop/web", "shop/orders:80")
	m.AwaitAnswer("one", meshed, "v1")
	m.AwaitAnswer("two", plain, "v1")

	policy := func(rule string) {
		t.Helper()
		m.MustApply(`{apiVersion: sennit.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: orders}, ` +
			`spec: {targetRefs: [{kind: Service, name: orders}], rules: [` + rule + `]}}`)
	}
	answers := func(when, address, path string, want int) {
		t.Helper()
		response, body, err := m.Get(t.Context(), "two", address, path)
		if want == 0 {
			if err == nil {
				t.Errorf("%s: %s of %s is answered with %s %q", when, path, address, response.Status, body)
			}
			return
		}
		if err != nil || response.StatusCode != want {
			t.Errorf("%s: %s of %s: %v, %v %q, want %d", when, path, address, err, response, body, want)
		}
	}
	policy(`{from: [{namespaces: [shop]}]}`)
	answers("only the mesh", plain, "/", http.StatusForbidden)
	answers("only the mesh", meshed, "/", http.StatusOK)
	policy(`{from: [{namespaces: [shop]}]}, {from: [{plaintext: true}], to: [{paths: [{value: /public}]}]}`)
	answers("some paths for all", plain, "/public/x", http.StatusOK)
	answers("some paths for all", plain, "/x/../public", http.StatusForbidden)
	answers("some paths for all", plain, "/private", http.StatusForbidden)
	answers("some paths for all", meshed, "/private", http.StatusOK)

	callers := func(permissive, taken bool) func(context.Context) error {
		return func(ctx context.Context) error {
			var all []report.Plaintext
			if err := launch.Call(ctx, m.Socket(), http.MethodGet, report.PathPlaintext, nil, &all); err != nil {
				return err
			}
			for _, p := range all {
				for _, s := range p.Sources {
					if p.Service == "shop/orders" && p.Permissive == permissive && s.Source == "127.0.0.1" && s.Taken == taken && s.Connections > 0 {
						return nil
					}
				}
			}
			return fmt.Errorf("listed are %+v", all)
		}
	}
	m.Eventually("the list of callers without an identity", callers(true, true))

	policy(`{from: [{namespaces: [shop]}]}, {from: [{plaintext: true}]}`)
	load := m.Load(LoadConfig{Node: "two", Address: plain, Connections: 1, PerConnection: 1_000_000})
	m.AwaitAnswers(load, "answers of a permissive service", anyAnswer, 5)
	mode("strict")
	answers("strict", plain, "/public", 0)
	answers("strict", meshed, "/", http.StatusOK)
	m.Eventually("the list of callers that are refused", callers(false, false))
	if tally := load.Stop(); len(tally.Failures) == 0 {
		t.Errorf("a connection from before goes on: %s", tally)
	}
}
