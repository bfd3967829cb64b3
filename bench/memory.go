package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/sennit-mesh/sennit/bench/load"
	"github.com/sennit-mesh/sennit/bench/peer"
	"github.com/sennit-mesh/sennit/bench/proc"
	"github.com/sennit-mesh/sennit/bench/report"
)

// held is the number of idle connections whose memory is measured.
const held = 1000

// memory starts each system alone, looks at its memory while nothing happens, and again with connections that each
// made one request over HTTP/1.1 and are idle now. Every round is a fresh start, since memory that was used once
// does not all go back.
func (b *bench) memory(ctx context.Context) error {
	direct, err := b.startDirect(ctx, b.dir)
	if err != nil {
		return err
	}
	defer func() { _ = direct.Stop() }() // it ends by the signal that ends everything at once, or not at all
	idle, loaded := map[string][]report.Round{}, map[string][]report.Round{}
	rounds := min(b.cfg.rounds, 3)
	for n := range rounds {
		b.say("memory: round %d of %d", n+1, rounds)
		for _, starter := range b.starters {
			if !b.measures(starter.Name, "memory") {
				continue
			}
			err := b.fresh(ctx, starter, fmt.Sprintf("memory-%s-%d", starter.Name, n), func(s *peer.System) error {
				before, after, err := remember(ctx, s)
				if err == nil {
					idle[s.Name] = append(idle[s.Name], before)
					loaded[s.Name] = append(loaded[s.Name], after)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	for _, part := range []struct {
		connections int
		of          map[string][]report.Round
	}{{0, idle}, {held, loaded}} {
		for _, starter := range b.starters {
			if given := part.of[starter.Name]; len(given) > 0 {
				row := report.Row{Workload: "memory", Concurrency: part.connections, System: starter.Name}
				b.result.Runs = append(b.result.Runs, row.Summarize(given))
			}
		}
	}
	return nil
}

// fresh starts a system for use alone and stops it. A system that fails is left out; an error is the run's end.
func (b *bench) fresh(ctx context.Context, starter peer.Starter, dir string, use func(*peer.System) error) error {
	s := b.startOne(ctx, starter, filepath.Join(b.dir, dir))
	if s == nil {
		return ctx.Err()
	}
	err := use(s)
	if ended := s.Err(); ended != nil {
		err = ended
	}
	if stopped := s.Stop(); err == nil {
		err = stopped
	}
	if err != nil && ctx.Err() == nil {
		b.leaveOut(starter.Name, err)
	}
	return ctx.Err()
}

// remember measures a system without and with idle connections.
func remember(ctx context.Context, s *peer.System) (before, after report.Round, err error) {
	if before, err = settled(ctx, s); err != nil {
		return before, after, err
	}
	release, err := load.Hold(ctx, s.HTTP, held)
	if err != nil {
		return before, after, err
	}
	defer release()
	if after, err = settled(ctx, s); err != nil {
		return before, after, err
	}
	const kbPerMB = 1024
	after.Figures[report.PerConn] = (after.Figures[report.RSS] - before.Figures[report.RSS]) * kbPerMB / held
	after.Figures[report.PerConnOne] = (after.Figures[report.RSSFront] - before.Figures[report.RSSFront]) * kbPerMB / held
	return before, after, nil
}

// settled looks at a system's memory once it has moved by less than a hundredth in a second, or after ten.
func settled(ctx context.Context, s *peer.System) (report.Round, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := 0.0
	for range 10 {
		now, err := s.Resident()
		if err != nil {
			return report.Round{}, err
		}
		if diff := now - last; diff < now/100 && -diff < now/100 {
			break
		}
		last = now
		select {
		case <-tick.C:
		case <-ctx.Done():
			return report.Round{}, ctx.Err()
		}
	}
	all, err := s.Resident()
	if err != nil {
		return report.Round{}, err
	}
	front, _, err := proc.Resident(s.Front.PID())
	return report.Round{Figures: map[string]float64{report.RSS: all, report.RSSFront: front}}, err
}
