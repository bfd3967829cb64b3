package peer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/bench/load"
	"github.com/sennit-mesh/sennit/internal/launch"
)

// profileVariable names the folder into which nodes write CPU profiles.
const profileVariable = "SENNIT_BENCH_PROFILE"

// The names of the two nodes.
const (
	FrontNode = "front"
	BackNode  = "back"
)

// A Grid is what services there are beside the one that calls and the one that is called. The first caller calls
// all that are called, and has lanes to them; so many Callers more call so many Callees more, over lanes that are
// not made yet (System.NewLanes). They are not one caller for each lane, because a node runs few services.
type Grid struct{ Callers, Callees int }

// A Variant is what is different in a mesh of Sennit's. The zero Variant is a mesh as it is without a flag.
type Variant struct {
	Name     string // "": Sennit
	Grid     Grid
	Profiles string // folder for CPU profiles of the nodes; "": none
	// Flags of both nodes, and of the controller.
	NodeFlags, ControllerFlags []string
	Metrics                    bool // the nodes are scraped at System.Metrics
	Workloads                  []string
}

// StartSennit starts a controller, a node with the callers' listeners and a node in front of the origin; the two nodes
// are what counts. They are cmd/node, built from the working copy, as hosts run it. Where there are to be CPU profiles,
// they are this program started again.
func StartSennit(v Variant) Starter {
	v.Name = cmp.Or(v.Name, Sennit)
	return Starter{
		Name: v.Name, Workloads: v.Workloads,
		Find: func(ctx context.Context) (string, error) { return revision(ctx), nil },
		Start: func(ctx context.Context, dir string, origin Origin) (*System, error) {
			return startSennit(ctx, dir, origin, v)
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

func startSennit(ctx context.Context, dir string, origin Origin, v Variant) (*System, error) {
	grid := v.Grid
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a, err := loopback(7 + (1+grid.Callers)*grid.Callees)
	if err != nil {
		return nil, err
	}
	if err := os.Setenv(profileVariable, v.Profiles); err != nil { // the daemons inherit it
		return nil, err
	}
	m := &launch.Mesh{Dir: dir, Program: []string{self}, Flags: map[string][]string{
		"controller": v.ControllerFlags, FrontNode: v.NodeFlags, BackNode: v.NodeFlags,
	}}
	s := &System{Name: v.Name, HTTP: load.To(a[0]), TCP: load.To(a[1]), HTTP2: load.To(a[6]), Mesh: m, finish: m.Stop, lanes: a[3]}
	if v.Metrics {
		for node, address := range map[string]string{FrontNode: a[4], BackNode: a[5]} {
			m.Flags[node] = append(slices.Clone(v.NodeFlags), "--metrics", address)
			s.Metrics = append(s.Metrics, "http://"+address+"/metrics")
		}
	}
	if v.Profiles == "" {
		m.NodeProgram = []string{filepath.Join(dir, "node")}
		if err := buildNode(ctx, m.NodeProgram[0]); err != nil {
			return nil, err
		}
	}
	if err := m.StartController(ctx); err != nil {
		return s, err
	}
	s.others = append(s.others, m.Controller())
	callers, callees := []string{"bench/client"}, []string{"bench/origin"}
	for i := range grid.Callers {
		callers = append(callers, fmt.Sprintf("bench/client-%d", i))
	}
	for i := range grid.Callees {
		callees = append(callees, fmt.Sprintf("bench/origin-%d", i))
	}
	if s.Back, err = m.Join(ctx, BackNode, a[2], callees...); err != nil {
		return s, err
	}
	if s.Front, err = m.Join(ctx, FrontNode, a[3], callers...); err != nil {
		return s, err
	}
	var files strings.Builder
	for _, callee := range callees {
		fmt.Fprintf(&files, "---\nservice: %s\nports:\n- {port: 80, name: http, protocol: http, address: %q}\n- {port: 7, name: raw, protocol: tcp, address: %q}\n- {port: 81, name: calls, protocol: http2, address: %q}\n", callee, origin.HTTP, origin.TCP, origin.HTTP2)
	}
	if err := m.Declare(BackNode, "origin.yaml", files.String()); err != nil {
		return s, err
	}
	// The first caller has a listener for everything, and waits until all callees can be reached.
	s.known = []load.Dial{s.HTTP}
	free := a[7:]
	files.Reset()
	fmt.Fprintf(&files, "service: bench/client\nlisteners:\n- {as: bench/client, to: \"bench/origin:80\", address: %q}\n- {as: bench/client, to: \"bench/origin:7\", address: %q}\n- {as: bench/client, to: \"bench/origin:81\", address: %q}\n", a[0], a[1], a[6])
	for i, caller := range callers {
		if i > 0 {
			fmt.Fprintf(&files, "---\nservice: %s\nlisteners:\n", caller)
		}
		for _, callee := range callees[1:] {
			fmt.Fprintf(&files, "- {as: %s, to: \"%s:80\", address: %q}\n", caller, callee, free[0])
			if dial := load.To(free[0]); i == 0 {
				s.known = append(s.known, dial)
			} else {
				s.NewLanes = append(s.NewLanes, dial)
			}
			free = free[1:]
		}
	}
	if err := m.Declare(FrontNode, "client.yaml", files.String()); err != nil {
		return s, err
	}
	if err := s.ready(ctx); err != nil {
		return s, err
	}
	return s, errors.Join(certified(ctx, m, len(callers), 2+len(callers)*len(callees[1:])+1), s.Reach(ctx))
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
		status, err := m.NodeStatus(ctx, FrontNode)
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
