package http1

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrMalformed is wrapped by errors for what RFC 9112 forbids or lets two readers read differently. A
	// server answers 400 and closes; a client drops the connection.
	ErrMalformed = errors.New("malformed HTTP/1.1 message")
	// ErrTooLarge is wrapped by errors for what exceeds the Limits. A server answers 431 (a head) or
	// 413 (the rest) and closes.
	ErrTooLarge = errors.New("HTTP/1.1 message over the limit")
	// ErrSequence is wrapped by errors for calls in an order that HTTP/1.1 cannot express, such as a body longer
	// than the length that its head stated. What was written before stays as it is; the connection must be closed.
	ErrSequence = errors.New("not possible at this point of an HTTP/1.1 exchange")
)

const (
	defaultHead     = 32 << 10
	defaultFields   = 128
	defaultTrailers = 8 << 10
	largestSection  = 96 << 10 // what fits the largest buffer with room to read on
)

// Limits bound what a peer can make a connection hold. The zero value means the defaults.
type Limits struct {
	Head     int // bytes of a head with its start line; default 32 KiB, at most 96 KiB
	Fields   int // field lines of a head, and of a trailer section; default 128
	Trailers int // bytes of a trailer section; default 8 KiB, at most 96 KiB
	// HeadTimeout bounds the time between the first bytes of a head and its end; 0 does not. It is set as the
	// read deadline only where a head does not arrive in one piece, and the read deadline is cleared once
	// that head has ended; all other deadlines are the user's.
	HeadTimeout time.Duration
}

func (l Limits) withDefaults() Limits {
	bound := func(v, byDefault, most int) int {
		if v <= 0 {
			return byDefault
		}
		return min(v, most)
	}
	l.Head = bound(l.Head, defaultHead, largestSection)
	l.Fields = bound(l.Fields, defaultFields, largestSection)
	l.Trailers = bound(l.Trailers, defaultTrailers, largestSection)
	return l
}

func malformed(why string) error { return fmt.Errorf("%w: %s", ErrMalformed, why) }

func tooLarge(what string) error { return fmt.Errorf("%w: %s", ErrTooLarge, what) }

func sequence(why string) error { return fmt.Errorf("%w: %s", ErrSequence, why) }
