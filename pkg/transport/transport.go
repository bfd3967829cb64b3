package transport

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// Config is what a Transport needs.
type Config struct {
	// Conn is the node's UDP socket. The Transport owns it from New on, and closes it when Run returns.
	Conn *net.UDPConn
	// Listener takes connections over TCP, by the port of Conn. The Transport owns it likewise. Nil: none.
	Listener    *net.TCPListener
	Credentials Credentials
	// Serve handles one exchange that a peer opened: it reads the request, writes a response to End, and
	// returns; what it left incomplete is reset. It runs in a goroutine of the stream's. ctx ends with Run.
	Serve  func(ctx context.Context, s *Stream)
	Limits Limits
	// Only is what all lanes of this node run over, whatever their keys say. Auto: what those say.
	Only Carrier
	Log  *slog.Logger
	// Generation is the first byte of all connection IDs, so that an old and a new process can share the
	// UDP port during an upgrade.
	Generation byte
	// ResetKey makes the tokens by which peers learn at once that this process replaced another; it is the
	// same in both, and secret. Nil: peers notice after Limits.Silence.
	ResetKey *[32]byte
}

// A Transport is the node's end of all lanes, on one UDP socket. It is safe for concurrent use.
type Transport struct {
	credentials Credentials
	serve       func(context.Context, *Stream)
	limits      Limits
	log         *slog.Logger
	socket      net.PacketConn
	quic        *quic.Transport
	listener    *net.TCPListener // nil: none
	local       netip.AddrPort   // of the socket
	only        Carrier
	headStart   time.Duration // of QUIC before TCP
	ways        ways
	tickets     [32]byte // what keys of session tickets are derived from

	lanes    atomic.Pointer[map[Key]*lane] // replaced, never changed: Open takes no lock that all share
	tick     atomic.Uint32                 // counts sweeps; a cheap clock for what sweep compares
	inbound  atomic.Int32                  // connections that peers opened, handshakes included
	running  chan struct{}                 // closed by Run
	changed  chan struct{}                 // something that Drain waits for may have happened
	draining atomic.Bool                   // peers are told to go elsewhere
	shut     atomic.Bool                   // Open refuses
	rechecks atomic.Uint64                 // calls of Recheck
	refusals refusals                      // of connections that peers wanted to open

	laneMu sync.Mutex // for who replaces lanes; taken before a lane's lock

	mu   sync.Mutex         // guards what follows; taken after a lane's lock
	all  map[*conn]struct{} // both those that were dialled and those that peers opened
	run  context.Context    // of the running Run; nil before and after
	work sync.WaitGroup

	origins map[origin]*share      // of what peers opened, by who did
	links   map[linkToken]*tcpLink // that peers opened

	streams atomic.Int64 // that peers opened
}

var errLaneGone = errors.New("lane was closed")

// sweepEvery is how often budgets, certificates and idle lanes are looked at.
const sweepEvery = 100 * time.Millisecond

// New prepares the socket; nothing runs before Run.
func New(cfg Config) (*Transport, error) {
	if cfg.Conn == nil || cfg.Credentials == nil || cfg.Serve == nil {
		return nil, errors.New("transport: Conn, Credentials and Serve are needed")
	}
	t := &Transport{
		credentials: cfg.Credentials,
		serve:       cfg.Serve,
		limits:      cfg.Limits.withDefaults(),
		log:         cmp.Or(cfg.Log, slog.Default()),
		changed:     make(chan struct{}, 1),
		running:     make(chan struct{}),
		all:         make(map[*conn]struct{}),
		origins:     make(map[origin]*share),
		links:       make(map[linkToken]*tcpLink),
		listener:    cfg.Listener,
		local:       cfg.Conn.LocalAddr().(*net.UDPAddr).AddrPort(),
		only:        cfg.Only,
		headStart:   headStart,
		refusals:    newRefusals(),
	}
	t.lanes.Store(&map[Key]*lane{})
	_, _ = rand.Read(t.tickets[:]) // never fails
	socket, err := prepareSocket(cfg.Conn, t.log)
	if err != nil {
		return nil, fmt.Errorf("prepare UDP socket %s: %w", cfg.Conn.LocalAddr(), err)
	}
	t.socket = socket
	t.quic = &quic.Transport{
		Conn:                             socket,
		ConnectionIDGenerator:            connectionIDs{cfg.Generation},
		DisableVersionNegotiationPackets: true,
		VerifySourceAddress:              func(net.Addr) bool { return int(t.inbound.Load()) > t.limits.Inbound/2 },
		ConnContext:                      t.admit,
		StatelessResetKey:                (*quic.StatelessResetKey)(cfg.ResetKey),
	}
	return t, nil
}

