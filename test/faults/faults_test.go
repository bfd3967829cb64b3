// Package faults starts real daemons as processes on hosts that are broken in some way, and looks at what they
// say and at what they leave unchanged. Start reading at TestControllerSaysWhatIsWrong.
package faults

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/controller"
	"github.com/sennit-mesh/sennit/pkg/node"
)

// clockVariable says by how much the clock of a daemon of this test is off.
const clockVariable = "FAULTS_CLOCK_OFFSET"

// stopTime is how long a daemon may take to end.
const stopTime = 20 * time.Second

// TestMain makes this program the daemons too: the tests start it again as a child.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "controller" || os.Args[1] == "node") {
		if err := daemon(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// daemon is what cmd/controller and cmd/node do, with another clock where a test wants one.
func daemon(which string, args []string) error {
	signal.Ignore(syscall.SIGXFSZ) // a write beyond the limit fails, as on a full disk
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	now := time.Now
	if text := os.Getenv(clockVariable); text != "" {
		offset, err := time.ParseDuration(text)
		if err != nil {
			return err
		}
		now = func() time.Time { return time.Now().Add(offset) }
	}
	if which == "controller" {
		cfg, err := controller.LoadConfig(args)
		if err != nil {
			return err
		}
		cfg.Now = now
		c, err := controller.New(cfg)
		if err != nil {
			return err
		}
		return c.Run(ctx)
	}
	cfg, err := node.LoadConfig(args, os.Environ())
	if err != nil {
		return err
	}
	cfg.Now = now
	n, err := node.New(ctx, cfg)
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

func program(t testing.TB) string {
	t.Helper()
	file, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// startMesh starts a controller; the daemons' logs are shown where the test fails.
func startMesh(t testing.TB, flags ...string) *launch.Mesh {
	t.Helper()
	m := &launch.Mesh{Dir: t.TempDir(), Program: []string{program(t)}, Flags: map[string][]string{"controller": flags}}
	t.Cleanup(func() {
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
		if logs, _ := filepath.Glob(filepath.Join(m.Dir, "*.log")); t.Failed() {
			for _, file := range logs {
				log, _ := os.ReadFile(file)
				t.Logf("%s:\n%s", filepath.Base(file), log[max(0, len(log)-4000):])
			}
		}
	})
	if err := m.StartController(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// A refusedStart is a daemon that must end by itself with a message.
type refusedStart struct {
	program string // empty: this one
	argv    []string
	env     []string
	uid     uint32 // 0: as this process
	want    []string
}

// check starts the daemon and wants it to end soon, with an exit code, no panic and the words in its message.
func (s refusedStart) check(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, cmp.Or(s.program, program(t)), s.argv...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if s.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: s.uid, Gid: s.uid}
	}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	text := output.String()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("still runs:\n%s", text)
	case !errors.As(err, &exit) || exit.ExitCode() != 1:
		t.Errorf("%v, want exit code 1:\n%s", err, text)
	}
	if strings.Contains(text, "panic") || strings.Contains(text, "goroutine ") {
		t.Errorf("a panic:\n%s", text)
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := lines[len(lines)-1]
	for _, want := range s.want {
		if !strings.Contains(last, want) {
			t.Errorf("the message does not say %q:\n%s", want, last)
		}
	}
	t.Log(last)
}

func ports(t testing.TB, n int) []int {
	t.Helper()
	free, err := launch.FreePorts(n)
	if err != nil {
		t.Fatal(err)
	}
	return free
}
