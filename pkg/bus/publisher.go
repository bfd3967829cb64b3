package bus

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	// electAfter is how long the leader's beats must be missing before another controller takes the term.
	electAfter = 5 * time.Second
	// retryAfter follows a write that failed.
	retryAfter = 250 * time.Millisecond
	// writeTimeout bounds one write and the reading back of it; what takes longer is in doubt.
	writeTimeout = 10 * time.Second

	// appliedPrefix is where a controller passes on what a node reported to it, so that every controller
	// knows. It lies in the controllers' account, which no node can reach.
	appliedPrefix = "sennit.applied."
)

// PublisherConfig is what NewPublisher needs.
type PublisherConfig struct {
	Conn       *Conn // of a controller; EnsureStreams was called
	Cluster    string
	Controller string // its name, unique in the cluster
	Epoch      uint64 // the history; a newer one after a restore
	Root       [32]byte
	Roster     []byte                 // lists Signer
	Signer     func() snapshot.Signer // of this moment: it is asked for again before each write
	// MayRun says whether a node may run a service: only then it is told the service's inbound configuration.
	MayRun func(node, namespace, service string) bool
	// Removed says whether a node was removed from the cluster: nobody waits for it. nil: none was.
	Removed func(node string) bool
	// Shown says whether what the node proves of itself is known in this epoch. One of which that is not so is told the
	// roster and nothing else: what it was allowed before a restore would be absent to it. nil: it is of all.
	Shown func(node string) bool
	// Superseded is told once of a newer epoch, in which this controller does not lead any more, with the roster that
	// the root signed. May be nil.
	Superseded func(epoch uint64, roster []byte)
	// Showed is told of each roster that a node shows; nobody has verified it. May be nil.
	Showed func(roster []byte)
	Now    func() time.Time // this host's clock, which beats tell the nodes; nil: time.Now
	Log    *slog.Logger
}

// A Publisher is a controller's side of configuration. The one that leads publishes, numbers, signs and
// beats; every one reads the stream and answers nodes that catch up. Its methods are safe for concurrent use.
type Publisher struct {
	cfg     PublisherConfig
	mirror  *mirror
	applied *Applied
	leading atomic.Bool
	newer   atomic.Uint64 // epoch that ended this controller's; 0: none
	wake    chan struct{}

	mu  sync.Mutex
	set *Set // given and not taken yet
}

// NewPublisher prepares a publisher; Run runs it.
func NewPublisher(cfg PublisherConfig) (*Publisher, error) {
	p := &Publisher{cfg: cfg, mirror: newMirror(cfg.Cluster, cfg.Root), applied: newApplied(), wake: make(chan struct{}, 1)}
	p.applied.may = p.mayRead
	if cfg.Removed != nil {
		p.applied.removed = cfg.Removed
	}
	if err := p.mirror.believe(cfg.Roster); err != nil {
		return nil, fmt.Errorf("publish configuration: %w", err)
	}
	if signer := cfg.Signer(); !p.mirror.lists(signer) {
		return nil, fmt.Errorf("publish configuration: %w (the root signs a new roster that lists key %q of this controller)", snapshot.ErrKey, signer.ID)
	}
	return p, nil
}

// Publish replaces everything that is to be published; it returns at once. Every controller may be told: the
// one that leads writes what differs from what is stored, and a subject that is not in the set any more is
// gone. The caller changes nothing in the set afterwards, and has read both inputs to their ends before the
// first call.
func (p *Publisher) Publish(set Set) {
	p.mu.Lock()
	p.set = &set
	p.mu.Unlock()
	p.poke()
}

// PublishRoster believes a roster that the root signed, and stores it when this controller leads. An older
// one changes nothing; one of a newer epoch ends that this controller leads.
func (p *Publisher) PublishRoster(roster []byte) error {
	if err := p.mirror.believe(roster); err != nil {
		return fmt.Errorf("publish roster: %w", err)
	}
	p.poke()
	return nil
}

// Leading reports whether this controller has the term.
func (p *Publisher) Leading() bool { return p.leading.Load() }

// Superseded is the newer epoch in which this controller does not lead any more; 0: there is none.
func (p *Publisher) Superseded() uint64 { return p.newer.Load() }

