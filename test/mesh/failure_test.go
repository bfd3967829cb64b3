package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pair starts a mesh in which host one calls default/orders, which runs as v1 on two and as v2 on three.
func pair(t *testing.T, cfg Config) (m *Mesh, address string, v1, v2 *Instance) {
	t.Helper()
	cfg.Services, cfg.Flags = []string{"default/web", "default/orders", "default/stock"}, []string{"--access-log-share", "0"}
	m = Start(t, cfg)
	v1 = m.Serve("two", Service{Name: "default/orders", Version: "v1"})
	v2 = m.Serve("three", Service{Name: "default/orders", Version: "v2"})
	address = m.Listen("one", "default/web", "default/orders:80")
	m.AwaitAnswer("one", address, "v1", "v2")
	return m, address, v1, v2
}

// TestPeerKilled kills a callee's node in the middle of requests: what may be repeated is, elsewhere, and what
// may not is answered by the caller's node, which says why.
func TestPeerKilled(t *testing.T) {
	t.Parallel()
	m, address, v1, _ := pair(t, Config{})
	type answer struct {
		method, body, reason string
		status               int
		err                  error
	}
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 4})
	m.Eventually("load", func(context.Context) error {
		if so := load.So(); so.Answers["v1"] < 50 {
			return fmt.Errorf("%s", so)
		}
		return nil
	})
	const each = 10
	answers := make(chan answer, 2*each)
	for range each {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			go func() {
				response, body, err := m.Send(t.Context(), "one", method, address, "/hold?version=v1", strings.NewReader(""))
				a := answer{method: method, body: body, err: err}
				if err == nil {
					a.status, a.reason = response.StatusCode, response.Header.Get("Sennit-Reason")
				}
				answers <- a
			}()
		}
	}
	held := 0
	m.Eventually("all other requests are answered", func(ctx context.Context) error {
		_, text, err := m.Get(ctx, "two", v1.Address, "/held")
		if err != nil {
			return err
		}
		if _, err := fmt.Sscan(text, &held); err != nil || held == 0 || held+len(answers) < 2*each {
			return fmt.Errorf("%s held, %d answered: %w", text, len(answers), errors.Join(err))
		}
		return nil
	})
	m.Kill(m.Node("two"))
	refused := 0
	for range 2 * each {
		a := <-answers
		switch {
		case a.err == nil && a.status == http.StatusOK && a.body == "v2":
		case a.method == http.MethodPost && a.err == nil && (a.status == 502 || a.status == 503) && a.reason != "":
			refused++
		default:
			t.Errorf("in the middle of a request: %+v", a)
		}
	}
	if refused == 0 {
		t.Errorf("of %d requests that were held, no POST was refused", held)
	}
	m.AwaitAnswers(load, "traffic goes on", "v2", 300)
	if got := load.Stop(); got.Failed > 0 {
		t.Errorf("GETs while a peer was killed: %s\n%s", got, strings.Join(got.Failures, "\n"))
	}
	m.Eventually("access log", func(context.Context) error {
		lines, err := m.AccessLog("one")
		if err != nil {
			return err
		}
		logged := 0
		for _, line := range lines {
			status, _ := line["http.response.status_code"].(float64)
			if line["http.request.method"] == "POST" && line["url.path"] == "/hold" && status >= 502 && line["error.type"] == "peer-lost" && line["sennit.peer.node"] == "two" {
				logged++
			}
		}
		if logged != refused {
			return fmt.Errorf("%d lines of %d refused requests", logged, refused)
		}
		return nil
	})
}

// TestControllerGone kills the controller. Traffic goes on, so do new connections, calls to a service that was
// declared and never called, and nodes that are killed and start from what they kept.
func TestControllerGone(t *testing.T) {
	t.Parallel()
	m, address, _, _ := pair(t, Config{})
	m.Serve("three", Service{Name: "default/stock", Version: "stock"})
	stock := m.Listen("one", "default/web", "default/stock:80")
	m.Eventually("the controller knows the instance", func(ctx context.Context) error {
		ready, err := m.there(ctx, "stock")
		if err == nil && ready != 1 {
			err = fmt.Errorf("%d instances are ready", ready)
		}
		return err
	})
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {name: stock}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, PerConnection: 10, Methods: []string{"GET", "POST"}})
	m.Kill(m.Controller())
	if response, body, err := m.Get(t.Context(), "one", stock, "/"); err != nil || body != "stock" {
		t.Errorf("first call to a service that the node knows: %v, %q, %v", response, body, err)
	}
	from := load.So().Requests
	m.Eventually("traffic goes on", func(context.Context) error {
		if n := load.So().Requests - from; n < 500 {
			return fmt.Errorf("%d requests", n)
		}
		return nil
	})
	if got := load.Stop(); got.Failed > 0 {
		t.Errorf("without a controller: %s\n%s", got, strings.Join(got.Failures, "\n"))
	}
	if status, err := m.Status("one"); err != nil || status.Bus.Connected || len(status.Problems) == 0 {
		t.Errorf("status of a node without a bus: %+v, %v", status, err)
	}

	for _, name := range m.cfg.Nodes {
		m.Kill(m.Node(name))
	}
	for _, name := range []string{"two", "three", "one"} {
		m.RestartNode(name)
	}
	start := time.Now()
	m.AwaitAnswer("one", address, "v1", "v2")
	m.AwaitAnswer("one", stock, "stock")
	t.Logf("nodes that were killed serve from what they kept, %s after the start of the last", time.Since(start).Round(time.Millisecond))

	m.RestartController()
	m.allBack()
	m.MustApply(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders}