// Run accepts and keeps lanes until ctx ends, then closes all of them and the socket and returns when every
// handler has. Call Drain before, to lose nothing. It returns nil where ctx ended it.
func (t *Transport) Run(ctx context.Context) error {
	listener, err := t.quic.Listen(t.listenTLS(QUIC), t.quicConfig(Bulk, false))
	if err != nil {
		_ = t.socket.Close()
		if t.listener != nil {
			t.listener.Close()
		}
		return fmt.Errorf("listen on %s: %w", t.socket.LocalAddr(), err)
	}
	// Everything else ends behind the connections and not before, so that none is left open.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	t.mu.Lock()
	t.run = work
	t.mu.Unlock()
	close(t.running)

	t.spawn(t.sweepUntil)
	if t.listener != nil {
		t.spawn(t.acceptTCP)
	}
	for err == nil {
		var q *quic.Conn
		if q, err = listener.Accept(ctx); err == nil {
			t.acceptQUIC(q)
		}
	}
	stopped := ctx.Err() != nil
	t.mu.Lock()
	t.run = nil
	t.mu.Unlock()
	for _, c := range t.conns() {
		c.close(closeDone, "node stops")
	}
	cancel()
	_ = listener.Close()
	t.work.Wait()
	_ = t.quic.Close()
	_ = t.socket.Close()
	if stopped {
		return nil
	}
	return fmt.Errorf("accept lanes: %w", err)
}

// Running is closed once Run accepts lanes; Open fails before.
func (t *Transport) Running() <-chan struct{} { return t.running }

// spawn runs fn in a goroutine that Run waits for; false where Run does not run.
func (t *Transport) spawn(fn func(context.Context)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.run == nil {
		return false
	}
	ctx := t.run
	t.work.Go(func() { fn(ctx) })
	return true
}

// Open returns a stream of the lane for one exchange; the caller releases it. It dials where there is no
// connection to addr yet, and waits for that until ctx ends; a lane that could just not be dialled fails at
// once. Every error wraps ErrNotSent.
func (t *Transport) Open(ctx context.Context, key Key, addr netip.AddrPort, class Class) (*Stream, error) {
	for {
		if t.shut.Load() {
			return nil, fmt.Errorf("%w: %w", ErrNotSent, ErrDraining)
		}
		l, ok := (*t.lanes.Load())[key]
		if !ok {
			l = t.addLane(key)
		}
		s, err := l.open(ctx, addr, class)
		if !errors.Is(err, errLaneGone) {
			return s, err
		}
	}
}

// addLane adds a lane, in the place of the one that was not used for longest where there are too many.
func (t *Transport) addLane(key Key) *lane {
	t.laneMu.Lock()
	defer t.laneMu.Unlock()
	lanes := maps.Clone(*t.lanes.Load())
	if l, ok := lanes[key]; ok {
		return l
	}
	l := &lane{t: t, key: key}
	l.lastUsed.Store(t.tick.Load())
	if len(lanes) >= t.limits.Lanes {
		var oldest *lane
		for _, other := range lanes {
			if oldest == nil || int32(other.lastUsed.Load()-oldest.lastUsed.Load()) < 0 {
				oldest = other
			}
		}
		delete(lanes, oldest.key)
		oldest.leave()
	}
	lanes[key] = l
	t.lanes.Store(&lanes)
	return l
}

// leave drains all connections of a lane that is no longer in the map.
func (l *lane) leave() {
	l.mu.Lock()
	l.gone = true
	var conns []*conn
	for i := range l.sides {
		conns = append(conns, l.sides[i].conns...)
	}
	l.mu.Unlock()
	for _, c := range conns {
		c.drain()
	}
}

// notify wakes Drain.
func (t *Transport) notify() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

var (
	errStops  = errors.New("node stops")
	errCrowds = errors.New("too many connections of one service at one address")
	errMany   = errors.New("too many connections")
)

// register keeps account of a connection, and refuses it where Run has ended or a peer has too many.
func (t *Transport) register(c *conn) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.run == nil {
		return errStops
	}
	if c.from != (origin{}) {
		s := t.origins[c.from]
		if s == nil {
			s = &share{}
			t.origins[c.from] = s
		}
		if s.conns >= t.limits.PeerInbound {
			return errCrowds
		}
		s.conns++
		c.share = s
	}
	t.all[c] = struct{}{}
	return nil
}

func (t *Transport) unregister(c *conn) {
	t.mu.Lock()
	_, registered := t.all[c]
	delete(t.all, c)
	if registered && c.from != (origin{}) {
		if c.share.conns--; c.share.conns == 0 {
			delete(t.origins, c.from)
		}
	}
	t.mu.Unlock()
	t.notify()
}

// conns returns all connections, those of evicted lanes among them.
func (t *Transport) conns() []*conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.all))
}

// connectionIDs have 8 bytes, of which the first is the generation.
type connectionIDs struct{ generation byte }

func (g connectionIDs) GenerateConnectionID() (quic.ConnectionID, error) {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	id[0] = g.generation
	return quic.ConnectionIDFromBytes(id[:]), nil
}

func (g connectionIDs) ConnectionIDLen() int { return 8 }

func udpAddr(addr netip.AddrPort) *net.UDPAddr { return net.UDPAddrFromAddrPort(addr) }
