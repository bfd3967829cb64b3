package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sennit-mesh/sennit/bench/peer"
	"github.com/sennit-mesh/sennit/bench/report"
	"github.com/sennit-mesh/sennit/internal/launch"
)

// declared looks at the memory of a node that calls a few of many services. In the first round of each number the
// node was there while the services were declared; in the others it is started again.
func (b *bench) declared(ctx context.Context) error {
	rounds := min(b.cfg.rounds, 3)
	return b.alone(ctx, "declared", peer.Grid{Callees: used - 1}, func(s *peer.System) error {
		fewer := make([]float64, rounds)
		there := used + 1 // the caller is one too
		for i, services := range b.counts([]int{100, 1000}, []int{1000, 10_000}) {
			b.say("declared: %d services", services)
			if err := declare(ctx, s.Mesh, there, services); err != nil {
				return err
			}
			there = services
			var given []report.Round
			for n := range rounds {
				one, err := calling(ctx, s, n > 0)
				if err != nil {
					return err
				}
				if i > 0 {
					one.Figures[report.Grown] = one.Figures[report.RSSFront] - fewer[n]
				}
				fewer[n] = one.Figures[report.RSSFront]
				given = append(given, one)
			}
			row := report.Row{Workload: "declared", Concurrency: services, System: s.Name}
			b.result.Runs = append(b.result.Runs, row.Summarize(given))
		}
		return nil
	})
}

// calling is the memory of the front node once it has called every one of its services.
func calling(ctx context.Context, s *peer.System, again bool) (report.Round, error) {
	var err error
	if again {
		_, err = s.Again(ctx)
	} else {
		err = s.Reach(ctx)
	}
	if err != nil {
		return report.Round{}, err
	}
	round, err := settled(ctx, s)
	delete(round.Figures, report.RSS)
	return round, err
}

const (
	declaredAtOnce = 16
	declaringTime  = 10 * time.Minute // until all of them are compiled
)

// declare stores Services until there are as many as wanted, and waits until they are in force.
func declare(ctx context.Context, m *launch.Mesh, there, wanted int) error {
	var last atomic.Uint64
	group, storing := errgroup.WithContext(ctx)
	group.SetLimit(declaredAtOnce)
	for i := there; i < wanted; i++ {
		group.Go(func() error {
			stored, err := m.StoreService(storing, "declared", fmt.Sprintf("service-%d", i))
			if err != nil {
				return err
			}
			version, err := strconv.ParseUint(stored, 10, 64)
			for newest := last.Load(); version > newest && !last.CompareAndSwap(newest, version); {
				newest = last.Load()
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	progress, err := m.Progress(ctx, strconv.FormatUint(last.Load(), 10), declaringTime)
	if err == nil && !progress.Done {
		err = errors.New("what was declared is not in force after " + declaringTime.String())
	}
	return err
}
