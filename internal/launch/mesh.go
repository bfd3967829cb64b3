package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// A Mesh is one controller and any number of nodes, as child processes, with their state below one folder.
type Mesh struct {
	Dir string
	// Program is the command line in front of a daemon's own: it is followed by "controller" or "node" and
	// flags. Usually {"/path/to/sennit"}.
	Program []string
	// NodeProgram is the command line in front of a node's flags where that is another than Program's: {"/path/to/node"}.
	NodeProgram []string
	// BusHost is the address of the controller's listeners; empty: 127.0.0.1.
	BusHost string
	// Ports are those of the controller's bus and API; zero: free ones, found at the first start.
	Ports [2]int
	// Flags are added to every controller's and node's command line, by its name ("controller", or the node's).
	Flags map[string][]string
	// Prefix is what runs in front of a process, by its name: {"ip", "netns", "exec", "host1"}.
	Prefix map[string][]string

	mu         sync.Mutex
	controller *Process
	nodes      map[string]*Process
	others     []*Process
}

// startTime is how long a process may take to be ready, and stopTime to end when it is asked to.
const startTime, stopTime = 3 * time.Minute, 20 * time.Second

// Socket is the controller's unix socket.
func (m *Mesh) Socket() string { return filepath.Join(m.Dir, "controller.sock") }

// NodeSocket is a node's unix socket.
func (m *Mesh) NodeSocket(name string) string { return filepath.Join(m.Dir, name+".sock") }

// ServicesDir is a node's services.d.
func (m *Mesh) ServicesDir(name string) string { return filepath.Join(m.Dir, name, "services.d") }

// StartController starts the controller, or starts it again with the same ports and state, and waits until it
// answers.
func (m *Mesh) StartController(ctx context.Context) error {
	if m.Ports[0] == 0 {
		ports, err := FreePorts(2)
		if err != nil {
			return err
		}
		m.Ports = [2]int(ports)
	}
	host := m.host()
	argv := slices.Concat(m.Prefix["controller"], m.Program, []string{"controller",
		"--state-dir", filepath.Join(m.Dir, "controller"), "--name", "controller",
		"--bus", net.JoinHostPort(host, fmt.Sprint(m.Ports[0])), "--api", net.JoinHostPort(host, fmt.Sprint(m.Ports[1])),
		"--socket", m.Socket()}, m.Flags["controller"])
	p, err := Start(m.Dir, "controller", argv, nil)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.controller = p
	m.mu.Unlock()
	return m.await(ctx, p, func(ctx context.Context) error {
		status, err := m.Status(ctx)
		if err == nil && len(status.Warnings) > 0 {
			return errors.New(status.Warnings[0])
		}
		return err
	})
}

func (m *Mesh) host() string {
	if m.BusHost != "" {
		return m.BusHost
	}
	return "127.0.0.1"
}

// Controller is the controller's process.
func (m *Mesh) Controller() *Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.controller
}

// Join makes a host a node that may run the services and starts it. lanes is its UDP address.
func (m *Mesh) Join(ctx context.Context, name, lanes string, services ...string) (*Process, error) {
	token, err := m.Token(ctx, name, services...)
	if err != nil {
		return nil, err
	}
	return m.JoinWith(ctx, name, lanes, token)
}

// JoinWith makes a host a node with a token that was made before, and starts it.
func (m *Mesh) JoinWith(ctx context.Context, name, lanes, token string) (*Process, error) {
	if err := os.MkdirAll(m.ServicesDir(name), 0o700); err != nil {
		return nil, err
	}
	return m.startNode(ctx, name, lanes, []string{"SENNIT_JOIN_TOKEN=" + token})
}

// StartNode starts a node that has joined before.
func (m *Mesh) StartNode(ctx context.Context, name, lanes string) (*Process, error) {
	return m.startNode(ctx, name, lanes, nil)
}

func (m *Mesh) startNode(ctx context.Context, name, lanes string, env []string) (*Process, error) {
	program := m.NodeProgram
	if len(program) == 0 {
		program = slices.Concat(m.Program, []string{"node"})
	}
	argv := slices.Concat(m.Prefix[name], program, []string{
		"--state-dir", filepath.Join(m.Dir, name, "state"), "--services-dir", m.ServicesDir(name),
		"--lanes", lanes, "--socket", m.NodeSocket(name), "--access-log", filepath.Join(m.Dir, name, "access.log")}, m.Flags[name])
	p, err := Start(m.Dir, name, argv, env)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	if m.nodes == nil {
		m.nodes = map[string]*Process{}
	}
	m.nodes[name] = p
	m.mu.Unlock()
	return p, m.await(ctx, p, func(ctx context.Context) error {
		_, err := m.NodeStatus(ctx, name)
		return err
	})
}

// Node is a node's process, or nil.
func (m *Mesh) Node(name string) *Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nodes[name]
}

