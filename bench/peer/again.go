package peer

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sennit-mesh/sennit/bench/load"
	"github.com/sennit-mesh/sennit/internal/launch"
)

// StopController ends the controller and with it the bus. The nodes go on with what they have. Sennit only.
func (s *System) StopController() error {
	controller := s.Mesh.Controller()
	s.others = slices.DeleteFunc(s.others, func(p *launch.Process) bool { return p == controller })
	return controller.Stop(stopTime)
}

// Reach waits until a request gets through to every service that is called. Sennit only.
func (s *System) Reach(ctx context.Context) error { return reached(ctx, s.known) }

// Again ends the front node and starts it again, as one that has joined before, and waits until it reaches all
// services that are called. first is the time from starting its process until a request was answered through it,
// which is sent anew each millisecond. Sennit only.
func (s *System) Again(ctx context.Context) (first time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := s.Front.Stop(stopTime); err != nil {
		return 0, err
	}
	group, starting := errgroup.WithContext(ctx)
	start := time.Now()
	group.Go(func() (err error) {
		s.Front, err = s.Mesh.StartNode(starting, FrontNode, s.lanes)
		return err
	})
	group.Go(func() error {
		err := load.First(starting, s.HTTP)
		first = time.Since(start)
		return err
	})
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return first, s.Reach(ctx)
}