spec:
  parentRefs: [{group: "", kind: Service, name: orders, port: 80}]
  rules: [{backendRefs: [{name: stock, port: 80}]}]
---
{apiVersion: v1, kind: Service, metadata: {name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}
`)
	if _, body, err := m.Get(t.Context(), "one", address, "/"); err != nil || body != "stock" {
		t.Errorf("after the controller was back and a route changed: %q, %v", body, err)
	}
}

// TestDrainedNode ends a callee's node by SIGTERM: nothing is lost, and what runs is finished.
func TestDrainedNode(t *testing.T) {
	t.Parallel()
	m, address, _, _ := pair(t, Config{})
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 4, Methods: []string{"GET", "POST"}})
	// Long requests run on both hosts when the node is told to end.
	done := make(chan error, 6)
	for range cap(done) {
		body, write := io.Pipe()
		go func() {
			response, text, err := m.Send(t.Context(), "one", http.MethodPost, address, "/take", body)
			if err == nil && text != "10" {
				err = fmt.Errorf("%s: %s", response.Status, text)
			}
			done <- err
		}()
		write.Write([]byte("begin"))
		time.AfterFunc(2*time.Second, func() { write.Write([]byte("close")); write.Close() })
	}
	m.StopPart(m.Node("two"))
	for range cap(done) {
		if err := <-done; err != nil {
			t.Errorf("a request that ran when the node drained: %v", err)
		}
	}
	m.AwaitAnswers(load, "traffic goes on", "v2", 300)
	m.RestartNode("two")
	m.AwaitAnswers(load, "the host is used again", "v1", 100)
	if got := load.Stop(); got.Failed > 0 {
		t.Errorf("while a node drained and came back: %s\n%s", got, strings.Join(got.Failures, "\n"))
	}
}

// TestAllowed lets a host that has joined run one more service.
func TestAllowed(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Nodes: []string{"one", "two"}, Services: []string{"default/web"}})
	m.Serve("two", Service{Name: "default/orders", Version: "v1"})
	address := m.Listen("one", "default/web", "default/orders:80")
	m.Eventually("two says that it may not run the service", func(ctx context.Context) error {
		status, err := m.Status("two")
		if err != nil {
			return err
		}
		if problems := strings.Join(status.Problems, "\n"); !strings.Contains(problems, "sennit node allow two default/orders") {
			return fmt.Errorf("problems: %q", problems)
		}
		return nil
	})
	if response, body, err := m.Get(t.Context(), "one", address, "/"); err != nil || response.StatusCode != 503 || response.Header.Get("Sennit-Reason") == "" {
		t.Errorf("before it was allowed: %v %q %v", response, body, err)
	}
	// Its services.d makes it follow what it is not told of. A change does not wait for that.
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	if err := m.Allow("two", "default/orders"); err != nil {
		t.Fatal(err)
	}
	m.AwaitAnswer("one", address, "v1")
}

// TestWaitAfterRestart asks a controller that has just started whether a change is everywhere: it must not say so
// of a node that it has not heard of yet.
func TestWaitAfterRestart(t *testing.T) {
	t.Parallel()
	m, _, _, _ := pair(t, Config{})
	one := m.Node("one")
	t.Cleanup(func() { _ = one.Signal(syscall.SIGCONT) })
	const settling, tries = 10 * time.Second, 5 // as the controller has it: after that it waits for nobody that it has not heard of
	for try := 1; ; try++ {
		m.StopPart(m.Controller())
		m.must("pause", one.Signal(syscall.SIGSTOP))
		started := time.Now()
		m.RestartController()
		version, err := m.StoreOnly(`{apiVersion: v1, kind: Service, metadata: {name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
		m.must("store", err)
		progress, err := m.Progress(t.Context(), version, 2*time.Second)
		took := time.Since(started)
		m.must("continue", one.Signal(syscall.SIGCONT))
		m.must("wait", m.Wait(t.Context(), version))
		switch waited := err == nil && !progress.Done && slices.Contains(progress.Waiting, "one"); {
		case waited:
			return
		case took < settling:
			t.Fatalf("while one is paused, %s after the start: %+v, %v", took, progress, err)
		case try == tries:
			t.Fatalf("%d controllers were not asked in time, the last one %s after its start: %+v, %v", tries, took, progress, err)
		}
		m.allBack()
	}
}