// Begun reports whether anything was ever published in this controller's epoch. It is known once the controller leads.
func (p *Publisher) Begun() bool { return p.mirror.beatsOf(p.cfg.Epoch) > 0 }

// Applied knows what nodes have applied.
func (p *Publisher) Applied() *Applied { return p.applied }

func (p *Publisher) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Catchup is the Handler of VerbCatchup.
func (p *Publisher) Catchup(_ context.Context, node string, payload []byte) ([]byte, error) {
	request := new(CatchupRequest)
	if err := proto.Unmarshal(payload, request); err != nil {
		return nil, &Error{ErrorCode_ERROR_CODE_INVALID, ErrCatchup.Error()}
	}
	if len(request.GetRoster()) > 0 { // of a newer epoch, perhaps: it proves itself
		if err := p.PublishRoster(request.GetRoster()); err != nil {
			p.cfg.Log.Debug("a node showed a roster that is none", "node", node, "err", err)
		}
		if p.cfg.Showed != nil {
			p.cfg.Showed(request.GetRoster())
		}
	}
	if p.cfg.Shown != nil && !p.cfg.Shown(node) {
		request.Wants = slices.DeleteFunc(request.GetWants(), func(w *Want) bool { return w.GetSubject() != snapshot.RosterSubject })
	}
	reply, err := p.mirror.answer(p.cfg.Signer(), node, request, func(subject string) bool { return p.mayRead(node, subject) })
	if errors.Is(err, ErrCatchup) {
		return nil, &Error{ErrorCode_ERROR_CODE_INVALID, err.Error()}
	}
	if err == nil {
		p.applied.interest(node, request)
	}
	return reply, err
}

// mayRead says what a node may be told.
func (p *Publisher) mayRead(node, subject string) bool {
	names, err := snapshot.ParseSubject(subject)
	switch {
	case err != nil:
		return false
	case names.Kind == snapshot.KindIn:
		return p.cfg.MayRun(node, names.Namespace, names.Service)
	case names.Kind == snapshot.KindNode:
		return names.Node == node
	}
	return true
}

// Report is the Handler of VerbApplied.
func (p *Publisher) Report(_ context.Context, node string, payload []byte) ([]byte, error) {
	if err := proto.Unmarshal(payload, new(AppliedReport)); err != nil {
		return nil, &Error{ErrorCode_ERROR_CODE_INVALID, "not a report"}
	}
	return nil, p.cfg.Conn.nc.Publish(appliedPrefix+snapshot.Escape(node), payload)
}

// Run reads the stream, and leads where it is this controller's turn, until ctx ends, or until a newer epoch than its
// own has begun: it reads on then, and does not lead.
func (p *Publisher) Run(ctx context.Context) error {
	reports, err := p.cfg.Conn.nc.Subscribe(appliedPrefix+"*", func(m *nats.Msg) {
		node, err := snapshot.Unescape(m.Subject[len(appliedPrefix):])
		report := new(AppliedReport)
		if err == nil && proto.Unmarshal(m.Data, report) == nil {
			p.applied.report(node, report)
		}
	})
	if err != nil {
		return fmt.Errorf("publish configuration: %w", err)
	}
	defer reports.Unsubscribe()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.read(ctx) })
	g.Go(func() error { return p.lead(ctx) })
	return g.Wait()
}

// read follows the stream until ctx ends.
func (p *Publisher) read(ctx context.Context) error {
	return p.cfg.Conn.Records(StreamConfig).Follow(ctx, 1, func(e Entry) error {
		p.mirror.apply(e.Sequence, e.Subject, e.Data)
		return nil
	})
}

// lead takes terms until ctx ends.
func (p *Publisher) lead(ctx context.Context) error {
	for ctx.Err() == nil {
		stream, err := p.cfg.Conn.js.Stream(ctx, string(StreamConfig))
		if err == nil {
			config := &jetConfig{conn: p.cfg.Conn.nc, stream: stream, subject: termSubject}
			if err = p.turn(ctx, config); err == nil {
				err = p.term(ctx, config)
			}
		}
		p.leading.Store(false)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, ErrEpoch):
			p.supersede(err)
			return nil
		case errors.Is(err, ErrDeposed):
			p.cfg.Log.Info("another controller leads", "err", err)
		default:
			p.cfg.Log.Warn("leading is begun again", "err", err)
		}
		if err := pause(ctx, retryAfter); err != nil {
			return nil // ctx has ended
		}
	}
	return nil
}

