package report

import (
	"slices"
	"testing"
)

func TestTargets(t *testing.T) {
	t.Parallel()
	row := func(workload string, concurrency int, load string, figures map[string]float64) Row {
		return Row{Workload: workload, Concurrency: concurrency, Load: load, System: "sennit"}.Summarize([]Round{{Figures: figures}})
	}
	for _, tt := range []struct {
		name string
		rows []Row
		want [][]string // without titles
	}{
		{"few services more and no growth", []Row{
			row("declared", 1000, "", map[string]float64{RSSFront: 36.4}),
			row("declared", 10_000, "", map[string]float64{RSSFront: 36.2, Grown: -0.2}),
		}, [][]string{
			{"resident memory of a node that calls 10 of 1,000 services, MB", "60", "36.40", "yes"},
			{"the same of 10,000 services, MB", "60", "36.20", "yes"},
			{"what the 9,000 services that it does not call add, MB", "2", "-0.20", "yes"},
		}},
		{"the smaller numbers of a quick run have none", []Row{
			row("declared", 100, "", map[string]float64{RSSFront: 36.4}),
			row("soak", 64, "a tenth", map[string]float64{Grown: 9, GoroutinesGrown: 9, FilesGrown: 9}),
		}, nil},
		{"a slow start", []Row{row("start", 10, "", map[string]float64{Start: 1001})}, [][]string{
			{"start with the bus down to the first answer, ms", "1000", "1001.00", "no"},
		}},
		{"one goroutine is a leak", []Row{row("soak", 64, "", map[string]float64{Grown: 0.5, GoroutinesGrown: 1, FilesGrown: 0})}, [][]string{
			{"what an hour's exchanges add to the memory of both nodes, MB", "4", "0.50", "yes"},
			{"goroutines that they leave behind", "0", "1.00", "no"},
			{"open files that they leave behind", "0", "0.00", "yes"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := (&Result{Runs: tt.rows}).reached()[1:]
			if !slices.EqualFunc(got, tt.want, slices.Equal[[]string]) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
