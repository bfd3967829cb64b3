package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// revoke does what `sennit revoke` and `sennit node revoke` do.
func (m *Mesh) revoke(what report.Revoke) (done report.Revoked) {
	m.t.Helper()
	m.must("revoke", launch.Call(m.t.Context(), m.Socket(), http.MethodPost, report.PathRevocations, what, &done))
	return done
}

func (m *Mesh) allow(node, service string) {
	m.t.Helper()
	m.must("allow", launch.Call(m.t.Context(), m.Socket(), http.MethodPost, report.PathNodes+node+"/allow", report.Allow{Service: service}, nil))
}

// ok counts the requests of a load that were answered.
func ok(l *Load) int {
	so := l.So()
	return so.Requests - so.Failed
}

// stopsWithin watches loads after something was done to their caller, and returns for how long each was still answered. It
// fails where that is more than a second, and what the machine had them wait for meanwhile.
func (m *Mesh) stopsWithin(since time.Time, loads map[string]*Load) {
	m.t.Helper()
	const watch, every, quiet = 30 * time.Second, 2 * time.Millisecond, 2 * time.Second
	stalls := m.watchStalls()
	last, answered := map[string]time.Time{}, map[string]int{}
	for name, l := range loads {
		last[name], answered[name] = since, ok(l)
	}
	for at := time.Now(); time.Since(at) < watch; {
		time.Sleep(every)
		now := time.Now()
		silent := true
		for name, l := range loads {
			if n := ok(l); n > answered[name] {
				answered[name], last[name] = n, now
			}
			silent = silent && now.Sub(last[name]) > quiet
		}
		if silent {
			break
		}
	}
	most := time.Second + stalls.room()
	for name := range loads {
		took := last[name].Sub(since)
		m.t.Logf("%s: answered until %s after the command had its answer (this process was kept waiting for %s at most, and for the disk for %s)",
			name, took.Round(time.Millisecond), stalls.kept.Round(time.Millisecond), stalls.synced.Round(time.Millisecond))
		if took > most {
			m.t.Errorf("%s is answered %s later", name, took)
		}
	}
}

// denied fails where a listener's calls are answered.
func (m *Mesh) denied(when string, listeners map[string]string) {
	m.t.Helper()
	for node, address := range listeners {
		response, body, err := m.Get(m.t.Context(), node, address, "/")
		if err == nil && response.StatusCode == http.StatusOK {
			m.t.Errorf("%s: from %s it is answered %q", when, node, body)
		}
	}
}

