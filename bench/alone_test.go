package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/sennit-mesh/sennit/bench/report"
)

// What is measured of Sennit alone gives its rows: a node starts while the controller is down, calls a few of many
// services, and is looked at before and behind many exchanges.
func TestWhatIsMeasuredOfSennitAlone(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts whole meshes")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), self, "--only", "declared,start,soak", "--quick", "--systems", "sennit", "--rounds", "1", "--json")
	command.Env = append(os.Environ(), "SENNIT_BENCH_TEST=1", "TMPDIR="+t.TempDir())
	command.Stderr = t.Output()
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	var result report.Result
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		workload    string
		concurrency int
		load        string
		above0      []string
		there       []string
	}{
		{"declared", 100, "", []string{report.RSSFront}, nil},
		{"declared", 1000, "", []string{report.RSSFront}, []string{report.Grown}},
		{"start", used, "", []string{report.Start}, nil},
		{"soak", saturating, "a tenth", []string{report.RPS, report.RSS, report.Goroutines, report.Files}, []string{report.Grown, report.GoroutinesGrown, report.FilesGrown}},
	} {
		row, ok := result.Find(tt.workload, tt.concurrency, tt.load, "sennit")
		if !ok || row.Errors != 0 {
			t.Errorf("%s at %d: %+v", tt.workload, tt.concurrency, row)
		}
		for _, name := range tt.above0 {
			if row.Figures[name].Median <= 0 {
				t.Errorf("%s at %d: %s is %v", tt.workload, tt.concurrency, name, row.Figures[name])
			}
		}
		for _, name := range tt.there {
			if _, ok := row.Figures[name]; !ok {
				t.Errorf("%s at %d has no %s", tt.workload, tt.concurrency, name)
			}
		}
	}
}
