package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A Stream carries one exchange at a time. The end that opened it writes a request and reads a response;
// the other end, inside Config.Serve, the other way round. One goroutine may read while another writes;
// Reset may be called from any, at any time until Release (or the return of Serve), after which the Stream
// belongs to another exchange. Whoever arms a timer that resets makes sure that it cannot fire later.
//
// A STREAM IS USED AGAIN ONLY WHERE BOTH DIRECTIONS OF ITS EXCHANGE WERE COMPLETE: the caller has called
// End and read the response to io.EOF. Anything else resets it.
type Stream struct {
	t       *Transport
	conn    *conn
	str     pipeOf // nil once its buffered bytes were given up (see shed)
	done    <-chan struct{}
	caller  bool
	upgrade bool    // the caller asked for one
	first   [1]byte // of the next exchange, for awaitExchange to look at

	in     reader
	out    writer
	posted posted
	flow   *flow       // of a UDP exchange; else nil
	sent   atomic.Bool // bytes of this exchange were given to the lane

	waitsMu sync.Mutex
	waits   io.Closer // see Interrupt

	cause atomic.Pointer[ResetError] // this node's reset; never cleared
	// What sweep looks at, from another goroutine.
	unread   atomic.Bool   // an exchange runs and its incoming direction has not ended
	reading  atomic.Bool   // somebody waits for bytes right now
	lastRead atomic.Uint32 // Transport.tick when bytes were last taken
	received atomic.Int64  // bytes taken since the stream exists
	sending  atomic.Uint32 // 1 + Transport.tick when a write began; 0 while none waits
}

// inState is where the incoming direction stands.
type inState uint8

const (
	inHead  inState = iota // a head is due
	inBody                 // data, trailers or the end are due
	inEnded                // the end was read
	inRaw                  // TCP: bytes until FIN
)

// outState is where the outgoing direction stands.
type outState uint8

const (
	outHead  outState = iota // nothing but informational responses was written
	outBody                  // head written, end not
	outEnded                 // end written
	outRaw                   // TCP
)

type reader struct {
	buf      *buffer
	held     []*buffer // what heads of this exchange still point into
	hold     int       // buf.b[:hold] belongs to heads that were read
	r, w     int       // buf.b[r:w] was received and not looked at
	state    inState
	left     int   // of the data frame at hand
	body     int64 // what is left of a stated length; LengthUnknown where none was stated
	skips    int
	bodyless bool // no body follows whatever length is stated
	raw      bool // TCP: the stream is not used again
	trailed  bool // the trailers were read
	trailers exchange.Fields
	err      error // sticky
}

type writer struct {
	mu     sync.Mutex
	buf    *buffer
	n      int // buf.b[:n] is not written yet
	state  outState
	method string
	err    error // sticky

	unwanted bool // the peer reads no more: what is written is dropped, and the stream not used again
}

func newStream(t *Transport, c *conn, str pipe, caller bool) *Stream {
	s := &Stream{t: t, conn: c, done: str.Context().Done(), caller: caller}
	s.str.hold(str)
	s.in.body = exchange.LengthUnknown
	if !caller {
		context.AfterFunc(str.Context(), s.interrupted)
	}
	return s
}

// Peer is the service at the other end, as its certificate says.
func (s *Stream) Peer() exchange.ServiceName { return s.conn.peer }

// Home is where that service is, as its certificate says.
func (s *Stream) Home() Home { return s.conn.home }

// Local is the service that this end speaks as: the caller's own, or at the other end the called one.
func (s *Stream) Local() exchange.ServiceName { return s.conn.local }

// Carrier is what its connection runs over: QUIC or TCP.
func (s *Stream) Carrier() Carrier { return s.conn.carrier() }

// Done is closed when the peer no longer wants what this end writes, and when the lane is gone: who waits
// for something else in the middle of an exchange watches it.
func (s *Stream) Done() <-chan struct{} { return s.done }

// begin makes the stream ready for an exchange.
func (s *Stream) begin() {
	s.lastRead.Store(s.t.tick.Load())
	s.unread.Store(true)
}

// reusable reports whether both directions are complete, so that nothing of this exchange can still arrive. Behind an
// upgrade the callee may end the stream when one direction has ended, which the caller learns too late.
func (s *Stream) reusable() bool {
	if s.caller && s.posted.waits() {
		return false // an early response: the callee has not seen the whole request
	}
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	return !s.in.raw && !s.upgrade && s.in.state == inEnded && s.in.err == nil && s.in.r == s.in.w &&
		s.out.state == outEnded && s.out.err == nil && !s.out.unwanted && s.cause.Load() == nil
}

// clear forgets the exchange and gives back all buffers.
func (s *Stream) clear() {
	s.unread.Store(false)
	s.endFlow()
	s.in.buf.giveBack()
	for i, b := range s.in.held {
		b.giveBack()
		s.in.held[i] = nil
	}
	s.in = reader{held: s.in.held[:0], trailers: s.in.trailers[:0], err: s.in.err, body: exchange.LengthUnknown}
	s.out.mu.Lock()
	s.out.buf.giveBack()
	s.out.buf, s.out.n, s.out.state, s.out.method = nil, 0, outHead, ""
	s.out.mu.Unlock()
	if s.caller {
		s.posted.drop() // a callee's response is still on its way
	}
	s.sent.Store(false)
}

