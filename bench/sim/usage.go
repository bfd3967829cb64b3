package sim

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sennit-mesh/sennit/bench/proc"
)

// usage is what the processes have used since they started.
type usage struct {
	at                                      time.Time
	controller                              time.Duration // CPU time
	nodes                                   time.Duration // of all of them together: this process
	controllerMB, nodesMB, controllerPeakMB float64
}

func (f *fleet) usage() (u usage, err error) {
	pid := f.mesh.Controller().PID()
	if u.controller, err = proc.CPU(pid); err != nil {
		return u, err
	}
	if u.controllerMB, u.controllerPeakMB, err = proc.Resident(pid); err != nil {
		return u, err
	}
	if u.nodesMB, _, err = proc.Resident(os.Getpid()); err != nil {
		return u, err
	}
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return u, fmt.Errorf("cpu time of this process: %w", err)
	}
	u.nodes = time.Duration(own.Utime.Nano() + own.Stime.Nano())
	u.at = time.Now()
	return u, nil
}

// loadAverage is how many processes ran or wanted to, over the last minute; 0 where the system does not say.
func loadAverage() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	load, _ := strconv.ParseFloat(first, 64)
	return load
}

// filesPerNode are the connection, the identity's file, and room for a second connection while it joins or
// connects anew.
const filesPerNode = 3

// raiseFileLimit lets this process have as many files open as the nodes need.
func raiseFileLimit(nodes int) error {
	want := uint64(filesPerNode*nodes + 256)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	if limit.Max < want {
		return fmt.Errorf("%d simulated nodes need %d open files, and this process may have %d: raise the hard limit (`ulimit -Hn`) or simulate fewer", nodes, want, limit.Max)
	}
	// Also where the limit is high enough as it stands: the controller, which has a connection of every node,
	// inherits what was set, and not what Go's run time raises for this process alone.
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}
