package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/sennit-mesh/sennit/bench/peer"
	"github.com/sennit-mesh/sennit/bench/report"
	"github.com/sennit-mesh/sennit/bench/sim"
)

// propagation measures how changes reach simulated nodes, in a mesh of their own for each number of them. It puts
// Sennit beside nobody.
func (b *bench) propagation(ctx context.Context) error {
	changes, idle := 50, 10*time.Second
	if b.cfg.quick {
		changes, idle = 15, 3*time.Second
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, nodes := range b.counts([]int{100}, []int{100, 1000}) {
		dir, err := os.MkdirTemp(b.dir, "propagation-")
		if err != nil {
			return err
		}
		found, err := sim.Run(ctx, sim.Config{
			Dir: dir, Program: []string{self}, Nodes: nodes, Changes: changes, Idle: idle,
			Stage: func(stage string) { b.say("propagation, %d nodes: %s", nodes, stage) },
		})
		if err != nil {
			return fmt.Errorf("to %d nodes: %w", nodes, err)
		}
		row := found.Row()
		detail, err := json.Marshal(row)
		if err != nil {
			return err
		}
		b.result.Runs = append(b.result.Runs, report.Row{
			Workload: row.Workload, Concurrency: row.Concurrency, System: peer.Sennit, Detail: detail,
		}.Summarize([]report.Round{{Errors: row.Errors, Figures: map[string]float64{
			report.P50: row.P50, report.P99: row.P99, report.RSS: row.RSS,
			report.P99Believed: row.Shared.P99, report.Verifying: 100 * row.VerifyShare,
		}}}))
	}
	return nil
}
