package mesh

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// TestAFailingInstanceIsEjected has one of two instances fail: under a policy the caller's node asks it three times, and
// again when its time is over. The policy's status says whether it is in effect.
func TestAFailingInstanceIsEjected(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Services: []string{"shop/web", "shop/orders"}})
	m.Serve("two", Service{Name: "shop/orders", Version: "v1"})
	m.Serve("three", Service{Name: "shop/orders", Version: "v2"})
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders, annotations: {sennit.dev/balance: round-robin}}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	web := m.Listen("one", "shop/web", "shop/orders:80")
	m.AwaitAnswer("one", web, "v1", "v2")
	const lasts = 4 * time.Second
	m.MustApply(fmt.Sprintf(`{apiVersion: sennit.dev/v1alpha1, kind: ResiliencePolicy, metadata: {namespace: shop, name: orders}, `+
		`spec: {targetRefs: [{kind: Service, name: orders}, {kind: Service, name: gone}], outliers: {consecutiveErrors: 3, ejectionTime: %s}}}`, lasts))

	ask := func() (failed bool) {
		response, body, err := m.Get(t.Context(), "one", web, "/fail?version=v2")
		if err != nil {
			t.Fatal(err)
		}
		if failed = response.StatusCode == http.StatusInternalServerError; failed != (body == "v2") {
			t.Fatalf("%d by %s", response.StatusCode, body)
		}
		return failed
	}
	var before time.Time // no later than the ejection
	for failures := 0; failures < 3; {
		before = time.Now()
		if ask() {
			failures++
		}
	}
	spared := 0
	for !ask() {
		spared++
	}
	if took := time.Since(before); took < lasts {
		t.Errorf("it was asked again after %s, want %s", took, lasts)
	}
	if spared == 0 {
		t.Error("no request went to the other instance meanwhile")
	}
	m.Eventually("the policy's status", func(context.Context) error {
		var policy api.ResiliencePolicy
		if err := m.Read("ResiliencePolicy", "shop/orders", &policy); err != nil {
			return err
		}
		const want = "there is no Service shop/gone; the policy is in effect at its other targets"
		if c := policy.Status.Conditions; len(c) != 1 || c[0].Message != want {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
}
