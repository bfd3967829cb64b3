package main

import (
	"context"
	"slices"

	"github.com/sennit-mesh/sennit/bench/load"
	"github.com/sennit-mesh/sennit/bench/peer"
	"github.com/sennit-mesh/sennit/bench/report"
)

// saturating is the number of connections at which a system's saturation is taken.
const saturating = 64

// http1 is a closed loop of small requests over HTTP/1.1.
func (b *bench) http1(ctx context.Context) error {
	for _, n := range b.counts([]int{1, saturating}, []int{1, 16, saturating, 256, 1000}) {
		if err := b.http1At(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) http1At(ctx context.Context, connections int) error {
	return b.measure(ctx, b.each(report.Row{Workload: "http1", Concurrency: connections}, func(ctx context.Context, s *peer.System) (report.Round, error) {
		load.Closed(ctx, s.HTTP, connections, b.warm())
		c, err := cost(s, func() load.Sample { return load.Closed(ctx, s.HTTP, connections, b.cfg.round) })
		if err != nil {
			return report.Round{}, err
		}
		return c.exchanges(), nil
	}), b.cfg.rounds)
}

// http2 is a closed loop of small requests over HTTP/2, grpc one of unary calls.
func (b *bench) http2(ctx context.Context) error { return b.calls(ctx, "http2", false) }

func (b *bench) grpc(ctx context.Context) error { return b.calls(ctx, "grpc", true) }

func (b *bench) calls(ctx context.Context, workload string, grpc bool) error {
	for _, n := range b.counts([]int{1, saturating}, []int{1, 16, saturating, 256}) {
		cells := b.each(report.Row{Workload: workload, Concurrency: n}, func(ctx context.Context, s *peer.System) (report.Round, error) {
			load.Calls(ctx, s.HTTP2, n, grpc, b.warm())
			c, err := cost(s, func() load.Sample { return load.Calls(ctx, s.HTTP2, n, grpc, b.cfg.round) })
			if err != nil {
				return report.Round{}, err
			}
			return c.exchanges(), nil
		})
		cells = slices.DeleteFunc(cells, func(c cell) bool { return c.system.HTTP2 == nil })
		if err := b.measure(ctx, cells, b.cfg.rounds); err != nil {
			return err
		}
	}
	return nil
}

// latency sends at fixed rates: at half and at 80 % of what each system did in this run at its fastest, and Sennit
// also at Envoy's 80 %, where the two can be put beside each other.
func (b *bench) latency(ctx context.Context) error {
	if _, ok := b.result.Find("http1", saturating, "", peer.Direct); !ok {
		if err := b.http1At(ctx, saturating); err != nil {
			return err
		}
	}
	saturation := func(system string) float64 {
		row, _ := b.result.Find("http1", saturating, "", system)
		return row.Figures[report.RPS].Median // 0 where it was left out
	}
	var cells []cell
	add := func(s *peer.System, name string, rate float64) {
		if rate <= 0 || b.out[s.Name] != nil {
			return
		}
		cells = append(cells, cell{
			row: report.Row{Workload: "latency", Concurrency: saturating, Load: name, System: s.Name}, system: s,
			round: func(ctx context.Context) (report.Round, error) { return b.open(ctx, s, rate) },
		})
	}
	for _, s := range b.systems {
		add(s, report.LoadHalf, saturation(s.Name)/2)
	}
	for _, s := range b.systems {
		add(s, report.LoadHigh, saturation(s.Name)*0.8)
	}
	if i := slices.IndexFunc(b.systems, func(s *peer.System) bool { return s.Name == peer.Sennit }); i >= 0 {
		add(b.systems[i], report.LoadOfEnvoy, saturation(peer.Envoy)*0.8)
	}
	return b.measure(ctx, cells, b.cfg.rounds)
}

func (b *bench) open(ctx context.Context, s *peer.System, rate float64) (report.Round, error) {
	load.Open(ctx, s.HTTP, saturating, rate, b.warm())
	c, err := cost(s, func() load.Sample { return load.Open(ctx, s.HTTP, saturating, rate, b.cfg.round) })
	if err != nil {
		return report.Round{}, err
	}
	round := c.exchanges()
	round.Figures[report.Offered] = rate
	return round, nil
}

// tcpMessage is the size of a message in the tcp workload, in bytes.
const tcpMessage = 64

// tcp is a closed loop of small messages over raw TCP.
func (b *bench) tcp(ctx context.Context) error {
	for _, n := range b.counts([]int{1, 64}, []int{1, 16, 64}) {
		err := b.measure(ctx, b.each(report.Row{Workload: "tcp", Concurrency: n}, func(ctx context.Context, s *peer.System) (report.Round, error) {
			load.Echo(ctx, s.TCP, n, tcpMessage, b.warm())
			c, err := cost(s, func() load.Sample { return load.Echo(ctx, s.TCP, n, tcpMessage, b.cfg.round) })
			if err != nil {
				return report.Round{}, err
			}
			return c.exchanges(), nil
		}), b.cfg.rounds)
		if err != nil {
			return err
		}
	}
	return nil
}

// bulkBody is the size of a large body, in bytes.
const bulkBody = 100_000_000

// bulk sends large bodies from the origin: over HTTP/1.1 through each system's way for it, and over raw TCP, which
// the peers relay without looking at it.
func (b *bench) bulk(ctx context.Context) error {
	for _, way := range []struct {
		workload string
		run      func(ctx context.Context, s *peer.System, streams int) load.Sample
	}{
		{report.BulkHTTP, func(ctx context.Context, s *peer.System, streams int) load.Sample {
			return load.Bodies(ctx, s.HTTP, streams, bulkBody, b.cfg.round)
		}},
		{report.BulkTCP, func(ctx context.Context, s *peer.System, streams int) load.Sample {
			return load.RawBodies(ctx, s.TCP, streams, bulkBody, b.cfg.round)
		}},
	} {
		for _, streams := range b.counts([]int{1}, []int{1, 4}) {
			err := b.measure(ctx, b.each(report.Row{Workload: way.workload, Concurrency: streams}, func(ctx context.Context, s *peer.System) (report.Round, error) {
				before, err := carried(ctx, s)
				if err != nil {
					return report.Round{}, err
				}
				c, err := cost(s, func() load.Sample { return way.run(ctx, s, streams) })
				if err != nil {
					return report.Round{}, err
				}
				after, err := carried(ctx, s)
				return c.bodies(before, after), err
			}), b.cfg.rounds)
			if err != nil {
				return err
			}
		}
	}
	return nil
}
