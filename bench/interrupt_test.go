package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test's own program be the benchmark, and what the benchmark starts of itself.
func TestMain(m *testing.M) {
	if os.Getenv("SENNIT_BENCH_TEST") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// Ctrl-C in the middle of a round ends every process, whatever it had started, and removes its files.
func TestInterruptLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a whole mesh")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	command := exec.Command(self, "--only", "http1", "--quick", "--systems", "sennit", "--round", "1m")
	command.Env = append(os.Environ(), "SENNIT_BENCH_TEST=1", "TMPDIR="+temp)
	said, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	give := time.AfterFunc(90*time.Second, func() { _ = command.Process.Kill() })
	defer give.Stop()
	lines := bufio.NewScanner(said)
	for measuring := false; !measuring; {
		if !lines.Scan() {
			t.Fatalf("it ended before it measured: %v", command.Wait())
		}
		measuring = strings.Contains(lines.Text(), "round 1 of")
		t.Log(lines.Text())
	}
	all := descendants(t, command.Process.Pid)
	if len(all) < 4 { // origin, controller, two nodes
		t.Errorf("only %d processes run: %v", len(all), all)
	}
	start := time.Now()
	if err := command.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		t.Log(lines.Text())
	}
	err = command.Wait()
	t.Logf("ended after %s: %v", time.Since(start), err)
	if command.ProcessState.ExitCode() != 1 {
		t.Errorf("exit code %d: what was interrupted is no result", command.ProcessState.ExitCode())
	}
	for pid, name := range all {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d (%s) is still there", pid, name)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v %v", left, err)
	}
}

// descendants are the processes below one, with their command lines.
func descendants(t *testing.T, of int) map[int]string {
	t.Helper()
	all := map[int]string{}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", of))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // gone already: no name
			all[pid] = strings.ReplaceAll(string(line), "\x00", " ")
			for pid, name := range descendants(t, pid) {
				all[pid] = name
			}
		}
	}
	return all
}
