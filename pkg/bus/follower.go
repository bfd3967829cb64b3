package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// followBacklog bounds the messages that wait to be verified; beyond, they are dropped, and the node catches
// up.
const followBacklog = 8192

// FollowerConfig is what NewFollower needs.
type FollowerConfig struct {
	Conn     *Conn
	Cluster  string
	Node     string
	Root     [32]byte // see snapshot.RootHash
	Features []string // that this process knows
	// Kept is what Keep was given before the restart, in any order; it is verified again. Its subjects are
	// followed until the first call of Follow. At the first start it is the roster that joining gave, under
	// snapshot.RosterSubject.
	Kept []snapshot.Raw
	// Deliver takes each update, in order, from the goroutine of Run; the roster is one of them (its Body is
	// a snapshot.SignedRoster, verified). The first ones are what was kept. It must not block for long.
	Deliver func(Update)
	// Restored is called once, when everything kept was delivered and before anything else is: the caller
	// knows then what it needs, and calls Follow. It may be nil.
	Restored func()
	// Keep replaces what is kept of a subject; with no messages it removes it. It is called from the
	// goroutine of Run, after Deliver of the same.
	Keep func(subject string, messages []snapshot.Raw) error
	// Clock hears of every new beat what the leader's clock said when it was made, from the goroutine of Run. It may be nil.
	Clock func(leader time.Time)
	// Verify replaces ed25519.Verify for messages that arrive (see snapshot.Opener.SetVerify); nil: it does not.
	Verify snapshot.Verify
	Log    *slog.Logger
}

// A Follower is a node's side of configuration: it keeps what the node follows as a controller signed and
// stored it, whatever is lost on the way. Its methods are safe for concurrent use.
type Follower struct {
	cfg FollowerConfig

	requests sync.WaitGroup
	wake     chan struct{} // there are calls
	messages chan *nats.Msg
	subs     map[string]*nats.Subscription

	mu    sync.Mutex
	core  *follow  // nil before Run; only the goroutine of Run changes it
	calls []func() // to be run by the goroutine of Run, with mu held
}

// NewFollower prepares a follower; Run runs it.
func NewFollower(cfg FollowerConfig) (*Follower, error) {
	if cfg.Deliver == nil || cfg.Keep == nil || cfg.Node == "" {
		return nil, errors.New("follow configuration: a node's name, Deliver and Keep are needed")
	}
	return &Follower{
		cfg: cfg, wake: make(chan struct{}, 1), messages: make(chan *nats.Msg, followBacklog),
		subs: map[string]*nats.Subscription{},
	}, nil
}

// Follow replaces the subjects that are followed. What is held of others is forgotten, and the caller drops
// what it kept of them. It returns at once.
func (f *Follower) Follow(subjects []string) {
	f.call(func() { f.core.interest(time.Now(), subjects) })
}

// Applied tells what is in force of a subject, or that something newer is not and why (for people); it is
// reported to the controllers. It may be called from Deliver, or later, when the tables are swapped.
func (f *Follower) Applied(subject string, version snapshot.Version, problem string) {
	f.call(func() { f.core.applied(time.Now(), subject, version, problem) })
}

// State returns how following stands; nothing before Run.
func (f *Follower) State() Following {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.core == nil {
		return Following{}
	}
	return f.core.state()
}

func (f *Follower) call(do func()) {
	f.mu.Lock()
	f.calls = append(f.calls, do)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Run follows until ctx ends. It never waits for the bus: without one, the node has what was kept.
func (f *Follower) Run(ctx context.Context) error {
	defer f.requests.Wait()
	defer func() {
		for _, sub := range f.subs {
			_ = sub.Unsubscribe() // fails where the connection is closed, which is as good
		}
	}()
	notices := make(chan Notice, 64)
	stop := f.cfg.Conn.Notify(func(n Notice) {
		select {
		case notices <- n:
		default: // as many wait: one of them makes us catch up
		}
	})
	defer stop()
	core := newFollow(f.cfg.Cluster, f.cfg.Node, f.cfg.Root, f.cfg.Features, mathrand.New(mathrand.NewPCG(mathrand.Uint64(), mathrand.Uint64())),
		newNonce, f.tell, time.Now(), f.cfg.Kept)
	if f.cfg.Verify != nil {
		core.opener.SetVerify(f.cfg.Verify)
	}
	f.mu.Lock()
	f.core = core
	f.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for first := true; ; first = false {
		for _, a := range core.take() {
			if err := f.do(ctx, a); err != nil {
				f.cfg.Log.Warn("following configuration", "node", f.cfg.Node, "err", err)
			}
		}
		if first && f.cfg.Restored != nil {
			f.cfg.Restored()
		}
		timer.Reset(max(time.Until(core.next()), 0))
		select {
		case <-ctx.Done():
			return nil
		case message := <-f.messages:
			f.step(func() { core.message(time.Now(), message.Subject, message.Data) })
		case <-f.wake:
			f.step(func() {})
		case notice := <-notices:
			f.step(func() { notify(core, notice) })
		case <-timer.C:
			f.step(func() {})
		}
	}
}

// tell writes into the log what the core says.
func (f *Follower) tell(what string, err error) {
	if err == nil {
		f.cfg.Log.Info(what, "node", f.cfg.Node)
		return
	}
	f.cfg.Log.Warn(what, "node", f.cfg.Node, "err", err)
}

// step changes the core: by do, by the calls that wait, and by the time.
func (f *Follower) step(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	for _, call := range f.calls {
		call()
	}
	f.calls = nil
	f.core.tick(time.Now())
}

func notify(core *follow, notice Notice) {
	switch notice.Kind {
	case Connected:
		core.reconnected(time.Now())
	case Slow:
		core.resync(time.Now(), askSpread)
	}
}

// do does what the core wants.
func (f *Follower) do(ctx context.Context, a action) error {
	switch {
	case a.subscribe != "":
		return f.subscribe(a.subscribe)
	case a.unsubscribe != "":
		sub := f.subs[a.unsubscribe]
		delete(f.subs, a.unsubscribe)
		if sub != nil {
			return sub.Unsubscribe()
		}
	case a.catchup != nil:
		f.request(ctx, VerbCatchup, a.catchup, func(reply []byte, err error) { f.core.answer(time.Now(), a.nonce, reply, err) })
	case a.report != nil:
		f.request(ctx, VerbApplied, a.report, func(_ []byte, err error) { f.core.reported(time.Now(), err) })
	case a.told != 0:
		if f.cfg.Clock != nil {
			f.cfg.Clock(time.UnixMilli(a.told))
		}
	case a.move:
		return f.cfg.Conn.Reconnect()
	case a.update != nil:
		f.cfg.Deliver(*a.update)
	case a.keep != nil:
		if err := f.cfg.Keep(a.keep.subject, a.keep.messages); err != nil {
			return fmt.Errorf("keep %s: %w", a.keep.subject, err)
		}
	}
	return nil
}

func (f *Follower) subscribe(subject string) error {
	sub, err := f.cfg.Conn.nc.ChanSubscribe(snapshot.Live(snapshot.ChunkSubjects(subject)), f.messages)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	f.subs[subject] = sub
	return nil
}

// request asks a controller in a goroutine of its own, and hands the outcome to the goroutine of Run.
func (f *Follower) request(ctx context.Context, verb string, payload []byte, then func([]byte, error)) {
	f.requests.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		reply, err := f.cfg.Conn.Request(ctx, verb, payload)
		f.call(func() { then(reply, err) })
	})
}

func newNonce() []byte {
	nonce := make([]byte, catchupNonce)
	rand.Read(nonce) // never fails
	return nonce
}
