package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/bench/peer"
	"github.com/sennit-mesh/sennit/bench/report"
)

func TestFlags(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, args string
		workloads  string
		systems    string
		rounds     int
		round      time.Duration
		bad        string
	}{
		{"nothing is everything", "", names(plan), "sennit sennit-tcp envoy haproxy", 5, 3 * time.Second, ""},
		{"two workloads, in the order of the plan", "-only tcp,http1", "http1, tcp", "sennit sennit-tcp envoy haproxy", 5, 3 * time.Second, ""},
		{"quick", "-only http1 -quick", "http1", "sennit sennit-tcp envoy haproxy", 3, time.Second, ""},
		{"what is given wins over quick", "-only http1 -quick -rounds 1 -round 20ms", "http1", "sennit sennit-tcp envoy haproxy", 1, 20 * time.Millisecond, ""},
		{"some systems", "-systems haproxy,sennit", names(plan), "sennit haproxy", 5, 3 * time.Second, ""},
		{"lanes over TCP", "-only bulk -systems envoy,sennit-tcp", "bulk", "sennit-tcp envoy", 5, 3 * time.Second, ""},
		{"no such workload", "-only http3", "", "", 0, 0, "no workload \"http3\" (there are memory, declared"},
		{"no such system", "-systems nginx", "", "", 0, 0, "no system \"nginx\""},
		{"no rounds", "-rounds 0", "", "", 0, 0, "measure nothing"},
		{"no flag", "http1", "", "", 0, 0, "is no flag"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := parse(strings.Fields(tt.args))
			if tt.bad != "" {
				if err == nil || !strings.Contains(err.Error(), tt.bad) {
					t.Errorf("%v, want %q in it", err, tt.bad)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var systems []string
			for _, s := range c.starters() {
				systems = append(systems, s.Name)
			}
			if names(c.workloads) != tt.workloads || strings.Join(systems, " ") != tt.systems || c.rounds != tt.rounds || c.round != tt.round {
				t.Errorf("%s; %v; %d rounds of %s", names(c.workloads), systems, c.rounds, c.round)
			}
		})
	}
}

func TestTheCommandHasNoPathsOfThisMachine(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"":                                    "go run ./bench",
		"--json --ztunnel /opt/zt --rounds 3": "go run ./bench --json --ztunnel PATH --rounds 3",
		"-ztunnel=/opt/zt -cpuprofile /tmp/p": "go run ./bench --ztunnel=PATH -cpuprofile PATH",
	} {
		if got := command(strings.Fields(args)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// cells of systems without processes: round fails for the ones that are named.
func cellsOf(order *[]string, fail map[string]error, systems ...string) (cells []cell) {
	for _, name := range systems {
		cells = append(cells, cell{
			row: report.Row{Workload: "http1", Concurrency: 1, System: name}, system: &peer.System{Name: name},
			round: func(context.Context) (report.Round, error) {
				*order = append(*order, name)
				if len(*order) > len(systems) { // not in the first round
					return report.Round{}, fail[name]
				}
				return report.Round{Figures: map[string]float64{report.RPS: 1}}, nil
			},
		})
	}
	return cells
}

func TestRoundsAlternateAndFailuresAreLeftOut(t *testing.T) {
	t.Parallel()
	var order []string
	b := &bench{out: map[string]error{}}
	err := b.measure(t.Context(), cellsOf(&order, map[string]error{"envoy": errors.New("nothing got through")}, "direct", "sennit", "envoy"), 3)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(order, " "), "direct sennit envoy direct sennit envoy direct sennit"; got != want {
		t.Errorf("measured %s, want %s", got, want)
	}
	if len(b.result.Runs) != 3 {
		t.Errorf("what was measured before the failure counts: %+v", b.result.Runs)
	}
	if len(b.result.Missing) != 1 || !strings.Contains(b.result.Missing[0], "envoy: http1, 1 at a time: nothing got through") {
		t.Errorf("missing: %q", b.result.Missing)
	}
	order = nil
	if err := b.measure(t.Context(), cellsOf(&order, nil, "direct", "sennit", "envoy"), 1); err != nil || strings.Join(order, " ") != "direct sennit" {
		t.Errorf("the next workload measured %v, %v", order, err)
	}
	order = nil
	if err := b.measure(t.Context(), cellsOf(&order, map[string]error{"direct": os.ErrClosed}, "direct"), 2); !errors.Is(err, os.ErrClosed) {
		t.Errorf("without a direct connection there is nothing to measure: %v", err)
	}
}

func TestMissingPeersAreNamed(t *testing.T) {
	t.Parallel()
	b := &bench{out: map[string]error{}, starters: []peer.Starter{{
		Name: "envoy", Find: func(context.Context) (string, error) { return "", peer.ErrMissing },
	}}}
	if err := b.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(b.result.Missing) != 1 || b.result.Missing[0] != "envoy: not installed" {
		t.Errorf("missing: %q", b.result.Missing)
	}
}
