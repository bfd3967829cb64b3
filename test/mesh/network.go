package mesh

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A network is a switch and hosts that hang on it, each a network namespace. It touches nothing of the
// machine's own network: the switch has a namespace too, so that the addresses are the same in every mesh.
type network struct {
	name  string
	hosts map[string]int // to the last byte of the address
}

const (
	// stalePrefix begins the names of namespaces and folders; the id of the process that made them follows.
	stalePrefix = "sennit-mesh-"
	subnet      = "10.77.0."
	switchHost  = "switch"
)

var networks atomic.Int32

// newNetwork makes a network that ends with the test, after everything that was started later.
func newNetwork(t testing.TB, hosts []string) *network {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: every part of this mesh has a network namespace of its own")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs the ip command (iproute2)")
	}
	n := &network{name: fmt.Sprintf("%s%d-%d", stalePrefix, os.Getpid(), networks.Add(1)), hosts: map[string]int{}}
	t.Cleanup(func() {
		for host := range n.hosts {
			if err := ip("netns", "del", n.namespace(host)); err != nil {
				t.Error(err)
			}
		}
	})
	if err := n.build(t, hosts); err != nil {
		if strings.Contains(err.Error(), "not permitted") {
			t.Skipf("root here may not make network namespaces: %v", err)
		}
		t.Fatal(err)
	}
	return n
}

func (n *network) build(t testing.TB, hosts []string) error {
	add := func(host string) error {
		if err := ip("netns", "add", n.namespace(host)); err != nil {
			return err
		}
		n.hosts[host] = 10 + len(n.hosts)
		return ip("-n", n.namespace(host), "link", "set", "lo", "up")
	}
	if err := add(switchHost); err != nil {
		return err
	}
	wire := n.namespace(switchHost)
	commands := [][]string{
		{"-n", wire, "link", "add", "bridge", "type", "bridge"},
		{"-n", wire, "link", "set", "bridge", "addrgenmode", "none"}, // no IPv6 neighbours are looked for
		{"-n", wire, "link", "set", "bridge", "up"},
	}
	for _, host := range hosts {
		if err := add(host); err != nil {
			return err
		}
		port := "port" + strconv.Itoa(n.hosts[host])
		commands = append(commands,
			[]string{"-n", wire, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", n.namespace(host)},
			// What is sent in bundles is cut up before the wire, so that each datagram can be looked at.
			[]string{"-n", n.namespace(host), "link", "set", "eth0", "gso_max_segs", "1", "addrgenmode", "none"},
			[]string{"-n", wire, "link", "set", port, "addrgenmode", "none"},
			[]string{"-n", wire, "link", "set", port, "master", "bridge", "up"},
			[]string{"-n", n.namespace(host), "addr", "add", n.address(host) + "/24", "dev", "eth0"},
			[]string{"-n", n.namespace(host), "link", "set", "eth0", "up"})
	}
	for _, command := range commands {
		if err := ip(command...); err != nil {
			return err
		}
	}
	t.Logf("network namespaces %s-*", n.name)
	return nil
}

func (n *network) namespace(host string) string { return n.name + "-" + host }
func (n *network) address(host string) string   { return subnet + strconv.Itoa(n.hosts[host]) }

// prefix is what runs a command on a host. It execs, so that the process keeps its id and its parent.
func (n *network) prefix(host string) []string {
	return []string{"ip", "netns", "exec", n.namespace(host)}
}

// on runs do on a thread that is in a host's namespace: sockets that it opens belong there for good.
func (n *network) on(host string, do func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(home)
	there, err := unix.Open(filepath.Join("/run/netns", n.namespace(host)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(there)
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", n.namespace(host), err)
	}
	err = do()
	if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
		panic(fmt.Sprintf("thread is lost in %s: %v", n.namespace(host), back))
	}
	runtime.UnlockOSThread()
	return err
}

// BlockUDP has the hosts of the nodes drop what comes over UDP, without a word, as many firewalls do. It skips the
// test where there is no nft.
func (m *Mesh) BlockUDP(nodes ...string) {
	m.t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		m.t.Skip("needs the nft command (nftables)")
	}
	for _, node := range nodes {
		rules := "table inet test { chain in { type filter hook input priority 0; meta l4proto udp drop; }; }"
		command := slices.Concat(m.network.prefix(node), []string{"nft", rules})
		said, err := exec.CommandContext(m.t.Context(), command[0], command[1:]...).CombinedOutput()
		if bytes.Contains(said, []byte("not supported")) || bytes.Contains(said, []byte("not permitted")) {
			m.t.Skipf("this kernel has no nftables: %v: %s", err, bytes.TrimSpace(said))
		}
		if err != nil {
			m.t.Fatalf("nft: %v: %s", err, bytes.TrimSpace(said))
		}
	}
}

// ip runs the ip command.
func ip(args ...string) error {
	var said bytes.Buffer
	command := exec.Command("ip", args...)
	command.Stdout, command.Stderr = &said, &said
	if err := command.Run(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

// Dial connects to an IP address and port as a process on a node's host would.
func (m *Mesh) Dial(ctx context.Context, node, address string) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	if m.network == nil {
		return dialer.DialContext(ctx, "tcp", address)
	}
	err = m.network.on(node, func() error {
		conn, err = dialer.DialContext(ctx, "tcp", address) // one address: dialled on this thread
		return err
	})
	return conn, err
}

// ListenOutside listens on a TCP port of a host of Config.Outside, until the test ends.
func (m *Mesh) ListenOutside(host string) (l net.Listener) {
	m.t.Helper()
	m.must("listen on "+host, m.network.on(host, func() (err error) {
		l, err = net.Listen("tcp", m.network.address(host)+":0")
		return err
	}))
	m.t.Cleanup(func() { l.Close() })
	return l
}

// removeStale removes what test processes left that were killed: their namespaces and folders.
func removeStale(t testing.TB) {
	gone := func(name string) bool {
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, stalePrefix), "-")
		if _, err := strconv.Atoi(pid); err != nil {
			return false
		}
		_, err := os.Stat("/proc/" + pid)
		return os.IsNotExist(err)
	}
	folders, _ := filepath.Glob(filepath.Join(os.TempDir(), stalePrefix+"*")) // the pattern is well-formed
	for _, folder := range folders {
		if gone(filepath.Base(folder)) {
			os.RemoveAll(folder)
		}
	}
	if os.Getuid() != 0 {
		return
	}
	namespaces, _ := filepath.Glob("/run/netns/" + stalePrefix + "*")
	for _, file := range namespaces {
		if name := filepath.Base(file); gone(name) {
			t.Logf("removing stale namespace %s: %v", name, ip("netns", "del", name))
		}
	}
}
