package mesh

import (
	"fmt"
	"os"
	"slices"
	"time"
)

// clockVariable says to a daemon of a test by how much its host's clock is off. The product reads no such variable:
// it is the test binary that hands the clock over (Config.Now of controller and node).
const clockVariable = "MESH_CLOCK_OFFSET"

// SetClock sets the clock of the controller's or a node's host off by so much, from the part's next start on. What is
// measured on one host (timers, time limits, leases) goes by the monotonic clock, which nobody sets. The bus goes by
// the real time, so that the users that a controller ahead makes live longer there, and those of one behind shorter.
func (m *Mesh) SetClock(part string, offset time.Duration) {
	var prefix []string
	if m.network != nil {
		prefix = m.network.prefix(part)
	}
	m.Prefix[part] = slices.Concat(prefix, []string{"env", clockVariable + "=" + offset.String()})
}

// clock is the clock of this daemon's host.
func clock() (func() time.Time, error) {
	text := os.Getenv(clockVariable)
	if text == "" {
		return time.Now, nil
	}
	offset, err := time.ParseDuration(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", clockVariable, err)
	}
	return func() time.Time { return time.Now().Add(offset) }, nil
}