// Declare writes a file of a node's services.d, whole.
func (m *Mesh) Declare(node, file, document string) error {
	name := filepath.Join(m.ServicesDir(node), file)
	if err := os.WriteFile(name+".new", []byte(document), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// Run starts another program of the mesh, such as a service; it ends with the mesh.
func (m *Mesh) Run(name string, argv ...string) (*Process, error) {
	p, err := Start(m.Dir, name, slices.Concat(m.Prefix[name], argv), nil)
	if err == nil {
		m.mu.Lock()
		m.others = append(m.others, p)
		m.mu.Unlock()
	}
	return p, err
}

// Stop ends everything: programs and nodes first, side by side, then the controller.
func (m *Mesh) Stop() error {
	m.mu.Lock()
	all := m.others
	for _, p := range m.nodes {
		all = append(all, p)
	}
	controller := m.controller
	m.mu.Unlock()
	errs := make([]error, len(all)+1)
	var group sync.WaitGroup
	for i, p := range all {
		group.Go(func() { errs[i] = p.Stop(stopTime) })
	}
	group.Wait()
	if controller != nil {
		errs[len(all)] = controller.Stop(stopTime)
	}
	return errors.Join(errs...)
}

// await polls until ready returns nil, the process ends, or ctx does.
func (m *Mesh) await(ctx context.Context, p *Process, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var err error
	for {
		now := ready(ctx)
		if now == nil {
			return nil
		}
		if ctx.Err() == nil || err == nil { // what was in the way, not that the time is over
			err = now
		}
		select {
		case <-tick.C:
		case <-p.Done():
			return fmt.Errorf("%s ended: %w; its log ends: %s", p.Name, errors.Join(p.Err()), p.Tail(2000))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; its log ends: %s", p.Name, err, p.Tail(2000))
		}
	}
}

// Token makes a join token.
func (m *Mesh) Token(ctx context.Context, node string, services ...string) (string, error) {
	var answer struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	request := map[string]any{
		"apiVersion": "sennit.dev/v1alpha1", "kind": "JoinToken", "metadata": map[string]any{"generateName": node + "-"},
		"spec": map[string]any{"node": node, "services": services},
	}
	err := Call(ctx, m.Socket(), http.MethodPost, "/apis/sennit.dev/v1alpha1/jointokens", request, &answer)
	return answer.Status.Token, err
}

// Status is what the controller knows.
func (m *Mesh) Status(ctx context.Context) (s report.Cluster, err error) {
	return s, Call(ctx, m.Socket(), http.MethodGet, report.PathStatus, nil, &s)
}

// NodeStatus is what a node knows.
func (m *Mesh) NodeStatus(ctx context.Context, name string) (s report.Node, err error) {
	return s, Call(ctx, m.NodeSocket(name), http.MethodGet, report.PathNodeStatus, nil, &s)
}

// Apply stores a document given as JSON or as what json.Marshal makes of it, by server-side apply, and waits
// until every node that uses it has applied it. path is that of its API resource.
func (m *Mesh) Apply(ctx context.Context, path string, document any) error {
	version, err := m.Store(ctx, path, document)
	if err != nil {
		return err
	}
	return m.Wait(ctx, version)
}

// Store is Apply without the waiting; it returns the resource version.
func (m *Mesh) Store(ctx context.Context, path string, document any) (version string, err error) {
	var stored struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	err = Call(ctx, m.Socket(), http.MethodPatch, path+"?fieldManager=sennit&force=true", document, &stored)
	return stored.Metadata.ResourceVersion, err
}

// StoreService stores a Service with one port, 80, for HTTP. It returns the resource version.
func (m *Mesh) StoreService(ctx context.Context, namespace, name string) (version string, err error) {
	version, err = m.Store(ctx, fmt.Sprintf("/api/v1/namespaces/%s/services/%s", namespace, name), map[string]any{
		"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"namespace": namespace, "name": name},
		"spec": map[string]any{"ports": []any{map[string]any{"name": "http", "port": 80, "appProtocol": "http"}}},
	})
	if err != nil {
		return "", fmt.Errorf("declare service %s/%s: %w", namespace, name, err)
	}
	return version, nil
}

// Wait returns when every node that uses what is stored up to a resource version has applied it.
func (m *Mesh) Wait(ctx context.Context, version string) error {
	const most = time.Minute
	last, err := m.Progress(ctx, version, most)
	if err == nil && !last.Done {
		err = fmt.Errorf("resource version %s is not applied after %s by %s", version, most, strings.Join(last.Waiting, ", "))
	}
	return err
}

// Progress says how far a change has come once it is done, or after the given time.
func (m *Mesh) Progress(ctx context.Context, version string, within time.Duration) (last report.Progress, err error) {
	var lines strings.Builder
	if err := call(ctx, m.Socket(), http.MethodGet, fmt.Sprintf("%s?timeout=%s&resourceVersion=%s", report.PathWait, within, version), nil, &lines); err != nil {
		return last, err
	}
	for decoder := json.NewDecoder(strings.NewReader(lines.String())); decoder.More(); {
		last = report.Progress{}
		if err := decoder.Decode(&last); err != nil {
			return last, err
		}
	}
	return last, nil
}

// Call makes one request to a unix socket of Sennit's and decodes the answer into out, which may be nil. An
// answer that is no success becomes an error with its message.
func Call(ctx context.Context, socket, method, path string, in, out any) error {
	var answer bytes.Buffer
	if err := call(ctx, socket, method, path, in, &answer); err != nil || out == nil {
		return err
	}
	return json.Unmarshal(answer.Bytes(), out)
}

func call(ctx context.Context, socket, method, path string, in any, out io.Writer) error {
	var body io.Reader
	if in != nil {
		encoded, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://sennit"+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/apply-patch+yaml")
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		var failure report.Failure
		if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&failure); err != nil {
			return fmt.Errorf("%s %s: %s", method, path, response.Status)
		}
		return fmt.Errorf("%s %s: %s", method, path, failure.Message)
	}
	_, err = io.Copy(out, response.Body)
	return err
}
