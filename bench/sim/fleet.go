package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sennit-mesh/sennit/internal/launch"
)

// joinsAtOnce is how many hosts join side by side: enough to keep a controller busy.
const joinsAtOnce = 32

// A fleet is the simulated nodes, and what they have applied of the service that changes.
type fleet struct {
	cfg      Config
	mesh     *launch.Mesh
	log      *slog.Logger
	verifier *verifier
	nodes    []*node
	weight   int          // of the last change
	again    atomic.Int64 // how often joining was tried again

	stopping context.CancelFunc
	running  *errgroup.Group

	mu      sync.Mutex
	held    []held // by node
	want    uint64 // resources; of which missing nodes hold no rules yet
	missing int
	done    chan struct{} // closed when missing is 0
}

// held is the newest that a node has in effect.
type held struct {
	built uint64 // from these resources
	at    time.Time
}

func newFleet(cfg Config, m *launch.Mesh, log *slog.Logger) *fleet {
	return &fleet{cfg: cfg, mesh: m, log: log, verifier: newVerifier(), nodes: make([]*node, cfg.Nodes), held: make([]held, cfg.Nodes)}
}

// applied takes in that a node has rules in effect.
func (f *fleet) applied(node int, built uint64, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	had := f.held[node].built
	f.held[node] = held{built, at}
	if had < f.want && built >= f.want {
		if f.missing--; f.missing == 0 {
			close(f.done)
		}
	}
}

// await returns when each node has applied what was stored up to a resource version, and when each did.
func (f *fleet) await(ctx context.Context, version uint64) ([]time.Time, error) {
	f.mu.Lock()
	f.want, f.missing, f.done = version, 0, make(chan struct{})
	for _, h := range f.held {
		if h.built < version {
			f.missing++
		}
	}
	done := f.done
	if f.missing == 0 {
		close(done)
	}
	f.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		return nil, fmt.Errorf("resource version %d is not applied by %d of %d nodes: %w", version, f.missing, len(f.held), context.Cause(ctx))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	times := make([]time.Time, len(f.held))
	for i, h := range f.held {
		times[i] = h.at
	}
	return times, nil
}

// join makes all nodes and runs them, and returns when each has applied all that it follows.
func (f *fleet) join(ctx context.Context) (joined Joining, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, setupTime, errors.New("the nodes took too long to join"))
	defer cancel()
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.stopping = stop
	f.running, running = errgroup.WithContext(running)
	before, err := f.usage()
	if err != nil {
		return joined, err
	}
	start := time.Now()
	joining, joinCtx := errgroup.WithContext(ctx)
	joining.SetLimit(joinsAtOnce)
	for i := range f.nodes {
		joining.Go(func() error {
			n, err := joinNode(joinCtx, f, i)
			if err != nil {
				return fmt.Errorf("join %s: %w", nodeName(i), err)
			}
			f.nodes[i] = n
			f.running.Go(func() error { return n.run(running) })
			return nil
		})
	}
	if err := joining.Wait(); err != nil {
		return joined, err
	}
	joined.Joined, joined.Again = time.Since(start).Seconds(), f.again.Load()
	joined.PerSecond = float64(len(f.nodes)) / joined.Joined
	if err := f.settle(ctx, 0); err != nil {
		return joined, err
	}
	joined.Converged = time.Since(start).Seconds()
	after, err := f.usage()
	joined.spent(before, after)
	return joined, err
}

// settle returns when every node holds all that it follows, has applied all changes, and has had a beat behind
// the given one.
func (f *fleet) settle(ctx context.Context, beat uint64) error {
	version, err := f.next(ctx)
	for err != nil && ctx.Err() == nil { // a controller that is being stormed says "try again"
		f.log.Warn("a change was refused", "err", err)
		version, err = f.next(ctx)
	}
	if err != nil {
		return err
	}
	if _, err := f.await(ctx, version); err != nil {
		return err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, n := range f.nodes {
		for {
			state := n.follower.State()
			if len(state.Missing) == 0 && state.StaleSince.IsZero() && state.Beat.Revision > beat {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("%s does not follow: %+v: %w", nodeName(n.index), state, context.Cause(ctx))
			}
		}
	}
	return nil
}

// next makes a change.
func (f *fleet) next(ctx context.Context) (version uint64, err error) {
	f.weight++
	return store(ctx, f.mesh, f.weight)
}

// beat is the newest that any node has.
func (f *fleet) beat() (newest uint64) {
	for _, n := range f.nodes {
		newest = max(newest, n.follower.State().Beat.Revision)
	}
	return newest
}

// stop ends the nodes.
func (f *fleet) stop() error {
	if f.stopping == nil {
		return nil
	}
	f.stopping()
	errs := []error{f.running.Wait()}
	for _, n := range f.nodes {
		if n != nil {
			errs = append(errs, n.close())
		}
	}
	return errors.Join(errs...)
}
