package capture

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// askAndTell is this binary as a process that connects: it asks by one byte, and writes what it is told to its standard
// output.
func askAndTell() int {
	var conn net.Conn
	var err error
	if os.Getenv("CAPTURE_TEST_DO") == "inherit" { // descriptor 3 is a connection that another process made
		conn, err = net.FileConn(os.NewFile(3, "inherited"))
	} else {
		conn, err = net.Dial("unix", os.Getenv("CAPTURE_TEST_UNIX"))
	}
	if err != nil {
		fmt.Println(err)
		return 3
	}
	switch os.Getenv("CAPTURE_TEST_DO") {
	case "exec": // another program in the same process
		file, _ := conn.(*net.UnixConn).File()
		unix.Dup2(int(file.Fd()), 3)
		err := syscall.Exec(os.Getenv("CAPTURE_TEST_EXEC"), []string{"other"}, []string{"CAPTURE_TEST_DO=inherit"})
		fmt.Println(err)
		return 3
	case "fork": // a process that outlives this one has the connection
		file, _ := conn.(*net.UnixConn).File()
		child := exec.Command("/proc/self/exe")
		child.Env = []string{"CAPTURE_TEST_DO=inherit"}
		child.ExtraFiles, child.Stdin, child.Stdout = []*os.File{file}, os.Stdin, os.Stdout
		fmt.Println(child.Start())
		return 0
	case "pass": // to who listens at CAPTURE_TEST_TO
		file, _ := conn.(*net.UnixConn).File()
		to, err := net.Dial("unix", os.Getenv("CAPTURE_TEST_TO"))
		if err == nil {
			_, _, err = to.(*net.UnixConn).WriteMsgUnix([]byte("!"), unix.UnixRights(int(file.Fd())), nil)
		}
		fmt.Println(err)
		io.Copy(io.Discard, os.Stdin) // it lives on
		return 0
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(ask(conn))
	}
	return 0
}

// ask returns what the other end says of who connected.
func ask(conn net.Conn) string {
	if _, err := conn.Write([]byte("?")); err != nil {
		return err.Error()
	}
	answer := make([]byte, 512)
	n, err := conn.Read(answer)
	if err != nil {
		return err.Error()
	}
	return string(answer[:n])
}

// judge opens a unix socket on which every byte is answered with the place of the workload that the other end is, or why
// it is none. ended hears of each connection's process that ends.
func judge(t *testing.T, ws ...Workload) (path string, ended chan int32) {
	dir, err := os.MkdirTemp("/tmp", "capture") //nolint:usetesting // its folders are closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path, ended = filepath.Join(dir, "s"), make(chan int32, 16)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	os.Chmod(dir, 0o755)
	os.Chmod(path, 0o666)
	ps := NewProcesses("")
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				p, err := ps.Of(conn.(*net.UnixConn))
				if err != nil {
					fmt.Fprint(conn, err)
					return
				}
				defer p.Close()
				go func() {
					if p.Ended() == nil {
						ended <- p.PID
					}
				}()
				for one := make([]byte, 1); ; {
					if _, err := conn.Read(one); err != nil {
						return
					}
					i, err := ps.Which(p, ws)
					fmt.Fprintf(conn, "%d %v", i, err)
				}
			}()
		}
	}()
	return path, ended
}

// A child is this binary, as a process of another user or unit.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startChild(t *testing.T, binary string, as *syscall.SysProcAttr, env ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.CommandContext(t.Context(), binary)}
	c.cmd.Env, c.cmd.SysProcAttr = env, as
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewScanner(out)
	if err := c.cmd.Start(); err != nil {
		t.Skipf("start a process as another: %v", err)
	}
	t.Cleanup(func() { c.in.Close(); c.cmd.Wait() })
	return c
}

// line is the next that it writes.
func (c *child) line() string {
	c.t.Helper()
	if !c.out.Scan() {
		c.t.Fatalf("the child wrote no line: %v", c.out.Err())
	}
	return c.out.Text()
}

func (c *child) ask() string {
	c.t.Helper()
	io.WriteString(c.in, "\n")
	return c.line()
}

// inCgroup makes a cgroup, as systemd makes one for a unit, and returns what starts a process in it.
func inCgroup(t *testing.T, name string) *syscall.SysProcAttr {
	t.Helper()
	dir := filepath.Join(newCgroups("").root, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Skipf("needs to make a cgroup: %v", err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { group.Close() })
	return &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to run processes as others")
	}
}

func asUser(uid uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: 65534}}
}