// Release ends the caller's use of the stream: it goes back to the lane's pool where its exchange is
// complete, and is reset with CallerGone otherwise. Strings of heads that were read become invalid. Not to
// be called inside Config.Serve.
func (s *Stream) Release() {
	s.conn.lane.release(s)
}

// Reset gives the exchange up, tells the peer why, and wakes whoever reads or writes. What the callee wrote
// before is still delivered where the peer reads it; what the caller wrote may be dropped.
func (s *Stream) Reset(reason exchange.Reason) { s.reset(codeOf(reason), reason) }

// ResetBy is Reset with ServiceBroke, and says with which error code of HTTP/2 the process reset the exchange. A code that
// is none, or more than 255, is not told.
func (s *Stream) ResetBy(process uint32) {
	if process == 0 || process > maxProcess {
		s.Reset(exchange.ServiceBroke)
		return
	}
	s.reset(codeProcess+quic.StreamErrorCode(process), exchange.ServiceBroke)
}

func (s *Stream) reset(code quic.StreamErrorCode, reason exchange.Reason) {
	if s.cause.CompareAndSwap(nil, &ResetError{Reason: reason, code: code}) {
		s.cancel(code)
	}
}

// cancel tells the peer of a reset.
func (s *Stream) cancel(code quic.StreamErrorCode) {
	str := s.str.Load()
	if str == nil {
		return
	}
	str.CancelRead(code)
	if !s.caller && s.writeReset(str, code) {
		return
	}
	str.CancelWrite(code)
}

// writeReset ends the outgoing direction by a reset frame behind everything written before, and reports
// false where that would have to wait, or is not possible.
func (s *Stream) writeReset(str sender, code quic.StreamErrorCode) bool {
	w := &s.out
	if !w.mu.TryLock() {
		return false
	}
	defer w.mu.Unlock()
	if w.err != nil || w.state == outEnded || w.state == outRaw {
		return false
	}
	if s.tryPosted() != nil {
		return false
	}
	if w.n > 0 && str.TryWriteAll(w.buf.b[:w.n]) != nil {
		return false
	}
	w.n = 0
	var frame [maxFrameHeader + 8]byte
	if str.TryWriteAll(appendReset(frame[:0], code)) != nil {
		return false
	}
	w.state = outEnded
	return str.Close() == nil
}

// Interrupt has c closed when the peer no longer wants what this end writes, or the lane is gone, so that
// whoever waits for c in the middle of an exchange wakes. The next call replaces c, nil by nothing. It costs
// an exchange no goroutine.
func (s *Stream) Interrupt(c io.Closer) {
	s.waitsMu.Lock()
	s.waits = c
	s.waitsMu.Unlock()
	if c == nil {
		return
	}
	select {
	case <-s.done:
		s.interrupted()
	default:
	}
}

func (s *Stream) interrupted() {
	if str := s.str.Load(); str != nil && s.cause.Load() == nil && errors.Is(context.Cause(str.Context()), quic.ErrStreamClosed) {
		return // this end has written all that it will: the half-close of TCP
	}
	s.out.mu.Lock()
	ended := s.out.state == outEnded
	s.out.mu.Unlock()
	if ended {
		return // the peer has the whole response, and is done with the stream (see finish)
	}
	s.waitsMu.Lock()
	defer s.waitsMu.Unlock()
	if s.waits != nil {
		_ = s.waits.Close() // whoever reads from it hears of it
		s.waits = nil
	}
}

// StopReading says inside Config.Serve that the rest of the request is not wanted: it wakes whoever reads it
// and leaves the response as it is. The stream is not used again.
func (s *Stream) StopReading() {
	if str := s.str.Load(); str != nil {
		str.CancelRead(codeUnread)
	}
}

// shed resets a stream that nobody has read since a tick, and lets go of what the peer had sent. It does nothing, and
// reports false, where it was read in the meantime: it may belong to another exchange by now. Neither is that known
// of one that was read in this very tick.
func (s *Stream) shed(since, now uint32) bool {
	s.conn.mu.Lock() // no exchange begins or is released meanwhile
	stalls := since != now && s.unread.Load() && !s.reading.Load() && s.lastRead.Load() == since
	shed := stalls && s.cause.CompareAndSwap(nil, &ResetError{Reason: exchange.Overloaded, code: codeOf(exchange.Overloaded)})
	s.conn.mu.Unlock()
	if shed {
		str := s.str.Load()
		s.cancel(codeOf(exchange.Overloaded))
		s.str.letGo()
		finish(str)
	}
	return shed
}

// broken turns an error of the stream's pipe into one of ours. unsent says that nothing of the request left. The streams of a
// connection that fell silent hear of it before the connection's context ends, and whoever made the exchange may dial again in
// between: the way is judged first.
func (s *Stream) broken(err error, unsent bool) error {
	if s.caller {
		s.t.ways.ended(s.conn, err)
	}
	var reset *quic.StreamError
	if errors.As(err, &reset) {
		return remoteReset(reset.ErrorCode, reset.Remote)
	}
	if unsent {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

// fault is the error of whoever finds the stream reset by this node, and nil where it was not.
func (s *Stream) fault() error {
	if cause := s.cause.Load(); cause != nil {
		return cause
	}
	return nil
}
