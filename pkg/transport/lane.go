package transport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A lane holds this node's connections for one Key. Its lock is taken twice an exchange and never while
// anything is waited for.
type lane struct {
	t        *Transport
	key      Key
	sessions sessionCaches
	// Tickets of one carrier say nothing to the other.
	tcpSessions sessionCaches
	lastUsed    atomic.Uint32 // Transport.tick

	mu    sync.Mutex
	gone  bool // evicted: Open looks again
	sides [classes]side
}

// A side is what a lane has for one class.
type side struct {
	conns   []*conn
	dial    *dial // under way
	failed  error // of the last dial
	until   time.Time
	retries int
}

// A dial is shared by all who wait for it.
type dial struct {
	addr netip.AddrPort
	done chan struct{}
}

const (
	firstBackOff = 100 * time.Millisecond
	lastBackOff  = 5 * time.Second
)

// open takes an idle stream, or opens one, or dials.
func (l *lane) open(ctx context.Context, addr netip.AddrPort, class Class) (*Stream, error) {
	for {
		l.mu.Lock()
		if l.gone {
			l.mu.Unlock()
			return nil, errLaneGone
		}
		l.lastUsed.Store(l.t.tick.Load())
		s := l.take(addr, class, false)
		if s == nil {
			if s = l.take(addr, class, true); s != nil {
				_, _ = l.dialLocked(addr, class) // the next ones have it better, where there is place
			}
		}
		if s != nil {
			l.mu.Unlock()
			s.begin()
			return s, nil
		}
		d, err := l.dialLocked(addr, class)
		l.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-d.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrNotSent, context.Cause(ctx))
		}
	}
}

// take returns a stream of a connection to addr that takes exchanges and is crowded or not, or nil. The
// lane's lock is held.
func (l *lane) take(addr netip.AddrPort, class Class, crowded bool) *Stream {
	side := &l.sides[class]
	for _, c := range side.conns {
		if c.addr != addr || c.link.Context().Err() != nil {
			continue
		}
		c.mu.Lock()
		if !c.draining && c.crowded == crowded && len(c.idle) > 0 {
			s := c.idle[len(c.idle)-1]
			c.idle = c.idle[:len(c.idle)-1]
			c.lowest = min(c.lowest, len(c.idle))
			c.running.Add(1)
			c.mu.Unlock()
			return s
		}
		c.mu.Unlock()
	}
	for _, c := range side.conns {
		if c.addr != addr || c.link.Context().Err() != nil {
			continue
		}
		c.mu.Lock()
		if !c.draining && c.crowded == crowded {
			if str, err := c.link.OpenStream(); err == nil {
				s := newStream(l.t, c, str, true)
				c.streams[s] = struct{}{}
				c.running.Add(1)
				c.mu.Unlock()
				return s
			}
		}
		c.mu.Unlock()
	}
	return nil
}

// release is Stream.Release.
func (l *lane) release(s *Stream) {
	c := s.conn
	whole := s.reusable()
	keep := whole && c.class == Interactive
	if !whole && (s.out.state != outEnded || s.in.state != inEnded || s.posted.waits()) {
		s.Reset(exchange.CallerGone)
	}
	raw := s.in.raw
	s.clear()
	c.mu.Lock()
	running := c.running.Add(-1)
	// shed may have reset it just now.
	if keep = keep && s.cause.Load() == nil && !c.draining && len(c.idle) < l.t.limits.IdleStreams; keep {
		c.idle = append(c.idle, s)
	} else {
		delete(c.streams, s)
	}
	if running == 0 {
		c.idleSince = time.Now()
		c.linger = raw
	}
	finished := running == 0 && c.draining && !raw
	c.mu.Unlock()
	if !keep {
		s.discard(whole)
	}
	if finished {
		c.close(closeDone, "drained")
	}
}

// discard ends a stream that no exchange runs on. Behind a whole exchange the callee ends its side by itself.
func (s *Stream) discard(whole bool) {
	if str := s.str.Load(); str != nil {
		_ = str.Close()
		if !s.in.raw && !whole {
			str.CancelRead(codeNone)
		}
		finish(str)
	}
}

// dialLocked joins or starts a dial, or says why there is none. The lane's lock is held.
func (l *lane) dialLocked(addr netip.AddrPort, class Class) (*dial, error) {
	side := &l.sides[class]
	if side.dial != nil {
		return side.dial, nil
	}
	if side.failed != nil && time.Now().Before(side.until) {
		return nil, side.failed
	}
	there := 0
	for _, c := range side.conns {
		if c.link.Context().Err() != nil {
			l.t.ways.ended(c, context.Cause(c.link.Context())) // which its own goroutine may not have come to
		}
		c.mu.Lock()
		if c.addr != addr {
			c.draining = true // the node moved
			c.flows.leave()
		}
		if !c.draining {
			there++
		}
		c.mu.Unlock()
	}
	if there >= l.t.limits.Connections {
		return nil, fmt.Errorf("%w: %w: %s", ErrNotSent, ErrBusy, l.key)
	}
	d := &dial{addr: addr, done: make(chan struct{})}
	if !l.t.spawn(func(ctx context.Context) { l.connect(ctx, d, class) }) {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, ErrDraining)
	}
	side.dial = d
	return d, nil
}

