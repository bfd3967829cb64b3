package capture

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns both ends of a connection to a listener on address.
func pair(t testing.TB, network, listen, dial string) (server, client *net.TCPConn) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), network, listen)
	if err != nil {
		t.Skipf("listen on %s: %v", listen, err)
	}
	t.Cleanup(func() { ln.Close() })
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", net.JoinHostPort(dial, port))
	if err != nil {
		t.Skipf("dial %s: %v", dial, err)
	}
	t.Cleanup(func() { conn.Close() })
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	return accepted.(*net.TCPConn), conn.(*net.TCPConn)
}

func ends(conn *net.TCPConn) (far, near netip.AddrPort) {
	return conn.RemoteAddr().(*net.TCPAddr).AddrPort(), conn.LocalAddr().(*net.TCPAddr).AddrPort()
}

func testOwners(t testing.TB) *owners {
	t.Helper()
	o, err := newOwners(unix.IPPROTO_TCP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.close() })
	return o
}

func TestOwnerOfAConnection(t *testing.T) {
	for _, tt := range []struct{ name, network, listen, dial string }{
		{"IPv4", "tcp4", "127.0.0.1:0", "127.0.0.1"},
		{"IPv6", "tcp6", "[::1]:0", "::1"},
		{"an IPv4 client of a listener for both", "tcp", "[::]:0", "127.0.0.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := testOwners(t)
			server, _ := pair(t, tt.network, tt.listen, tt.dial)
			far, near := ends(server)
			owner, err := o.of(far, near)
			if err != nil {
				t.Fatal(err)
			}
			if owner.UID != uint32(os.Getuid()) || owner.inode == 0 {
				t.Errorf("owner %+v, want uid %d", owner, os.Getuid())
			}
		})
	}
}

func TestNobodyOwnsWhatIsNotConnected(t *testing.T) {
	o := testOwners(t)
	server, client := pair(t, "tcp4", "127.0.0.1:0", "127.0.0.1")
	far, near := ends(server)
	// The kernel answers with the listener where the exact connection is not found.
	if _, err := o.of(near, netip.AddrPortFrom(near.Addr(), 1)); !errors.Is(err, ErrNoOwner) {
		t.Errorf("the listener was taken for a connection: %v", err)
	}
	if _, err := o.of(netip.MustParseAddrPort("192.0.2.1:4000"), near); !errors.Is(err, ErrNoOwner) {
		t.Errorf("an address of another host: %v", err)
	}
	if _, err := o.of(netip.MustParseAddrPort("[::1]:4000"), near); !errors.Is(err, ErrNoOwner) {
		t.Errorf("two families: %v", err)
	}
	// Closed by its process, the socket waits for our end, and the kernel says that root owns it.
	client.Close()
	if _, err := o.of(far, near); !errors.Is(err, ErrNoOwner) {
		t.Errorf("a socket that its process closed: %v", err)
	}
}

func TestHalfClosedConnectionsKeepTheirOwner(t *testing.T) {
	o := testOwners(t)
	server, client := pair(t, "tcp4", "127.0.0.1:0", "127.0.0.1")
	far, near := ends(server)
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if owner, err := o.of(far, near); err != nil || owner.UID != uint32(os.Getuid()) {
		t.Errorf("%+v, %v", owner, err)
	}
}

func TestOwnerOfAListener(t *testing.T) {
	o := testOwners(t)
	server, _ := pair(t, "tcp4", "127.0.0.1:0", "127.0.0.1")
	_, near := ends(server)
	if owner, err := o.listening(near); err != nil || owner.UID != uint32(os.Getuid()) || owner.inode == 0 {
		t.Errorf("%+v, %v", owner, err)
	}
}

func TestAskingAllocatesNothing(t *testing.T) {
	o := testOwners(t)
	server, _ := pair(t, "tcp4", "127.0.0.1:0", "127.0.0.1")
	far, near := ends(server)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := o.of(far, near); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestCgroupsAreFoundByTheirDirectory(t *testing.T) {
	root := t.TempDir()
	c := newCgroups(root)
	make := func(path string) uint64 {
		if err := os.MkdirAll(root+path, 0o755); err != nil {
			t.Fatal(err)
		}
		return inode(t, root+path)
	}
	orders := make("/system.slice/orders.service")
	if got, err := c.path(orders); err != nil || got != "/system.slice/orders.service" {
		t.Errorf("%q, %v", got, err)
	}
	later := make("/system.slice/later.service/worker") // made after the tree was read
	if got, err := c.path(later); err != nil || got != "/system.slice/later.service/worker" {
		t.Errorf("%q, %v", got, err)
	}
	start := time.Now()
	for range 3 {
		if _, err := c.path(1<<62 + 1); !errors.Is(err, ErrNoCgroup) {
			t.Errorf("an unknown id: %v", err)
		}
	}
	if time.Since(start) < 2*walkAgain {
		t.Error("unknown ids make the tree be read without a pause")
	}
	if _, err := c.path(0); !errors.Is(err, ErrNoCgroup) {
		t.Errorf("no id: %v", err)
	}
}

func BenchmarkOwner(b *testing.B) {
	o := testOwners(b)
	server, _ := pair(b, "tcp4", "127.0.0.1:0", "127.0.0.1")
	far, near := ends(server)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := o.of(far, near); err != nil {
			b.Fatal(err)
		}
	}
}
