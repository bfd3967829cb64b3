package proxy

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http1"
	"github.com/sennit-mesh/sennit/pkg/http2"
)

// multiplexed are the connections of HTTP/2 to the processes of this host. It is safe for concurrent use.
type multiplexed struct {
	limits http2.Limits
	places sync.Map // Place → *processConns
}

// processConns are those to one process: one, unless it allows fewer streams than are needed.
type processConns struct {
	dial chan struct{} // holds a token while somebody dials: a burst of calls needs one connection, and not one each
	gone bool          // nobody finds it any more; who holds the token of dial may read and write it

	mu    sync.Mutex
	conns []*http2.ClientConn
	used  time.Time // when a stream was opened last
}

// connsPerProcess bounds how many connections a process gets.
const connsPerProcess = 64

var errTooManyConns = errors.New("the process allows no further streams, on any of its connections")

// http2Limits are the limits of heads as HTTP/1.1's. What is not said there is http2's default.
func http2Limits(l http1.Limits) http2.Limits {
	return http2.Limits{Head: l.Head, Fields: l.Fields, HeadTimeout: l.HeadTimeout}
}

// open takes a stream to the process, and connects where that needs another connection.
func (m *multiplexed) open(ctx context.Context, place Place) (*http2.ClientStream, error) {
	var p *processConns
	for {
		p = m.of(place)
		if s := p.take(); s != nil {
			return s, nil
		}
		select {
		case p.dial <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !p.gone {
			break
		}
		<-p.dial
	}
	defer func() { <-p.dial }()
	if s := p.take(); s != nil { // of a connection that somebody else made meanwhile
		return s, nil
	}
	if p.full() {
		return nil, errTooManyConns
	}
	nc, err := place.dial(ctx, exchange.HTTP)
	if err != nil {
		return nil, err
	}
	c := http2.NewClientConn(nc, m.limits)
	p.mu.Lock()
	p.conns, p.used = append(p.conns, c), time.Now()
	p.mu.Unlock()
	go func() {
		_ = c.Run() // its streams have heard why it ended
		p.forget(c)
	}()
	return c.Open()
}

func (m *multiplexed) of(place Place) *processConns {
	value, ok := m.places.Load(place)
	if !ok {
		value, _ = m.places.LoadOrStore(place, &processConns{dial: make(chan struct{}, 1)})
	}
	return value.(*processConns)
}

func (p *processConns) take() *http2.ClientStream {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		if s, err := c.Open(); err == nil {
			p.used = time.Now()
			return s
		}
	}
	return nil
}

func (p *processConns) full() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) >= connsPerProcess
}

func (p *processConns) forget(c *http2.ClientConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(other *http2.ClientConn) bool { return other == c })
}

// each calls visit for the connections to every process.
func (m *multiplexed) each(visit func(Place, *processConns, []*http2.ClientConn)) {
	m.places.Range(func(key, value any) bool {
		p := value.(*processConns)
		p.mu.Lock()
		conns := slices.Clone(p.conns)
		p.mu.Unlock()
		visit(key.(Place), p, conns)
		return true
	})
}

// sweep ends connections to processes that nobody has called for longer than idleUpstream. Streams that run go on. A
// place to which none is left is forgotten: configuration may have replaced it.
func (m *multiplexed) sweep(now time.Time) {
	m.each(func(place Place, p *processConns, conns []*http2.ClientConn) {
		p.mu.Lock()
		idle := now.Sub(p.used) > idleUpstream
		p.mu.Unlock()
		if !idle {
			return
		}
		for _, c := range conns {
			c.Drain()
		}
		select {
		case p.dial <- struct{}{}:
		default:
			return // somebody dials
		}
		p.mu.Lock()
		p.gone = len(p.conns) == 0
		p.mu.Unlock()
		if p.gone {
			m.places.Delete(place)
		}
		<-p.dial
	})
}

// close ends all of them at once.
func (m *multiplexed) close() {
	m.each(func(_ Place, _ *processConns, conns []*http2.ClientConn) {
		for _, c := range conns {
			c.Close()
		}
	})
}
