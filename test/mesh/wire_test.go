package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wired starts a mesh whose wires can be disturbed: host one calls default/orders, which runs as v1 on two and as v2
// on three.
func wired(t *testing.T, cfg Config) (m *Mesh, address string) {
	t.Helper()
	if testing.Short() {
		t.Skip("disturbs wires for a while")
	}
	t.Parallel()
	cfg.Namespaces, cfg.Wires = true, true
	cfg.Services, cfg.Flags = []string{"default/web", "default/orders"}, slices.Concat(cfg.Flags, []string{"--access-log-share", "0"})
	m = Start(t, cfg)
	m.Serve("two", Service{Name: "default/orders", Version: "v1"})
	m.Serve("three", Service{Name: "default/orders", Version: "v2"})
	address = m.Listen("one", "default/web", "default/orders:80")
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	m.AwaitAnswer("one", address, "v1", "v2")
	return m, address
}

// overQUIC sets nodes to what they choose anyway, except where a dial over TCP was faster once.
var overQUIC = []string{"--lane", "quic"}

// carries sends requests until so many are answered, and bodies that are compared with what comes back. None may fail.
func (m *Mesh) carries(address, what string, requests int) {
	m.t.Helper()
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 4, Methods: []string{"GET", "POST"}})
	random := rand.New(rand.NewPCG(wireSeed, uint64(requests)))
	for range 5 {
		body := make([]byte, 200<<10)
		for i := range body {
			body[i] = byte(random.Uint32())
		}
		response, echo, err := m.Send(m.t.Context(), "one", http.MethodPost, address, "/echo", bytes.NewReader(body))
		if err != nil || response.StatusCode != http.StatusOK || echo != string(body) {
			m.t.Errorf("%s: a body of %d bytes comes back as %d others: %v, %v", what, len(body), len(echo), response, err)
			break
		}
	}
	m.Eventually(what+": requests are answered", func(context.Context) error {
		if so := load.So(); so.Requests < requests && so.Failed == 0 {
			return fmt.Errorf("%s", so)
		}
		return nil
	})
	got := load.Stop()
	if got.Failed > 0 {
		m.t.Errorf("%s: %s\n%s", what, got, strings.Join(got.Failures, "\n"))
	}
	m.t.Logf("%s: %s", what, got)
}

// TestBadWires: a wire that loses, delays, reorders or doubles packets costs time and no request.
func TestBadWires(t *testing.T) {
	m, address := wired(t, Config{})
	for _, tt := range []struct {
		name  string
		fault Fault
	}{
		{"1 % loss", Fault{Loss: 0.01}},
		{"5 % loss", Fault{Loss: 0.05}},
		{"reordering", Fault{Reorder: 0.2}},
		{"duplicates", Fault{Duplicate: 0.2}},
		{"a long way", Fault{Delay: 20 * time.Millisecond}},
		{"all of it", Fault{Loss: 0.01, Reorder: 0.1, Duplicate: 0.1, Delay: 5 * time.Millisecond}},
	} {
		m.Wire(Path{Host: "one"}, tt.fault)
		_, before := m.Carried("one", Out)
		m.carries(address, tt.name, 400)
		if _, lost := m.Carried("one", Out); (lost > before) != (tt.fault.Loss > 0) {
			t.Errorf("%s: the wire lost %d packets", tt.name, lost-before)
		}
	}
}

// TestSmallMTU: longer packets are dropped without a word, before anything is set up. Lanes over QUIC, bulk and the bus
// get through.
func TestSmallMTU(t *testing.T) {
	m, address := wired(t, Config{Flags: overQUIC})
	for _, host := range []string{"one", "two", "three", Controller} {
		m.Wire(Path{Host: host}, Fault{MTU: 1280})
	}
	for _, node := range []string{"one", "two", "three"} {
		m.StopPart(m.Node(node))
		m.RestartNode(node)
	}
	m.AwaitAnswer("one", address, "v1", "v2")
	m.carries(address, "MTU of 1280", 200)
	if err := lanesOver(m, "one", "quic", ""); err != nil {
		t.Error(err)
	}
	// A document whose configuration is far longer than a packet reaches the nodes.
	var rules strings.Builder
	for i := range 15 {
		fmt.Fprintf(&rules, "{matches: [{path: {value: /%d-%s}}], backendRefs: [{name: orders, port: 80}]},", i, strings.Repeat("x", 900))
	}
	m.MustApply(`{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: orders}, spec: {parentRefs: [{group: "", kind: Service, name: orders}], rules: [` +
		rules.String() + `{backendRefs: [{name: orders, port: 80}]}]}}`)
	m.carries(address, "MTU of 1280, other rules", 200)
}

