package proxy

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/pkg/http1"
)

const (
	dialTimeout  = 2 * time.Second // to a process of this host: either at once, or not
	idlePerPort  = 1024            // connections that are kept for a process
	idleUpstream = 30 * time.Second
)

// An upstream is a connection to a local process.
type upstream struct {
	*http1.ClientConn
	net   net.Conn
	since time.Time // when it became idle
}

// upstreams keep idle connections to the processes of this host. It is safe for concurrent use; a lock is
// shared only by exchanges of one address.
type upstreams struct {
	limits http1.Limits
	ports  sync.Map // netip.AddrPort → *idleConns
}

type idleConns struct {
	mu    sync.Mutex
	conns []*upstream // the one that was used last is at the end
}

// take returns an idle connection that is still open, or nil.
func (u *upstreams) take(address netip.AddrPort) *upstream {
	idle := u.port(address)
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
		if c.Alive() {
			return c
		}
		c.net.Close()
	}
}

func (u *upstreams) dial(ctx context.Context, address netip.AddrPort) (*upstream, error) {
	conn, err := dialProcess(ctx, address)
	if err != nil {
		return nil, err
	}
	return &upstream{ClientConn: http1.NewClientConn(conn, u.limits), net: conn}, nil
}

func dialProcess(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
	return dialer.DialContext(ctx, "tcp", address.String())
}

// put keeps a connection for the next exchange, or closes it where it cannot be used again.
func (u *upstreams) put(address netip.AddrPort, c *upstream, now time.Time) {
	if !c.Reusable() {
		c.net.Close()
		return
	}
	c.Release()
	c.since = now
	idle := u.port(address)
	idle.mu.Lock()
	full := len(idle.conns) >= idlePerPort
	if !full {
		idle.conns = append(idle.conns, c)
	}
	idle.mu.Unlock()
	if full {
		c.net.Close()
	}
}

// sweep closes what has been idle for longer than idleUpstream; with a zero now, everything.
func (u *upstreams) sweep(now time.Time) {
	u.ports.Range(func(_, value any) bool {
		idle := value.(*idleConns)
		idle.mu.Lock()
		stale := 0 // the oldest are in front
		for stale < len(idle.conns) && (now.IsZero() || now.Sub(idle.conns[stale].since) > idleUpstream) {
			stale++
		}
		closing := append([]*upstream(nil), idle.conns[:stale]...)
		idle.conns = append(idle.conns[:0], idle.conns[stale:]...)
		idle.mu.Unlock()
		for _, c := range closing {
			c.net.Close()
		}
		return true
	})
}

func (u *upstreams) port(address netip.AddrPort) *idleConns {
	if idle, ok := u.ports.Load(address); ok {
		return idle.(*idleConns)
	}
	idle, _ := u.ports.LoadOrStore(address, &idleConns{})
	return idle.(*idleConns)
}
