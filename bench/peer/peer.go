// Package peer holds what is measured: the origin alone, a pair of Sennit nodes, and pairs of other proxies, each
// with mutual TLS 1.3 between its two and two workers a process.
//
// A Starter starts its system's processes below a folder, and returns when requests pass. A System says where to
// send what, which processes' CPU and memory count, and whether they still run; Stop ends all of them. Processes
// are this program's children and end with it, however it ends.
//
// Start reading at System; each system has a file of its own.
package peer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/bench/load"
	"github.com/sennit-mesh/sennit/internal/launch"
)

// ErrMissing marks a peer whose program is not there: it is named and the others go on.
var ErrMissing = errors.New("not installed")

// workers is how many threads each proxy may use for its work.
const workers = 2

// The names of the systems, as they stand in results.
const (
	Direct  = "direct" // no proxy at all
	Sennit  = "sennit"
	Envoy   = "envoy"
	HAProxy = "haproxy"
	Ztunnel = "ztunnel"

	SennitTCP   = "sennit-tcp"   // with lanes over TCP
	SennitQuiet = "sennit-quiet" // without any telemetry
)

// An Origin is where the requests of a system end.
type Origin struct{ HTTP, TCP, HTTP2 string }

// A Starter starts one system.
type Starter struct {
	Name string
	// Workloads are the ones that it is measured in, by the names of rows; nil: all.
	Workloads []string
	// Find returns the version of the system's program, or an error that wraps ErrMissing.
	Find func(ctx context.Context) (version string, err error)
	// Start starts the system in front of an origin, with its files in dir, which is there. What it returns is to
	// be stopped even where there is an error.
	Start func(ctx context.Context, dir string, origin Origin) (*System, error)
}

// A System is one thing that is measured.
type System struct {
	Name string
	// HTTP reaches the origin through the system's way for HTTP/1.1, TCP through the one for raw TCP.
	HTTP, TCP load.Dial
	// HTTP2 reaches it through the way for HTTP/2 with prior knowledge; nil where there is none.
	HTTP2 load.Dial
	// WebOverTCP reaches the origin's HTTP through the way for raw TCP, a new connection between the two proxies
	// for each of the application's; nil where there is no such way, or where connections are shared.
	WebOverTCP load.Dial
	// NewLanes dials, one after the other, what has no lane yet, each for a lane of its own; Sennit only.
	NewLanes []load.Dial
	// Metrics are where Prometheus would scrape the nodes; Sennit only, where it is asked for.
	Metrics []string
	// Mesh is the controller and the nodes, by their names FrontNode and BackNode; Sennit only.
	Mesh *launch.Mesh
	// Front and Back are the proxies, the first being the one that applications connect to. Their CPU and memory
	// are the system's; others that it needs (a controller) do not count.
	Front, Back *launch.Process

	others []*launch.Process
	finish func() error // ends what is not above; nil: nothing
	lanes  string       // the address of the front node's lanes; Sennit only
	known  []load.Dial  // of all services that are called; Sennit only
	once   sync.Once
	err    error
}

// Counted are the processes whose CPU and memory are the system's.
func (s *System) Counted() []*launch.Process {
	var all []*launch.Process
	for _, p := range []*launch.Process{s.Front, s.Back} {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

// Err says which of the system's processes has ended, and what its log says; nil while all run.
func (s *System) Err() error {
	for _, p := range append(s.Counted(), s.others...) {
		select {
		case <-p.Done():
			return fmt.Errorf("process %s has ended (%w); its log ends: %s", p.Name,
				cmp.Or(p.Err(), errEnded), cmp.Or(tail(p), "(nothing)"))
		default:
		}
	}
	return nil
}

var errEnded = errors.New("without an error")

// stopTime is what a proxy may take to end before it is killed.
const stopTime = 5 * time.Second

// Stop ends every process of the system and waits for it. It may be called twice.
func (s *System) Stop() error {
	s.once.Do(func() {
		var errs []error
		if s.finish != nil {
			errs = append(errs, s.finish())
		} else {
			for _, p := range append(s.Counted(), s.others...) {
				errs = append(errs, p.Stop(stopTime))
			}
		}
		s.err = errors.Join(errs...)
	})
	return s.err
}

// ready waits until a request and a message get through.
func (s *System) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	const attempt = 100 * time.Millisecond
	for _, way := range []struct {
		name  string
		works func() bool
	}{
		{"HTTP request", func() bool { return load.Closed(ctx, s.HTTP, 1, attempt).Done > 0 }},
		{"TCP message", func() bool { return load.Echo(ctx, s.TCP, 1, 1, attempt).Done > 0 }},
	} {
		for !way.works() {
			if err := s.Err(); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return fmt.Errorf("no %s gets through within 30 s: %w; the logs end: %s", way.name, ctx.Err(), s.tails())
			}
		}
	}
	return nil
}

func (s *System) tails() string {
	var b strings.Builder
	for _, p := range s.Counted() {
		fmt.Fprintf(&b, "%s: %s; ", p.Name, tail(p))
	}
	return b.String()
}

// tail is the end of a process's log, in one line.
func tail(p *launch.Process) string {
	return strings.ReplaceAll(strings.TrimSpace(p.Tail(500)), "\n", " | ")
}

// pair starts the two processes of a system, which differ in their configuration only, and waits for it.
func (s *System) pair(ctx context.Context, dir string, front, back []string) error {
	for _, one := range []struct {
		end  string
		argv []string
		into **launch.Process
	}{{"back", back, &s.Back}, {"front", front, &s.Front}} {
		p, err := launch.Start(dir, s.Name+"-"+one.end, one.argv, nil)
		if err != nil {
			return err
		}
		*one.into = p
	}
	return s.ready(ctx)
}

// loopback returns n addresses of 127.0.0.1 that are free.
func loopback(n int) ([]string, error) {
	ports, err := launch.FreePorts(n)
	if err != nil {
		return nil, err
	}
	all := make([]string, n)
	for i, port := range ports {
		all[i] = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	return all, nil
}

// portOf returns the port of an address that was made by this program.
func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// firstLine is what programs say their version in.
func firstLine(output []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(output)), "\n")
	return line
}
