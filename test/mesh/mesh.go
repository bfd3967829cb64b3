// Package mesh starts whole meshes for tests: a controller, nodes and services, each a process of its own, and
// the load that goes through them.
//
// The daemons and services are the test binary started again (Main), so that nothing but Go is needed. A mesh
// lives on loopback and needs no privilege, or, where there is root, with every part in a network namespace of
// its own behind one switch, whose wire can be recorded (Record). Everything ends with the test, whatever the
// test does; of a test that fails, each part's log is printed.
//
// A failure to build a mesh ends the test; what a test asserts is returned to it. Nothing here retries a
// request: a request that failed is counted (Load).
//
// Start reading at Start.
package mesh

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
)

// A Config says what a mesh consists of.
type Config struct {
	Nodes []string // names; none: one, two, three
	// Services that every node may run, as namespace/name.
	Services []string
	// Namespaces puts the controller and every node into a network namespace of its own. Without root the test
	// is skipped.
	Namespaces bool
	// Outside are more hosts in namespaces, on which nothing of the mesh runs (Mesh.ListenOutside).
	Outside []string
	// CertificateTTL is how long certificates live; 0: as long as they do by default.
	CertificateTTL time.Duration
	// Clocks says which hosts' clocks are off, and by how much, from the beginning (Mesh.SetClock).
	Clocks map[string]time.Duration
	// Wires puts a wire that can be disturbed (Mesh.Wire) at every host, in namespaces. It excludes Record.
	Wires bool
	// Record records what crosses the wire from the beginning, in namespaces.
	Record bool
	// Metrics lets the controller and every node be scraped, on loopback.
	Metrics bool
	// Waits says that the test mostly waits: it takes no turn from those that keep the processors busy.
	Waits bool
	Flags []string // more flags of each node
	// NodeFlags are more flags of some nodes, by name.
	NodeFlags map[string][]string
	// ControllerFlags are more flags of the controller.
	ControllerFlags []string
}

// A Mesh is a running mesh of a test. Recording is what Config.Record asked for. It is used by the test's goroutine, and Load's and Dial's by any.
type Mesh struct {
	*launch.Mesh
	Recording *Recording
	t         testing.TB
	cfg       Config
	network   *network // nil: loopback
	wires     map[string]*wire
	lanes     map[string]string
	declared  map[string]int    // files written, by node
	metrics   map[string]string // where each part is scraped
	self      string
}

// turnover is how long certificates live in tests that wait until they end while a controller is killed. They are renewed
// at half to four fifths of their life: what is left then is for a machine that stands still meanwhile.
const turnover = 45 * time.Second

// ready bounds every wait for something that a healthy mesh does within a second or two.
const ready = 40 * time.Second

