package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
)

// Config says how the demo runs.
type Config struct {
	Program  string // the sennit command, which is started again for every part
	Once     bool   // once through, then end
	Keep     string // folder that is kept; empty: a temporary one that is removed
	Out      io.Writer
	Terminal bool       // Out is a terminal: the table is drawn over and over in one place
	Width    func() int // columns of the terminal; nil: 80
}

// What the demo ends with where the mesh does not keep its promises.
var (
	ErrFailedRequests = errors.New("requests failed") // of customers
	ErrNotShown       = errors.New("the demo did not show what it promises")
)

const (
	customers = 8
	pause     = 20 * time.Millisecond // of a customer between two checkouts
	stepTime  = 4 * time.Second       // for which each step is watched
	slowTime  = 30 * time.Second      // that the shop may take to open, and what was applied to be seen, on a slow machine
)

// A show is one run of the demo.
type show struct {
	cfg     Config
	dir     string
	mesh    *launch.Mesh
	view    *view
	traffic *traffic
	ports   ports
	changes []change // documents that were stored, in order
}

// Run shows the demo until it is through, or until ctx ends. It ends everything that it started.
func Run(ctx context.Context, cfg Config) (err error) {
	s := &show{cfg: cfg, dir: cfg.Keep, view: &view{out: cfg.Out, terminal: cfg.Terminal, width: cfg.Width}}
	if s.dir == "" {
		// Unix sockets have short names: the folder stays directly below the system's.
		if s.dir, err = os.MkdirTemp("", "sennit-demo-"); err != nil {
			return fmt.Errorf("%w (choose a folder with --keep DIR)", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	} else if s.dir, err = filepath.Abs(s.dir); err != nil {
		return err
	} else if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("%w (choose another folder with --keep DIR)", err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "controller")); err == nil { // its nodes have joined, with ports that others may have now
		return fmt.Errorf("%s holds the state of a demo that ran before: remove it, or choose another folder with --keep DIR", s.dir)
	}
	s.mesh = &launch.Mesh{Dir: s.dir, Program: []string{cfg.Program}}
	defer func() { err = errors.Join(err, s.mesh.Stop()) }()
	if err := s.open(ctx); err != nil {
		return s.ended(ctx, err)
	}
	return s.perform(ctx)
}

// perform goes through the steps under traffic.
func (s *show) perform(ctx context.Context) error {
	buying, stop := context.WithCancel(ctx)
	var shoppers sync.WaitGroup
	shoppers.Go(func() { s.traffic.run(buying, customers, pause) })
	defer shoppers.Wait()
	defer stop()

	err := s.steps(ctx)
	if err == nil && !s.cfg.Once {
		s.view.say("The mesh runs on until Ctrl-C. In another terminal, try:\n\n%s", s.byHand())
		err = s.watch(ctx, 0)
	}
	stop()
	shoppers.Wait()
	total, failed, last := s.traffic.counts()
	s.view.say("requests: %d\nfailed requests: %d", total, failed)
	err = s.ended(ctx, err)
	if failed > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %d of %d (the last: %s); state and logs stay with --keep DIR", ErrFailedRequests, failed, total, last))
	}
	if err != nil {
		return err
	}
	if s.cfg.Once {
		s.view.say("The same by hand, while `sennit demo` runs:\n\n%s", s.byHand())
	}
	return nil
}

// steps moves payments from v1 to v2 and shows the graph, kills a node and starts it again, lets a client
// outside in, calls a host outside, limits a caller, and shows the audit of all that.
func (s *show) steps(ctx context.Context) error {
	s.view.say("Customers check out at the storefront: it calls orders, and that payments v1.")
	if err := s.watch(ctx, stepTime); err != nil {
		return err
	}
	for _, v2 := range []int{10, 50, 100} {
		start := time.Now()
		if err := s.split(ctx, 100-v2, v2); err != nil {
			return err
		}
		s.view.say("HTTPRoute payments: v1=%d v2=%d; every node that uses it had it after %d ms.", 100-v2, v2, time.Since(start).Milliseconds())
		s.traffic.takeVersions()
		if err := s.watch(ctx, stepTime); err != nil {
			return err
		}
		s.view.say("%s", s.measured(v2))
	}
	if err := s.graph(ctx); err != nil {
		return err
	}
	s.view.say("Node host3 is killed (kill -9). Its services are reached on host2 from now on.")
	if err := s.mesh.Node("host3").Kill(); err != nil {
		return err
	}
	if err := s.watch(ctx, 2*stepTime); err != nil {
		return err
	}
	s.view.say("Node host3 starts again. It needs no token: its own key is what it is.")
	if _, err := s.mesh.StartNode(ctx, "host3", s.ports.lanes("host3")); err != nil {
		return err
	}
	if err := s.watch(ctx, stepTime); err != nil {
		return err
	}
	if err := s.border(ctx); err != nil {
		return err
	}
	if err := s.limit(ctx); err != nil {
		return err
	}
	return s.audit(ctx)
}

// measured tells what share of the checkouts v2 took part in since the last step.
func (s *show) measured(asked int) string {
	taken := s.traffic.takeVersions()
	all := taken["v1"] + taken["v2"]
	if all == 0 {
		return "No checkout came back in that time."
	}
	return fmt.Sprintf("Measured: %.1f %% of %d checkouts were charged by v2 (asked for %d %%).", 100*float64(taken["v2"])/float64(all), all, asked)
}

// watch shows the table for a while, or with 0 until ctx ends.
func (s *show) watch(ctx context.Context, length time.Duration) error {
	until := make(<-chan time.Time)
	if length > 0 {
		timer := time.NewTimer(length)
		defer timer.Stop()
		until = timer.C
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	defer s.view.settle()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-until:
			return s.show(ctx, true)
		case <-tick.C:
			if err := s.show(ctx, false); err != nil {
				return err
			}
		}
	}
}

// show draws the table; where there is no terminal only the last one of a step.
func (s *show) show(ctx context.Context, last bool) error {
	if !last && !s.cfg.Terminal {
		return nil
	}
	edges, err := s.edges(ctx)
	if err != nil {
		return err
	}
	total, failed, _ := s.traffic.counts()
	s.view.draw(edges, total, failed)
	return nil
}

// ended makes the end that Ctrl-C asked for no error, but where all was to be shown once: that has not happened.
func (s *show) ended(ctx context.Context, err error) error {
	switch {
	case ctx.Err() == nil:
		return err
	case s.cfg.Once:
		return ctx.Err()
	}
	return nil
}
