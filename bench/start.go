package main

import (
	"context"
	"time"

	"github.com/sennit-mesh/sennit/bench/peer"
	"github.com/sennit-mesh/sennit/bench/report"
)

// used is how many services the front node calls in start and declared.
const used = 10

// startAgain starts the front node again and again while the controller, and with it the bus, is down: all that it goes by
// is what it kept. Each time it then reaches all of its services.
func (b *bench) startAgain(ctx context.Context) error {
	return b.alone(ctx, "start", peer.Grid{Callees: used - 1}, func(s *peer.System) error {
		if err := s.StopController(); err != nil {
			return err
		}
		var given []report.Round
		for n := range b.cfg.rounds {
			b.say("start: round %d of %d", n+1, b.cfg.rounds)
			took, err := s.Again(ctx)
			if err != nil {
				return err
			}
			given = append(given, report.Round{Figures: map[string]float64{
				report.Start: float64(took) / float64(time.Millisecond),
			}})
		}
		row := report.Row{Workload: "start", Concurrency: used, System: s.Name}
		b.result.Runs = append(b.result.Runs, row.Summarize(given))
		return nil
	})
}
