package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// A workload is one thing that is measured of all systems.
type workload struct {
	name string
	run  func(*bench, context.Context) error
	// own: it starts systems of its own, fresh ones, and needs none that run.
	own bool
}

// plan is every workload, in the order in which they run.
var plan = []workload{
	{"memory", (*bench).memory, true},
	{"declared", (*bench).declared, true},
	{"start", (*bench).startAgain, true},
	{"soak", (*bench).soak, true},
	{"telemetry", (*bench).telemetry, true},
	{"http1", (*bench).http1, false},
	{"http2", (*bench).http2, false},
	{"grpc", (*bench).grpc, false},
	{"latency", (*bench).latency, false},
	{"tcp", (*bench).tcp, false},
	{"bulk", (*bench).bulk, false},
	{"connections", (*bench).connections, false},
	{"propagation", (*bench).propagation, true},
}

func names(workloads []workload) string {
	var all []string
	for _, w := range workloads {
		all = append(all, w.name)
	}
	return strings.Join(all, ", ")
}

// choose returns the workloads of a list with commas; all of them where it is empty.
func choose(list string) ([]workload, error) {
	wanted := split(list)
	if len(wanted) == 0 {
		return plan, nil
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(plan, func(w workload) bool { return w.name == name }) {
			return nil, fmt.Errorf("no workload %q (there are %s)", name, names(plan))
		}
	}
	return slices.DeleteFunc(slices.Clone(plan), func(w workload) bool { return !slices.Contains(wanted, w.name) }), nil
}

// counts are the concurrencies of a workload; quick runs have few.
func (b *bench) counts(quick, all []int) []int {
	if b.cfg.quick {
		return quick
	}
	return all
}