// connect dials, stays until the connection ends, and takes it out of the lane.
func (l *lane) connect(ctx context.Context, d *dial, class Class) {
	c, later, err := l.t.dial(ctx, l, d.addr, class)
	l.mu.Lock()
	side := &l.sides[class]
	side.dial = nil
	if err == nil && !l.add(c) {
		err = errLaneGone
	}
	if err != nil {
		backOff := min(firstBackOff<<min(side.retries, 10), lastBackOff)
		side.retries++
		side.failed = fmt.Errorf("%w: dial lane %s at %s: %w", ErrNotSent, l.key, d.addr, err)
		side.until = time.Now().Add(backOff/2 + rand.N(backOff))
		l.mu.Unlock()
		close(d.done)
		l.t.log.Warn("lane cannot be dialled", "lane", l.key, "addr", d.addr, "class", class, "err", err)
	} else {
		side.failed, side.retries = nil, 0
		l.mu.Unlock()
		close(d.done)
	}
	if later != nil {
		later := func(ctx context.Context) { l.settle(ctx, d.addr, <-later) }
		if err != nil || !l.t.spawn(later) {
			later(ctx)
		}
	}
	if err == nil {
		l.stay(ctx, c)
	}
}

// add puts a connection before the others of its side; where the lane is gone it is closed. The lane's lock is held.
func (l *lane) add(c *conn) bool {
	if l.gone || l.t.register(c) != nil {
		c.close(closeDone, "lane closed")
		return false
	}
	side := &l.sides[c.class]
	side.conns = slices.Insert(side.conns, 0, c)
	l.t.judge(c)
	return true
}

// stay returns when a connection of the lane has ended and is taken out.
func (l *lane) stay(ctx context.Context, c *conn) {
	if !c.solo {
		l.t.spawn(c.deliver)
	}
	// Whatever the peer says there: a connection that is forgotten before it has ended would stay for good.
	c.link.awaitGoAway(ctx)
	c.drain()
	<-c.link.Context().Done()
	l.t.ways.ended(c, context.Cause(c.link.Context()))
	l.mu.Lock()
	side := &l.sides[c.class]
	side.conns = slices.DeleteFunc(side.conns, func(other *conn) bool { return other == c })
	l.mu.Unlock()
	l.t.unregister(c)
}

// drain stops new exchanges on a connection of a lane and closes it once none runs.
func (c *conn) drain() {
	c.mu.Lock()
	c.draining = true
	finished := c.running.Load() == 0 && !c.linger
	c.mu.Unlock()
	c.flows.leave()
	if finished {
		c.close(closeDone, "drained")
	}
}

// dialQUIC opens one connection.
func (t *Transport) dialQUIC(ctx context.Context, l *lane, addr netip.AddrPort, class Class) (*conn, error) {
	cert, err := t.credentials.Certificate(l.key.Local)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", l.key.Local, err)
	}
	ctx, cancel := context.WithTimeout(ctx, t.limits.Handshake)
	defer cancel()
	id := new(identity)
	q, err := t.quic.Dial(ctx, udpAddr(addr), t.dialTLS(l.key, cert, l.sessions.of(cert), id), t.quicConfig(class, true))
	if err != nil {
		return nil, err
	}
	return l.newConn(quicLink{q}, id, addr, class), nil
}

// newConn makes a connection of a lane.
func (l *lane) newConn(k link, id *identity, addr netip.AddrPort, class Class) *conn {
	c := newConn(l.t, k)
	c.identity, c.lane, c.class, c.addr, c.idleSince = *id, l, class, addr, time.Now()
	return c
}

// quicConfig returns the windows and limits of a connection. A window starts small and grows only for a
// reader that keeps up, so that a stalled one holds little; the connection's window is beyond what its
// streams' can add up to, so that no number of stalled readers silences the others.
func (t *Transport) quicConfig(class Class, dialled bool) *quic.Config {
	most := t.limits.StreamWindow
	if class == Bulk {
		most = t.limits.BulkWindow
	}
	streams := t.limits.Streams
	config := &quic.Config{
		Versions:                   []quic.Version{quic.Version1},
		InitialPacketSize:          firstPacket,
		HandshakeIdleTimeout:       t.limits.Handshake,
		MaxIdleTimeout:             t.limits.Silence,
		InitialStreamReceiveWindow: uint64(min(firstWindow, most)),
		MaxStreamReceiveWindow:     uint64(most),
		MaxIncomingStreams:         int64(streams),
		MaxIncomingUniStreams:      -1,
		EnableDatagrams:            !dialled || class == Flows,
	}
	if dialled {
		config.KeepAlivePeriod = t.limits.Silence * 2 / 5
		config.MaxIncomingStreams = 1 // to say that the peer drains
	}
	config.InitialConnectionReceiveWindow = uint64((streams + 1) * most)
	config.MaxConnectionReceiveWindow = config.InitialConnectionReceiveWindow
	return config
}

// firstPacket is the size of a packet before the path's has been found out, in bytes behind the headers of UDP: what an
// IPv6 link must carry (RFC 8200 §5). Longer ones would not get through everywhere, and be lost without a word.
const firstPacket = 1280 - 40 - 8

// firstWindow is what a peer may send on a new stream before anybody reads.
const firstWindow = 64 << 10
