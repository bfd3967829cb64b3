package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk moves a node's state onto a file system of its own that holds little, and starts the node from it.
func (m *Mesh) smallDisk(node string) (state string) {
	m.t.Helper()
	if os.Getuid() != 0 {
		m.t.Skip("needs root, to mount a small file system")
	}
	m.StopPart(m.Node(node))
	m.image(node, "moved")
	state = filepath.Join(m.Dir, node, "state")
	if err := unix.Mount("mesh", state, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		m.t.Skipf("a small file system cannot be mounted: %v", err)
	}
	m.t.Cleanup(func() { m.must("unmount", unix.Unmount(state, unix.MNT_DETACH)) })
	m.must("move the state", os.CopyFS(state, os.DirFS(filepath.Join(m.Dir, "moved", "state"))))
	files, err := filepath.Glob(filepath.Join(state, "*"))
	m.must("moved files", err)
	for _, file := range files { // CopyFS adds to the mode
		m.must("chmod", os.Chmod(file, 0o600))
	}
	m.RestartNode(node)
	return state
}

// fill writes a file until its file system is full.
func (m *Mesh) fill(name string) {
	m.t.Helper()
	file, err := os.Create(name)
	m.must("fill", err)
	defer file.Close()
	for size := 64 << 10; size > 0; {
		if _, err := file.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else {
			m.must("fill", err)
		}
	}
}

// longRules are rules of default/orders that answer /gone with an error, and need much space.
func longRules(name string) string {
	var rules strings.Builder
	for i := range 14 {
		fmt.Fprintf(&rules, "{matches: [{path: {value: /%d-%s}}], backendRefs: [{name: orders, port: 80}]},", i, strings.Repeat("x", 900))
	}
	return `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: orders}, spec: {parentRefs: [{group: "", kind: Service, name: orders}], rules: [` +
		rules.String() + `{matches: [{path: {value: /` + name + `}}]}, {backendRefs: [{name: orders, port: 80}]}]}}`
}

// gone wants a path to be answered by the rule that has no backends.
func (m *Mesh) gone(node, address, path string) {
	m.t.Helper()
	m.Eventually(path+" is gone", func(ctx context.Context) error {
		response, _, err := m.Get(ctx, node, address, path)
		if err == nil && response.StatusCode != http.StatusInternalServerError {
			err = errors.New(response.Status)
		}
		return err
	})
}

// TestFullDiskOfANode fills the disk under a node's state. It goes on with all that it has and hears, says what it cannot
// keep, starts again with what it had kept, and keeps the rest once there is room.
func TestFullDiskOfANode(t *testing.T) {
	t.Parallel()
	m, address := startOrders(t, Config{Flags: []string{"--access-log-share", "0"}})
	state := m.smallDisk("one")
	m.AwaitAnswer("one", address, "v1")
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, PerConnection: 10})
	m.fill(filepath.Join(state, "ballast"))

	m.MustApply(longRules("gone"))
	m.gone("one", address, "/gone")
	m.awaitProblem("one", "configuration cannot be kept", "is the disk of "+state+" full?")
	m.AwaitAnswers(load, "requests go on", "v1", 100)
	if got := load.Stop(); got.Failed > 0 {
		t.Errorf("on a full disk: %s\n%s", got, strings.Join(got.Failures, "\n"))
	}
	m.Kill(m.Node("one"))
	m.RestartNode("one") // with what was kept before
	m.AwaitAnswer("one", address, "v1")
	m.gone("one", address, "/gone")

	m.must("make room", os.Remove(filepath.Join(state, "ballast")))
	m.Eventually("everything is kept", func(ctx context.Context) error {
		status, err := m.NodeStatus(ctx, "one")
		if err == nil && len(status.Problems) > 0 {
			err = fmt.Errorf("problems %q", status.Problems)
		}
		return err
	})
	m.Kill(m.Controller())
	m.Kill(m.Node("one"))
	m.RestartNode("one")
	m.gone("one", address, "/gone")
	m.AwaitAnswer("one", address, "v1")
}