func wantAnswer(t *testing.T, got, want string) {
	t.Helper()
	if !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAProcessIsItsUnit(t *testing.T) {
	needsRoot(t)
	path, _ := judge(t, Workload{HasUID: true, UID: 0}, Workload{Unit: "sennit-a.service"}, Workload{Unit: "sennit-b@.service"})
	for unit, want := range map[string]string{
		"sennit-a.service": "1 <nil>", "sennit-b@x.service": "2 <nil>",
		"sennit-c.service": "0 <nil>", // of the user, since it is in none of the units
	} {
		c := startChild(t, "/proc/self/exe", inCgroup(t, unit), "CAPTURE_TEST_DO=ask", "CAPTURE_TEST_UNIX="+path)
		wantAnswer(t, c.ask(), want)
	}
}

func TestAProcessOfAnotherUnitIsNobody(t *testing.T) {
	needsRoot(t)
	path, _ := judge(t, Workload{Unit: "sennit-a.service"})
	evil := inCgroup(t, "sennit-evil.service")
	c := startChild(t, "/proc/self/exe", evil, "CAPTURE_TEST_DO=ask", "CAPTURE_TEST_UNIX="+path)
	wantAnswer(t, c.ask(), "-1 "+ErrNotAllowed.Error())

	// A cgroup of the right name below its own.
	c = startChild(t, "/proc/self/exe", inCgroup(t, "sennit-evil.service/sennit-a.service"), "CAPTURE_TEST_DO=ask", "CAPTURE_TEST_UNIX="+path)
	wantAnswer(t, c.ask(), "-1 "+ErrNotAllowed.Error())
}

func TestAProcessIsItsUser(t *testing.T) {
	needsRoot(t)
	binary := readableBinary(t)
	path, _ := judge(t, Workload{HasUID: true, UID: 65533})
	env := []string{"CAPTURE_TEST_DO=ask", "CAPTURE_TEST_UNIX=" + path}
	wantAnswer(t, startChild(t, binary, asUser(65533), env...).ask(), "0 <nil>")
	wantAnswer(t, startChild(t, binary, asUser(65532), env...).ask(), "-1 "+ErrNotAllowed.Error())

	// A program with the setuid bit, which another user starts: it connects with the right effective uid.
	if err := errors.Join(os.Chown(binary, 65533, 65534), os.Chmod(binary, 0o755|os.ModeSetuid)); err != nil {
		t.Fatal(err)
	}
	got := startChild(t, binary, asUser(65532), env...).ask()
	wantAnswer(t, got, "-1 "+ErrNotAllowed.Error())
	if !strings.Contains(got, "of uid 65533") {
		t.Skipf("programs with the setuid bit are not run as their owner here: %s", got)
	}
}

func TestWhoConnectedCountsAfterAnotherProgramRuns(t *testing.T) {
	needsRoot(t)
	binary := readableBinary(t)
	path, _ := judge(t, Workload{HasUID: true, UID: 65533})
	// The other program has the setuid bit of the user that is asked for, and what the attacker connected before.
	other := filepath.Join(filepath.Dir(binary), "other")
	data, err := os.ReadFile(binary)
	if err := errors.Join(err, os.WriteFile(other, data, 0o755), os.Chown(other, 65533, 65534), os.Chmod(other, 0o755|os.ModeSetuid)); err != nil {
		t.Fatal(err)
	}
	c := startChild(t, binary, asUser(65532), "CAPTURE_TEST_DO=exec", "CAPTURE_TEST_UNIX="+path, "CAPTURE_TEST_EXEC="+other)
	wantAnswer(t, c.ask(), "-1 "+ErrNotAllowed.Error())
}

func TestAConnectionEndsWithItsProcess(t *testing.T) {
	needsRoot(t)
	path, ended := judge(t, Workload{Unit: "sennit-a.service"})
	c := startChild(t, "/proc/self/exe", inCgroup(t, "sennit-a.service"), "CAPTURE_TEST_DO=fork", "CAPTURE_TEST_UNIX="+path)
	wantAnswer(t, c.line(), "<nil>")
	if pid := <-ended; int(pid) != c.cmd.Process.Pid {
		t.Errorf("process %d has ended, want %d", pid, c.cmd.Process.Pid)
	}
	got := c.ask() // of the process that was left with it
	wantAnswer(t, got, "-1 ")
	if !strings.Contains(got, ErrGone.Error()) {
		t.Errorf("got %q", got)
	}
}

// TestANumberThatIsUsedAgain has a process of the unit get the number of the attacker's, which has ended and left its
// connection to another.
func TestANumberThatIsUsedAgain(t *testing.T) {
	needsRoot(t)
	path, ended := judge(t, Workload{Unit: "sennit-a.service"})
	attacker := startChild(t, "/proc/self/exe", inCgroup(t, "sennit-evil.service"), "CAPTURE_TEST_DO=fork", "CAPTURE_TEST_UNIX="+path)
	wantAnswer(t, attacker.line(), "<nil>")
	pid := attacker.cmd.Process.Pid
	<-ended
	attacker.cmd.Process.Wait() // its number is free
	unit := inCgroup(t, "sennit-a.service")
	for try := 0; ; try++ {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0o600); err != nil || try == 100 {
			t.Skipf("no process could be given the number %d: %v", pid, err)
		}
		victim := startChild(t, "/proc/self/exe", unit, "CAPTURE_TEST_DO=ask", "CAPTURE_TEST_UNIX="+path)
		if victim.cmd.Process.Pid == pid {
			wantAnswer(t, victim.ask(), "0 <nil>")
			break
		}
		victim.in.Close()
		victim.cmd.Wait()
	}
	got := attacker.ask()
	if !strings.Contains(got, ErrGone.Error()) {
		t.Errorf("got %q", got)
	}
}

