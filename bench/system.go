package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// errMissing marks a peer that is not installed: it is named in the table and the others go on.
var errMissing = errors.New("not installed")

// A system is one thing that is measured: where to send requests, and the processes whose CPU counts.
type system struct {
	name      string
	address   string
	processes []int // whose CPU and memory are the system's
	started   []*exec.Cmd
	finished  []func()
}

// start runs command with its output in logFile and counts it.
func (s *system) start(command *exec.Cmd, logFile string) error {
	log, err := os.Create(logFile)
	if err != nil {
		return err
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	// A bench that is killed leaves no proxies behind.
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return err
	}
	s.started = append(s.started, command)
	s.processes = append(s.processes, command.Process.Pid)
	return nil
}

// stop ends every process of the system and waits for it.
func (s *system) stop() {
	for _, command := range s.started {
		_ = command.Process.Signal(syscall.SIGTERM) // gone already: nothing to end
		kill := time.AfterFunc(5*time.Second, func() { _ = command.Process.Kill() })
		_ = command.Wait()
		kill.Stop()
	}
	for _, finish := range s.finished {
		finish()
	}
}

// ready waits until a request through the system is answered with 200.
func (s *system) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var last error
	for ctx.Err() == nil {
		got := closedLoop(ctx, s.address, 1, 100*time.Millisecond)
		if got.requests > 0 {
			return nil
		}
		conn, err := net.DialTimeout("tcp", s.address, time.Second)
		if last = err; err == nil {
			conn.Close()
		}
	}
	return fmt.Errorf("%s answers nothing on %s after 30 s: %w", s.name, s.address, errors.Join(ctx.Err(), last))
}
