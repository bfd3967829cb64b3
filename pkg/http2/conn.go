package http2

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/sennit-mesh/sennit/internal/rawsock"
)

const (
	codeCalm        = http2.ErrCodeEnhanceYourCalm
	codeCompression = http2.ErrCodeCompression
	codeFlow        = http2.ErrCodeFlowControl
	codeFrameSize   = http2.ErrCodeFrameSize
	codeProtocol    = http2.ErrCodeProtocol
)

const (
	initialWindow = 65535     // of both windows, before anything was said (RFC 9113 §6.9.2)
	largestValue  = 1<<31 - 1 // of a window, and of a stream's number
	largestFrame  = 16 << 10  // that is sent, whatever the peer would take: streams take turns
)

const (
	// tickEvery is how often a connection looks at the time.
	tickEvery = 5 * time.Second
	// lingerTime and lingerBytes bound what is read behind the end, so that the peer gets what was written before the
	// kernel resets the connection for what was not read.
	lingerTime  = time.Second
	lingerBytes = 256 << 10
)

// A conn is what both roles share. The goroutine of Serve or Run reads; everything below mu belongs to whoever holds it.
type conn struct {
	nc     net.Conn
	client bool
	scheme string // of all requests: it is the connection's, whatever somebody says
	limits Limits
	now    func() time.Time

	in      input
	framer  *http2.Framer // reads from in, which is for the reader; writes to out, which is below mu
	decoder decoder
	settled bool // the peer's first SETTINGS have come
	reads   atomic.Uint32

	mu       sync.Mutex
	out      outbox
	encoder  encoder
	streams  map[uint32]*stream
	patience patience
	highest  uint32            // the last stream that the peer opened, or of a client that it opened itself
	gone     [goneMost]goneOne // streams that this side has reset
	goneNext int

	window  int64 // what may be sent, of all streams
	credit  int   // what was received and not given back yet, of all streams
	room    int64 // what the peer may send, of all streams
	peer    peerSettings
	running int // a server's handlers
	group   sync.WaitGroup
	server  *ServerConn // nil: a client's

	reserved int    // a client's streams that have no number yet
	freed    func() // a stream was released; set before anything is opened

	draining bool   // the first GOAWAY was sent
	last     uint32 // by the second GOAWAY: streams above it are not looked at; largestValue before
	closing  bool   // nothing is read any more; the connection ends when all is written
	err      error  // why it has ended

	alarm       *time.Timer
	pinged      time.Time // when a PING was sent that was not answered yet; zero: none
	drainPinged bool
	quietSince  time.Time
	quietReads  uint32
	idleSince   time.Time
}

// peerSettings are what the peer has said (RFC 9113 §6.5.2).
type peerSettings struct {
	window  int64 // of a new stream
	frame   int
	streams int
	head    int64
	tunnels bool // a server's: it takes extended CONNECT
	known   bool // its first SETTINGS have come
}

// A goneOne is a stream that this side has reset, and what the peer may still have on the way to it.
type goneOne struct {
	id   uint32
	room int64
}

// goneMost is how many of them are remembered.
const goneMost = 32

func (c *conn) init(nc net.Conn, limits Limits, client bool) {
	c.nc, c.client, c.limits, c.now = nc, client, limits.withDefaults(), time.Now
	c.scheme = schemeOf(nc)
	c.in.init(nc)
	raw := rawsock.Stream(nc)
	c.out.dst, c.out.direct, c.out.deliver, c.out.room.L = nc, raw != nil, c.deliver, &c.mu
	if c.out.direct {
		c.out.socket.Init(raw)
	}
	c.framer = http2.NewFramer(&c.out, &c.in)
	c.framer.SetMaxReadFrameSize(maxFrame)
	c.decoder.init(c.limits)
	c.encoder.init()
	c.streams = map[uint32]*stream{}
	c.out.turn = 1
	c.window, c.room, c.last = initialWindow, initialWindow, largestValue
	c.peer = peerSettings{window: initialWindow, frame: largestFrame, streams: c.limits.Streams, head: largestHead}
	c.patience = patience{left: c.limits.Patience, most: c.limits.Patience}
}

