package peer

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is the unit of /proc/<pid>/stat (USER_HZ), 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// CPU returns the time, user and system, that the system's proxies have used since they started.
func (s *System) CPU() (time.Duration, error) {
	var total time.Duration
	for _, p := range s.Counted() {
		used, err := cpuTime(p.PID())
		if err != nil {
			return 0, err
		}
		total += used
	}
	return total, nil
}

// Resident returns the resident memory of the system's proxies together, in MiB.
func (s *System) Resident() (float64, error) {
	var total float64
	for _, p := range s.Counted() {
		mb, err := ResidentMB(p.PID())
		if err != nil {
			return 0, err
		}
		total += mb
	}
	return total, nil
}

func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("cpu time of process %d: %w", pid, err)
	}
	// The name, in parentheses, may hold anything: count fields from behind it (proc(5)).
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("cpu time of process %d: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// ResidentMB returns the resident memory of a process, in MiB.
func ResidentMB(pid int) (float64, error) {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	return float64(pages) * float64(os.Getpagesize()) / (1 << 20), nil
}