// goneAround sends requests at once when a peer falls silent, and wants each of them answered, also those that went to the silent
// one first. Which answers first may be the peer still: a process is stopped when its threads are next in the kernel.
func (m *Mesh) goneAround(address string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), ready)
	defer cancel()
	const many = 20
	began, results := time.Now(), make(chan error, many)
	for range many {
		go func() {
			response, _, err := m.Get(ctx, "one", address, "/")
			if err == nil && response.StatusCode != http.StatusOK {
				err = errors.New(response.Status)
			}
			results <- err
		}()
	}
	for range many {
		if err := <-results; err != nil {
			m.t.Errorf("around a silent peer, after %s: %v", time.Since(began), err)
		}
	}
	if took := time.Since(began); took < time.Second {
		m.t.Errorf("all are answered after %s: none went to the silent peer", took)
	}
}

// TestOneWayPartition: packets between two nodes are lost in one direction. What may be repeated goes elsewhere, and
// the peer is used again when it is back.
func TestOneWayPartition(t *testing.T) {
	m, address := wired(t, Config{Waits: true})
	for _, way := range []Way{Out, In} {
		load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, Pace: slowPace})
		m.Wire(Path{Host: "one", Way: way, Peer: "two"}, Fault{Down: true})
		m.goneAround(address)
		m.Mend("one")
		m.AwaitAnswers(load, "the peer is used again", "v1", 50)
		if got := load.Stop(); got.Failed > 0 {
			t.Errorf("way %d: %s\n%s", way, got, strings.Join(got.Failures, "\n"))
		}
	}
}

// TestAddressChanges: a translator of addresses on the way gives the caller's node another port in the middle of
// everything. No request is lost.
func TestAddressChanges(t *testing.T) {
	m, address := wired(t, Config{Flags: overQUIC})
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, Methods: []string{"GET", "POST"}})
	for _, port := range []uint16{40001, 40002, 40003} {
		out, in := m.Translated("one", Out), m.Translated("one", In)
		m.Wire(Path{Host: "one"}, Fault{Port: port})
		m.AwaitAnswers(load, fmt.Sprintf("requests by port %d", port), anyAnswer, 300)
		m.must("lanes", lanesOver(m, "one", "quic", ""))
		if m.Translated("one", Out) == out || m.Translated("one", In) == in {
			t.Errorf("nothing goes by port %d", port)
		}
	}
	if got := load.Stop(); got.Failed > 0 {
		t.Errorf("%s\n%s", got, strings.Join(got.Failures, "\n"))
	}
}

// TestPausedNode: a node that stands still is gone around, and goes on by itself when it is woken.
func TestPausedNode(t *testing.T) {
	m, address := wired(t, Config{Waits: true})
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, Pace: slowPace})
	two := m.Node("two")
	m.must("pause", two.Signal(syscall.SIGSTOP))
	m.goneAround(address)
	m.must("wake", two.Signal(syscall.SIGCONT))
	m.AwaitAnswers(load, "the peer is used again", "v1", 50)
	if got := load.Stop(); got.Failed > 0 {
		t.Errorf("%s\n%s", got, strings.Join(got.Failures, "\n"))
	}
}

// TestBusPartition cuts a node off the bus for a minute, in which rules and instances change. It serves on by what it
// has, and has what is new soon after the wire is mended.
func TestBusPartition(t *testing.T) {
	m, address := wired(t, Config{Waits: true})
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, Pace: slowPace})
	m.Wire(Path{Host: "one", Peer: Controller}, Fault{Down: true})
	cut := time.Now()
	m.Serve("three", Service{Name: "default/orders", Instance: "v3", Version: "v3"})
	version, err := m.StoreOnly(`{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: orders}, spec: {parentRefs: [{group: "", kind: Service, name: orders}], ` +
		`rules: [{matches: [{path: {value: /gone}}]}, {backendRefs: [{name: orders, port: 80}]}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-time.After(time.Minute - time.Since(cut)):
	case <-t.Context().Done():
	}
	if got := load.Stop(); got.Failed > 0 || got.Answers["v3"] > 0 {
		t.Errorf("while the node is cut off: %s\n%s", got, strings.Join(got.Failures, "\n"))
	}
	stalls := m.watchStalls()
	m.Mend("one")
	mended := time.Now()
	m.Eventually("the new rules are in force", func(ctx context.Context) error {
		response, _, err := m.Get(ctx, "one", address, "/gone")
		if err == nil && response.StatusCode != http.StatusInternalServerError {
			err = fmt.Errorf("%s", response.Status)
		}
		return err
	})
	m.AwaitAnswer("one", address, "v3")
	took, room := time.Since(mended), stalls.room()
	t.Logf("state is the same %s after the wire is whole (on a machine that stood still for %s)", took.Round(time.Millisecond), stalls.kept.Round(time.Millisecond))
	if took > 10*time.Second+room { // 2 s where the machine has nothing else to do
		t.Errorf("state is the same only %s after the wire is whole", took)
	}
	m.must("wait", m.Wait(t.Context(), version))
}
