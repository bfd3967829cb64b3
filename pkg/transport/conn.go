package transport

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A conn is one connection, of a lane of this node's or of one that a peer opened. Its exchanges are
// opened by the end that dialled; the other end opens one stream at most, to say that it drains.
type conn struct {
	identity
	t      *Transport
	link   link
	solo   bool  // each stream has a connection of its own: none waits for another, and nothing is gained by collecting
	lane   *lane // nil where the peer dialled
	class  Class
	outbox outbox
	flows  flows // UDP exchanges that run on it
	addr   netip.AddrPort
	from   origin // of one that a peer opened; zero otherwise
	share  *share // of from

	mu        sync.Mutex
	streams   map[*Stream]struct{} // all that are open, for sweep
	idle      []*Stream            // those that wait for an exchange; the last used is last
	lowest    int                  // fewest idle ones since the last trim
	retries   atomic.Bool          // QUIC is being tried in its place
	running   atomic.Int32         // exchanges; changed with the lock held
	draining  bool                 // takes no further exchange
	crowded   bool                 // many of its streams stall: others are better off elsewhere
	said      bool                 // the peer was told so
	idleSince time.Time            // when running became 0
	linger    bool                 // the last exchange was TCP: its last bytes may still be on the way
}

// An origin is who opens connections to this node. One of them shall not leave others without.
type origin struct {
	service exchange.ServiceName
	addr    netip.Addr
}

func newConn(t *Transport, l link) *conn {
	_, solo := l.(*tcpLink)
	return &conn{t: t, link: l, solo: solo, streams: make(map[*Stream]struct{}), outbox: outbox{wake: make(chan struct{}, 1)}}
}

// A share is what one origin has of this node.
type share struct {
	conns   int // under Transport.mu
	streams atomic.Int64
}

// takeStream counts a stream that the peer opened, and reports false where that is one too many. giveStream takes
// it back.
func (c *conn) takeStream() bool {
	ours, theirs := c.t.streams.Add(1), c.share.streams.Add(1)
	if ours > int64(c.t.limits.InboundStreams) || theirs > int64(c.t.limits.PeerStreams) {
		c.giveStream()
		return false
	}
	return true
}

func (c *conn) giveStream() {
	c.t.streams.Add(-1)
	c.share.streams.Add(-1)
}

func (c *conn) add(s *Stream) {
	c.mu.Lock()
	c.streams[s] = struct{}{}
	c.mu.Unlock()
}

func (c *conn) remove(s *Stream) {
	c.mu.Lock()
	delete(c.streams, s)
	c.mu.Unlock()
}

// began and ended count the exchanges of a connection that the peer opened.
func (c *conn) began() {
	c.mu.Lock()
	c.running.Add(1)
	c.mu.Unlock()
}

func (c *conn) ended() {
	c.mu.Lock()
	c.running.Add(-1)
	c.mu.Unlock()
}

func (c *conn) close(code quic.ApplicationErrorCode, why string) {
	_ = c.link.CloseWithError(code, why) // fails only where it was closed before
}

// goAway tells the peer, once, to open no more exchanges here. The peer closes the connection when those that
// run have ended.
func (c *conn) goAway() {
	c.mu.Lock()
	said := c.said
	c.said, c.draining = true, true
	c.mu.Unlock()
	if !said {
		c.link.goAway()
	}
}
