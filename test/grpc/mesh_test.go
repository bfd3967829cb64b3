package grpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
)

// startMesh starts a controller and two nodes, of which one serves the process at address as shop/orders, and returns
// where its callers connect to on the other. appProtocol is the Service's.
func startMesh(t *testing.T, address, appProtocol string) string {
	t.Helper()
	_, listener := startNodes(t, address, appProtocol)
	return listener
}

// startNodes is startMesh that returns the mesh too. The callers' node may run gateway shop/edge.
func startNodes(t *testing.T, address, appProtocol string) (*launch.Mesh, string) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "sennit")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/sennit")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	m := &launch.Mesh{Program: []string{program}, Dir: dir}
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range []*launch.Process{m.Controller(), m.Node("caller"), m.Node("callee")} {
				if p != nil {
					t.Log(p.Name, p.Tail(4000))
				}
			}
		}
		m.Stop()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	must(t, m.StartController(ctx))
	for name, services := range map[string][]string{"caller": {"shop/cart", "shop/edge"}, "callee": {"shop/orders"}} {
		if _, err := m.Join(ctx, name, "127.0.0.1:0", services...); err != nil {
			t.Fatal(err)
		}
	}
	ports, err := launch.FreePorts(1)
	must(t, err)
	listener := fmt.Sprintf("127.0.0.1:%d", ports[0])
	must(t, m.Declare("callee", "orders.yaml", fmt.Sprintf("service: shop/orders\nports: [{port: 80, name: web, address: %q}]\n", address)))
	must(t, m.Declare("caller", "cart.yaml", fmt.Sprintf("service: shop/cart\nlisteners: [{as: shop/cart, to: \"shop/orders:80\", address: %q, uid: %d}]\n", listener, os.Getuid())))
	version, err := m.Store(ctx, "/api/v1/namespaces/shop/services/orders", map[string]any{
		"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"namespace": "shop", "name": "orders"},
		"spec": map[string]any{"ports": []any{map[string]any{"name": "web", "port": 80, "appProtocol": appProtocol}}},
	})
	must(t, err)
	must(t, m.Wait(ctx, version))
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", listener)
		if err == nil {
			conn.Close()
			return m, listener
		}
		if ctx.Err() != nil {
			t.Fatal(errors.Join(err, ctx.Err()))
		}
		time.Sleep(20 * time.Millisecond) // until the node has opened it, which it does by itself
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
