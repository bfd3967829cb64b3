package conformance

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// inside names the folder with the programs, in the process that runs in a network namespace of its own.
const inside = "SENNIT_CONFORMANCE_PROGRAMS"

// bridge is what pods hang on.
const bridge = "pods"

// TestMain builds the programs and runs the tests in a network namespace that ends with them, so that nothing of the
// machine's own network is touched and the addresses are free.
func TestMain(m *testing.M) {
	if os.Getenv(playsDNS) != "" {
		fmt.Fprintln(os.Stderr, serveDNS())
		os.Exit(1)
	}
	flag.Parse()
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	code, err := again()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// again runs this program again, in the namespace, and returns how it ended.
func again() (int, error) {
	dir, err := os.MkdirTemp("", "sennit-conformance-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	for name, build := range map[string]struct{ from, pkg string }{
		"sennit": {"../..", "./cmd/sennit"},
		"echo":   {".", "sigs.k8s.io/gateway-api/conformance/echo-basic"},
	} {
		c := exec.Command("go", "build", "-o", filepath.Join(dir, name), build.pkg)
		c.Dir = build.from
		if out, err := c.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	runtime.LockOSThread() // the kernel ends the child when this thread ends
	c := exec.Command(self, os.Args[1:]...)
	c.Env = append(os.Environ(), inside+"="+dir)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err = c.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return ended.ExitCode(), nil
	}
	if errors.Is(err, os.ErrPermission) {
		return 0, fmt.Errorf("root here may not make network namespaces: %w", err)
	}
	return 0, err
}

// network prepares the namespace.
func network() error {
	for _, command := range [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "link", "add", bridge, "type", "bridge"},
		{"ip", "addr", "add", "10.96.0.1/16", "dev", bridge},
		{"ip", "link", "set", bridge, "up"},
	} {
		if err := run(command...); err != nil {
			return err
		}
	}
	return nil
}