// TestRevokedUnderLoad revokes the identity of a service that calls from another host, from the callee's own, and over TCP.
// All of its calls fail within a second, and of those of another service, on the same hosts, none does. It stays so when
// the callee's node starts again without a controller, and where a node was away meanwhile; and ends where a node is
// allowed to run the service again, and on all nodes where it is undone.
func TestRevokedUnderLoad(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Namespaces: true, Services: []string{"shop/web", "shop/cart", "shop/orders"}, NodeFlags: map[string][]string{"three": {"--lane", "tcp"}}})
	m.Serve("two", Service{Name: "shop/orders", Version: "v1"})
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	carts, webs, revoked, others := map[string]string{}, map[string]string{}, map[string]*Load{}, map[string]*Load{}
	for _, node := range []string{"one", "two", "three"} {
		carts[node] = m.Listen(node, "shop/cart", "shop/orders:80")
		webs[node] = m.Listen(node, "shop/web", "shop/orders:80")
	}
	for node := range carts {
		m.AwaitAnswer(node, carts[node], "v1")
		m.AwaitAnswer(node, webs[node], "v1")
		revoked[node] = m.Load(LoadConfig{Node: node, Address: carts[node], Connections: 2, Pace: 10 * time.Millisecond})
		others[node] = m.Load(LoadConfig{Node: node, Address: webs[node], Connections: 2, Pace: 10 * time.Millisecond, Methods: []string{http.MethodGet, http.MethodPost}})
	}
	for node := range carts {
		m.AwaitAnswers(revoked[node], "answers before", anyAnswer, 50)
		m.AwaitAnswers(others[node], "answers before", anyAnswer, 50)
		if so := revoked[node].So(); so.Failed > 0 {
			t.Fatalf("before: %s", so)
		}
	}
	done := m.revoke(report.Revoke{Service: "shop/cart", Why: "a test"})
	m.stopsWithin(time.Now(), revoked)
	if len(done.Nodes) != 3 {
		t.Errorf("taken away from %q", done.Nodes)
	}
	for node, l := range others {
		m.AwaitAnswers(l, "answers of others", anyAnswer, 50)
		if tally := l.Stop(); tally.Failed > 0 {
			t.Errorf("others, from %s: %s", node, tally)
		} else {
			t.Logf("others, from %s: %s", node, tally)
		}
		revoked[node].Stop()
	}
	m.denied("revoked", carts)

	// It is remembered by nodes themselves.
	m.StopPart(m.Controller())
	m.StopPart(m.Node("two"))
	m.RestartNode("two")
	m.AwaitAnswer("one", webs["one"], "v1")
	m.denied("the callee's node started again without a controller", carts)

	// A node that is away learns it when it is back.
	m.StopPart(m.Node("two"))
	m.RestartController()
	m.revoke(report.Revoke{Service: "shop/web", Node: "one"})
	m.RestartNode("two")
	m.AwaitAnswer("three", webs["three"], "v1")
	m.Eventually("what was revoked is denied", func(ctx context.Context) error { // two answers before it has heard of it
		response, body, err := m.Get(ctx, "one", webs["one"], "/")
		if err == nil && response.StatusCode == http.StatusOK {
			return fmt.Errorf("answered %q", body)
		}
		return ctx.Err()
	})
	m.denied("revoked while the callee's node was away", map[string]string{"one": webs["one"]})

	m.allow("one", "shop/cart")
	m.AwaitAnswer("one", carts["one"], "v1")
	m.denied("allowed elsewhere", map[string]string{"two": carts["two"], "three": carts["three"]})

	var undone report.Undone
	m.must("undo", launch.Call(t.Context(), m.Socket(), http.MethodPost, report.PathUndo, report.Undo{Service: "shop/cart"}, &undone))
	if !slices.Equal(undone.Nodes, []string{"three", "two"}) {
		t.Errorf("given back to %q", undone.Nodes)
	}
	for node := range carts {
		m.AwaitAnswer(node, carts[node], "v1")
	}
	m.denied("what was revoked on a node alone", map[string]string{"one": webs["one"]})
}

