// Package sim measures how configuration reaches many nodes: a real controller in a process of its own, and in
// this one any number of simulated nodes.
//
// A simulated node is a node without its data path. It joined with a token, has keys and certificates of its
// own, a TLS connection to the bus, registers an instance and says that it is alive, follows ten services with
// the code that nodes follow with, verifies every signature, and applies what it gets to a routing table. It
// has no lanes and no listeners, and keeps its configuration in memory: a thousand nodes share one disk here,
// and no two do in a mesh.
//
// Start reading at Run; then node.go (what a simulated node is), change.go and reconnect.go (what is measured).
package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
)

// Config says what is measured.
type Config struct {
	Dir     string        // for the controller's state and the nodes' identities; emptied by the caller
	Program []string      // as launch.Mesh has it: it is followed by "controller" and flags
	Nodes   int           // simulated
	Changes int           // of each pass
	Idle    time.Duration // for how long the idle mesh is watched; 0: it is not
	Stage   func(string)  // told what is measured next; nil: nobody is

	// Services is how many there are, and Calls how many of them a node calls. Zero: 100, and 10.
	Services, Calls int
}

const (
	namespace = "bench"
	setupTime = 10 * time.Minute // to join, or to come back after everything was cut
)

// Run starts a controller and the nodes, measures, and ends them.
func Run(ctx context.Context, cfg Config) (result Result, err error) {
	if cfg.Services == 0 {
		cfg.Services = 100
	}
	if cfg.Calls == 0 {
		cfg.Calls = 10
	}
	if cfg.Stage == nil {
		cfg.Stage = func(string) {}
	}
	if err := raiseFileLimit(cfg.Nodes); err != nil {
		return result, err
	}
	// A thousand nodes share one heap here, and its garbage collector would have to scan all of them whenever they
	// have grown by their own size, which is little for each.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	result.Nodes, result.Load = cfg.Nodes, []float64{loadAverage()}
	log, err := os.OpenFile(filepath.Join(cfg.Dir, "nodes.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return result, err
	}
	defer log.Close()
	m := &launch.Mesh{Dir: cfg.Dir, Program: cfg.Program}
	if err := m.StartController(ctx); err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, m.Stop()) }()
	if err := declare(ctx, m, cfg.Services); err != nil {
		return result, err
	}

	f := newFleet(cfg, m, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn})))
	defer func() { err = errors.Join(err, f.stop()) }()
	cfg.Stage("joining")
	if result.Join, err = f.join(ctx); err != nil {
		return result, err
	}
	if cfg.Idle > 0 {
		cfg.Stage("idle")
		if result.Idle, err = f.idle(ctx, cfg.Idle); err != nil {
			return result, err
		}
	}
	cfg.Stage("changes")
	if result.Verified, result.Shared, err = f.change(ctx, cfg.Changes); err != nil {
		return result, err
	}
	cfg.Stage("all connections cut")
	if result.Cut, err = f.cut(ctx); err != nil {
		return result, err
	}
	cfg.Stage("controller killed")
	if result.Restart, err = f.restart(ctx); err != nil {
		return result, err
	}
	result.Load = append(result.Load, loadAverage())
	return result, nil
}

// declare stores the services, and the route that is changed.
func declare(ctx context.Context, m *launch.Mesh, services int) error {
	for i := range services {
		if _, err := m.StoreService(ctx, namespace, serviceName(i)); err != nil {
			return err
		}
	}
	_, err := store(ctx, m, 0)
	return err
}

func serviceName(i int) string { return fmt.Sprintf("service-%d", i) }

// common is the service that every node calls; its route is what changes.
var common = serviceName(0)

// store writes the common service's route, with a weight that tells one change from another, and returns its
// resource version.
func store(ctx context.Context, m *launch.Mesh, weight int) (version uint64, err error) {
	parent := map[string]any{"group": "", "kind": "Service", "name": common, "port": 80}
	backends := []any{
		map[string]any{"name": common, "port": 80, "weight": weight},
		map[string]any{"name": serviceName(1), "port": 80, "weight": 1},
	}
	var stored struct {
		Metadata struct {
			ResourceVersion uint64 `json:"resourceVersion,string"`
		} `json:"metadata"`
	}
	path := fmt.Sprintf("/apis/gateway.networking.k8s.io/v1/namespaces/%s/httproutes/%s?fieldManager=sennit&force=true", namespace, common)
	err = launch.Call(ctx, m.Socket(), http.MethodPatch, path, map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": map[string]any{"namespace": namespace, "name": common},
		"spec": map[string]any{"parentRefs": []any{parent}, "rules": []any{map[string]any{"backendRefs": backends}}},
	}, &stored)
	if err != nil {
		return 0, fmt.Errorf("change the route of %s: %w", common, err)
	}
	return stored.Metadata.ResourceVersion, nil
}
