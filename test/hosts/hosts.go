// Package hosts starts hosts for tests: systemd itself as the first process, this machine's programs, and nothing of
// this machine's settings or state.
//
// A host is a set of namespaces (mounts, processes, network, host name, cgroups). Its files are this machine's, seen
// through an overlay whose upper half is memory, so that whatever is installed or written there is gone with it.
// Hosts are joined by a virtual wire and reach nothing else. Nothing of this machine is changed but a folder in /tmp
// and a cgroup, which the end of the test removes, or the next one where the test was killed.
//
// It needs root, cgroups of version 2, iproute2, util-linux and systemd; where they are missing, or where this machine
// lets nobody start a systemd of his own, the test is skipped and says why.
//
// Start reading at Start; what happens inside is boot.sh.
package hosts

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
)

// A Host is one running host. Its methods are safe for concurrent use.
type Host struct {
	Name    string
	Address string // on the wire between the hosts
	init    int    // the id of its first process, here
}

const (
	stalePrefix = "sennit-hosts-" // the id of the process that made it follows
	booted      = 90 * time.Second
	again       = 50 * time.Millisecond
	// Operator is the user who works on the hosts; it has no right beyond its own.
	Operator = 1000
)

//go:embed boot.sh
var boot string

var started atomic.Int32

// Start starts one host or two; they have the addresses 10.77.0.11 and 10.77.0.12, and end with the test.
func Start(t testing.TB, names ...string) []*Host {
	t.Helper()
	if len(names) > 2 {
		t.Fatal("the wire has two ends")
	}
	systemd := requirements(t)
	cgroups := cgroupRoot(t)
	removeStale(t, cgroups)
	var all []*Host
	for i, name := range names {
		h := &Host{Name: name, Address: fmt.Sprintf("10.77.0.%d", 11+i)}
		h.boot(t, systemd, cgroups)
		all = append(all, h)
	}
	wire(t, all)
	return all
}

// requirements skips the test where something is missing, and returns systemd's program.
func requirements(t testing.TB) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: hosts are namespaces with a systemd of their own")
	}
	for _, program := range []string{"ip", "nsenter", "unshare", "setpriv", "pivot_root", "systemctl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s", program)
		}
	}
	for _, systemd := range []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd"} {
		if _, err := os.Stat(systemd); err == nil {
			return systemd
		}
	}
	t.Skip("needs systemd")
	return ""
}

// boot starts the host and waits until systemd has started everything.
func (h *Host) boot(t testing.TB, systemd, cgroups string) {
	t.Helper()
	unique := fmt.Sprintf("%s%d-%d", stalePrefix, os.Getpid(), started.Add(1))
	folder, cgroup := filepath.Join(os.TempDir(), unique), filepath.Join(cgroups, unique)
	for _, dir := range []string{folder, filepath.Join(folder, "host"), cgroup} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Skipf("a host needs a folder and a cgroup: %v", err)
		}
	}
	script := filepath.Join(folder, "boot.sh")
	if err := os.WriteFile(script, []byte(boot), 0o600); err != nil {
		t.Fatal(err)
	}
	// The cgroup namespace begins where the process is when it is made, and so last.
	enter := `echo 0 >"$1/cgroup.procs" && shift && exec unshare --cgroup sh "$@"`
	argv := []string{"unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "--propagation", "private",
		"sh", "-c", enter, "boot", cgroup, script, h.Name, filepath.Join(folder, "host"), systemd}
	p, err := launch.Start(folder, h.Name, argv, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s:\n%s%s", h.Name, p.Tail(4000), h.journal())
		}
		if err := p.Kill(); err != nil { // its child, and with it all others, is killed by the kernel
			t.Error(err)
		}
		wait(t, "everything in "+cgroup+" to end", func() bool { return removeCgroup(cgroup) == nil })
		os.RemoveAll(folder)
	})
	deadline := time.Now().Add(booted)
	for {
		if h.init == 0 {
			h.init = childOf(p.PID())
		}
		state := ""
		if h.init != 0 {
			out, _ := h.command(t.Context(), "systemctl", "is-system-running").Output() // it fails where it says no
			state = strings.TrimSpace(string(out))
		}
		if state == "running" || state == "degraded" {
			return
		}
		select {
		case <-p.Done():
			t.Skipf("this machine lets nobody start a systemd of his own: %v: %s", p.Err(), p.Tail(2000))
		case <-time.After(again):
		}
		if time.Now().After(deadline) {
			t.Fatalf("systemd is %q after %s:\n%s", state, booted, p.Tail(4000))
		}
	}
}

