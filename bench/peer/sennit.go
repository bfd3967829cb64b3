package peer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/bench/load"
	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/controller"
	"github.com/sennit-mesh/sennit/pkg/node"
)

// profileVariable names the folder into which nodes write CPU profiles.
const profileVariable = "SENNIT_BENCH_PROFILE"

// StartSennit starts a controller, a node with the callers' listeners and a node in front of the origin, as they
// are without a flag; the two nodes are what counts. They run as this program started again, so that what is
// measured is what stands in the working copy. lanes is how many services of the front node have no lane yet;
// profiles is a folder for the CPU profiles of the nodes, or empty.
func StartSennit(lanes int, profiles string) Starter {
	return Starter{
		Name: Sennit,
		Find: func(context.Context) (string, error) { return revision(), nil },
		Start: func(ctx context.Context, dir string, origin Origin) (*System, error) {
			return startSennit(ctx, dir, origin, lanes, profiles)
		},
	}
}

// revision is the commit that this program was built from, as far as it knows.
func revision() string {
	info, _ := debug.ReadBuildInfo()
	if info != nil {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				return setting.Value[:min(12, len(setting.Value))]
			}
		}
	}
	return "working copy"
}

func startSennit(ctx context.Context, dir string, origin Origin, lanes int, profiles string) (*System, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a, err := loopback(4 + lanes)
	if err != nil {
		return nil, err
	}
	if profiles != "" {
		if err := os.Setenv(profileVariable, profiles); err != nil {
			return nil, err
		}
	}
	m := &launch.Mesh{Dir: dir, Program: []string{self}}
	s := &System{Name: Sennit, HTTP: load.To(a[0]), TCP: load.To(a[1]), finish: m.Stop}
	if err := m.StartController(ctx); err != nil {
		return s, err
	}
	s.others = append(s.others, m.Controller())
	callers := []string{"bench/client"}
	for i := range lanes {
		callers = append(callers, fmt.Sprintf("bench/client-%d", i))
	}
	if s.Back, err = m.Join(ctx, "back", a[2], "bench/origin"); err != nil {
		return s, err
	}
	if s.Front, err = m.Join(ctx, "front", a[3], callers...); err != nil {
		return s, err
	}
	err = m.Declare("back", "origin.yaml", fmt.Sprintf("service: bench/origin\nports:\n- {port: 80, name: http, protocol: http, address: %q}\n- {port: 7, name: raw, protocol: tcp, address: %q}\n", origin.HTTP, origin.TCP))
	if err != nil {
		return s, err
	}
	var files strings.Builder
	fmt.Fprintf(&files, "service: bench/client\nlisteners:\n- {as: bench/client, to: \"bench/origin:80\", address: %q}\n- {as: bench/client, to: \"bench/origin:7\", address: %q}\n", a[0], a[1])
	for i, caller := range callers[1:] {
		fmt.Fprintf(&files, "---\nservice: %s\nlisteners: [{as: %s, to: \"bench/origin:80\", address: %q}]\n", caller, caller, a[4+i])
		s.NewLanes = append(s.NewLanes, load.To(a[4+i]))
	}
	if err := m.Declare("front", "client.yaml", files.String()); err != nil {
		return s, err
	}
	if err := s.ready(ctx); err != nil {
		return s, err
	}
	return s, certified(ctx, m, len(callers))
}

// certified waits until the front node has the certificates of all its services, and listens for them: what is
// measured is not the controller's issuing.
func certified(ctx context.Context, m *launch.Mesh, services int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := m.NodeStatus(ctx, "front")
		held, listening := 0, 0
		for _, c := range status.Certificates {
			if c.Service != "" {
				held++
			}
		}
		for _, l := range status.Listeners {
			if l.Error == "" {
				listening++
			}
		}
		if err == nil && held >= services && listening > services { // one of them has two listeners
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the front node holds %d certificates of %d and listens at %d addresses: %w", held, services, listening, ctx.Err())
		}
	}
}

func runController(ctx context.Context, args []string) error {
	cfg, err := controller.LoadConfig(args)
	if err != nil {
		return err
	}
	c, err := controller.New(cfg)
	if err != nil {
		return err
	}
	return c.Run(ctx)
}

func runNode(ctx context.Context, args []string) error {
	if dir := os.Getenv(profileVariable); dir != "" {
		file, err := os.Create(filepath.Join(dir, fmt.Sprintf("node-%d.pprof", os.Getpid())))
		if err != nil {
			return err
		}
		defer file.Close()
		time.AfterFunc(4*time.Second, func() { _ = pprof.StartCPUProfile(file) }) // fails only where one runs
		defer pprof.StopCPUProfile()
	}
	cfg, err := node.LoadConfig(args, os.Environ())
	if err != nil {
		return err
	}
	n, err := node.New(ctx, cfg)
	if err != nil {
		return err
	}
	return n.Run(ctx)
}
