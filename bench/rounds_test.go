package main

import (
	"maps"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/bench/load"
	"github.com/sennit-mesh/sennit/bench/report"
)

func TestDatagramsOfBodies(t *testing.T) {
	t.Parallel()
	c := costed{Sample: load.Sample{Bytes: 2e9, Elapsed: 4 * time.Second}, cpu: 6 * time.Second}
	got := c.bodies(datagrams{received: 100, reads: 100, sent: 50, writes: 10}, datagrams{received: 1100, reads: 200, sent: 450, writes: 60})
	for name, want := range map[string]float64{report.Gbit: 4, report.CPUPerGB: 3, report.PerRead: 10, report.PerWrite: 8} {
		if got.Figures[name] != want {
			t.Errorf("%s is %v, want %v", name, got.Figures[name], want)
		}
	}
	// A system without lanes, and a kernel that joins nothing, have no figure; a zero would be one.
	for _, name := range []string{report.PerRead, report.PerWrite} {
		if _, ok := c.bodies(datagrams{}, datagrams{}).Figures[name]; ok {
			t.Errorf("%s of nothing", name)
		}
	}
}

func TestWhatIsLeftBehind(t *testing.T) {
	t.Parallel()
	c := costed{Sample: load.Count(t.Context(), nil, 0, 0, 1), resident: 99}
	got := c.left(holds{80, 130, 100}, holds{81.5, 128, 101}).Figures
	maps.DeleteFunc(got, func(name string, _ float64) bool {
		return name == report.RPS || name == report.P50 || name == report.P99 || name == report.CPU
	})
	want := map[string]float64{
		report.RSS: 81.5, report.Grown: 1.5, report.Goroutines: 128, report.GoroutinesGrown: -2, report.Files: 101, report.FilesGrown: 1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
