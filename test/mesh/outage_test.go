package mesh

import (
	"context"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// there is how many instances of a service of the namespace default are ready, as the catalogue has it.
func (m *Mesh) there(ctx context.Context, service string) (ready int, err error) {
	var slices struct {
		Items []struct {
			Endpoints []struct {
				Conditions struct{ Ready bool }
			}
		}
	}
	err = launch.Call(ctx, m.Socket(), http.MethodGet, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name="+service, nil, &slices)
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready {
				ready++
			}
		}
	}
	return ready, err
}

// TestBusAwayForLong takes the bus away for longer than any node may be silent. Nothing is emptied while it is away,
// and nothing when it is back and has not heard from a node for longer than that; a node that is really gone is found then.
func TestBusAwayForLong(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than a minute")
	}
	t.Parallel()
	const ( // LostAfter and Grace of registry.Rules are 15 s and 30 s
		away = 47 * time.Second // longer than both together
		late = 18 * time.Second // that a node comes back behind the bus: longer than LostAfter, and within Grace
		calm = 34 * time.Second // that nothing may be emptied in: longer than Grace
	)
	m, address, _, _ := pair(t, Config{Waits: true})
	m.JoinLater("four", "default/stock")
	m.Serve("four", Service{Name: "default/stock", Version: "stock"})
	want := map[string]int{"orders": 2, "stock": 1}
	check := func(ctx context.Context) error {
		for service, n := range want {
			ready, err := m.there(ctx, service)
			if err == nil && ready != n {
				err = fmt.Errorf("%d instances of %s are ready", ready, service)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	m.MustApply(ordersService + "\n---\n" + `{apiVersion: v1, kind: Service, metadata: {name: stock}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	m.Eventually("all is registered", check)
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, PerConnection: 10, Pace: slowPace})
	m.Kill(m.Controller())
	four := m.Node("four")
	m.must("pause", four.Signal(syscall.SIGSTOP))
	select {
	case <-time.After(away):
	case <-t.Context().Done():
	}
	m.RestartController()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	paused := true
	for back := time.Now(); time.Since(back) < calm; <-tick.C {
		if paused && time.Since(back) >= late {
			m.must("wake", four.Signal(syscall.SIGCONT))
			paused = false
		}
		if err := check(t.Context()); err != nil {
			t.Fatalf("%s after the bus is back: %v", time.Since(back), err)
		}
		cluster, err := m.Cluster()
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range cluster.Nodes {
			if n.State == report.Lost {
				t.Fatalf("%s after the bus is back: %+v", time.Since(back), n)
			}
		}
	}
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {name: orders, labels: {a: b}}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	if got := load.Stop(); got.Failed > 0 || got.Requests == 0 {
		t.Errorf("without a bus: %s\n%v", got, got.Failures)
	}
	m.Kill(m.Node("two"))
	m.Eventually("a node that is gone is lost", func(ctx context.Context) error {
		want["orders"] = 1
		return check(ctx)
	})
}

// TestAllNodesReconnectAtOnce ends the bus under many nodes. All come back by themselves and are told what changed.
func TestAllNodesReconnectAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("starts two dozen nodes")
	}
	t.Parallel()
	var nodes []string
	for i := range 24 {
		nodes = append(nodes, fmt.Sprintf("n%02d", i))
	}
	m := Start(t, Config{Nodes: nodes, Services: []string{"default/web", "default/orders"}})
	m.Serve(nodes[0], Service{Name: "default/orders", Version: "v1"})
	addresses := map[string]string{}
	for _, node := range nodes {
		addresses[node] = m.Listen(node, "default/web", "default/orders:80")
	}
	const service = `{apiVersion: v1, kind: Service, metadata: {name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}`
	m.MustApply(service)
	m.AwaitAnswer(nodes[1], addresses[nodes[1]], "v1")
	before, err := Resident(m.Controller())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m.crashController()
	}
	start := time.Now()
	m.allBack()
	back := time.Since(start)
	m.MustApply(`{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: all}, spec: {parentRefs: [{group: "", kind: Service, name: orders}], rules: [{backendRefs: [{name: nobody, port: 80}]}]}}`)
	for _, node := range nodes {
		if response, _, err := m.Get(t.Context(), node, addresses[node], "/"); err != nil || response.StatusCode != http.StatusInternalServerError {
			t.Errorf("%s was told of the change and answers by the old rules: %v, %v", node, response, err)
		}
	}
	after, err := Resident(m.Controller())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d nodes are back after %s; the controller holds %d MB, before it %d MB", len(nodes), back.Round(time.Millisecond), after>>20, before>>20)
}
