package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
// measured is what stands in the working copy. With a grid, so many further services of the front node may each
// call so many of the back node, over lanes that are not made yet (System.NewLanes); they are not one caller for
// each lane, because a node runs few services. profiles is a folder for the CPU profiles of the nodes, or empty.
func StartSennit(grid int, profiles string) Starter {
	return Starter{
		Name: Sennit,
		Find: func(ctx context.Context) (string, error) { return revision(ctx), nil },
		Start: func(ctx context.Context, dir string, origin Origin) (*System, error) {
			return startSennit(ctx, dir, origin, grid, profiles)
		},
	}
}

// revision is the commit of the working copy that this runs in, with "-dirty" behind it where something was changed.
func revision(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude", "*", "--abbrev=12").Output()
	if err != nil || len(out) == 0 {
		return "of an unknown commit" // no clone, or no git
	}
	return firstLine(out)
}

func startSennit(ctx context.Context, dir string, origin Origin, grid int, profiles string) (*System, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a, err := loopback(4 + grid + grid*grid)
	if err != nil {
		return nil, err
	}
	if err := os.Setenv(profileVariable, profiles); err != nil { // the daemons inherit it
		return nil, err
	}
	m := &launch.Mesh{Dir: dir, Program: []string{self}}
	s := &System{Name: Sennit, HTTP: load.To(a[0]), TCP: load.To(a[1]), finish: m.Stop}
	if err := m.StartController(ctx); err != nil {
		return s, err
	}
	s.others = append(s.others, m.Controller())
	callers, callees := []string{"bench/client"}, []string{"bench/origin"}
	for i := range grid {
		callers = append(callers, fmt.Sprintf("bench/client-%d", i))
		callees = append(callees, fmt.Sprintf("bench/origin-%d", i))
	}
	if s.Back, err = m.Join(ctx, "back", a[2], callees...); err != nil {
		return s, err
	}
	if s.Front, err = m.Join(ctx, "front", a[3], callers...); err != nil {
		return s, err
	}
	var files strings.Builder
	for _, callee := range callees {
		fmt.Fprintf(&files, "---\nservice: %s\nports:\n- {port: 80, name: http, protocol: http, address: %q}\n- {port: 7, name: raw, protocol: tcp, address: %q}\n", callee, origin.HTTP, origin.TCP)
	}
	if err := m.Declare("back", "origin.yaml", files.String()); err != nil {
		return s, err
	}
	// The first caller has a listener for everything, and waits until all callees can be reached.
	known, free := []load.Dial{s.HTTP}, a[4:]
	files.Reset()
	fmt.Fprintf(&files, "service: bench/client\nlisteners:\n- {as: bench/client, to: \"bench/origin:80\", address: %q}\n- {as: bench/client, to: \"bench/origin:7\", address: %q}\n", a[0], a[1])
	for i, caller := range callers {
		if i > 0 {
			fmt.Fprintf(&files, "---\nservice: %s\nlisteners:\n", caller)
		}
		for _, callee := range callees[1:] {
			fmt.Fprintf(&files, "- {as: %s, to: \"%s:80\", address: %q}\n", caller, callee, free[0])
			if dial := load.To(free[0]); i == 0 {
				known = append(known, dial)
			} else {
				s.NewLanes = append(s.NewLanes, dial)
			}
			free = free[1:]
		}
	}
	if err := m.Declare("front", "client.yaml", files.String()); err != nil {
		return s, err
	}
	if err := s.ready(ctx); err != nil {
		return s, err
	}
	return s, errors.Join(certified(ctx, m, len(callers), 1+len(callers)*len(callees[1:])+1), reached(ctx, known))
}

// reached waits until a request gets through every one of the dials.
func reached(ctx context.Context, dials []load.Dial) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, dial := range dials {
		for load.Closed(ctx, dial, 1, 10*time.Millisecond).Done == 0 {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("not every service is reached: %w", err)
			}
		}
	}
	return nil
}

// certified waits until the front node has the certificates of all its services, and listens for them: what is
// measured is not the controller's issuing.
func certified(ctx context.Context, m *launch.Mesh, services, listeners int) error {
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
		if err == nil && held >= services && listening >= listeners {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the front node holds %d certificates of %d and listens at %d addresses of %d: %w", held, services, listening, listeners, ctx.Err())
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
