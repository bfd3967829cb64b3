package registry

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Bus carries a node's words to a controller. Both calls return when a controller has answered; Register
// signs what it sends with the node's key.
type Bus interface {
	Register(ctx context.Context, in *snapshot.Instance, removed bool) error
	Alive(ctx context.Context, alive *snapshot.Alive) (*snapshot.AliveReply, error)
}

// RegistrarConfig is what a Registrar needs.
type RegistrarConfig struct {
	Node        string
	Zone        string // where the node is, with Region; empty: nothing is said
	Region      string
	Local       *Local
	LaneAddress func() string // ip:port where other nodes dial this one; "" while it is not known
	Bus         Bus
	// Ports tells of the ports of a gateway that is declared here, ascending. It is asked whenever Wake was called; nil
	// where no gateway is.
	Ports func(gateway exchange.ServiceName) []GatewayPort
	// SealingKey is the X25519 key that gateways' private keys are sealed to for this node.
	SealingKey []byte
	Version    string // of this program, which controllers show
	// StaleKeys are URLs of key sets that lack a key, which controllers are told once each; nil: none ever is.
	StaleKeys func() []string
	// Standing is how far this node has come with a rotation of the authority; nil: nothing is said.
	Standing func() Standing
	Log      *slog.Logger
}

// A Registrar makes the controllers hold what Local declares. It does not trust that what was acknowledged
// is still held: each alive message carries a digest, and what differs is sent again. It is safe for
// concurrent use.
type Registrar struct {
	cfg  RegistrarConfig
	wake chan struct{}

	mu       sync.Mutex // held while sending
	known    bool       // held is what the controllers hold
	ask      bool       // say alive at once
	held     map[Key][32]byte
	failed   map[Key]*refusal
	draining bool
}

// A refusal is a registration that was not taken.
type refusal struct {
	err   error
	pause time.Duration
	again time.Time
}

const (
	aliveEvery  = 5 * time.Second
	callTimeout = 5 * time.Second // the bus answers within it or not at all
	firstPause  = 500 * time.Millisecond
	lastPause   = 30 * time.Second
)

// NewRegistrar returns a Registrar; Run sends.
func NewRegistrar(cfg RegistrarConfig) *Registrar {
	return &Registrar{cfg: cfg, wake: make(chan struct{}, 1), held: map[Key][32]byte{}, failed: map[Key]*refusal{}}
}

// Wake makes Run send what changed. Call it after each change of Local, and of the lane's address.
func (r *Registrar) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Resend makes Run compare with the controllers at once and send what they lack. Call it after a
// reconnection, and when a controller asks.
func (r *Registrar) Resend() {
	r.mu.Lock()
	r.known, r.ask = false, true
	clear(r.failed)
	r.mu.Unlock()
	r.Wake()
}

// Failures returns the registrations that are not taken, and why.
func (r *Registrar) Failures() map[Key]error {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[Key]error{}
	for key, f := range r.failed {
		out[key] = f.err
	}
	return out
}

