package main

import (
	"context"

	"github.com/sennit-mesh/sennit/bench/load"
	"github.com/sennit-mesh/sennit/bench/peer"
	"github.com/sennit-mesh/sennit/bench/proc"
	"github.com/sennit-mesh/sennit/bench/report"
)

const (
	hour          = 360_000 // exchanges: 100 a second
	perConnection = 100     // exchanges
)

// soak makes an hour's exchanges as fast as they go, and looks at what the two nodes hold before and after. The
// rounds are hours of the same pair of nodes, one behind the other, and a tenth of one before the first lets pools
// and caches fill.
func (b *bench) soak(ctx context.Context) error {
	exchanges, part := int64(hour), ""
	if b.cfg.quick {
		exchanges, part = hour/10, "a tenth"
	}
	return b.alone(ctx, "soak", peer.Grid{}, func(s *peer.System) error {
		load.Count(ctx, s.HTTP, saturating, exchanges/10, perConnection)
		before, err := holding(ctx, s)
		if err != nil {
			return err
		}
		var given []report.Round
		for n := range b.cfg.rounds {
			b.say("soak: round %d of %d", n+1, b.cfg.rounds)
			c, err := cost(s, func() load.Sample { return load.Count(ctx, s.HTTP, saturating, exchanges, perConnection) })
			if err != nil {
				return err
			}
			after, err := holding(ctx, s)
			if err != nil {
				return err
			}
			given = append(given, c.left(before, after))
			before = after
		}
		row := report.Row{Workload: "soak", Concurrency: saturating, Load: part, System: s.Name}
		b.result.Runs = append(b.result.Runs, row.Summarize(given))
		return nil
	})
}

// A holds is what two nodes hold together while nothing happens.
type holds struct{ memory, goroutines, files float64 } // memory in MiB

func holding(ctx context.Context, s *peer.System) (h holds, err error) {
	round, err := settled(ctx, s)
	if err != nil {
		return h, err
	}
	h.memory = round.Figures[report.RSS]
	for _, p := range s.Counted() {
		n, err := proc.Files(p.PID())
		if err != nil {
			return h, err
		}
		h.files += float64(n)
	}
	for _, name := range []string{peer.FrontNode, peer.BackNode} {
		status, err := s.Mesh.NodeStatus(ctx, name)
		if err != nil {
			return h, err
		}
		h.goroutines += float64(status.Process.Goroutines)
	}
	return h, nil
}

// left are the figures of exchanges and of what they left behind.
func (c costed) left(before, after holds) report.Round {
	round := c.exchanges()
	for name, value := range map[string]float64{
		report.RSS: after.memory, report.Grown: after.memory - before.memory,
		report.Goroutines: after.goroutines, report.GoroutinesGrown: after.goroutines - before.goroutines,
		report.Files: after.files, report.FilesGrown: after.files - before.files,
	} {
		round.Figures[name] = value
	}
	return round
}
