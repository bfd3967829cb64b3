// Command bench measures a pair of Sennit nodes and, in the same run, a direct connection and an Envoy pair,
// with mutual TLS 1.3 between the two proxies of each pair:
//
//	go run ./bench --only http1 --quick
//
// Rounds alternate between the systems, so that a noisy machine hits all of them alike; compare ratios within
// one run and never figures of two. An Envoy that is not installed is named and left out.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && runChild(os.Args[1], os.Args[2:]) {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", "http1", "the workload to run: http1 or propagation")
	quick := flags.Bool("quick", false, "few rounds, 1 and 64 connections; ends within a minute")
	asJSON := flags.Bool("json", false, "print JSON and no table")
	rounds := flags.Int("rounds", 5, "rounds of each system and concurrency")
	length := flags.Duration("round", 3*time.Second, "length of one round")
	profile := flags.String("cpuprofile", "", "folder into which the two nodes write CPU profiles as they end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *only == "propagation" {
		return propagation(ctx, *quick, *asJSON)
	}
	if *only != "http1" {
		return fmt.Errorf("no workload %q (there are http1 and propagation)", *only)
	}
	concurrencies := []int{1, 16, 64, 256}
	if *quick {
		concurrencies, *rounds, *length = []int{1, 64}, 3, 2*time.Second
	}
	dir, err := os.MkdirTemp("", "sennit-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	systems, missing, err := startSystems(ctx, dir, *profile)
	defer func() {
		for _, s := range systems {
			s.stop()
		}
	}()
	if err != nil {
		return err
	}
	result, err := measure(ctx, systems, concurrencies, *rounds, *length)
	if err != nil {
		return err
	}
	if *asJSON {
		if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
			return err
		}
	} else {
		result.print(os.Stdout)
	}
	if missing != nil {
		return fmt.Errorf("the table is not whole: %w", missing)
	}
	return nil
}

// startSystems starts the origin and all that is put beside each other. missing tells which peers there
// were none of.
func startSystems(ctx context.Context, dir, profile string) (systems []*system, missing, err error) {
	origin, err := startOrigin(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	systems = append(systems, origin)
	if err := origin.ready(ctx); err != nil {
		return systems, nil, err
	}
	for _, start := range []func() (*system, error){
		func() (*system, error) { return startSennitPair(ctx, dir, origin.address, profile) },
		func() (*system, error) { return startEnvoyPair(ctx, dir, origin.address) },
	} {
		s, err := start()
		if errors.Is(err, errMissing) {
			missing = errors.Join(missing, err)
			continue
		}
		if s != nil {
			systems = append(systems, s)
		}
		if err != nil {
			return systems, nil, err
		}
		if err := s.ready(ctx); err != nil {
			return systems, nil, err
		}
	}
	return systems, missing, nil
}

// startOrigin runs the origin in a process of its own, so that its CPU is nobody else's.
func startOrigin(ctx context.Context, dir string) (*system, error) {
	port, _, err := twoPorts()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &system{name: "direct", address: "127.0.0.1:" + port}
	return s, s.start(exec.CommandContext(ctx, self, "origin", s.address), dir+"/origin.log")
}

// runChild runs what this program starts of itself, and reports whether it was such a start.
func runChild(name string, args []string) bool {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch name {
	case "origin":
		var l net.Listener
		if l, err = net.Listen("tcp", args[0]); err == nil {
			err = serveOrigin(ctx, l)
		}
	case "node", "controller":
		err = runDaemon(ctx, name, args)
	default:
		return false
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
	return true
}

// measure takes the rounds in turn: every system once at one concurrency, then again.
func measure(ctx context.Context, systems []*system, concurrencies []int, rounds int, length time.Duration) (*result, error) {
	var all result
	for _, concurrency := range concurrencies {
		measured := make([][]figures, len(systems))
		for range rounds {
			for i, s := range systems {
				one, err := s.round(ctx, concurrency, length)
				if err != nil {
					return nil, err
				}
				measured[i] = append(measured[i], one)
			}
		}
		for i, s := range systems {
			all.Runs = append(all.Runs, summarize("http1", concurrency, s.name, measured[i]))
		}
	}
	all.ratios()
	return &all, ctx.Err()
}

// round loads the system once and returns what that cost.
func (s *system) round(ctx context.Context, concurrency int, length time.Duration) (figures, error) {
	closedLoop(ctx, s.address, concurrency, length/4) // connections, lanes and caches are warm before it counts
	before, err := cpuTime(s.processes)
	if err != nil {
		return figures{}, err
	}
	got := closedLoop(ctx, s.address, concurrency, length)
	if err := ctx.Err(); err != nil {
		return figures{}, err
	}
	after, err := cpuTime(s.processes)
	if err != nil {
		return figures{}, err
	}
	if got.requests == 0 {
		return figures{}, fmt.Errorf("%s answered no request at %d connections", s.name, concurrency)
	}
	resident, err := residentMB(s.processes)
	return figures{
		rps: float64(got.requests) / got.elapsed.Seconds(), errors: got.errors,
		p50: float64(got.latency.ValueAtQuantile(50)), p99: float64(got.latency.ValueAtQuantile(99)),
		cpu: float64((after - before).Microseconds()) / float64(got.requests), rss: resident,
	}, err
}

// median returns the middle value of one figure over the rounds.
func median(rounds []figures, of func(figures) float64) float64 {
	values := make([]float64, 0, len(rounds))
	for _, one := range rounds {
		values = append(values, of(one))
	}
	slices.Sort(values)
	return values[len(values)/2]
}
