package ca

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestCompareClock says once that the clocks disagree, not for one late beat, and once that they agree again.
func TestCompareClock(t *testing.T) {
	var log bytes.Buffer
	host := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	i, err := NewIdentity(IdentityConfig{
		Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil)), Now: func() time.Time { return host },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	for _, step := range []struct {
		name       string
		controller time.Duration // the controller's clock, less the host's
		times      int
		says       bool // in the status
		logs       string
	}{
		{"as far as may be", maxSkew, 5, false, ""},
		{"late beats of before a pause", -time.Hour, disagreeing - 1, true, ""},
		{"the newest beat", 0, 1, false, ""},
		{"the host is ahead", -time.Hour, 10, true, "this host's is 1h0m0s ahead of the controller's, which says 2030-01-01T11:00:00Z"},
		{"set right", time.Second, 3, false, "agree again"},
		{"the host is behind", time.Hour, 10, true, "this host's is 1h0m0s behind the controller's, which says 2030-01-01T13:00:00Z"},
	} {
		log.Reset()
		for range step.times {
			i.CompareClock(host.Add(step.controller))
		}
		status := i.Status()
		if errors.Is(status.Clock, ErrClock) != step.says || status.Skew != -step.controller {
			t.Errorf("%s: status says %v, %v", step.name, status.Skew, status.Clock)
		}
		if lines := strings.Count(log.String(), "\n"); !strings.Contains(log.String(), step.logs) || (lines == 1) != (step.logs != "") || lines > 1 {
			t.Errorf("%s: logged %q", step.name, log.String())
		}
	}
}
