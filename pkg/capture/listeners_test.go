package capture

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

var (
	orders   = exchange.ServiceName{Namespace: "default", Name: "orders"}
	payments = exchange.ServiceName{Namespace: "default", Name: "payments"}
)

// TestMain makes this binary the process of another user or cgroup that connects.
func TestMain(m *testing.M) {
	if address := os.Getenv("CAPTURE_TEST_DIAL"); address != "" {
		os.Exit(dialAndRead(address))
	}
	if os.Getenv("CAPTURE_TEST_DO") != "" {
		os.Exit(askAndTell())
	}
	os.Exit(m.Run())
}

func dialAndRead(address string) int {
	conn, err := net.Dial("tcp", address)
	if err == nil {
		_, err = io.ReadAll(conn)
	}
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		return 4
	case err != nil:
		return 3
	}
	return 0
}

// testListeners returns listeners whose handler writes the callee's name and then waits for the caller to
// close.
func testListeners(t *testing.T, cfg Config) *Listeners {
	t.Helper()
	if cfg.Handle == nil {
		cfg.Handle = func(_ context.Context, conn *net.TCPConn, l Listener) {
			io.WriteString(conn, l.As.String()+" calls "+l.To.String())
			conn.CloseWrite()
			io.Copy(io.Discard, conn)
		}
	}
	cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	ls, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return ls
}

// start opens what is wanted and returns where each listens.
func (ls *Listeners) start(t *testing.T, wanted ...Listener) []string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	if !ls.reconcile(ctx, wanted, &running) {
		t.Fatal(ls.Status())
	}
	t.Cleanup(func() {
		stop()
		ls.reconcile(ctx, nil, &running)
		running.Wait()
		ls.owners.close()
	})
	return ls.addresses(wanted...)
}

func (ls *Listeners) addresses(wanted ...Listener) []string {
	var out []string
	for _, l := range wanted {
		out = append(out, ls.open[l.place()].listener.Addr().String())
	}
	return out
}

func listenerOn(address string) Listener {
	return Listener{As: orders, To: payments, Port: 80, Address: netip.MustParseAddrPort(address)}
}

// call connects and returns what the handler wrote.
func call(t *testing.T, address string) (string, error) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	return string(got), err
}

func TestOnlyTheOwnerMayUseAListener(t *testing.T) {
	me := uint32(os.Geteuid())
	other := me + 1
	for _, tt := range []struct {
		name    string
		rule    Listener
		allowed bool
	}{
		{"nothing named: the node's own user", Listener{}, true},
		{"its uid", Listener{HasUID: true, UID: me}, true},
		{"another uid", Listener{HasUID: true, UID: other}, false},
		{"its unit", Listener{Unit: "orders.service"}, true},
		{"another unit", Listener{Unit: "billing.service"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ls := testListeners(t, Config{})
			if tt.rule.Unit != "" {
				ls.pretendUnit(t, "/system.slice/orders.service")
			}
			rule := tt.rule
			rule.As, rule.To, rule.Address = orders, payments, netip.MustParseAddrPort("127.0.0.1:0")
			address := ls.start(t, rule)[0]
			got, err := call(t, address)
			if tt.allowed && (err != nil || got != "default/orders calls default/payments") {
				t.Errorf("%q, %v", got, err)
			}
			if !tt.allowed && (!errors.Is(err, syscall.ECONNRESET) || got != "") {
				t.Errorf("got %q and %v, want a reset and nothing", got, err)
			}
			if st := ls.Status()[0]; (st.Refused == 0) != tt.allowed || (st.Accepted == 1) != tt.allowed {
				t.Errorf("status %+v", st)
			}
		})
	}
}

// pretendUnit makes this process's cgroup known under a path of choice.
func (ls *Listeners) pretendUnit(t *testing.T, path string) {
	server, _ := pair(t, "tcp4", "127.0.0.1:0", "127.0.0.1")
	owner, err := ls.owners.of(ends(server))
	if err != nil {
		t.Fatal(err)
	}
	if owner.Cgroup == 0 {
		t.Skip("this kernel does not say the cgroup of a socket (Linux 5.9 does)")
	}
	ls.cgroups.known.Store(&map[uint64]string{owner.Cgroup: path})
}

func TestAListenerThatNamesNobodyIsForTheNodesUser(t *testing.T) {
	ls := testListeners(t, Config{})
	ls.uid++ // as if the node ran as another user than this test
	address := ls.start(t, listenerOn("127.0.0.1:0"))[0]
	if got, err := call(t, address); !errors.Is(err, syscall.ECONNRESET) || got != "" {
		t.Errorf("got %q and %v, want a reset and nothing", got, err)
	}
}

func TestAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to run a process as another user")
	}
	binary := readableBinary(t)
	for _, tt := range []struct {
		name string
		uid  uint32
		exit int
	}{
		{"the listener's user", 65533, 0},
		{"another", 65534, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ls := testListeners(t, Config{})
			rule := listenerOn("127.0.0.1:0")
			rule.HasUID, rule.UID = true, 65533
			cmd := exec.CommandContext(t.Context(), binary)
			cmd.Env = []string{"CAPTURE_TEST_DIAL=" + ls.start(t, rule)[0]}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tt.uid, Gid: 65534}}
			cmd.Run()
			if cmd.ProcessState.ExitCode() != tt.exit {
				t.Errorf("exit code %d, want %d", cmd.ProcessState.ExitCode(), tt.exit)
			}
		})
	}
}

// readableBinary copies this test binary to where another user can run it.
func readableBinary(t *testing.T) string {
	dir, err := os.MkdirTemp("/tmp", "capture") //nolint:usetesting // its folders are closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(dir+"/dial", data, 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir + "/dial"
}

