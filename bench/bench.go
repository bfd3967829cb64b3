package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sennit-mesh/sennit/bench/peer"
	"github.com/sennit-mesh/sennit/bench/report"
)

// A bench is one run: the systems that are measured and what was found. It is used by one goroutine.
type bench struct {
	cfg      config
	dir      string // of everything that the systems write; removed at the end
	starters []peer.Starter
	systems  []*peer.System // those that run, the direct connection first
	origin   peer.Origin
	out      map[string]error // systems that are left out from now on, each with the reason
	result   report.Result
}

// run runs the workloads. What ends it is ctx, or a failure of the benchmark's own; a system that fails is left
// out and noted.
func (b *bench) run(ctx context.Context) error {
	for _, s := range b.starters {
		version, err := s.Find(ctx)
		if err != nil {
			b.leaveOut(s.Name, err)
			continue
		}
		b.result.Machine.Versions[s.Name] = version
	}
	for _, w := range b.cfg.workloads {
		if !w.own && len(b.systems) == 0 {
			if err := b.start(ctx); err != nil {
				return err
			}
		}
		err := w.run(b, ctx)
		if ctx.Err() != nil {
			return errInterrupted
		}
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return nil
}

var errInterrupted = errors.New("interrupted: nothing is reported")

// start starts every system that is not left out.
func (b *bench) start(ctx context.Context) error {
	direct, err := b.startDirect(ctx, b.dir)
	if err != nil {
		return err
	}
	b.systems = append(b.systems, direct)
	for _, starter := range b.starters {
		if !b.wanted(starter) {
			continue
		}
		if s := b.startOne(ctx, starter, filepath.Join(b.dir, starter.Name)); s != nil {
			b.systems = append(b.systems, s)
		}
		if ctx.Err() != nil {
			return errInterrupted
		}
	}
	return nil
}

// wanted reports whether any workload of the run measures a system beside the others.
func (b *bench) wanted(s peer.Starter) bool {
	return s.Workloads == nil || slices.ContainsFunc(b.cfg.workloads, func(w workload) bool {
		return slices.ContainsFunc(s.Workloads, func(row string) bool { return row == w.name || strings.HasPrefix(row, w.name+"-") })
	})
}

// measures reports whether a system has rows in a workload.
func (b *bench) measures(system, row string) bool {
	for _, s := range b.starters {
		if s.Name == system {
			return s.Workloads == nil || slices.Contains(s.Workloads, row)
		}
	}
	return true
}

func (b *bench) startDirect(ctx context.Context, dir string) (*peer.System, error) {
	direct, origin, err := peer.StartDirect(ctx, dir)
	if err != nil {
		if direct != nil {
			err = errors.Join(err, direct.Stop())
		}
		return nil, err
	}
	b.origin = origin
	return direct, nil
}

// startOne starts a system, or leaves it out and returns nil.
func (b *bench) startOne(ctx context.Context, starter peer.Starter, dir string) *peer.System {
	if b.out[starter.Name] != nil {
		return nil
	}
	b.say("starting %s", starter.Name)
	err := os.Mkdir(dir, 0o700)
	var s *peer.System
	if err == nil {
		s, err = starter.Start(ctx, dir, b.origin)
	}
	if err == nil {
		return s
	}
	if s != nil {
		err = errors.Join(err, s.Stop())
	}
	if ctx.Err() == nil {
		b.leaveOut(starter.Name, err)
	}
	return nil
}

// leaveOut keeps a system out of what is still to be measured, and says so in the result.
func (b *bench) leaveOut(name string, err error) {
	b.out[name] = err
	reason := name + ": " + err.Error()
	b.result.Missing = append(b.result.Missing, reason)
	fmt.Fprintln(os.Stderr, "bench: left out:", reason)
}

// stop ends all systems.
func (b *bench) stop() error {
	var errs []error
	for _, s := range slices.Backward(b.systems) {
		errs = append(errs, s.Stop())
	}
	b.systems = nil
	return errors.Join(errs...)
}

// say tells on standard error how far the run is.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}
