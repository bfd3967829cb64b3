package mesh

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

func TestMain(m *testing.M) { Main(m) }

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Services: []string{"default/web", "default/orders"}})
	m.Serve("two", Service{Name: "default/orders", Version: "v1"})
	address := m.Listen("one", "default/web", "default/orders:80")
	m.AwaitAnswer("one", address, "v1")
	l := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, Methods: []string{"GET", "POST"}})
	m.Eventually("500 requests", func(context.Context) error {
		if n := l.So().Requests; n < 500 {
			return fmt.Errorf("%d requests", n)
		}
		return nil
	})
	if got := l.Stop(); got.Failed > 0 {
		t.Fatalf("%s\n%s", got, got.Failures)
	}
}

// startOrders starts a mesh of two hosts in which one calls default/orders on two, at an address of its own.
func startOrders(t *testing.T, cfg Config) (m *Mesh, address string) {
	t.Helper()
	cfg.Nodes, cfg.Services = []string{"one", "two"}, []string{"default/web", "default/orders"}
	m = Start(t, cfg)
	m.Serve("two", Service{Name: "default/orders", Version: "v1"})
	address = m.Listen("one", "default/web", "default/orders:80")
	m.MustApply(ordersService)
	m.AwaitAnswer("one", address, "v1")
	return m, address
}

// awaitCall waits until the graph has calls of a service to one that is meant.
func (m *Mesh) awaitCall(caller string, meant func(callee string) bool) {
	m.t.Helper()
	m.Eventually("who calls whom", func(ctx context.Context) error {
		var edges []struct{ Caller, Callee string }
		if err := launch.Call(ctx, m.Socket(), http.MethodGet, report.PathEdges+"?by=service", nil, &edges); err != nil {
			return err
		}
		for _, one := range edges {
			if one.Caller == caller && meant(one.Callee) {
				return nil
			}
		}
		return fmt.Errorf("%+v", edges)
	})
}
