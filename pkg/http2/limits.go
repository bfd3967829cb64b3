package http2

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/http2"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

var (
	// ErrMalformed is wrapped by errors for what RFC 9113 forbids, or what cannot be carried on as HTTP/1.1.
	ErrMalformed = errors.New("malformed HTTP/2 message")
	// ErrTooLarge is wrapped by errors for what exceeds the Limits. A server answers 431.
	ErrTooLarge = errors.New("HTTP/2 message over the limit")
	// ErrSequence is wrapped by errors for calls in an order that an exchange does not have, such as a body longer than
	// the length that its head stated.
	ErrSequence = errors.New("not possible at this point of an HTTP/2 exchange")
	// ErrNotProcessed is wrapped by errors of streams that the peer certainly did not look at: it refused them, or said
	// when it went away that it would not. They can be sent again, whatever they ask for.
	ErrNotProcessed = errors.New("the peer did not process the request")
	// ErrBusy is returned where a connection has no room for another stream, or takes no more of them.
	ErrBusy = errors.New("no room for another stream")
	// ErrClosed is wrapped by errors of streams whose connection has ended.
	ErrClosed = errors.New("connection closed")
)

// Limits bound what a peer can make a connection hold, and for how long. The zero value means the defaults.
type Limits struct {
	Streams  int // that the peer may have open at a time; default 256
	Head     int // bytes of a head or of trailers, as RFC 9113 §6.5.2 counts them; default 32 KiB, at most 40 KiB
	Fields   int // field lines of a head or of trailers; default 128
	Window   int // bytes of a body that wait for whoever reads it; default 64 KiB, at most 1 MiB
	Unread   int // the same of all streams of a connection, at least 64 KiB less one; 0: as much as their windows together
	Patience int // frames for nothing that are taken at once (see patience); default 1,000
	// HeadTimeout bounds the time between the first bytes of a connection and its preface's end, and between a head's
	// first frame and its last; default 10 s.
	HeadTimeout time.Duration
	// Stall is how long a peer may take nothing of a response or a request before its stream is reset, and nothing at
	// all before the connection is closed; default 5 min.
	Stall time.Duration
	// Idle is how long a server keeps a connection without streams; default 10 min.
	Idle time.Duration
	// KeepAlive is how long a connection may bring nothing before it is asked with a PING, and then once more before it
	// is closed; default 30 s.
	KeepAlive time.Duration
}

const (
	largestHead   = 40 << 10 // what fits the buffer of the outbox, and of a lane
	largestWindow = 1 << 20
)

func (l Limits) withDefaults() Limits {
	l.Streams = bound(l.Streams, 256, 1<<16)
	l.Head = bound(l.Head, 32<<10, largestHead)
	l.Fields = bound(l.Fields, 128, largestHead)
	l.Window = bound(l.Window, 64<<10, largestWindow)
	l.Patience = bound(l.Patience, 1000, 1<<20)
	l.HeadTimeout = bound(l.HeadTimeout, 10*time.Second, time.Hour)
	l.Stall = bound(l.Stall, 5*time.Minute, 24*time.Hour)
	l.Idle = bound(l.Idle, 10*time.Minute, 24*time.Hour)
	l.KeepAlive = bound(l.KeepAlive, 30*time.Second, time.Hour)
	return l
}

func bound[T int | time.Duration](v, byDefault, most T) T {
	if v <= 0 {
		return byDefault
	}
	return min(v, most)
}

func malformed(why string) error { return fmt.Errorf("%w: %s", ErrMalformed, why) }

func tooLarge(what string) error { return fmt.Errorf("%w: %s", ErrTooLarge, what) }

func sequence(why string) error { return fmt.Errorf("%w: %s", ErrSequence, why) }

// A ResetError says that a stream was reset (RFC 9113 §5.4.2).
type ResetError struct {
	Code   http2.ErrCode
	Remote bool   // by the peer
	Why    string // where this side did
}

// Error is error's.
func (e *ResetError) Error() string {
	if e.Remote {
		return fmt.Sprintf("stream reset by the peer: %v", e.Code)
	}
	return fmt.Sprintf("stream reset: %v: %s", e.Code, e.Why)
}

// Is makes a stream that the peer refused ErrNotProcessed, and one that was reset for what it brought ErrMalformed.
func (e *ResetError) Is(target error) bool {
	switch target {
	case ErrNotProcessed:
		return e.Remote && e.Code == http2.ErrCodeRefusedStream
	case ErrMalformed:
		return !e.Remote && (e.Code == http2.ErrCodeProtocol || e.Code == http2.ErrCodeStreamClosed || e.Code == http2.ErrCodeFlowControl)
	}
	return false
}

// codeOf is the code that tells the peer why an exchange is given up.
func codeOf(reason exchange.Reason) http2.ErrCode {
	switch reason {
	case exchange.CallerGone, exchange.Timeout:
		return http2.ErrCodeCancel
	case exchange.Malformed:
		return http2.ErrCodeProtocol
	case exchange.Overloaded, exchange.TooLarge, exchange.QuotaExceeded:
		return http2.ErrCodeEnhanceYourCalm
	}
	return http2.ErrCodeInternal
}

// A connError ends a connection (RFC 9113 §5.4.1).
type connError struct {
	code http2.ErrCode
	why  string
}

func (e *connError) Error() string {
	return fmt.Sprintf("HTTP/2 connection error %v: %s", e.code, e.why)
}

func protocolError(why string) error { return &connError{http2.ErrCodeProtocol, why} }
