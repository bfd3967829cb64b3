package peer

import (
	"time"

	"github.com/sennit-mesh/sennit/bench/proc"
)

// CPU returns the time, user and system, that the system's proxies have used since they started.
func (s *System) CPU() (time.Duration, error) {
	var total time.Duration
	for _, p := range s.Counted() {
		used, err := proc.CPU(p.PID())
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
		mb, _, err := proc.Resident(p.PID())
		if err != nil {
			return 0, err
		}
		total += mb
	}
	return total, nil
}
