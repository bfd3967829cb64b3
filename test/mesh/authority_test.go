package mesh

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// authority is what signs certificates.
func (m *Mesh) authority(ctx context.Context) (a report.Authority, err error) {
	return a, launch.Call(ctx, m.Socket(), http.MethodGet, report.PathAuthority, nil, &a)
}

// awaitPhase waits until a rotation is in a phase; "": until it is over.
func (m *Mesh) awaitPhase(phase string) (last report.Authority) {
	m.t.Helper()
	m.within(3*ready, "the rotation is in phase "+phase, func(ctx context.Context) (err error) {
		if last, err = m.authority(ctx); err != nil {
			return err
		}
		if now := last.Rotation; phase == "" && now != nil || phase != "" && (now == nil || now.Phase != phase) {
			return fmt.Errorf("%+v, nodes %+v", now, last.Nodes)
		}
		return nil
	})
	return last
}

// threeNodes starts three nodes, of which one calls what the other two serve.
func threeNodes(t *testing.T, cfg Config) (m *Mesh, address string) {
	t.Helper()
	cfg.Nodes, cfg.Services = []string{"one", "two", "three"}, []string{"default/web", "default/orders"}
	m = Start(t, cfg)
	m.Serve("two", Service{Name: "default/orders", Version: "v2"})
	m.Serve("three", Service{Name: "default/orders", Version: "v3"})
	address = m.Listen("one", "default/web", "default/orders:80")
	m.MustApply(ordersService)
	m.AwaitAnswer("one", address, "v2", "v3")
	return m, address
}

// withoutThree takes the third node away, and begins to load what is left. Before is what signs until then.
func (m *Mesh) withoutThree(address string) (before report.Authority, load *Load) {
	m.t.Helper()
	before, err := m.authority(m.t.Context())
	m.must("what signs", err)
	m.StopPart(m.Node("three"))
	return before, m.Load(LoadConfig{Node: "one", Address: address, Connections: 4, Methods: []string{http.MethodGet, http.MethodPost}, Pace: slowPace})
}

// TestRootRotation rotates the root, and then the intermediate, under load: no request fails, though the controller is
// killed in each phase. A host that joins meanwhile with a token of before, and one that was away for all of it, come to
// the new root by themselves.
func TestRootRotation(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until certificates end")
	}
	t.Parallel()
	m, address := threeNodes(t, Config{Namespaces: true, Waits: true, CertificateTTL: turnover, Outside: []string{"four"}})
	token, err := m.Token(t.Context(), "four", "default/web", "default/orders")
	m.must("make a token", err)
	before, load := m.withoutThree(address)
	begin := func(of string) {
		m.must("rotate the "+of, launch.Call(t.Context(), m.Socket(), http.MethodPost, report.PathAuthority+"/rotate", report.Rotate{Of: of}, nil))
	}
	begin("root")
	m.awaitPhase(report.Announced)
	m.crashController()
	renewing := m.awaitPhase(report.Renewing)
	if renewing.Root.Key == before.Root.Key {
		t.Errorf("root %s is in use while it is to be replaced", renewing.Root.Key)
	}
	m.crashController()
	m.AwaitAnswers(load, "the load goes on", "v2", 20)
	m.joinWith("four", token)
	m.awaitPhase("")
	m.crashController()
	after, err := m.authority(t.Context())
	m.must("what signs", err)
	if after.Root.Key == before.Root.Key || after.Rotation != nil {
		t.Errorf("at the end: %+v", after)
	}
	m.AwaitAnswers(load, "the load goes on", "v2", 20)

	// three was away for all of it, and its certificates have ended.
	m.RestartNode("three")
	m.AwaitAnswers(load, "three is called again", "v3", 20)
	m.AwaitAnswer("one", address, "v2", "v3")

	begin("intermediate")
	m.awaitPhase(report.Renewing)
	m.crashController()
	m.awaitPhase("")
	m.AwaitAnswers(load, "the load goes on", "v3", 20)
	m.noFailures(load, "in the rotation")
	if last, err := m.authority(t.Context()); err != nil || last.Root.Key != after.Root.Key || last.Intermediate.Key == after.Intermediate.Key {
		t.Errorf("after the intermediate: %+v, %v", last, err)
	}
}

