package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"maps"
	"slices"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// sweepUntil looks after all connections until ctx ends.
func (t *Transport) sweepUntil(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			n := t.tick.Add(1)
			conns := t.conns()
			t.keepBudget(conns)
			if n%10 == 0 {
				t.sweep(conns, now)
			}
		}
	}
}

// sweep closes what expired or is unused, replaces what has an old certificate, and lets go of surplus idle
// streams.
func (t *Transport) sweep(conns []*conn, now time.Time) {
	current := make(map[exchange.ServiceName]*tls.Certificate)
	for _, c := range conns {
		if now.Before(c.expires) {
			t.replace(c, current)
		} else {
			c.close(closeExpired, "certificate ended")
		}
		if c.lane != nil {
			c.sweepTCP(now)
			c.sweep(now)
		}
	}
	t.dropUnused(now)
}

// Renewed is called when the node has other certificates than before: lanes with older ones are replaced now, and those
// that could not be dialled are tried again.
func (t *Transport) Renewed() {
	current := make(map[exchange.ServiceName]*tls.Certificate)
	for _, c := range t.conns() {
		t.replace(c, current)
	}
	for _, l := range *t.lanes.Load() {
		l.mu.Lock()
		for i := range l.sides {
			l.sides[i].until = time.Time{}
		}
		l.mu.Unlock()
	}
}

// replace takes no further exchanges on a connection with an older certificate.
func (t *Transport) replace(c *conn, current map[exchange.ServiceName]*tls.Certificate) {
	switch {
	case !t.replaced(c, current):
	case c.lane != nil:
		c.drain()
	default:
		c.goAway()
	}
}

// replaced reports whether the node has another certificate than the one that c was made with. Where it has
// none any more, c goes on to the end of its own.
func (t *Transport) replaced(c *conn, current map[exchange.ServiceName]*tls.Certificate) bool {
	cert, asked := current[c.local]
	if !asked {
		cert, _ = t.credentials.Certificate(c.local)
		current[c.local] = cert
	}
	return cert != nil && !sameLeaf(cert, c.cert)
}

// lingerFor is how long a drained connection stays after a TCP exchange: its last bytes may not have been
// acknowledged yet, and closing would drop them.
const lingerFor = time.Second

// sweep looks after a connection that this node dialled.
func (c *conn) sweep(now time.Time) {
	c.mu.Lock()
	unused := now.Sub(c.idleSince)
	if c.running.Load() == 0 && (unused >= c.t.limits.Idle || c.draining && (unused >= lingerFor || !c.linger)) {
		c.draining = true
		c.mu.Unlock()
		c.close(closeDone, "idle")
		return
	}
	// Half of those that nobody needed since the last time.
	surplus := slices.Clone(c.idle[:min((c.lowest+1)/2, len(c.idle))])
	c.idle = slices.Delete(c.idle, 0, len(surplus))
	c.lowest = len(c.idle)
	for _, s := range surplus {
		delete(c.streams, s)
	}
	c.mu.Unlock()
	for _, s := range surplus {
		s.discard(false)
	}
}

// dropUnused forgets lanes that have no connection and were not used for a while.
func (t *Transport) dropUnused(now time.Time) {
	t.laneMu.Lock()
	defer t.laneMu.Unlock()
	lanes := *t.lanes.Load()
	var unused []Key
	for key, l := range lanes {
		l.mu.Lock()
		busy := false
		for i := range l.sides {
			side := &l.sides[i]
			busy = busy || len(side.conns) > 0 || side.dial != nil || now.Before(side.until.Add(lastBackOff))
		}
		since := time.Duration(t.tick.Load()-l.lastUsed.Load()) * sweepEvery
		if !busy && since > t.limits.Idle {
			l.gone = true
			unused = append(unused, key)
		}
		l.mu.Unlock()
	}
	if len(unused) == 0 {
		return
	}
	kept := maps.Clone(lanes)
	for _, key := range unused {
		delete(kept, key)
	}
	t.lanes.Store(&kept)
}

// A stall is a stream that nobody reads, and the most that its peer may have sent.
type stall struct {
	s     *Stream
	bytes int64
	since uint32
}

// quic-go looks at every stream that waits for its window whenever it fills a packet. A connection on which
// this many have waited for stallAge sweeps takes new exchanges only where the lane has no other: docs/decisions/0022.
const (
	crowd    = 32
	stallAge = 3
)

// keepBudget notes which connections are crowded, and resets the streams that were not read for longest, where the
// windows of all that are not read add up to more than the node's budget.
func (t *Transport) keepBudget(conns []*conn) {
	var stalls []stall
	var sum int64
	now := t.tick.Load()
	for _, c := range conns {
		waiting := 0
		c.mu.Lock()
		for s := range c.streams {
			if since := s.sending.Load(); since != 0 && now+1-since >= stallAge {
				waiting++
			} else if s.unread.Load() && !s.reading.Load() && now-s.lastRead.Load() >= stallAge {
				waiting++
			}
			if !s.unread.Load() || s.reading.Load() || s.cause.Load() != nil {
				continue
			}
			window := t.windowOf(s)
			sum += window
			stalls = append(stalls, stall{s, window, s.lastRead.Load()})
		}
		c.crowded = waiting >= crowd && !c.solo
		c.mu.Unlock()
	}
	if sum <= t.limits.Buffered {
		return
	}
	slices.SortFunc(stalls, func(a, b stall) int { return cmp.Compare(now-b.since, now-a.since) })
	reset := 0
	for i := 0; i < len(stalls) && sum > t.limits.Buffered; i++ {
		if stalls[i].s.shed(stalls[i].since, now) {
			reset++
		}
		sum -= stalls[i].bytes
	}
	if reset == 0 {
		return
	}
	t.log.Warn("too many bytes that nobody reads: slowest streams reset", "streams", reset, "budget", t.limits.Buffered)
}

// windowOf is the most that a stream's peer can have in flight to a reader that stopped: the window starts
// at firstWindow and doubles at most once for each half of it that was read.
func (t *Transport) windowOf(s *Stream) int64 {
	most := int64(t.limits.BulkWindow)
	if s.caller && s.conn.class != Bulk {
		most = int64(t.limits.StreamWindow)
	}
	window := min(firstWindow, most)
	for read := s.received.Load(); window < most && read > window/2; window = min(2*window, most) {
		read -= window / 2
	}
	return window
}
