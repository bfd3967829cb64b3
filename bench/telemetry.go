package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/bench/load"
	"github.com/sennit-mesh/sennit/bench/peer"
	"github.com/sennit-mesh/sennit/bench/report"
)

// scrapeEvery is more often than any Prometheus does.
const scrapeEvery = time.Second

// telemetry puts a pair of nodes that tells everything beside one that tells nothing, under the same load in turn: the
// access log and traces with their usual samples, the spans sent on to a receiver, and metrics that are scraped; and no
// log, no traces, nothing counted.
func (b *bench) telemetry(ctx context.Context) error {
	if !b.has(peer.Sennit) {
		return nil
	}
	direct, err := b.startDirect(ctx, b.dir)
	if err != nil {
		return err
	}
	defer func() { _ = direct.Stop() }() // as in memory
	receiver, err := receiveSpans(ctx)
	if err != nil {
		return err
	}
	defer receiver.server.Close()
	var systems []*peer.System
	for _, v := range []peer.Variant{
		{Metrics: true, NodeFlags: []string{"--access-log-share", "0.01", "--trace-share", "0.01"}, ControllerFlags: []string{"--otlp-endpoint", receiver.address}},
		{Name: peer.SennitQuiet, NodeFlags: []string{"--access-log", "", "--trace-share", "0", "--no-edges"}},
	} {
		v.Profiles = b.cfg.profiles
		s := b.startOne(ctx, peer.StartSennit(v), filepath.Join(b.dir, "telemetry-"+v.Name))
		if s == nil {
			return ctx.Err() // one alone says nothing
		}
		defer func() { _ = s.Stop() }() // as in memory
		systems = append(systems, s)
	}
	scraping, stop := context.WithCancel(ctx)
	defer stop()
	scraped := make(chan error, 1)
	go func() { scraped <- scrape(scraping, systems[0].Metrics) }()
	for _, n := range b.counts([]int{saturating}, []int{16, saturating, 256}) {
		var cells []cell
		for _, s := range systems {
			cells = append(cells, cell{
				row: report.Row{Workload: "telemetry", Concurrency: n, System: s.Name}, system: s,
				round: func(ctx context.Context) (report.Round, error) {
					load.Closed(ctx, s.HTTP, n, b.warm())
					c, err := cost(s, func() load.Sample { return load.Closed(ctx, s.HTTP, n, b.cfg.round) })
					if err != nil {
						return report.Round{}, err
					}
					return c.exchanges(), nil
				},
			})
		}
		if err := b.measure(ctx, cells, b.cfg.rounds); err != nil {
			return err
		}
	}
	stop()
	if err := <-scraped; err != nil {
		return err
	}
	if receiver.requests.Load() == 0 {
		return errors.New("no span was sent on: not all of telemetry was on")
	}
	return nil
}

// scrape reads the metrics as Prometheus would, until ctx ends.
func scrape(ctx context.Context, addresses []string) error {
	tick := time.NewTicker(scrapeEvery)
	defer tick.Stop()
	for {
		for _, address := range addresses {
			if err := get(ctx, address); err != nil && ctx.Err() == nil {
				return fmt.Errorf("scrape: %w", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func get(ctx context.Context, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", address, answer.Status)
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

// A spanReceiver takes spans over OTLP, and forgets them.
type spanReceiver struct {
	address  string
	server   *http.Server
	requests atomic.Int64
}

func receiveSpans(ctx context.Context) (*spanReceiver, error) {
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &spanReceiver{address: "http://" + l.Addr().String()}
	r.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		if _, err := io.Copy(io.Discard, request.Body); err == nil {
			r.requests.Add(1)
		}
	})}
	go func() { _ = r.server.Serve(l) }() // until it is closed
	return r, nil
}