// Run says alive every five seconds and sends changes at once, until ctx ends.
func (r *Registrar) Run(ctx context.Context) error {
	pause := time.Duration(0)
	next := time.Now() // when to say alive
	for {
		asked := r.asked()
		if asked {
			pause = 0 // whoever did not answer before may be another, or there again
		}
		if asked || !time.Now().Before(next) {
			if err := r.alive(ctx); err != nil {
				pause = min(max(2*pause, firstPause), aliveEvery)
				next = time.Now().Add(pause/2 + rand.N(pause/2))
				r.cfg.Log.Debug("alive not answered", "node", r.cfg.Node, "err", err)
			} else {
				if pause > 0 { // what failed did so because nobody answered
					r.mu.Lock()
					clear(r.failed)
					r.mu.Unlock()
				}
				pause = 0
				next = time.Now().Add(aliveEvery - 250*time.Millisecond + rand.N(500*time.Millisecond))
			}
		}
		wait := time.Until(next)
		if again, ok := r.send(ctx); ok {
			wait = min(wait, max(0, time.Until(again)))
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-r.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (r *Registrar) asked() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.ask
	r.ask = false
	return asked
}

func (r *Registrar) isKnown() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known
}

// alive says that this node lives, and learns what the controllers hold where that is not what it believes.
func (r *Registrar) alive(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	message := &snapshot.Alive{Node: r.cfg.Node, Draining: r.draining, Version: r.cfg.Version}
	if r.cfg.Standing != nil {
		standing := r.cfg.Standing()
		message.RosterEpoch, message.RosterSerial, message.IssuedUnixMs = standing.Epoch, standing.Serial, standing.Issued.UnixMilli()
	}
	if r.known {
		message.Digest = Digest(r.held)
	}
	if r.cfg.StaleKeys != nil {
		message.StaleKeys = r.cfg.StaleKeys()
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply, err := r.cfg.Bus.Alive(ctx, message)
	if err != nil {
		return err
	}
	if !reply.GetDiffers() {
		r.known = true
		return nil
	}
	clear(r.held)
	for _, h := range reply.GetHeld() {
		service, err := exchange.ParseServiceName(h.GetService())
		if err != nil || len(h.GetHash()) != 32 {
			continue // not ours to understand; the digest goes on to differ, and an operator sees it
		}
		r.held[Key{service, h.GetInstance()}] = [32]byte(h.GetHash())
	}
	r.known = true
	return nil
}

// send makes what is held what is wanted, as far as the controllers take it, and returns when something that
// they did not take is due again.
func (r *Registrar) send(ctx context.Context) (again time.Time, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.known {
		return again, false
	}
	wanted, undecided := r.wanted()
	for key := range r.failed {
		if _, held := r.held[key]; wanted[key] == nil && !held {
			delete(r.failed, key)
		}
	}
	for key := range maps.Clone(r.held) {
		if wanted[key] == nil && !undecided[key] {
			gone := &snapshot.Instance{Service: key.Service.String(), Node: r.cfg.Node, Instance: key.Name}
			if r.try(ctx, key, gone, true) {
				delete(r.held, key)
			}
		}
	}
	for key, in := range wanted {
		if hash := Hash(in); r.held[key] != hash && r.try(ctx, key, in, false) {
			r.held[key] = hash
		}
	}
	for _, f := range r.failed {
		if !failed || f.again.Before(again) {
			again, failed = f.again, true
		}
	}
	return again, failed
}

// wanted returns what is to be registered, and of what nothing is to be said yet.
func (r *Registrar) wanted() (wanted map[Key]*snapshot.Instance, undecided map[Key]bool) {
	wanted, undecided = map[Key]*snapshot.Instance{}, map[Key]bool{}
	if r.draining {
		return wanted, undecided
	}
	lane := r.cfg.LaneAddress()
	for _, in := range r.cfg.Local.Instances() {
		known, well, detail := r.cfg.Local.Health(in.Key())
		switch {
		case len(in.Ports) == 0 && !in.IsGateway() && in.Egress == nil: // it only calls; there is nothing to reach
		case !known || lane == "":
			undecided[in.Key()] = true
		default:
			wanted[in.Key()] = in.registration(&r.cfg, lane, well, detail)
			if in.IsGateway() {
				wanted[in.Key()].Gateway = in.gatewayRegistration(r.cfg.Ports(in.Service), r.cfg.SealingKey)
			}
		}
	}
	return wanted, undecided
}

func (in *Instance) registration(cfg *RegistrarConfig, lane string, well bool, detail string) *snapshot.Instance {
	out := &snapshot.Instance{
		Service: in.Service.String(), Node: cfg.Node, Zone: cfg.Zone, Region: cfg.Region, Instance: in.Name, Labels: in.Labels, Weight: in.Weight,
		LaneAddress: lane, Unhealthy: !well, HealthDetail: detail, Egress: in.Egress != nil,
	}
	for _, p := range in.Ports {
		out.Ports = append(out.Ports, &snapshot.InstancePort{Number: uint32(p.Number), Name: p.Name, Protocol: p.Protocol, Address: p.Address.String()})
	}
	return out
}

// try sends one registration where it is due, and reports whether it was taken.
func (r *Registrar) try(ctx context.Context, key Key, in *snapshot.Instance, removed bool) bool {
	now := time.Now()
	f := r.failed[key]
	if f != nil && now.Before(f.again) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := r.cfg.Bus.Register(ctx, in, removed)
	if err == nil {
		delete(r.failed, key)
		return true
	}
	if f == nil {
		f = &refusal{pause: firstPause / 2}
		r.failed[key] = f
	}
	if f.err == nil || f.err.Error() != err.Error() {
		r.cfg.Log.Warn("registration not taken", "service", key.Service.String(), "instance", key.Name, "err", err)
	}
	f.err = err
	f.pause = min(2*f.pause, lastPause)
	f.again = time.Now().Add(f.pause/2 + rand.N(f.pause/2))
	return false
}

// Drain takes back every registration of this node and registers nothing from then on. It returns when all
// removals are acknowledged, or with what was not when ctx ends.
func (r *Registrar) Drain(ctx context.Context) error {
	r.mu.Lock()
	r.draining = true
	clear(r.failed)
	r.mu.Unlock()
	for first := true; ; first = false {
		if first || !r.isKnown() { // says first that it goes away
			if err := r.alive(ctx); err != nil && ctx.Err() == nil {
				r.cfg.Log.Debug("alive not answered", "node", r.cfg.Node, "err", err)
			}
		}
		r.send(ctx)
		r.mu.Lock()
		left, known := len(r.held), r.known
		var errs []error
		for _, f := range r.failed {
			errs = append(errs, f.err)
		}
		r.mu.Unlock()
		if known && left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(append(errs, ctx.Err())...)
		case <-time.After(firstPause / 2):
		}
	}
}
