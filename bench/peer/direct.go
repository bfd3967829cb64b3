package peer

import (
	"context"
	"net"
	"os"
	"runtime"

	"github.com/sennit-mesh/sennit/bench/load"
	"github.com/sennit-mesh/sennit/internal/launch"
)

// StartDirect starts the origin, in a process of its own so that its CPU is nobody else's. As a system it says
// what load and origin cost by themselves.
func StartDirect(ctx context.Context, dir string) (*System, Origin, error) {
	a, err := loopback(3)
	if err != nil {
		return nil, Origin{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, Origin{}, err
	}
	origin := Origin{HTTP: a[0], TCP: a[1], HTTP2: a[2]}
	s := &System{Name: Direct, HTTP: load.To(a[0]), TCP: load.To(a[1]), HTTP2: load.To(a[2])}
	if s.Front, err = launch.Start(dir, "origin", []string{self, "origin", a[0], a[1], a[2]}, nil); err != nil {
		return nil, origin, err
	}
	return s, origin, s.ready(ctx)
}

// RunChild runs what this package starts of this program itself; child is false where the command line is not one
// of those. It returns when ctx ends.
func RunChild(ctx context.Context, args []string) (child bool, err error) {
	if len(args) == 0 {
		return false, nil
	}
	switch args[0] {
	case "origin":
		var listeners [3]net.Listener
		for i := range listeners {
			if listeners[i], err = net.Listen("tcp", args[i+1]); err != nil {
				return true, err
			}
		}
		return true, ServeOrigin(ctx, listeners[0], listeners[1], listeners[2])
	case "node":
		runtime.GOMAXPROCS(min(workers, runtime.NumCPU()))
		return true, runNode(ctx, args[1:])
	case "controller":
		return true, runController(ctx, args[1:])
	}
	return false, nil
}
