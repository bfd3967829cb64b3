package proxy

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

const (
	goneAfter  = time.Second            // an exchange that waits for so long is looked at
	sweepEvery = 500 * time.Millisecond // how often
)

// A guard ends the attempt that runs on a caller's connection from outside: when its time is over, or when the
// application has gone and the process would work for nobody. It costs an exchange neither a goroutine nor
// memory. attempt and switch are for the goroutine that owns the connection.
type guard struct {
	conn *net.TCPConn

	gone atomic.Bool   // the caller of a stream of HTTP/2 has given up
	nth  atomic.Uint32 // which exchange of its caller it watches, for those of HTTP/2

	mu     sync.Mutex
	stream *transport.Stream // of the attempt that runs; nil: none does
	hedged *transport.Stream // of one that runs beside it; nil: none does
	since  time.Time         // when that began
	until  time.Time         // when it must have ended; zero: no limit
	timer  *time.Timer       // fires at until, or before it for an attempt that has ended
}

// begin watches over an attempt; limit 0 is none.
func (g *guard) begin(stream *transport.Stream, limit time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stream, g.since, g.until = stream, time.Now(), time.Time{}
	if g.gone.Load() {
		stream.Reset(exchange.CallerGone)
	}
	if limit == 0 {
		return
	}
	g.until = g.since.Add(limit)
	if g.timer == nil {
		g.timer = time.AfterFunc(limit, g.expire)
	} else {
		g.timer.Reset(limit)
	}
}

// end ends the watch. It is called before the stream is released: a late reset would hit its next exchange.
func (g *guard) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hedged = nil
	if g.stream = nil; g.timer != nil && !g.until.IsZero() {
		g.timer.Stop()
	}
}

func (g *guard) expire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stream != nil && !g.until.IsZero() && !time.Now().Before(g.until) {
		g.reset(exchange.Timeout)
	}
}

// reset ends the attempts that run. It is for whoever holds mu.
func (g *guard) reset(reason exchange.Reason) {
	g.stream.Reset(reason)
	if g.hedged != nil {
		g.hedged.Reset(reason)
	}
}

// join watches over an attempt beside the one that runs, until leave or the end of that one.
func (g *guard) join(stream *transport.Stream) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hedged = stream; g.gone.Load() {
		stream.Reset(exchange.CallerGone)
	}
}

// leave ends that; it is called before the stream is released.
func (g *guard) leave(stream *transport.Stream) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hedged == stream {
		g.hedged = nil
	}
}

// follow watches over the other attempt instead of the one that was begun, for as long.
func (g *guard) follow(stream *transport.Stream) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stream, g.hedged = stream, nil
}

// over reports whether the attempt's time is.
func (g *guard) over() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.until.IsZero() && !time.Now().Before(g.until)
}

// look ends the attempt if it has waited for a while and the application has gone.
func (g *guard) look(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn != nil && g.stream != nil && now.Sub(g.since) >= goneAfter && departed(g.conn) {
		g.reset(exchange.CallerGone)
	}
}

// left reports whether the caller has gone. It is asked while no attempt runs.
func (g *guard) left() bool { return g.gone.Load() || g.conn != nil && departed(g.conn) }

// next begins the watch over another exchange of HTTP/2.
func (g *guard) next() {
	g.nth.Add(1)
	g.gone.Store(false)
}

// Close ends the attempt because the caller has given it up; it is io.Closer's. It waits for nothing.
func (g *guard) Close() error {
	nth := g.nth.Load()
	g.gone.Store(true)
	go func() { // a reset may have to wait for the lane, and whoever calls holds the caller's connection
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.stream != nil && g.nth.Load() == nth {
			g.reset(exchange.CallerGone)
		}
	}()
	return nil
}

// departed reports whether the other end has closed the connection and everything that it sent was read. An
// HTTP/1.1 client that ends its direction while it waits for an answer counts as gone: the two cannot be told
// apart before something is written, and those that mean it are rare.
func departed(conn *net.TCPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		var one [1]byte
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch err {
		case nil:
			gone = n == 0
		case syscall.EAGAIN, syscall.EINTR:
		default:
			gone = true
		}
	})
	return err != nil || gone
}

// Run finds applications that went away while they were waited for, until ctx ends. Then it resets the connections
// that are left: one whose application takes nothing would keep its handler, and the node, from ending.
func (o *Outbound) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			o.ended.Store(true)
			o.conns.Range(func(conn, _ any) bool {
				abort(conn.(*net.TCPConn))
				return true
			})
			return nil
		case now := <-tick.C:
			o.callers.Range(func(key, _ any) bool {
				c := key.(*caller)
				c.guard.look(now)
				c.watch(now)
				return true
			})
		}
	}
}

// A term is a context that ends at a time. It costs something only where somebody waits for its end, as a dial
// does. It is for one goroutine.
type term struct {
	context.Context // never ends
	until           time.Time
	inner           context.Context
	cancel          context.CancelFunc
}

// Deadline is context.Context's.
func (t *term) Deadline() (time.Time, bool) { return t.until, true }

// Done is context.Context's.
func (t *term) Done() <-chan struct{} {
	if t.inner == nil {
		t.inner, t.cancel = context.WithDeadline(t.Context, t.until)
	}
	return t.inner.Done()
}

// Err is context.Context's.
func (t *term) Err() error {
	if t.inner != nil {
		return t.inner.Err()
	}
	if !time.Now().Before(t.until) {
		return context.DeadlineExceeded
	}
	return nil
}

// end gives back what waiting took.
func (t *term) end() {
	if t.cancel != nil {
		t.cancel()
	}
	*t = term{}
}
