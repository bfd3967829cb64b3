package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// withoutOld is a route of default/orders on which /old is nothing.
const withoutOld = `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: orders}, spec: {parentRefs: [{group: "", kind: Service, name: orders}], rules: [` +
	`{matches: [{path: {value: /old}}]}, {backendRefs: [{name: orders, port: 80}]}]}}`

// rotateBus replaces the keys of the bus, until nodes are asked to renew.
func (m *Mesh) rotateBus() report.Authority {
	m.t.Helper()
	m.must("rotate", launch.Call(m.t.Context(), m.Socket(), http.MethodPost, report.PathAuthority+"/rotate", report.Rotate{Of: "bus operator"}, nil))
	return m.awaitPhase(report.Renewing)
}

// shutOut ends the trust in keys of the bus of before, once all nodes have renewed.
func (m *Mesh) shutOut() {
	m.t.Helper()
	m.Eventually("all renew", func(ctx context.Context) error {
		a, err := m.authority(ctx)
		if err == nil && a.Nodes.Done < a.Nodes.Total {
			err = fmt.Errorf("%+v", a.Nodes)
		}
		return err
	})
	m.must("withdraw", launch.Call(m.t.Context(), m.Socket(), http.MethodPost, report.PathAuthority+"/withdraw", report.Withdraw{Force: true}, nil))
	if a, err := m.authority(m.t.Context()); err != nil || a.Rotation != nil {
		m.t.Error(errors.Join(err, fmt.Errorf("after it was withdrawn: %+v", a.Rotation)))
	}
}

// TestBusKeyRotation replaces all keys of the bus twice, under load: no request fails, though the controller starts again by
// itself, and is killed while nodes renew. A node that was away for all of it comes back by itself. The second time the keys of
// before are shut out at once, and changes reach all.
func TestBusKeyRotation(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until certificates end")
	}
	t.Parallel()
	m, address := threeNodes(t, Config{CertificateTTL: turnover, Waits: true})
	before, load := m.withoutThree(address)
	renewing := m.rotateBus()
	if renewing.BusOperator == before.BusOperator || renewing.Rotation.Of != "bus operator" || renewing.Rotation.From != before.BusOperator || renewing.Rotation.To != renewing.BusOperator {
		t.Errorf("renewing: %+v, %+v, before %+v", renewing, renewing.Rotation, before)
	}
	m.crashController()
	m.AwaitAnswers(load, "the load goes on", "v2", 20)
	after := m.awaitPhase("")
	if after.BusOperator != renewing.BusOperator || after.Root.Key != before.Root.Key || after.Intermediate.Key != before.Intermediate.Key || after.SigningKey != before.SigningKey {
		t.Errorf("at the end: %+v, before %+v", after, before)
	}
	m.RestartNode("three")
	m.AwaitAnswers(load, "three is called again", "v3", 20)

	m.rotateBus()
	m.shutOut()
	m.MustApply(withoutOld)
	m.gone("one", address, "/old")
	m.AwaitAnswers(load, "the load goes on", "v3", 20)
	m.noFailures(load, "in the rotation")
}

// TestRestoredBeforeBusKeys restores a backup of before the keys of the bus were replaced, and those of then shut out. The
// controller knows none of the users that nodes have by then: they show those of before, get new ones, and hear of changes.
func TestRestoredBeforeBusKeys(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Services: []string{"default/web", "default/orders"}})
	m.Serve("two", Service{Name: "default/orders", Version: "v1"})
	address := m.Listen("one", "default/web", "default/orders:80")
	m.MustApply(ordersService)
	m.AwaitAnswer("one", address, "v1")
	file, key := m.takeBackup()
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, Pace: slowPace})
	m.rotateBus()
	m.shutOut()

	m.Kill(m.Controller())
	m.must("lose the controller's state", os.RemoveAll(m.controllerState()))
	m.restore(file, key, time.Now())
	m.RestartController()
	m.MustApply(withoutOld) // returns when every node that uses it has applied it
	m.gone("one", address, "/old")
	m.noFailures(load, "while the controller was restored")
}