// wire joins the hosts.
func wire(t testing.TB, all []*Host) {
	t.Helper()
	var commands [][]string
	if len(all) == 2 {
		commands = append(commands, []string{"ip", "link", "add", "eth0", "netns", strconv.Itoa(all[0].init), "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(all[1].init)})
	}
	for _, h := range all {
		in := []string{"nsenter", "-t", strconv.Itoa(h.init), "--net", "ip"}
		if len(all) == 1 {
			commands = append(commands, append(in[:len(in):len(in)], "link", "add", "eth0", "type", "veth", "peer", "name", "nobody"),
				append(in[:len(in):len(in)], "link", "set", "nobody", "up"))
		}
		commands = append(commands,
			append(in[:len(in):len(in)], "link", "set", "lo", "up"),
			append(in[:len(in):len(in)], "addr", "add", h.Address+"/24", "dev", "eth0"),
			append(in[:len(in):len(in)], "link", "set", "eth0", "up"))
	}
	for _, c := range commands {
		if out, err := exec.CommandContext(t.Context(), c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(c, " "), err, out)
		}
	}
}

// Path is where a file of the host is for this test.
func (h *Host) Path(file string) string {
	return filepath.Join("/proc", strconv.Itoa(h.init), "root", file)
}

// Shell is a command line that a user of the host types, in the operator's home.
func (h *Host) Shell(ctx context.Context, uid int, line string) *exec.Cmd {
	id := strconv.Itoa(uid)
	return h.command(ctx, "setpriv", "--reuid", id, "--regid", id, "--clear-groups", "sh", "-c", "cd ~ && "+line)
}

// command runs a program as root in all of the host's namespaces but that of cgroups.
func (h *Host) command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(h.init), "--mount", "--pid", "--net", "--uts", "--ipc", "--"}, argv...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/home/operator", "LANG=C.UTF-8"}
	cmd.WaitDelay = time.Second
	return cmd
}

// journal is what the units said, of a host whose test failed.
func (h *Host) journal() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := h.command(ctx, "journalctl", "--no-pager", "-o", "cat", "-n", "60", "-u", "sennit-*").CombinedOutput()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// wait looks again and again, for a process on a starved machine, and reports whether it saw the end.
func wait(t testing.TB, what string, done func() bool) bool {
	t.Helper()
	for deadline := time.Now().Add(booted); !done(); <-time.After(again) {
		if time.Now().After(deadline) {
			t.Errorf("waited %s for %s", booted, what)
			return false
		}
	}
	return true
}

// removeStale removes what test processes left that were killed; the kernel has ended their hosts.
func removeStale(t testing.TB, cgroups string) {
	for _, parent := range []string{os.TempDir(), cgroups} {
		left, _ := filepath.Glob(filepath.Join(parent, stalePrefix+"*")) // the pattern is well-formed
		for _, dir := range left {
			pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), stalePrefix), "-")
			id, err := strconv.Atoi(pid)
			if err != nil || syscall.Kill(id, 0) == nil {
				continue
			}
			t.Logf("removing stale %s", dir)
			if parent == cgroups {
				_ = removeCgroup(dir) // the next test tries again
			} else {
				os.RemoveAll(dir)
			}
		}
	}
}
