package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/sennit-mesh/sennit/bench/sim"
)

// propagation measures how changes reach 100 and 1,000 simulated nodes, a mesh of its own for each.
func propagation(ctx context.Context, quick, asJSON bool) error {
	sizes, changes, idle := []int{100, 1000}, 50, 10*time.Second
	if quick {
		sizes, changes, idle = sizes[:1], 15, 3*time.Second
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	rows := []sim.Row{}
	for _, nodes := range sizes {
		dir, err := os.MkdirTemp("", "sennit-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		start := time.Now()
		result, err := sim.Run(ctx, sim.Config{
			Dir: dir, Program: []string{self}, Nodes: nodes, Changes: changes, Idle: idle,
			Stage: func(stage string) {
				fmt.Fprintf(os.Stderr, "bench: propagation to %d nodes, %.0f s: %s\n", nodes, time.Since(start).Seconds(), stage)
			},
		})
		if err != nil {
			return fmt.Errorf("propagation to %d nodes: %w", nodes, err)
		}
		rows = append(rows, result.Row())
	}
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(map[string]any{"runs": rows, "ratios": map[string]float64{}})
	}
	sim.Print(os.Stdout, rows)
	return nil
}