// TestRootRotationUnderWrongClocks rotates the root while the clocks of two hosts are a day off, one to each side. They keep
// nobody waiting and hinder no request of others, and once their clocks are set right they are called again, by the new root.
func TestRootRotationUnderWrongClocks(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until certificates end")
	}
	t.Parallel()
	wrong := map[string]time.Duration{"ahead": 24 * time.Hour, "behind": -24 * time.Hour}
	m := Start(t, Config{CertificateTTL: 20 * time.Second, Nodes: []string{"one", "two", "ahead", "behind"}, Services: []string{"default/web", "default/orders", "default/billing"}})
	m.Serve("two", Service{Name: "default/orders", Version: "v2"})
	for name := range wrong {
		m.Serve(name, Service{Name: "default/billing", Version: name})
	}
	address, billing := m.Listen("one", "default/web", "default/orders:80"), m.Listen("one", "default/web", "default/billing:80")
	m.MustApply(ordersService)
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {namespace: default, name: billing}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	m.AwaitAnswer("one", address, "v2")
	m.AwaitAnswer("one", billing, "ahead", "behind")
	before, err := m.authority(t.Context())
	m.must("what signs", err)
	set := func(clocks map[string]time.Duration) {
		t.Helper()
		for name := range wrong {
			m.Kill(m.Node(name))
			m.SetClock(name, clocks[name])
			m.RestartNode(name)
		}
	}
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, Methods: []string{http.MethodGet, http.MethodPost}, Pace: slowPace})
	set(wrong)
	m.must("rotate", launch.Call(t.Context(), m.Socket(), http.MethodPost, report.PathAuthority+"/rotate", report.Rotate{Of: "root"}, nil))
	m.awaitPhase(report.Renewing)
	m.awaitPhase("")
	m.AwaitAnswers(load, "the load goes on", "v2", 20)
	if after, err := m.authority(t.Context()); err != nil || after.Root.Key == before.Root.Key {
		t.Errorf("at the end: %+v, %v", after, err)
	}
	set(nil)
	m.AwaitAnswer("one", billing, "ahead", "behind")
	m.noFailures(load, "in the rotation")
}

// TestACancelWhileTheControllerIsAway: what was announced is not taken back by a command that found no controller, and is by one that
// did, though the controller is killed right after it. No request fails, and what follows goes through.
func TestACancelWhileTheControllerIsAway(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until certificates end")
	}
	t.Parallel()
	m := Start(t, Config{CertificateTTL: turnover, Waits: true, Nodes: []string{"one", "two", "three"}, Services: []string{"default/web", "default/orders"}})
	m.Serve("two", Service{Name: "default/orders", Version: "v2"})
	address, others := m.Listen("one", "default/web", "default/orders:80"), m.Listen("three", "default/web", "default/orders:80")
	m.MustApply(ordersService)
	m.AwaitAnswer("one", address, "v2")
	m.AwaitAnswer("three", others, "v2")
	before, err := m.authority(t.Context())
	m.must("what signs", err)
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, Methods: []string{http.MethodGet, http.MethodPost}, Pace: slowPace})
	ask := func(act string, body any) error {
		return launch.Call(t.Context(), m.Socket(), http.MethodPost, report.PathAuthority+act, body, nil)
	}
	for _, of := range []string{"root", "signing key"} {
		m.Kill(m.Node("three")) // who is waited for, so that it stays announced
		m.must("rotate the "+of, ask("/rotate", report.Rotate{Of: of}))
		m.awaitPhase(report.Announced)
		m.Kill(m.Controller())
		if err := ask("/cancel", nil); err == nil {
			t.Errorf("%s: taken back without a controller", of)
		}
		m.RestartController()
		if now, err := m.authority(t.Context()); err != nil || now.Rotation == nil || now.Rotation.Phase != report.Announced || now.Rotation.Of != of {
			t.Errorf("%s: when the controller is back: %+v, %v", of, now.Rotation, err)
		}
		m.must("cancel", ask("/cancel", nil))
		m.crashController()
		now, err := m.authority(t.Context())
		if err != nil || now.Rotation != nil || now.Root.Key != before.Root.Key || now.SigningKey != before.SigningKey {
			t.Errorf("%s: taken back: %+v, %v", of, now, err)
		}
		if err := ask("/cancel", nil); err == nil {
			t.Errorf("%s: taken back twice", of)
		}
		m.RestartNode("three")
		m.AwaitAnswer("three", others, "v2")
	}
	m.must("rotate", ask("/rotate", report.Rotate{Of: "root"}))
	m.awaitPhase(report.Renewing)
	m.awaitPhase("")
	m.AwaitAnswers(load, "the load goes on", "v2", 20)
	m.AwaitAnswer("three", others, "v2")
	if after, err := m.authority(t.Context()); err != nil || after.Root.Key == before.Root.Key || after.SigningKey != before.SigningKey {
		t.Errorf("at the end: %+v, %v", after, err)
	}
	m.noFailures(load, "in the rotation")
}
