package workload

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"

	"golang.org/x/time/rate"

	"github.com/sennit-mesh/sennit/pkg/capture"
)

// How many connections may be open at once: of one user, and of all. A process needs one.
const (
	maxOfUser      = 256
	maxConnections = 2048
)

// A listener accepts processes of this host and knows who each is. A connection ends with the process that made it,
// whoever holds it then.
type listener struct {
	net.Listener
	processes *capture.Processes
	log       *slog.Logger
	refusal   *rate.Limiter

	mu   sync.Mutex
	open map[uint32]int // connections, by uid
	all  int
}

func newListener(l net.Listener, processes *capture.Processes, log *slog.Logger) *listener {
	return &listener{Listener: l, processes: processes, log: log, refusal: rate.NewLimiter(1, 10), open: map[uint32]int{}}
}

// Accept returns the next connection of a process that can be named. Others are closed.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		known, err := l.identify(conn)
		if err == nil {
			return known, nil
		}
		if l.refusal.Allow() {
			l.log.Warn("a process is not answered on the Workload API", "err", err)
		}
		conn.Close()
	}
}

func (l *listener) identify(conn net.Conn) (net.Conn, error) {
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a unix socket")
	}
	process, err := l.processes.Of(local)
	if err != nil {
		return nil, err
	}
	if !l.take(process.UID) {
		return nil, errors.Join(errors.New("it, or others of its user, have too many connections open"), process.Close())
	}
	known := &connection{UnixConn: local, process: process, release: func() { l.release(process.UID) }}
	go func() { // ends with the process, or as the connection is closed
		if process.Ended() == nil {
			known.Close()
		}
	}()
	return known, nil
}

func (l *listener) take(uid uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[uid] >= maxOfUser || l.all >= maxConnections {
		return false
	}
	l.open[uid]++
	l.all++
	return true
}

func (l *listener) release(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.open[uid]--; l.open[uid] == 0 {
		delete(l.open, uid)
	}
}

// A connection is one of a known process.
type connection struct {
	*net.UnixConn
	process *capture.Process
	release func()
	once    sync.Once
}

// Close ends the connection, once.
func (c *connection) Close() (err error) {
	c.once.Do(func() {
		err = errors.Join(c.UnixConn.Close(), c.process.Close())
		c.release()
	})
	return err
}

// processKey is where the context of a connection has its process.
type processKey struct{}

// withProcess gives the context of a listener's connection its process (http.Server.ConnContext).
func withProcess(ctx context.Context, conn net.Conn) context.Context {
	if known, ok := conn.(*connection); ok {
		return context.WithValue(ctx, processKey{}, known.process)
	}
	return ctx
}

// processOf returns who made the connection of a call.
func processOf(ctx context.Context) (*capture.Process, bool) {
	process, ok := ctx.Value(processKey{}).(*capture.Process)
	return process, ok
}
