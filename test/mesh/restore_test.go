package mesh

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/controller"
)

// takeBackup takes a backup of the running controller, and a copy of the key that a restore needs.
func (m *Mesh) takeBackup() (file, key string) {
	m.t.Helper()
	c, err := client.New(client.Config{Socket: m.Socket()})
	m.must("reach the controller", err)
	file, key = filepath.Join(m.Dir, "backup"), filepath.Join(m.Dir, "ca.key")
	taken, err := c.Backup(m.t.Context(), file)
	m.must("back up", err)
	secret, err := os.ReadFile(taken.SealingKey)
	m.must("read the sealing key", err)
	m.must("copy the sealing key", os.WriteFile(key, secret, 0o600))
	return file, key
}

// restore makes the state of the controller, which is stopped and has none, from a backup.
func (m *Mesh) restore(file, key string, now time.Time) controller.Restored {
	m.t.Helper()
	r, err := controller.Restore(m.t.Context(), controller.RestoreConfig{
		From: file, Key: key, StateDir: m.controllerState(), Actor: "tester", Now: func() time.Time { return now },
	})
	m.must("restore", err)
	return r
}

func (m *Mesh) controllerState() string { return filepath.Join(m.Dir, "controller") }

// answers returns which answers come through a load from now on, once there are many.
func (m *Mesh) answers(load *Load, many int) map[string]int {
	m.t.Helper()
	before := load.So()
	now := map[string]int{}
	m.Eventually("answers", func(context.Context) error {
		so := load.So()
		for body, n := range so.Answers {
			now[body] = n - before.Answers[body]
		}
		if so.Requests-before.Requests < many {
			return fmt.Errorf("%s", so)
		}
		return nil
	})
	return now
}

func (m *Mesh) noFailures(load *Load, while string) {
	m.t.Helper()
	got := load.Stop()
	m.t.Log(got)
	if got.Failed > 0 {
		m.t.Errorf("%s: %s\n%s", while, got, strings.Join(got.Failures, "\n"))
	}
}

const ordersService = `{apiVersion: v1, kind: Service, metadata: {name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}`

// ordersTo routes all calls of default/orders to one version, which is a Service of its own name.
func ordersTo(service string) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders}
spec:
  parentRefs: [{group: "", kind: Service, name: orders, port: 80}]
  rules: [{backendRefs: [{name: %s, port: 80}]}]
