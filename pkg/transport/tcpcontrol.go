package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/quic-go/quic-go"
)

// The first byte on every connection, from the dialler. A control connection has nothing more in front; a stream's
// says to which link it belongs and its number:
//
//	+----------+-------------+-------------+
//	| 0x02 (8) | token (128) | number (32) |
//	+----------+-------------+-------------+
const (
	helloControl = 0x01
	helloStream  = 0x02
)

// A word is what is said on a control connection:
//
//	+----------+-----------+
//	| word (8) | integer × |
//	+----------+-----------+
//
// The dialled end begins with wordWelcome, whose token of 16 bytes stands before its integer, or with wordClose.
type word byte

const (
	wordWelcome word = 0x01 // after how many milliseconds of silence the dialler counts as lost
	wordGoAway  word = 0x02 // by the dialled end: it drains
	wordPing    word = 0x03
	wordPong    word = 0x04
	wordStop    word = 0x05 // number of a stream, code: the sender reads no more of it
	wordReset   word = 0x06 // number of a stream, code: the sender writes no more on it, and what it wrote may be lost
	wordClose   word = 0x07 // code: the sender ends the link
)

// integers is how many follow a word.
func (w word) integers() (n int, known bool) {
	switch w {
	case wordGoAway, wordPing, wordPong:
		return 0, true
	case wordWelcome, wordClose:
		return 1, true
	case wordStop, wordReset:
		return 2, true
	}
	return 0, false
}

// mostWords bounds, in bytes, what waits for a peer that does not read its control connection.
const mostWords = 64 << 10

// say has a word written, and s, where it is given, closed behind it if nothing is left to do for it. It does not
// wait.
func (k *tcpLink) say(w word, s *tcpStream, integers ...uint64) {
	k.mu.Lock()
	k.words = append(k.words, byte(w))
	for _, v := range integers {
		k.words = appendVarint(k.words, v)
	}
	mute := k.schedule(s)
	k.mu.Unlock()
	if mute && s != nil {
		s.closeWhenOver()
	}
}

// after has s closed when everything that was said before is written.
func (k *tcpLink) after(s *tcpStream) {
	k.mu.Lock()
	mute := k.schedule(s)
	k.mu.Unlock()
	if mute {
		s.closeWhenOver()
	}
}

// schedule wakes write, and reports whether it has ended. The lock is held.
func (k *tcpLink) schedule(s *tcpStream) (mute bool) {
	if k.mute {
		k.words = nil
		return true
	}
	if s != nil {
		k.then = append(k.then, s)
	}
	select {
	case k.wake <- struct{}{}:
	default:
	}
	return false
}

// write writes what is said until the link ends, and then the rest. At the end that dialled it asks from time to time
// whether the peer is still there.
func (k *tcpLink) write(context.Context) {
	defer k.conn.Close()
	var ping <-chan time.Time
	if k.dialled != nil {
		ticker := time.NewTicker(k.silence * 2 / 5)
		defer ticker.Stop()
		ping = ticker.C
	}
	for {
		ended := false
		select {
		case <-k.wake:
		case <-ping:
			k.dialled.asked.Store(time.Now().UnixNano())
			k.say(wordPing, nil)
		case <-k.ctx.Done():
			ended = true
		}
		k.mu.Lock()
		words, then := k.words, k.then
		k.words, k.then, k.mute = nil, nil, ended
		k.mu.Unlock()
		if len(words) > mostWords && !ended {
			k.end(fmt.Errorf("%w: more cancelled streams than its connection takes word of", ErrMalformed))
		}
		if len(words) > 0 {
			within := k.silence
			if ended {
				within = lastWords
			}
			_ = k.conn.TCPConn.SetWriteDeadline(time.Now().Add(within))
			if _, err := k.control.Write(words); err != nil {
				k.end(fmt.Errorf("control connection: %w", err))
			}
		}
		for _, s := range then {
			s.closeWhenOver()
		}
		if ended {
			return
		}
	}
}

// lastWords is how long a link that has ended may take to say so.
const lastWords = time.Second

// read takes what the peer says until the link ends.
func (k *tcpLink) read(r *bufio.Reader) {
	stop := context.AfterFunc(k.ctx, func() { _ = k.conn.SetReadDeadline(past) })
	defer stop()
	for {
		w, integers, err := k.next(r)
		if err == nil {
			err = k.hear(w, integers)
		}
		if err != nil {
			k.end(err)
			return
		}
	}
}

// next reads one word.
func (k *tcpLink) next(r *bufio.Reader) (w word, integers [2]uint64, err error) {
	_ = k.conn.SetReadDeadline(time.Now().Add(k.silence))
	if k.ctx.Err() != nil { // the deadline just replaced the one that says so
		return 0, integers, context.Cause(k.ctx)
	}
	first, err := r.ReadByte()
	if err != nil {
		return 0, integers, controlError(err)
	}
	n, known := word(first).integers()
	if !known {
		return 0, integers, fmt.Errorf("%w: word %#02x", ErrMalformed, first)
	}
	for i := range n {
		if integers[i], err = readVarint(r); err != nil {
			return 0, integers, controlError(err)
		}
	}
	return word(first), integers, nil
}

func controlError(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errSilent
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("control connection ended: %w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("control connection: %w", err)
}

func (k *tcpLink) hear(w word, integers [2]uint64) error {
	switch w {
	case wordPing:
		k.say(wordPong, nil)
	case wordPong:
		if k.dialled != nil {
			k.trip.Store(time.Now().UnixNano() - k.dialled.asked.Load())
		}
	case wordGoAway:
		select {
		case <-k.away:
		default:
			close(k.away)
		}
	case wordStop, wordReset:
		if integers[0] > 1<<32-1 {
			return fmt.Errorf("%w: stream %d", ErrMalformed, integers[0])
		}
		said := cancelled{}
		err := &quic.StreamError{ErrorCode: quic.StreamErrorCode(integers[1]), Remote: true}
		if w == wordStop {
			said.writing = err
		} else {
			said.reading = err
		}
		k.hearCancelled(uint32(integers[0]), said)
	case wordClose:
		return &quic.ApplicationError{ErrorCode: quic.ApplicationErrorCode(integers[0]), Remote: true}
	default:
		return fmt.Errorf("%w: word %#02x out of place", ErrMalformed, byte(w))
	}
	return nil
}

// readVarint reads an integer in its shortest form.
func readVarint(r *bufio.Reader) (uint64, error) {
	first, err := r.Peek(1)
	if err != nil {
		return 0, err
	}
	p, err := r.Peek(1 << (first[0] >> 6))
	if err != nil {
		return 0, err
	}
	v, n := varint(p)
	if n < 0 {
		return 0, fmt.Errorf("%w: integer not in its shortest form", ErrMalformed)
	}
	_, err = r.Discard(n)
	return v, err
}
