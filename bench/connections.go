package main

import (
	"context"
	"errors"
	"os"

	"github.com/sennit-mesh/sennit/bench/load"
	"github.com/sennit-mesh/sennit/bench/peer"
	"github.com/sennit-mesh/sennit/bench/report"
)

// arriving is how many new connections are made at a time.
const arriving = 16

// callersOfLanes is how many services each call so many others in one round of lanes: 100 lanes.
const callersOfLanes = 10

// connections makes new connections of applications, each for one request: "connections" over what the two proxies
// already have between them, "lanes" with a new connection between the proxies for each.
func (b *bench) connections(ctx context.Context) error {
	err := b.measure(ctx, b.each(report.Row{Workload: "connections", Concurrency: arriving}, func(ctx context.Context, s *peer.System) (report.Round, error) {
		return b.connect(ctx, s, s.HTTP)
	}), b.cfg.rounds)
	if err != nil {
		return err
	}
	return b.lanes(ctx)
}

func (b *bench) connect(ctx context.Context, s *peer.System, dial load.Dial) (report.Round, error) {
	load.Connect(ctx, dial, arriving, b.warm())
	c, err := cost(s, func() load.Sample { return load.Connect(ctx, dial, arriving, b.cfg.round) })
	if err != nil {
		return report.Round{}, err
	}
	return c.exchanges(), nil
}

// lanes puts a new lane, and the first request on it, beside what is most like it elsewhere: a new connection of an
// application through a proxy of raw TCP, for which the two proxies make a connection of their own. All are whole
// handshakes of mutual TLS 1.3 with P-256 certificates, none resumes a session. Two services have one lane between
// two nodes, however many connections they make, so Sennit's rounds each start a pair with many services and no lane.
func (b *bench) lanes(ctx context.Context) error {
	row := report.Row{Workload: "lanes", Concurrency: arriving}
	var cells []cell
	for _, s := range b.systems {
		row.System = s.Name
		switch {
		case s.Name == peer.Sennit:
			cells = append(cells, cell{row: row, system: s, round: b.freshLanes})
		case s.WebOverTCP != nil:
			cells = append(cells, cell{row: row, system: s, round: func(ctx context.Context) (report.Round, error) {
				return b.connect(ctx, s, s.WebOverTCP)
			}})
		}
	}
	return b.measure(ctx, cells, b.cfg.rounds)
}

func (b *bench) freshLanes(ctx context.Context) (report.Round, error) {
	dir, err := os.MkdirTemp(b.dir, "lanes-")
	if err != nil {
		return report.Round{}, err
	}
	s, err := peer.StartSennit(peer.Variant{Grid: peer.Grid{Callers: callersOfLanes, Callees: callersOfLanes}}).Start(ctx, dir, b.origin)
	var c costed
	if err == nil {
		c, err = cost(s, func() load.Sample { return load.Each(ctx, s.NewLanes, arriving) })
	}
	if s != nil {
		err = errors.Join(err, s.Stop())
	}
	if err != nil {
		return report.Round{}, err
	}
	return c.exchanges(), nil
}
