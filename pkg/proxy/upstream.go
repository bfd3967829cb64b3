package proxy

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http1"
	"github.com/sennit-mesh/sennit/pkg/origination"
)

const (
	dialTimeout = 2 * time.Second // to a process of this host: either at once, or not
	// handshakeTimeout is for one that speaks TLS, and has taken the connection.
	handshakeTimeout = 5 * time.Second
	idlePerPort      = 1024 // connections that are kept for a process
	idleUpstream     = 30 * time.Second
)

// An upstream is a connection to a place.
type upstream struct {
	*http1.ClientConn
	net   net.Conn
	quiet func() bool // whether nothing has arrived at it while it was idle; nil: Alive tells
	since time.Time   // when it became idle
}

// Close closes the connection; it is io.Closer's.
func (u *upstream) Close() error { return u.net.Close() }

// upstreams keep idle connections to places. It is safe for concurrent use; a lock is shared only by exchanges of one
// place.
type upstreams struct {
	limits http1.Limits
	places sync.Map // Place → *idleConns
}

type idleConns struct {
	mu    sync.Mutex
	conns []*upstream // the one that was used last is at the end
	gone  bool        // nobody finds it any more
}

// take returns an idle connection that is still open, or nil.
func (u *upstreams) take(place Place) *upstream {
	idle := u.of(place)
	for {
		idle.mu.Lock()
		if len(idle.conns) == 0 {
			idle.mu.Unlock()
			return nil
		}
		last := len(idle.conns) - 1
		c := idle.conns[last]
		idle.conns[last] = nil
		idle.conns = idle.conns[:last]
		idle.mu.Unlock()
		if c.Alive() && (c.quiet == nil || c.quiet()) {
			return c
		}
		c.net.Close()
	}
}

func (u *upstreams) dial(ctx context.Context, place Place) (*upstream, error) {
	conn, err := place.dial(ctx, exchange.HTTP)
	if err != nil {
		return nil, err
	}
	c := &upstream{ClientConn: http1.NewClientConn(conn, u.limits), net: conn}
	if secured, ok := conn.(*origination.Conn); ok {
		c.quiet = secured.Quiet // http1 does not see through TLS
	}
	return c, nil
}

// put keeps a connection for the next exchange, or closes it where it cannot be used again.
func (u *upstreams) put(place Place, c *upstream, now time.Time) {
	if !c.Reusable() {
		c.net.Close()
		return
	}
	c.Release()
	c.since = now
	idle := u.of(place)
	idle.mu.Lock()
	full := idle.gone || len(idle.conns) >= idlePerPort
	if !full {
		idle.conns = append(idle.conns, c)
	}
	idle.mu.Unlock()
	if full {
		c.net.Close()
	}
}

// sweep closes what has been idle for longer than idleUpstream; with a zero now, everything. A place outside of which
// nothing is left is forgotten: configuration may have replaced it.
func (u *upstreams) sweep(now time.Time) {
	u.places.Range(func(key, value any) bool {
		idle := value.(*idleConns)
		idle.mu.Lock()
		stale := 0 // the oldest are in front
		for stale < len(idle.conns) && (now.IsZero() || now.Sub(idle.conns[stale].since) > idleUpstream) {
			stale++
		}
		closing := append([]*upstream(nil), idle.conns[:stale]...)
		idle.conns = append(idle.conns[:0], idle.conns[stale:]...)
		if len(idle.conns) == 0 && key.(Place).configured() {
			idle.gone = true
			u.places.Delete(key)
		}
		idle.mu.Unlock()
		for _, c := range closing {
			c.net.Close()
		}
		return true
	})
}

func (u *upstreams) of(place Place) *idleConns {
	if idle, ok := u.places.Load(place); ok {
		return idle.(*idleConns)
	}
	idle, _ := u.places.LoadOrStore(place, &idleConns{})
	return idle.(*idleConns)
}