// Start starts a controller and the nodes, all joined, when it is the test's turn. They end with the test, which has one turn:
// a second mesh is for a subtest that is parallel.
func Start(t testing.TB, cfg Config) *Mesh {
	t.Helper()
	if len(cfg.Nodes) == 0 {
		cfg.Nodes = []string{"one", "two", "three"}
	}
	if !cfg.Waits {
		takeTurn(t)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: a long name would not fit into the address of a unix socket.
	removeStale(t)
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", stalePrefix, os.Getpid())) //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &Mesh{t: t, cfg: cfg, self: self, lanes: map[string]string{}, declared: map[string]int{}, metrics: map[string]string{}}
	m.Mesh = &launch.Mesh{Dir: dir, Program: []string{self}, Flags: map[string][]string{}, Prefix: map[string][]string{}}
	if cfg.Namespaces {
		hosts := slices.Concat([]string{theController}, cfg.Nodes, cfg.Outside)
		m.network = newNetwork(t, hosts)
		if cfg.Wires {
			m.wires = m.network.layWires(t, hosts, wireSeed)
		}
		m.BusHost, m.Ports = m.network.address(theController), [2]int{busPort, apiPort}
		m.Prefix[theController] = m.network.prefix(theController)
		if cfg.Record {
			m.Recording, err = m.network.record(busPort)
			m.must("record", err)
			t.Cleanup(func() { m.Recording.Stop() })
		}
	}
	if cfg.CertificateTTL > 0 {
		m.Flags[theController] = []string{"--certificate-ttl", cfg.CertificateTTL.String()}
	}
	m.Flags[theController] = slices.Concat(m.Flags[theController], m.metricsFlag(theController), cfg.ControllerFlags)
	if offset := cfg.Clocks[theController]; offset != 0 {
		m.SetClock(theController, offset)
	}
	t.Cleanup(m.end)
	m.must("start the controller", m.StartController(t.Context()))
	for _, name := range cfg.Nodes {
		m.join(name, cfg.Services...)
	}
	return m
}

// join lets a host become a node and starts it.
func (m *Mesh) join(name string, services ...string) {
	m.t.Helper()
	token, err := m.Token(m.t.Context(), name, services...)
	m.must("make a token for "+name, err)
	m.joinWith(name, token)
}

// joinWith lets a host become a node with a token that was made before.
func (m *Mesh) joinWith(name, token string) {
	m.t.Helper()
	m.Flags[name] = slices.Concat([]string{"--drain-time", "10s"}, m.metricsFlag(name), m.cfg.Flags, m.cfg.NodeFlags[name])
	m.lanes[name] = fmt.Sprintf("127.0.0.1:%d", m.port())
	if m.network != nil {
		m.Prefix[name] = m.network.prefix(name)
		m.lanes[name] = fmt.Sprintf("%s:%d", m.network.address(name), lanesPort)
	}
	if offset := m.cfg.Clocks[name]; offset != 0 {
		m.SetClock(name, offset)
	}
	_, err := m.JoinWith(m.t.Context(), name, m.lanes[name], token)
	m.must("join "+name, err)
}

// JoinLater lets one more host become a node, in namespaces one of Config.Outside, and starts it.
func (m *Mesh) JoinLater(name string, services ...string) {
	m.t.Helper()
	m.cfg.Nodes = append(slices.Clone(m.cfg.Nodes), name)
	m.join(name, services...)
}

// In is the mesh for a subtest, which fails instead of the test that started the mesh.
func (m *Mesh) In(t testing.TB) *Mesh {
	t.Helper()
	sub := *m
	sub.t = t
	return &sub
}

const (
	theController = "controller"
	wireSeed      = 77
	lanesPort     = 7443 // ports in namespaces
	busPort       = 4222
	apiPort       = 6443
)

// end stops everything and prints the logs of a test that failed.
func (m *Mesh) end() {
	err := m.Stop()
	if err != nil {
		m.t.Errorf("the mesh does not end: %v", err)
	}
	if !m.t.Failed() {
		return
	}
	logs, err := filepath.Glob(filepath.Join(m.Dir, "*.log"))
	if err != nil {
		m.t.Error(err)
	}
	for _, name := range m.cfg.Nodes {
		logs = append(logs, filepath.Join(m.Dir, name, "access.log"))
	}
	for _, file := range logs {
		text, err := os.ReadFile(file)
		if err != nil {
			m.t.Log(err)
			continue
		}
		const most = 12 << 10
		cut := ""
		if len(text) > most {
			text, cut = text[len(text)-most:], " (its end)"
		}
		m.t.Logf("== %s%s\n%s", strings.TrimPrefix(file, m.Dir+"/"), cut, text)
	}
}

// must ends the test where a step failed.
func (m *Mesh) must(what string, err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatalf("%s: %v", what, err)
	}
}

func (m *Mesh) port() int {
	ports, err := launch.FreePorts(1)
	m.must("find a free port", err)
	return ports[0]
}

// metricsFlag chooses where a part is scraped, where it shall be.
func (m *Mesh) metricsFlag(part string) []string {
	if !m.cfg.Metrics {
		return nil
	}
	m.metrics[part] = fmt.Sprintf("127.0.0.1:%d", m.port())
	return []string{"--metrics", m.metrics[part]}
}

// RestartController starts the controller again, with its state and addresses, after it was stopped or killed.
func (m *Mesh) RestartController() {
	m.t.Helper()
	m.must("start the controller again", m.StartController(m.t.Context()))
}

// crashController kills the controller, and starts it again.
func (m *Mesh) crashController() {
	m.t.Helper()
	m.Kill(m.Controller())
	m.RestartController()
}

// RestartNode starts a node again, with its state and addresses, after it was stopped or killed.
func (m *Mesh) RestartNode(name string) {
	m.t.Helper()
	_, err := m.StartNode(m.t.Context(), name, m.lanes[name])
	m.must("start "+name+" again", err)
}

// StopPart ends a process by SIGTERM and waits until it has drained.
func (m *Mesh) StopPart(p *launch.Process) {
	m.t.Helper()
	m.must("stop "+p.Name, p.Stop(30*time.Second))
	m.must(p.Name+" ended badly", p.Err())
}

// Kill ends a process as `kill -9` does.
func (m *Mesh) Kill(p *launch.Process) {
	m.t.Helper()
	m.must("kill "+p.Name, p.Kill())
}

// Eventually waits until check returns nil, and ends the test where it does not for long.
func (m *Mesh) Eventually(what string, check func(context.Context) error) {
	m.t.Helper()
	m.within(ready, what, check)
}

// within is Eventually for what takes longer in a healthy mesh too.
func (m *Mesh) within(ready time.Duration, what string, check func(context.Context) error) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), ready)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			m.t.Fatalf("%s: not within %s: %v", what, ready, err)
		}
	}
}
