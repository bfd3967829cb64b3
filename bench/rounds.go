package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sennit-mesh/sennit/bench/load"
	"github.com/sennit-mesh/sennit/bench/peer"
	"github.com/sennit-mesh/sennit/bench/report"
)

// A cell is one system under one load: a row of the result.
type cell struct {
	row    report.Row // without figures
	system *peer.System
	round  func(ctx context.Context) (report.Round, error)
}

// measure takes the cells in turn, each once, and then all of them again, and adds their rows to the result. A
// system that fails is left out from there on; what it gave before counts. It returns an error where the direct
// connection fails, without which there is nothing to measure, and where ctx has ended.
func (b *bench) measure(ctx context.Context, cells []cell, rounds int) error {
	given := make([][]report.Round, len(cells))
	for n := range rounds {
		for i, c := range cells {
			if b.out[c.system.Name] != nil {
				continue
			}
			if i == 0 || cells[i-1].row.Concurrency != c.row.Concurrency || cells[i-1].row.Load != c.row.Load {
				b.say("%s, %d at a time%s: round %d of %d", c.row.Workload, c.row.Concurrency, at(c.row.Load), n+1, rounds)
			}
			one, err := c.round(ctx)
			if ctx.Err() != nil {
				return errInterrupted
			}
			if ended := c.system.Err(); ended != nil {
				err = ended
			}
			switch {
			case err == nil:
				given[i] = append(given[i], one)
			case c.system.Name == peer.Direct:
				return err
			default:
				b.leaveOut(c.system.Name, fmt.Errorf("%s, %d at a time%s: %w", c.row.Workload, c.row.Concurrency, at(c.row.Load), err))
			}
		}
	}
	for i, c := range cells {
		if len(given[i]) > 0 {
			b.result.Runs = append(b.result.Runs, c.row.Summarize(given[i]))
		}
	}
	return nil
}

// at is a row's load in a sentence.
func at(load string) string {
	if load == "" {
		return ""
	}
	return ", at " + load
}

// each makes a cell for every system that is measured in the row's workload.
func (b *bench) each(row report.Row, round func(ctx context.Context, s *peer.System) (report.Round, error)) []cell {
	var cells []cell
	for _, s := range b.systems {
		if !b.measures(s.Name, row.Workload) {
			continue
		}
		row.System = s.Name
		cells = append(cells, cell{row: row, system: s, round: func(ctx context.Context) (report.Round, error) { return round(ctx, s) }})
	}
	return cells
}

// A costed is what a load saw, and what that cost the system.
type costed struct {
	load.Sample
	cpu      time.Duration
	resident float64 // MiB, right after it
}

// cost runs a load and looks at the system before and behind it.
func cost(s *peer.System, run func() load.Sample) (costed, error) {
	before, err := s.CPU()
	if err != nil {
		return costed{}, err
	}
	c := costed{Sample: run()}
	after, err := s.CPU()
	if err != nil {
		return c, err
	}
	c.cpu = after - before
	if c.Errors > 0 {
		fmt.Fprintf(os.Stderr, "bench: %s: %d errors, one of them: %v\n", s.Name, c.Errors, c.Why)
	}
	if c.Done == 0 {
		return c, fmt.Errorf("nothing got through (%d errors, one of them: %w)", c.Errors, cmp.Or(c.Why, errNothing))
	}
	c.resident, err = s.Resident()
	return c, err
}

var errNothing = errors.New("no error, and no answer")

// exchanges are the figures of requests, messages and connections.
func (c costed) exchanges() report.Round {
	return report.Round{Errors: c.Errors, Figures: map[string]float64{
		report.RPS: float64(c.Done) / c.Elapsed.Seconds(),
		report.P50: float64(c.Latency.ValueAtQuantile(50)),
		report.P99: float64(c.Latency.ValueAtQuantile(99)),
		report.CPU: float64(c.cpu.Microseconds()) / float64(c.Done),
		report.RSS: c.resident,
	}}
}

// A datagrams is what lanes have carried so far: the UDP datagrams, and the system calls that took them.
type datagrams struct{ received, reads, sent, writes float64 }

// carried counts in the direction of bodies: what the front node reads and the back node writes. All are zero
// where there are no lanes, or the kernel joins no datagrams.
func carried(ctx context.Context, s *peer.System) (d datagrams, err error) {
	if s.Mesh == nil {
		return d, nil
	}
	front, err := s.Mesh.NodeStatus(ctx, peer.FrontNode)
	if err != nil {
		return d, err
	}
	back, err := s.Mesh.NodeStatus(ctx, peer.BackNode)
	return datagrams{
		received: float64(front.Datagrams.Received), reads: float64(front.Datagrams.Reads),
		sent: float64(back.Datagrams.Sent), writes: float64(back.Datagrams.Writes),
	}, err
}

// bodies are the figures of large bodies.
func (c costed) bodies(before, after datagrams) report.Round {
	round := report.Round{Errors: c.Errors, Figures: map[string]float64{
		report.Gbit:     float64(c.Bytes) * 8 / 1e9 / c.Elapsed.Seconds(),
		report.CPUPerGB: c.cpu.Seconds() / (float64(c.Bytes) / 1e9),
		report.RSS:      c.resident,
	}}
	if reads := after.reads - before.reads; reads > 0 {
		round.Figures[report.PerRead] = (after.received - before.received) / reads
	}
	if writes := after.writes - before.writes; writes > 0 {
		round.Figures[report.PerWrite] = (after.sent - before.sent) / writes
	}
	return round
}

// warm is the part of a round's length that runs before it and does not count, so that connections, lanes and
// caches are there.
func (b *bench) warm() time.Duration { return b.cfg.round / 4 }