// TestNodeIsCutOff revokes a node, in one command, under load: everything that it runs fails within a second, as caller
// and as callee, the bus lets it in no more, also when the controller starts again, and nobody else notices. The host joins
// under its name again once its state is gone.
func TestNodeIsCutOff(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Services: []string{"shop/web", "shop/orders", "shop/stock"}})
	m.Serve("two", Service{Name: "shop/orders", Version: "v1"})
	m.Serve("three", Service{Name: "shop/stock", Version: "v1"})
	for _, name := range []string{"orders", "stock"} {
		m.MustApply(fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: %s}, spec: {ports: [{port: 80, appProtocol: http}]}}`, name))
	}
	thief := m.Listen("three", "shop/web", "shop/orders:80")
	victim := m.Listen("two", "shop/web", "shop/stock:80") // runs on three
	honest := m.Listen("one", "shop/web", "shop/orders:80")
	m.AwaitAnswer("three", thief, "v1")
	m.AwaitAnswer("two", victim, "v1")
	m.AwaitAnswer("one", honest, "v1")
	loads := map[string]*Load{
		"calls of the node":                m.Load(LoadConfig{Node: "three", Address: thief, Connections: 2, Pace: 10 * time.Millisecond}),
		"calls to a service that it holds": m.Load(LoadConfig{Node: "two", Address: victim, Connections: 2, Pace: 10 * time.Millisecond}),
	}
	other := m.Load(LoadConfig{Node: "one", Address: honest, Connections: 2, Pace: 10 * time.Millisecond})
	for name, l := range loads {
		m.AwaitAnswers(l, name, anyAnswer, 50)
	}
	m.revoke(report.Revoke{Node: "three", Why: "stolen"})
	m.stopsWithin(time.Now(), loads)
	m.AwaitAnswers(other, "answers of others", anyAnswer, 50)
	for _, l := range loads {
		l.Stop()
	}
	shutOut := func(when string) {
		t.Helper()
		m.Eventually(when+": the bus does not let it in", func(ctx context.Context) error {
			status, err := m.NodeStatus(ctx, "three")
			if err != nil {
				return err
			}
			if status.Bus.Connected {
				return errors.New("it is connected")
			}
			return nil
		})
	}
	shutOut("revoked")
	if tally := other.Stop(); tally.Failed > 0 {
		t.Errorf("others: %s", tally)
	}
	m.StopPart(m.Controller())
	m.RestartController()
	m.StopPart(m.Node("three"))
	m.RestartNode("three")
	m.Eventually("others are back", func(context.Context) error {
		cluster, err := m.Cluster()
		for _, n := range cluster.Nodes {
			if n.State != report.Alive {
				err = fmt.Errorf("%+v", n)
			}
		}
		return err
	})
	shutOut("the controller started again")
	m.denied("with all of its state", map[string]string{"three": thief})

	m.StopPart(m.Node("three"))
	m.must("lose the host's state", os.RemoveAll(filepath.Join(m.Dir, "three", "state")))
	m.join("three", "shop/web", "shop/stock")
	m.AwaitAnswer("three", thief, "v1")
	m.AwaitAnswer("two", victim, "v1")
}

// TestCertificateRevokedUnderLoad revokes one certificate of a service, as where its key leaked: the node gets another by
// itself, at once, and the service goes on without losing a request.
func TestCertificateRevokedUnderLoad(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Services: []string{"shop/web", "shop/orders"}, Nodes: []string{"one", "two"}})
	m.Serve("two", Service{Name: "shop/orders", Version: "v1"})
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	address := m.Listen("one", "shop/web", "shop/orders:80")
	m.AwaitAnswer("one", address, "v1")
	held := func(state string) (all []report.HeldCertificate) {
		t.Helper()
		m.must("certificates", launch.Call(t.Context(), m.Socket(), http.MethodGet, report.PathCertificates+"?node=one&service=shop/web&state="+state, nil, &all))
		return all
	}
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, Pace: 10 * time.Millisecond})
	m.AwaitAnswers(load, "answers before", "v1", 50)
	leaked := held("current")
	if len(leaked) != 1 {
		t.Fatalf("it holds %+v", leaked)
	}
	end := func() (time.Time, error) { // of what the node uses
		status, err := m.Status("one")
		i := slices.IndexFunc(status.Certificates, func(c report.Certificate) bool { return c.Service == "shop/web" })
		if err != nil || i < 0 {
			return time.Time{}, errors.Join(err, fmt.Errorf("the node holds %+v", status.Certificates))
		}
		return status.Certificates[i].NotAfter, nil
	}
	leakedEnd, err := end()
	m.must("what leaked", err)
	seen := time.Now()
	m.Eventually("another certificate would end later", func(context.Context) error { // ends are whole seconds
		if time.Since(seen) <= time.Second {
			return errors.New("not yet")
		}
		return nil
	})
	done := m.revoke(report.Revoke{Serial: leaked[0].Serial})
	if done.Node != "one" || done.Restarts {
		t.Errorf("it was %+v", done)
	}
	since := time.Now()
	m.Eventually("the node has another certificate", func(context.Context) error {
		now, err := end()
		if err == nil && !now.After(leakedEnd) {
			err = fmt.Errorf("it ends %s, as the one that leaked", now)
		}
		return err
	})
	took := time.Since(since)
	m.Eventually("the controller lists it", func(context.Context) error {
		now := held("current")
		if len(now) != 1 || now[0].Serial == leaked[0].Serial {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	m.AwaitAnswers(load, "answers with another certificate", "v1", 100)
	tally := load.Stop()
	t.Logf("the node had another certificate within %s; %s", took.Round(time.Millisecond), tally)
	if before := held("revoked"); len(before) != 1 || before[0].Serial != leaked[0].Serial {
		t.Errorf("revoked are %+v", before)
	}
	if tally.Failed > 0 && took < 250*time.Millisecond { // on a machine that has no time, lanes are closed before that
		t.Errorf("%s: %s", tally, tally.Failures)
	}
}