// TestAPassedSocketIsWhoConnectedIt has an attacker connect and pass the connection to a process of the unit.
func TestAPassedSocketIsWhoConnectedIt(t *testing.T) {
	needsRoot(t)
	path, _ := judge(t, Workload{Unit: "sennit-a.service"})
	to := filepath.Join(filepath.Dir(path), "to")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: to})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	attacker := startChild(t, "/proc/self/exe", inCgroup(t, "sennit-evil.service"), "CAPTURE_TEST_DO=pass", "CAPTURE_TEST_UNIX="+path, "CAPTURE_TEST_TO="+to)
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	rights := make([]byte, 64)
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), rights)
	if err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, attacker.line(), "<nil>")
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	passed := os.NewFile(uintptr(fds[0]), "passed")
	defer passed.Close()
	unit := exec.CommandContext(t.Context(), "/proc/self/exe") // a process of the unit asks by it
	unit.Env, unit.SysProcAttr = []string{"CAPTURE_TEST_DO=inherit"}, inCgroup(t, "sennit-a.service")
	unit.ExtraFiles, unit.Stdin = []*os.File{passed}, strings.NewReader("\n")
	got, err := unit.Output()
	if err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, string(got), "-1 "+ErrNotAllowed.Error())
}

func TestParseProc(t *testing.T) {
	const status = "Name:\tUid:\\n0\nUmask:\t0022\nUid:\t1\t2\t3\t4\nGid:\t5\t5\t5\t5\nUid:\t0\t0\t0\t0\n"
	who, err := parseProc([]byte(status), []byte("9:name=systemd:/evil\n0::/system.slice/orders.service\n0::/evil\n"))
	if want := (identity{real: 1, effective: 2, saved: 3, cgroup: "/system.slice/orders.service"}); err != nil || who != want {
		t.Errorf("%+v, %v", who, err)
	}
	for name, groups := range map[string]string{
		"no cgroups of version 2": "9:name=systemd:/system.slice/orders.service\n",
		"not below our root":      "0::/../orders.service\n",
		"nothing":                 "",
	} {
		if who, err := parseProc([]byte(status), []byte(groups)); !errors.Is(err, ErrNoCgroup) {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
	for _, status := range []string{"", "Uid:\t1\n", "Uid:\tx\t1\t1\t1\n", "Uid:\t-1\t1\t1\t1\n", "Uid:\t4294967296\t1\t1\t1\n"} {
		if who, err := parseProc([]byte(status), []byte("0::/a\n")); err == nil {
			t.Errorf("%q: %+v", status, who)
		}
	}
	// What /proc says of this process is what the kernel says by its pidfd.
	who, err = procIdentity(int32(os.Getpid()))
	if err != nil || who.effective != uint32(os.Geteuid()) || !strings.HasPrefix(who.cgroup, "/") {
		t.Errorf("%+v, %v", who, err)
	}
}

func FuzzParseProc(f *testing.F) {
	f.Add([]byte("Uid:\t1\t2\t3\t4\n"), []byte("0::/system.slice/orders.service\n"))
	f.Fuzz(func(t *testing.T, status, groups []byte) {
		if who, err := parseProc(status, groups); err == nil && !strings.HasPrefix(who.cgroup, "/") {
			t.Errorf("%+v", who)
		}
	})
}
