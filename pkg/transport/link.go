package transport

import (
	"context"
	"crypto/tls"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// A pipe carries the bytes of one Stream: a *quic.Stream, or a connection of its own of a TCP lane.
type pipe interface {
	receiver
	sender
	// Context ends when nothing that this end writes is wanted any more, or all is written. Its cause is
	// quic.ErrStreamClosed after Close.
	Context() context.Context
}

// A receiver is the direction that a Stream reads.
type receiver interface {
	Read(p []byte) (int, error)
	Peek(p []byte) (int, error)           // waits until p is full, and leaves the bytes to Read
	CancelRead(code quic.StreamErrorCode) // wakes who reads, and tells the peer
}

// A sender is the direction that a Stream writes.
type sender interface {
	Write(p []byte) (int, error)
	TryWriteAll(p []byte) error            // all, without waiting, or quic.ErrWouldBlock
	CancelWrite(code quic.StreamErrorCode) // wakes who writes, and tells the peer
	Close() error                          // FIN
}

// A finisher is a pipe that wants to know when its Stream is done with it.
type finisher interface {
	finish()
}

// finish tells a pipe so, which may be nil. A stream of QUIC is kept until its end was read, which nobody does behind
// the end of an exchange: it is given up here.
func finish(p pipe) {
	switch p := p.(type) {
	case finisher:
		p.finish()
	case *quic.Stream:
		p.CancelRead(codeNone)
	}
}

// pipeOf holds a stream's pipe for readers of any goroutine.
type pipeOf struct{ p atomic.Pointer[pipe] }

// Load returns the pipe, nil where it was let go.
func (h *pipeOf) Load() pipe {
	if p := h.p.Load(); p != nil {
		return *p
	}
	return nil
}

func (h *pipeOf) hold(p pipe) { h.p.Store(&p) }
func (h *pipeOf) letGo()      { h.p.Store(nil) }

// A link is what a conn stands on: one QUIC connection, or the TCP connections that do the same together.
type link interface {
	streamer
	signaller
	described
}

// A streamer makes pipes. OpenStream does not wait.
type streamer interface {
	OpenStream() (pipe, error)
	AcceptStream(ctx context.Context) (pipe, error)
}

// A signaller says what concerns all streams. goAway is said once, by the dialled end; awaitGoAway returns when it
// was, when the peer said something else in its place, and when the link or ctx has ended.
type signaller interface {
	goAway()
	awaitGoAway(ctx context.Context)
	CloseWithError(code quic.ApplicationErrorCode, why string) error
}

// described is what is known of a link. Its Context ends with it; the cause says why.
type described interface {
	Context() context.Context
	handshake() tls.ConnectionState
	rtt() time.Duration
}

// A quicLink is one QUIC connection.
type quicLink struct{ *quic.Conn }

func (q quicLink) OpenStream() (pipe, error) {
	str, err := q.Conn.OpenStream()
	if err != nil {
		return nil, err // not a pipe that holds nil
	}
	return str, nil
}

func (q quicLink) AcceptStream(ctx context.Context) (pipe, error) {
	str, err := q.Conn.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	return str, nil
}

func (q quicLink) handshake() tls.ConnectionState { return q.ConnectionState().TLS }
func (q quicLink) rtt() time.Duration             { return q.ConnectionStats().SmoothedRTT }

// goAway opens the one stream that the dialled end may open, and says one byte there.
func (q quicLink) goAway() {
	str, err := q.Conn.OpenStream()
	if err != nil {
		return // the connection is gone, which says as much
	}
	_ = str.TryWriteAll([]byte{controlGoAway})
	_ = str.Close()
	str.CancelRead(codeNone)
}

// controlGoAway is the only thing that is said on a stream of the dialled end.
const controlGoAway = 0x01

// awaitGoAway waits for that. A peer that says anything else is not one to begin exchanges with either.
func (q quicLink) awaitGoAway(ctx context.Context) {
	str, err := q.Conn.AcceptStream(ctx)
	if err != nil {
		return
	}
	var said [1]byte
	_, _ = str.Read(said[:])
	str.CancelRead(codeNone)
	_ = str.Close()
}