// schemeOf is "https" on a connection that says so, or is TLS.
func schemeOf(nc net.Conn) string {
	switch nc := nc.(type) {
	case interface{ Scheme() string }:
		return nc.Scheme()
	case interface{ ConnectionState() tls.ConnectionState }:
		return "https"
	}
	return "http"
}

// greet writes this side's preface. The lock is held.
func (c *conn) greet() {
	settings := []http2.Setting{
		{ID: http2.SettingInitialWindowSize, Val: uint32(c.limits.Window)},
		{ID: http2.SettingMaxHeaderListSize, Val: uint32(c.limits.Head)},
	}
	if c.client {
		_, _ = c.out.Write([]byte(Preface))
		settings = append(settings, http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	} else {
		settings = append(settings, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(c.limits.Streams)},
			http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
	}
	_ = c.framer.WriteSettings(settings...)
	// The connection's window stops nobody unless Unread says so: it is as large as all the streams' together, and given
	// back on receipt. So one stream whose reader is slow does not stop the others.
	all := int64(c.limits.Streams) * int64(c.limits.Window)
	if c.limits.Unread > 0 {
		all = int64(c.limits.Unread)
	}
	c.room = max(initialWindow, min(all, largestValue))
	if c.room > initialWindow {
		_ = c.framer.WriteWindowUpdate(0, uint32(c.room-initialWindow))
	}
	now := c.now()
	c.patience.since, c.quietSince, c.idleSince = now, now, now
	c.alarm = time.AfterFunc(tickEvery, c.tick)
	c.out.flush()
}

// run reads until the connection ends and returns why; nil where that was in order.
func (c *conn) run() error {
	err := c.readFrames()
	c.mu.Lock()
	var broken *connError
	if errors.As(err, &broken) && !c.closing {
		c.goAway(broken.code, broken.why)
		c.closing = true
		c.out.flush()
		if !c.out.writing {
			c.written()
		}
	}
	closing := c.closing
	orderly := broken == nil && c.err == nil && (closing || errors.Is(err, io.EOF) && len(c.streams) == 0)
	if c.err == nil {
		c.fail(fmt.Errorf("%w: %w", ErrClosed, err))
	}
	cause := c.err
	c.mu.Unlock()
	if closing {
		c.linger()
	}
	c.alarm.Stop()
	c.nc.Close()
	c.in.release()
	c.mu.Lock()
	for c.out.writing {
		c.out.room.Wait() // written wakes it
	}
	c.mu.Unlock()
	switch {
	case orderly:
		return nil
	case broken != nil:
		return err
	}
	return cause
}

// linger reads what nobody wants any more.
func (c *conn) linger() {
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerTime))
	_ = c.in.skip(lingerBytes) // to the end, which is an error, or too far
}

// written ends a connection that is closing once all was written. The lock is held.
func (c *conn) written() {
	c.out.room.Broadcast()
	if !c.closing || c.out.n > 0 || c.out.writing {
		return
	}
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		c.nc.Close()
		return
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerTime))
}

// fail ends the connection at once: its streams break. The lock is held.
func (c *conn) fail(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	for _, s := range c.streams {
		s.breakOff(err)
	}
	c.out.room.Broadcast()
	if !c.closing {
		c.nc.Close()
	}
}

// abandon ends a connection that has not begun.
func (c *conn) abandon(err error) {
	c.mu.Lock()
	c.fail(err)
	for c.out.writing {
		c.out.room.Wait()
	}
	c.mu.Unlock()
	c.alarm.Stop()
	c.in.release()
}

// control makes room for a frame of length bytes that answers the peer; false: the peer sends and does not read, and
// the connection has failed. The lock is held.
func (c *conn) control(length int) bool {
	if c.err != nil || c.closing {
		return false
	}
	if c.out.n+frameHeader+length > outboxSize {
		c.fail(fmt.Errorf("%w: %w", ErrClosed, errFlooded))
		return false
	}
	return true
}

// wasted takes one of the peer's patience. The lock is held.
func (c *conn) wasted(what string) error {
	if c.patience.spend(c.now) {
		return nil
	}
	return &connError{codeCalm, "too much for nothing, the last of it " + what}
}

