// Package launch starts controllers, nodes and other programs as child processes of this one, and ends them:
// whole meshes for the demo, the benchmark and tests.
//
// Every process has a log file and is ended, and waited for, by Stop or Kill, and by the kernel where this
// process dies first. Nothing is installed and nothing needs a privilege; a process can be given a prefix
// (such as "ip netns exec NAME") to run elsewhere.
//
// Start reading at Mesh.
package launch

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A Process is a child that was started. Its methods are safe for concurrent use.
type Process struct {
	Name string
	Log  string // the file with its output
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of its end; read after done
}

// Start runs a program; argv[0] is looked up as a shell would. Its output goes to dir/name.log, behind what is
// there. env is added to this process's environment.
func Start(dir, name string, argv, env []string) (*Process, error) {
	p := &Process{Name: name, Log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// A group of its own keeps the terminal's Ctrl-C from reaching it: it is ended in order, by Stop.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended; Err says how then.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is nil while the process runs and where it ended well.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Signal sends a signal; a process that has ended is no error.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// Stop asks the process to end, waits for as long as it may take, and kills it then.
func (p *Process) Stop(within time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		return errors.Join(fmt.Errorf("%s did not end within %s and was killed", p.Name, within), p.Kill())
	}
}

// Kill ends the process at once, as `kill -9`, and waits until it is gone.
func (p *Process) Kill() error {
	err := p.Signal(syscall.SIGKILL)
	<-p.done
	return err
}

// Tail returns the end of the process's log.
func (p *Process) Tail(bytes int) string {
	log, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-bytes):])
}
