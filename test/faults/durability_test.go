package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sennit-mesh/sennit/internal/launch"
)

const routesPath = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes"

// A routeDocument is as much of an HTTPRoute as these tests look at.
type routeDocument struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   routeMeta      `json:"metadata"`
	Spec       map[string]any `json:"spec"`
}

type routeMeta struct {
	Name            string            `json:"name"`
	Labels          map[string]string `json:"labels,omitempty"`
	ResourceVersion string            `json:"resourceVersion,omitempty"`
}

func route(name, step string) routeDocument {
	return routeDocument{
		APIVersion: "gateway.networking.k8s.io/v1", Kind: "HTTPRoute", Metadata: routeMeta{Name: name, Labels: map[string]string{"step": step}},
		Spec: map[string]any{
			"parentRefs": []any{map[string]any{"group": "", "kind": "Service", "name": "orders", "port": 80}},
			"rules":      []any{map[string]any{"backendRefs": []any{map[string]any{"name": "orders", "port": 80}}}},
		},
	}
}

// put stores a route and returns what the API acknowledged.
func put(ctx context.Context, m *launch.Mesh, r routeDocument) (stored routeDocument, err error) {
	return stored, launch.Call(ctx, m.Socket(), http.MethodPatch, routesPath+"/"+r.Metadata.Name+"?fieldManager=test&force=true", r, &stored)
}

// TestAcknowledgedSurvivesKill kills the controller at random points while documents are written, and looks
// for each one that was acknowledged.
func TestAcknowledgedSurvivesKill(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	m := startMesh(t)
	acknowledged := map[string]routeDocument{}
	for round := range 5 {
		kill := func() { _ = m.Controller().Signal(syscall.SIGKILL) }
		after := time.Duration(100+random.IntN(400)) * time.Millisecond
		var deadline *time.Timer
		if round%2 == 0 {
			deadline = time.AfterFunc(after, kill)
		}
		written, asked := 0, routeDocument{}
		for step := 0; ; step++ {
			asked = route(fmt.Sprintf("route-%d", random.IntN(20)), fmt.Sprintf("%d.%d", round, step))
			stored, err := put(t.Context(), m, asked)
			if err != nil && (deadline == nil || deadline.Stop()) {
				t.Fatalf("round %d: refused by a controller that runs: %v", round, err)
			}
			if err != nil {
				break // killed
			}
			acknowledged[stored.Metadata.Name] = stored
			written++
			if deadline == nil { // a slow machine writes nothing within the time
				deadline = time.AfterFunc(after, kill)
			}
		}
		<-m.Controller().Done()
		if err := m.StartController(t.Context()); err != nil {
			t.Fatalf("round %d: a controller that was killed does not start again: %v", round, err)
		}
		for name, want := range acknowledged {
			var got routeDocument
			if err := launch.Call(t.Context(), m.Socket(), http.MethodGet, routesPath+"/"+name, nil, &got); err != nil {
				t.Errorf("round %d, seed %d: %s was acknowledged and is gone: %v", round, seed, name, err)
				continue
			}
			if name == asked.Metadata.Name && got.Metadata.Labels["step"] == asked.Metadata.Labels["step"] {
				acknowledged[name] = got // stored, and killed before the answer
				continue
			}
			// Its status has versions of its own, which may come later.
			if got.Metadata.Labels["step"] != want.Metadata.Labels["step"] || number(t, got.Metadata.ResourceVersion) < number(t, want.Metadata.ResourceVersion) {
				t.Errorf("round %d, seed %d: %s is %v, acknowledged was %v", round, seed, name, got.Metadata, want.Metadata)
			}
		}
		t.Logf("round %d: %d writes acknowledged before the kill", round, written)
	}
	if len(acknowledged) == 0 {
		t.Error("nothing was acknowledged in any round")
	}
}

func number(t *testing.T, version string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		t.Error(err)
	}
	return n
}

// TestFullDisk fills the disk of a controller that runs: writes are refused with the reason, reads go on, and
// it recovers once there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("faults", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	m := startMesh(t, "--state-dir", dir)
	if _, err := put(t.Context(), m, route("before", "1")); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	var refusal error
	for i := range 200 {
		r := route(fmt.Sprintf("much-%d", i), "1")
		r.Metadata.Labels["long"] = strings.Repeat("x", 60)
		if _, refusal = put(t.Context(), m, r); refusal != nil {
			break
		}
	}
	if refusal == nil {
		t.Fatal("a full disk took 200 documents")
	}
	t.Log(refusal)
	if text := refusal.Error(); !strings.Contains(text, "room") && !strings.Contains(text, "space") && !strings.Contains(text, "disk") {
		t.Errorf("the refusal does not say why: %v", refusal)
	}
	var got routeDocument
	if err := launch.Call(t.Context(), m.Socket(), http.MethodGet, routesPath+"/before", nil, &got); err != nil {
		t.Errorf("reading on a full disk: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		_, err := put(ctx, m, route("after", "1"))
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("there is room again, and writes are refused: %v", err)
		case <-m.Controller().Done():
			t.Fatalf("the controller ended: %s", m.Controller().Tail(1000))
		case <-time.After(100 * time.Millisecond):
		}
	}
	// A full disk must not keep it from starting either, or it must say why.
	fill(t, ballast)
	if err := m.Controller().Stop(stopTime); err != nil {
		t.Fatal(err)
	}
	if err := m.StartController(t.Context()); err != nil {
		if text := err.Error(); strings.Contains(text, "panic") || !strings.Contains(text, "space") {
			t.Errorf("start on a full disk: %v", err)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		if err := m.StartController(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := launch.Call(t.Context(), m.Socket(), http.MethodGet, routesPath+"/after", nil, &got); err != nil {
		t.Errorf("what was acknowledged is gone: %v", err)
	}
}

// fill writes a file until its file system is full.
func fill(t *testing.T, name string) {
	t.Helper()
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestLogThatLostItsEnd damages the last documents of a controller that was killed: the bus then cuts the log
// off there, and only what nodes were told shows that there was more.
func TestLogThatLostItsEnd(t *testing.T) {
	t.Parallel()
	m := startMesh(t)
	service := map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": "orders"},
		"spec": map[string]any{"ports": []any{map[string]any{"name": "http", "port": 80}}}}
	if err := m.Apply(t.Context(), "/api/v1/namespaces/default/services/orders", service); err != nil {
		t.Fatal(err)
	}
	stored, err := put(t.Context(), m, route("orders", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(t.Context(), stored.Metadata.ResourceVersion); err != nil {
		t.Fatal(err)
	}
	if err := m.Controller().Kill(); err != nil {
		t.Fatal(err)
	}
	s := damaged(t, m.Dir, "controller/streams/jetstream/*/streams/SENNIT_RESOURCE/msgs/1.blk", func(b []byte) []byte {
		b[len(b)-40] ^= 0x55
		return b
	}, "")
	s.want = []string{"cannot be read any more", "was in what nodes have", "backup"}
	s.check(t)
}