`, service)
}

// TestRestored loses a controller with all of its state, and restores a backup that is older than much of what the mesh
// does by then: a node has renewed since, another has joined, a third was allowed one more service, a document was
// made. No request fails; what nodes prove is believed; what was only in the controller is gone.
func TestRestored(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until certificates are renewed")
	}
	t.Parallel()
	m := Start(t, Config{Services: []string{"default/web", "default/orders"}, Waits: true, CertificateTTL: 40 * time.Second})
	m.Serve("two", Service{Name: "default/orders", Version: "v1"})
	address := m.Listen("one", "default/web", "default/orders:80")
	m.MustApply(ordersService)
	m.AwaitAnswer("one", address, "v1")
	file, key := m.takeBackup()

	// What the backup does not know.
	m.JoinLater("four", "default/orders")
	m.Serve("four", Service{Name: "default/orders", Version: "v4"})
	m.must("allow three one more service", m.Allow("three", "default/stock"))
	m.Serve("three", Service{Name: "default/stock", Version: "stock"})
	stock := m.Listen("one", "default/web", "default/stock:80")
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {name: stock}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	m.AwaitAnswer("one", address, "v1", "v4")
	m.AwaitAnswer("one", stock, "stock")
	generations, first := map[string]int64{}, map[string]time.Time{}
	for _, node := range []string{"one", "two", "three"} {
		status, err := m.Status(node)
		m.must("status", err)
		first[node] = ends(status)
	}
	for _, node := range []string{"one", "two", "three"} {
		generations[node] = m.awaitGeneration(node, 2)
		m.awaitRenewed(node, first[node]) // the node has its receipt: what only the controller knows is lost with it
	}
	generations["four"] = m.awaitGeneration("four", 1)

	orders := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, Methods: []string{"GET", "POST"}})
	stocks := m.Load(LoadConfig{Node: "one", Address: stock, Connections: 1})
	m.Kill(m.Controller())
	m.must("lose the controller's state", os.RemoveAll(m.controllerState()))
	restored := m.restore(file, key, time.Now())
	m.RestartController() // until it publishes

	for node, was := range generations {
		if now := m.awaitGeneration(node, was); now < was {
			t.Errorf("%s had generation %d, and has %d", node, was, now)
		}
	}
	status, err := m.Cluster()
	if err != nil || len(status.Warnings) > 0 || status.Epoch != restored.NewEpoch || len(status.Nodes) != 4 {
		t.Errorf("the restored controller says %+v, %v", status, err)
	}
	if got := m.answers(orders, 400); got["v1"] == 0 || got["v4"] == 0 {
		t.Errorf("orders, also of the node that joined after the backup: %v", got)
	}
	if got := m.answers(stocks, 100); got["stock"] == 0 {
		t.Errorf("the service that a node was allowed after the backup: %v", got)
	}
	err = launch.Call(t.Context(), m.Socket(), http.MethodGet, "/api/v1/namespaces/default/services/stock", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("a document of after the backup: %v", err)
	}
	var service struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	m.must("read a document", launch.Call(t.Context(), m.Socket(), http.MethodGet, "/api/v1/namespaces/default/services/orders", nil, &service))
	if version, err := strconv.ParseUint(service.Metadata.ResourceVersion, 10, 64); err != nil || version/1_000_000_000 != restored.NewEpoch {
		t.Errorf("resource version %s in epoch %d", service.Metadata.ResourceVersion, restored.NewEpoch)
	}

	m.MustApply(ordersTo("stock")) // returns when every node that uses it has applied it
	if _, body, err := m.Get(t.Context(), "one", address, "/"); err != nil || body != "stock" {
		t.Errorf("a change after the restore: %q, %v", body, err)
	}
	var verified report.Verification
	m.must("verify the audit", launch.Call(t.Context(), m.Socket(), http.MethodGet, report.PathAuditVerify, nil, &verified))
	if len(verified.Problems) > 0 || verified.Records == 0 {
		t.Errorf("the restored audit: %+v", verified)
	}
	m.noFailures(orders, "orders while the controller was lost and restored")
	m.noFailures(stocks, "stock while the controller was lost and restored")
}

// TestRestoredAfterAllow loses a controller right after a node was allowed one more service, before any node renewed. The
// receipt that came with the service's certificate is what knows of it.
func TestRestoredAfterAllow(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Services: []string{"default/web", "default/orders"}})
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {name: stock}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	file, key := m.takeBackup()
	m.must("allow two one more service", m.Allow("two", "default/stock"))
	m.Serve("two", Service{Name: "default/stock", Version: "stock"})
	address := m.Listen("one", "default/web", "default/stock:80")
	m.AwaitAnswer("one", address, "stock")
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 1})
	generation := m.awaitGeneration("two", 1)

	m.Kill(m.Controller())
	m.must("lose the controller's state", os.RemoveAll(m.controllerState()))
	m.restore(file, key, time.Now())
	m.RestartController() // until it publishes
	two, err := m.registered(t.Context(), "two")
	if err != nil || two.Status.Generation != generation || !slices.Contains(two.Spec.Services, "default/stock") {
		t.Errorf("two, of generation %d, is registered as %+v, %v", generation, two, err)
	}
	m.MustApply(ordersTo("stock")) // returns when every node that uses it has applied it
	m.AwaitAnswers(load, "requests go on", "stock", 100)
	m.noFailures(load, "while the controller was lost and restored")
}

// TestRestoredTwice restores one backup twice. The nodes follow the second, and do not go back to the first when that
// one is all they reach: it is told of the newer epoch, stops leading, refuses changes, and knows that after a restart.
func TestRestoredTwice(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Waits: true, Services: []string{"default/web", "default/orders", "default/red", "default/blue"}})
	m.Serve("two", Service{Name: "default/red", Version: "red"})
	m.Serve("three", Service{Name: "default/blue", Version: "blue"})
	address := m.Listen("one", "default/web", "default/orders:80")
	m.MustApply(ordersService + "\n---\n" + ordersTo("red"))
	m.AwaitAnswer("one", address, "red")
	file, key := m.takeBackup()
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, Pace: slowPace})
	m.Kill(m.Controller())
	m.must("lose the controller's state", os.RemoveAll(m.controllerState()))

	first := m.restore(file, key, time.Now())
	m.RestartController()
	m.MustApply(ordersTo("blue"))
	m.AwaitAnswer("one", address, "blue")
	m.StopPart(m.Controller())
	older := m.controllerState() + ".older"
	m.must("put the first away", os.Rename(m.controllerState(), older))

	second := m.restore(file, key, time.Now().Add(time.Minute))
	if second.NewEpoch <= first.NewEpoch {
		t.Fatalf("epochs %d and %d", first.NewEpoch, second.NewEpoch)
	}
	m.RestartController()
	m.AwaitAnswer("one", address, "red") // as the backup has it
	m.StopPart(m.Controller())
	newer := m.controllerState() + ".newer"
	m.must("put the second away", os.Rename(m.controllerState(), newer))

	m.must("bring the first back", os.Rename(older, m.controllerState()))
	for _, when := range []string{"when nodes tell it", "after a restart"} {
		m.startAnyhow()
		m.awaitWarning(strconv.FormatUint(second.NewEpoch, 10), "does not lead any more")
		if _, err := m.StoreOnly(ordersTo("green")); err == nil || !strings.Contains(err.Error(), "newer epoch") {
			t.Errorf("%s: a change at the older controller: %v", when, err)
		}
		m.StopPart(m.Controller())
	}
	if got := m.answers(load, 200); got["blue"] > 0 || got["red"] == 0 {
		t.Errorf("beside the older controller: %v", got)
	}

	m.must("put the first away", os.Rename(m.controllerState(), older))
	m.must("bring the second back", os.Rename(newer, m.controllerState()))
	m.RestartController()
	m.MustApply(ordersTo("blue"))
	m.AwaitAnswer("one", address, "blue")
	m.noFailures(load, "while a backup was restored twice")
}

// startAnyhow starts the controller without waiting until it has nothing to warn of.
func (m *Mesh) startAnyhow() {
	m.t.Helper()
	ctx, cancel := context.WithCancel(m.t.Context())
	cancel()
	_ = m.StartController(ctx) // it runs, and is not ready
}

func (m *Mesh) awaitWarning(words ...string) {
	m.t.Helper()
	m.Eventually(fmt.Sprintf("the controller warns of %q", words), func(context.Context) error {
		status, err := m.Cluster()
		if err != nil {
			return err
		}
		return say(status.Warnings, words)
	})
}
