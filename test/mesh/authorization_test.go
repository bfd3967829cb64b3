package mesh

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// TestWhoMayCall has two callers of a service, on another host and on its own. Under a policy for one of them the other
// is refused, wherever it calls from, and the first loses no request; the service's node goes on so after it started
// again with no controller there.
func TestWhoMayCall(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Services: []string{"shop/web", "shop/cart", "shop/orders"}})
	m.Serve("two", Service{Name: "shop/orders", Version: "v1"})
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	cart := m.Listen("one", "shop/cart", "shop/orders:80")
	others := map[string]string{"one": m.Listen("one", "shop/web", "shop/orders:80"), "two": m.Listen("two", "shop/web", "shop/orders:80")}
	m.AwaitAnswer("one", cart, "v1")
	for node, address := range others {
		m.AwaitAnswer(node, address, "v1")
	}
	load := m.Load(LoadConfig{Node: "one", Address: cart, Connections: 2})
	m.AwaitAnswers(load, "answers before the policy", anyAnswer, 20)
	m.MustApply(`{apiVersion: sennit.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: orders}, ` +
		`spec: {targetRefs: [{kind: Service, name: orders}], rules: [{from: [{services: [shop/cart]}]}]}}`)
	denied := func(when string) {
		t.Helper()
		for node, address := range others {
			response, body, err := m.Get(t.Context(), node, address, "/")
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != http.StatusForbidden || response.Header.Get("sennit-reason") != "denied" {
				t.Errorf("%s: from %s: %s %q", when, node, response.Status, body)
			}
		}
	}
	denied("once every node has applied it")
	m.AwaitAnswers(load, "answers under the policy", anyAnswer, 20)
	if tally := load.Stop(); len(tally.Failures) > 0 {
		t.Errorf("who is allowed: %s", tally)
	}

	m.StopPart(m.Controller())
	m.StopPart(m.Node("two"))
	m.RestartNode("two")
	m.Eventually("an answer without a controller", func(ctx context.Context) error {
		response, body, err := m.Get(ctx, "one", cart, "/")
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s %q", response.Status, body)
		}
		return err
	})
	denied("after the node started again")
}

// TestDenialsAreListed has a policy on its dry run, and one that is enforced: the controller lists who is refused, from where,
// and who would be.
func TestDenialsAreListed(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Services: []string{"shop/web", "shop/orders"}, Waits: true})
	m.Serve("two", Service{Name: "shop/orders", Version: "v1"})
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	address := m.Listen("one", "shop/web", "shop/orders:80")
	m.AwaitAnswer("one", address, "v1")
	m.MustApply(`{apiVersion: sennit.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: trial}, ` +
		`spec: {targetRefs: [{kind: Service, name: orders}], mode: DryRun, rules: [{from: [{nodes: [two]}]}]}}`)
	m.MustApply(`{apiVersion: sennit.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: admin}, ` +
		`spec: {targetRefs: [{kind: Service, name: orders}], action: Deny, rules: [{to: [{paths: [{value: /admin}]}]}]}}`)
	for path, status := range map[string]int{"/things?secret=1": http.StatusOK, "/admin/x": http.StatusForbidden} {
		response, body, err := m.Get(t.Context(), "one", address, path)
		if err != nil || response.StatusCode != status {
			t.Fatalf("%s: %v %v %q", path, err, response, body)
		}
	}
	m.Eventually("the list of denials", func(ctx context.Context) error {
		var seen []telemetry.SeenDenial
		if err := launch.Call(ctx, m.Socket(), http.MethodGet, report.PathAuthzDenials, nil, &seen); err != nil {
			return err
		}
		want := map[telemetry.Denial]bool{
			{Service: "shop/orders", Caller: "shop/web", Node: "one", Method: "GET", Path: "/things", Policy: "shop/trial", DryRun: true}: true,
			{Service: "shop/orders", Caller: "shop/web", Node: "one", Method: "GET", Path: "/admin/x", Policy: "shop/admin"}:              true,
		}
		for _, s := range seen {
			if s.Count == 1 {
				delete(want, s.Denial)
			}
		}
		if len(want) > 0 {
			return fmt.Errorf("seen %+v, and not %v", seen, want)
		}
		return nil
	})
}
