package main

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// figures are what one round of one system gave.
type figures struct {
	rps, p50, p99, cpu, rss float64
	errors                  int64
}

// A row is one system at one concurrency: medians over the rounds, errors of all of them.
type row struct {
	Workload    string  `json:"workload"`
	Concurrency int     `json:"concurrency"`
	System      string  `json:"system"`
	RPS         float64 `json:"rps"`
	P50         float64 `json:"p50_us"`
	P99         float64 `json:"p99_us"`
	Errors      int64   `json:"errors"`
	CPU         float64 `json:"cpu_us_per_request"`
	CPUMin      float64 `json:"cpu_us_per_request_min"`
	CPUMax      float64 `json:"cpu_us_per_request_max"`
	RSS         float64 `json:"rss_mb"`
}

type result struct {
	Runs   []row              `json:"runs"`
	Ratios map[string]float64 `json:"ratios"` // "<workload>/<concurrency>/<figure>": sennit's by envoy's
}

func summarize(workload string, concurrency int, system string, rounds []figures) row {
	r := row{
		Workload: workload, Concurrency: concurrency, System: system, CPUMin: math.Inf(1),
		RPS: median(rounds, func(f figures) float64 { return f.rps }),
		P50: median(rounds, func(f figures) float64 { return f.p50 }),
		P99: median(rounds, func(f figures) float64 { return f.p99 }),
		CPU: median(rounds, func(f figures) float64 { return f.cpu }),
		RSS: median(rounds, func(f figures) float64 { return f.rss }),
	}
	for _, one := range rounds {
		r.Errors += one.errors
		r.CPUMin, r.CPUMax = min(r.CPUMin, one.cpu), max(r.CPUMax, one.cpu)
	}
	return r
}

// ratios puts Sennit beside Envoy wherever both were measured.
func (r *result) ratios() {
	r.Ratios = map[string]float64{}
	for _, ours := range r.Runs {
		for _, theirs := range r.Runs {
			if ours.System != "sennit" || theirs.System != "envoy" || ours.Workload != theirs.Workload || ours.Concurrency != theirs.Concurrency {
				continue
			}
			name := fmt.Sprintf("%s/%d/", ours.Workload, ours.Concurrency)
			r.Ratios[name+"cpu"] = ours.CPU / theirs.CPU
			r.Ratios[name+"p50"] = ours.P50 / theirs.P50
			r.Ratios[name+"p99"] = ours.P99 / theirs.P99
			r.Ratios[name+"rps"] = ours.RPS / theirs.RPS
		}
	}
}

func (r *result) print(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "workload\tconnections\tsystem\treq/s\tp50 µs\tp99 µs\tCPU µs/req\t(min to max)\tMB\terrors\tCPU by envoy's\t")
	for _, run := range r.Runs {
		beside := ""
		if ratio, ok := r.Ratios[fmt.Sprintf("%s/%d/cpu", run.Workload, run.Concurrency)]; ok && run.System == "sennit" {
			beside = fmt.Sprintf("%.2f", ratio)
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f–%.1f\t%.0f\t%d\t%s\t\n", run.Workload, run.Concurrency, run.System,
			run.RPS, run.P50, run.P99, run.CPU, run.CPUMin, run.CPUMax, run.RSS, run.Errors, beside)
	}
	table.Flush()
}
