package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is the unit of /proc/<pid>/stat (USER_HZ), 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// cpuTime returns the CPU time, user and system, that the processes have used since they started.
func cpuTime(pids []int) (time.Duration, error) {
	var ticks int64
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, fmt.Errorf("cpu time of process %d: %w", pid, err)
		}
		// The name, in parentheses, may hold anything: count fields from behind it (proc(5)).
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, field := range fields[11:13] {
			n, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("cpu time of process %d: %w", pid, err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// residentMB returns the resident memory of the processes together, in MiB.
func residentMB(pids []int) (float64, error) {
	var pages int64
	for _, pid := range pids {
		statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			return 0, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		n, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		pages += n
	}
	return float64(pages) * float64(os.Getpagesize()) / (1 << 20), nil
}