// goAway writes GOAWAY. The lock is held.
func (c *conn) goAway(code http2.ErrCode, why string) {
	if !c.client {
		c.last = min(c.last, c.highest)
	}
	if c.control(8 + len(why)) {
		last := c.last
		if c.client {
			last = 0 // it accepts no streams
		}
		_ = c.framer.WriteGoAway(last, code, []byte(why))
	}
}

// drainPing is what a PING carries that comes back when the peer has seen the first GOAWAY.
var drainPing, alivePing = [8]byte{'s', 'e', 'n', 'n', 'd', 'r', 'a', 'i'}, [8]byte{'s', 'e', 'n', 'n', 'p', 'i', 'n', 'g'}

// drain has the peer open no more streams, and ends the connection when those that it has opened have ended (RFC 9113
// §6.8). A server says so twice: the first time it still takes what is on its way, so that no request is lost.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining || c.err != nil || c.alarm == nil {
		c.draining = true
		return
	}
	c.draining = true
	if !c.client && c.control(8+frameHeader+8) {
		_ = c.framer.WriteGoAway(largestValue, http2.ErrCodeNo, nil)
		_ = c.framer.WritePing(false, drainPing)
		c.drainPinged, c.pinged = true, c.now()
		c.out.flush()
		return
	}
	c.drained()
}

// drained ends a connection that drains once its streams have ended. The lock is held.
func (c *conn) drained() {
	if !c.draining || c.drainPinged || len(c.streams) > 0 || c.closing {
		return
	}
	if c.client {
		c.goAway(http2.ErrCodeNo, "")
	}
	c.closing = true
	c.out.flush()
	if !c.out.writing {
		c.written()
	}
}

// lastCall is the second step of draining: the peer has heard of the first. The lock is held.
func (c *conn) lastCall() {
	if c.drainPinged {
		c.drainPinged, c.pinged = false, time.Time{}
		c.goAway(http2.ErrCodeNo, "")
		c.out.flush()
		c.drained()
	}
}

// tick looks at what waits for the peer, and for how long.
func (c *conn) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	now := c.now()
	if reads := c.reads.Load(); reads != c.quietReads {
		c.quietReads, c.quietSince = reads, now
		if !c.drainPinged {
			c.pinged = time.Time{} // whatever came says that it is there
		}
	}
	switch {
	case !c.out.since.IsZero() && now.Sub(c.out.since) > c.limits.Stall:
		c.fail(fmt.Errorf("%w: the peer takes nothing", ErrClosed))
		return
	case c.drainPinged && now.Sub(c.pinged) >= tickEvery:
		c.lastCall()
	case len(c.streams) == 0 && !c.client && !c.draining:
		if now.Sub(c.idleSince) >= c.limits.Idle {
			c.draining = true
			c.goAway(http2.ErrCodeNo, "idle")
			c.drained()
		}
	case len(c.streams) == 0:
	case !c.pinged.IsZero() && now.Sub(c.pinged) >= c.limits.KeepAlive:
		c.fail(fmt.Errorf("%w: the peer does not answer", ErrClosed))
		return
	case c.pinged.IsZero() && now.Sub(c.quietSince) >= c.limits.KeepAlive && c.control(8):
		c.pinged = now
		_ = c.framer.WritePing(false, alivePing)
		c.out.flush()
	}
	for _, s := range c.streams {
		if !s.stalled.IsZero() && now.Sub(s.stalled) > c.limits.Stall {
			c.reset(s, http2.ErrCodeCancel, "the peer takes nothing")
		}
	}
	c.alarm.Reset(tickEvery)
}

// reset gives a stream up and tells the peer. The lock is held.
func (c *conn) reset(s *stream, code http2.ErrCode, why string) {
	if c.streams[s.id] != s {
		return
	}
	if c.control(4) {
		_ = c.framer.WriteRSTStream(s.id, code)
		c.out.flush()
	}
	if !s.ended {
		c.gone[c.goneNext] = goneOne{s.id, s.room}
		c.goneNext = (c.goneNext + 1) % goneMost
	}
	s.breakOff(&ResetError{Code: code, Why: why})
	c.remove(s)
}

// remove forgets a stream that has ended. The lock is held.
func (c *conn) remove(s *stream) {
	if c.streams[s.id] != s {
		return
	}
	delete(c.streams, s.id)
	if len(c.streams) == 0 {
		c.idleSince = c.now()
		c.drained()
	}
}