func TestAnotherUnitIsRefused(t *testing.T) {
	root := newCgroups("").root
	if err := os.Mkdir(root+"/sennit-capture-test.service", 0o755); err != nil {
		t.Skipf("needs to make a cgroup: %v", err)
	}
	defer os.Remove(root + "/sennit-capture-test.service")
	group, err := os.Open(root + "/sennit-capture-test.service")
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	for _, tt := range []struct {
		unit string
		exit int
	}{{"sennit-capture-test.service", 0}, {"another.service", 4}} {
		ls := testListeners(t, Config{})
		rule := listenerOn("127.0.0.1:0")
		rule.Unit = tt.unit
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
		cmd.Env = []string{"CAPTURE_TEST_DIAL=" + ls.start(t, rule)[0]}
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
		if err := cmd.Start(); err != nil {
			t.Skipf("start a process in a cgroup: %v", err)
		}
		cmd.Wait()
		if cmd.ProcessState.ExitCode() != tt.exit {
			t.Errorf("listener for %s: exit code %d, want %d", tt.unit, cmd.ProcessState.ExitCode(), tt.exit)
		}
	}
}

func TestChangesLeaveTheRestAlone(t *testing.T) {
	ls := testListeners(t, Config{})
	a, b := listenerOn("127.0.0.1:0"), listenerOn("127.0.0.2:0")
	at := ls.start(t, a, b)
	conn, err := net.Dial("tcp", at[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	greeting := make([]byte, len("default/orders calls default/payments"))
	if _, err := io.ReadFull(conn, greeting); err != nil {
		t.Fatal(err)
	}
	kept := ls.open[a.place()].listener

	a.To = exchange.ServiceName{Namespace: "default", Name: "billing"}
	var running sync.WaitGroup
	ls.reconcile(t.Context(), []Listener{a}, &running)
	if ls.open[a.place()].listener != kept {
		t.Error("a listener whose address stayed was opened again")
	}
	if got, err := call(t, at[0]); err != nil || got != "default/orders calls default/billing" {
		t.Errorf("after the change: %q, %v", got, err)
	}
	if _, err := call(t, at[1]); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the listener that went away: %v", err)
	}

	ls.reconcile(t.Context(), nil, &running) // now the first goes too; its connection does not
	conn.(*net.TCPConn).CloseWrite()
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("a running connection was broken by its listener's end: %v", err)
	}
}

func TestAPortInUseIsNamedAndTriedAgain(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ls := testListeners(t, Config{})
	ls.retry = time.Millisecond
	failed := make(chan struct{}, 1)
	ls.cfg.Log = slog.New(slog.NewTextHandler(&logs{said: failed}, nil))
	rule := listenerOn(taken.Addr().String())
	ls.Apply([]Listener{rule})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- ls.Run(ctx) }()
	<-failed
	st := ls.Status()[0]
	if st.Err == nil {
		t.Fatal("no error in the status")
	}
	for _, want := range []string{taken.Addr().String(), "address already in use", "process ", "uid ", "give the listener in services.d another address"} {
		if !strings.Contains(st.Err.Error(), want) {
			t.Errorf("error %q does not say %q", st.Err, want)
		}
	}
	taken.Close()
	for ls.Status()[0].Err != nil {
		if ctx.Err() != nil {
			t.Fatal("never opened")
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil) // the retry's own clock is the one that is awaited
	}
	if got, err := call(t, rule.Address.String()); err != nil || got == "" {
		t.Errorf("after the port was free: %q, %v", got, err)
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// logs says once that something was logged.
type logs struct{ said chan struct{} }

func (l *logs) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("listener not opened")) {
		select {
		case l.said <- struct{}{}:
		default:
		}
	}
	return len(p), nil
}

func TestConnectionsAreBoundedAndWait(t *testing.T) {
	entered := make(chan struct{}, 10)
	ls := testListeners(t, Config{MaxConnections: 2, Handle: func(_ context.Context, conn *net.TCPConn, _ Listener) {
		entered <- struct{}{}
		io.Copy(io.Discard, conn)
	}})
	address := ls.start(t, listenerOn("127.0.0.1:0"))[0]
	var conns []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	<-entered
	<-entered
	select {
	case <-entered:
		t.Fatal("a third connection is served beside two")
	case <-time.After(50 * time.Millisecond): // a pass says little here; a failure is certain
	}
	conns[0].Close()
	conns[1].Close()
	<-entered // the third was waiting, not refused
}

func TestNoDescriptorsAreSurvivedWithAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls := &Listeners{cfg: Config{Log: slog.New(slog.DiscardHandler)}}
		l := &failing{left: 20}
		s := &socket{slots: make(chan struct{}, 1)}
		s.rule.Store(&Listener{To: payments})
		start := time.Now()
		var running sync.WaitGroup
		ls.accept(t.Context(), l, s, &running)
		if l.left != 0 {
			t.Errorf("gave up with %d errors to come", l.left)
		}
		if took := time.Since(start); took < 10*time.Second || took > 30*time.Second {
			t.Errorf("20 errors in a row took %s; want pauses that grow to a second", took)
		}
	})
}

// failing is a listener in a process without free descriptors.
type failing struct{ left int }

func (f *failing) Accept() (net.Conn, error) {
	if f.left--; f.left <= 0 {
		return nil, net.ErrClosed
	}
	return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
}
func (f *failing) Close() error   { return nil }
func (f *failing) Addr() net.Addr { return &net.TCPAddr{} }