// supersede says once that a newer epoch has begun.
func (p *Publisher) supersede(err error) {
	p.mirror.mu.Lock()
	epoch, roster := p.mirror.trust.Roster().GetEpoch(), p.mirror.trust.Raw()
	p.mirror.mu.Unlock()
	p.newer.Store(max(epoch, p.cfg.Epoch+1)) // of a stream's term alone, the number is not known to be the root's
	p.cfg.Log.Error("this controller does not lead any more", "err", err)
	if p.cfg.Superseded != nil {
		p.cfg.Superseded(p.newer.Load(), roster)
	}
}

// turn waits until the term is this controller's to take: nobody's, its own before a restart, or of one that
// has not beaten for a while.
func (p *Publisher) turn(ctx context.Context, stream configStream) error {
	current, _, err := stream.term(ctx)
	if err != nil || current == nil || current.GetController() == p.cfg.Controller {
		return err
	}
	last, since := p.mirror.lastBeat(), time.Now()
	for time.Since(since) < electAfter {
		if err := pause(ctx, beatEvery/2); err != nil {
			return err
		}
		if beat := p.mirror.lastBeat(); beat != last {
			last, since = beat, time.Now()
		}
	}
	return nil
}

// term leads until it is deposed or the term cannot be taken.
func (p *Publisher) term(ctx context.Context, stream configStream) error {
	l := &leader{
		cluster: p.cfg.Cluster, controller: p.cfg.Controller, instance: make([]byte, 16), epoch: p.cfg.Epoch,
		signer: p.cfg.Signer(), stream: stream, mirror: p.mirror, clock: p.cfg.Now, sent: map[string]time.Time{},
	}
	rand.Read(l.instance) // never fails
	if err := l.takeOver(ctx, time.Now()); err != nil {
		return err
	}
	p.leading.Store(true)
	p.cfg.Log.Info("leads", "term", l.number, "epoch", l.epoch)
	var given *Set // what this term was told last; the next one is told it again
	defer func() {
		p.mu.Lock()
		if p.set == nil {
			p.set = given
		}
		p.mu.Unlock()
	}()
	var beaten time.Time
	told := false
	for {
		p.mu.Lock()
		if p.set != nil {
			given, p.set = p.set, nil
			l.want(*given)
			told = false
		}
		p.mu.Unlock()
		l.signAs(p.cfg.Signer())
		beat, err := p.step(ctx, l, time.Since(beaten) >= beatEvery)
		if beat && err == nil {
			beaten = time.Now()
		}
		wait := time.Until(beaten.Add(beatEvery))
		if due := l.due(); !due.IsZero() {
			wait = min(wait, time.Until(due))
		}
		switch {
		case errors.Is(err, ErrDeposed) || errors.Is(err, ErrEpoch) || errors.Is(err, snapshot.ErrKey) || ctx.Err() != nil:
			return errors.Join(err, ctx.Err())
		case err != nil:
			p.cfg.Log.Warn("configuration could not be stored and is tried again", "err", err)
			wait = retryAfter
		case l.complete && !told:
			p.applied.publish(p.mirror.versions(), l.from)
			told = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.wake:
		case <-time.After(max(wait, time.Millisecond)):
		}
	}
}

func (p *Publisher) step(ctx context.Context, l *leader, beatDue bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return l.step(ctx, time.Now(), beatDue)
}

// unstoredRoster returns the newest roster where the stream holds none or another one.
func (m *mirror) unstoredRoster() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if rosterVersion(m.trust.Roster()) == m.rosterHeld {
		return nil
	}
	return m.trust.Raw()
}

// lists reports whether the roster lists a signer's key.
func (m *mirror) lists(signer snapshot.Signer) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	key, ok := m.trust.Roster().SigningKeys()[signer.ID]
	return ok && bytes.Equal(key, signer.Public().GetEd25519())
}

// pause waits, or returns why not.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
