package mesh

import (
	"context"
	"fmt"
	"net/http"
	"testing"
)

// TestLoadBalancingPolicy wants a policy to reach the nodes, with what they say of where they are: requests stay near, leave
// when the near instance is ill, and one key is always at one instance.
func TestLoadBalancingPolicy(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Services: []string{"shop/web", "shop/orders"}, NodeFlags: map[string][]string{
		"one": {"--zone", "a", "--region", "eu"}, "two": {"--zone", "b", "--region", "eu"}, "three": {"--zone", "a", "--region", "eu"},
	}})
	const health = `health: {tcp: {port: "80"}, interval: 500ms, unhealthy: 2}`
	m.Serve("two", Service{Name: "shop/orders", Version: "far", Health: health})
	near := m.Serve("three", Service{Name: "shop/orders", Version: "near", Health: health})
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	web := m.Listen("one", "shop/web", "shop/orders:80")
	m.AwaitAnswer("one", web, "near", "far")
	m.MustApply(`{apiVersion: sennit.dev/v1alpha1, kind: LoadBalancingPolicy, metadata: {namespace: shop, name: orders},
  spec: {targetRefs: [{kind: Service, name: orders}], locality: {prefer: Zone}}}`)
	ask := func(ctx context.Context, query string) (string, error) {
		response, body, err := m.Get(ctx, "one", web, "/"+query)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("answered %d: %s", response.StatusCode, body)
		}
		return body, err
	}
	all := func(what string, count int, query func(int) string) map[string]int {
		t.Helper()
		seen := map[string]int{}
		for i := range count {
			body, err := ask(t.Context(), query(i))
			if err != nil {
				t.Fatal(what, err)
			}
			seen[body]++
		}
		return seen
	}
	same := func(int) string { return "" }
	m.Eventually("the near instance is known by its zone", func(ctx context.Context) error {
		for range 20 {
			if body, err := ask(ctx, ""); err != nil {
				return err
			} else if body != "near" {
				return fmt.Errorf("answered by %q", body)
			}
		}
		return nil
	})
	if seen := all("near", 40, same); seen["near"] != 40 {
		t.Errorf("with the zone preferred: %v", seen)
	}
	m.Kill(near.Process)
	m.Eventually("the far instance answers", func(ctx context.Context) error {
		for range 20 {
			if body, err := ask(ctx, ""); err != nil {
				return err
			} else if body != "far" {
				return fmt.Errorf("answered by %q", body)
			}
		}
		return nil
	})
	m.Serve("three", Service{Name: "shop/orders", Instance: "again", Version: "again", Health: health})
	m.MustApply(`{apiVersion: sennit.dev/v1alpha1, kind: LoadBalancingPolicy, metadata: {namespace: shop, name: orders},
  spec: {targetRefs: [{kind: Service, name: orders}], algorithm: Maglev, hashOn: [{type: QueryParameter, name: user}]}}`)
	m.Eventually("keys are at both instances", func(ctx context.Context) error {
		seen := map[string]bool{}
		for i := range 20 {
			body, err := ask(ctx, fmt.Sprint("?user=", i))
			if err != nil {
				return err
			}
			seen[body] = true
		}
		if len(seen) != 2 {
			return fmt.Errorf("answered by %v", seen)
		}
		return nil
	})
	for user := range 10 {
		if seen := all("by hash", 8, func(int) string { return fmt.Sprint("?user=", user) }); len(seen) != 1 {
			t.Errorf("user %d is at %v", user, seen)
		}
	}
}
