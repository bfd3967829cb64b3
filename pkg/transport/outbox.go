package transport

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"github.com/quic-go/quic-go"
)

// An outbox writes what the exchanges of one connection have to send, as many as there are at a time.
//
// quic-go begins to pack when the first stream has written, so that under load each exchange gets a packet of
// its own, with a system call, an encryption, and half an acknowledgement. The outbox takes streams in place of
// bytes, and lets everything else run that can before it writes for all of them: what became ready in the same
// turn of the scheduler leaves in the same packets. Where nothing else runs, yielding returns at once and nothing
// waits. docs/decisions/0024 has what that saves.
type outbox struct {
	wake chan struct{} // has one token while streams may wait

	mu      sync.Mutex
	waiting []*Stream
	written []*Stream // the slice of the turn before, to be filled again
}

const (
	// outboxYields is how often others go first. Twice: those that run between the first and the second have
	// often just been given something to send.
	outboxYields = 2
	// outboxLeast is how many exchanges run on a connection whose bytes are worth collecting.
	outboxLeast = 2
	// outboxMost is the most bytes of one stream that are collected. More fill a packet by themselves, and
	// quic-go would have to allocate for them.
	outboxMost = 1200
)

// posted is what a stream has left in its connection's outbox: the end of what it wrote, until that is given to
// the lane.
type posted struct {
	mu      sync.Mutex
	buf     *buffer // nil: nothing
	n       int     // buf.b[:n]
	blocked bool    // somebody waits for the window in the outbox's place
	err     error   // of the last write, for the next one
}

// add has the stream's posted bytes written soon.
func (o *outbox) add(s *Stream) {
	o.mu.Lock()
	o.waiting = append(o.waiting, s)
	first := len(o.waiting) == 1
	o.mu.Unlock()
	if first {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
}

// deliver writes for others until the connection ends.
func (c *conn) deliver(context.Context) {
	for {
		select {
		case <-c.outbox.wake:
		case <-c.link.Context().Done():
			return
		}
		for range outboxYields {
			runtime.Gosched()
		}
		o := &c.outbox
		o.mu.Lock()
		o.waiting, o.written = o.written[:0], o.waiting
		o.mu.Unlock()
		for _, s := range o.written {
			if errors.Is(s.tryPosted(), quic.ErrWouldBlock) {
				s.awaitWindow()
			}
		}
		clear(o.written)
	}
}

// post leaves what is held back to the outbox; false where it cannot, and nothing has changed. The writer's lock
// is held.
func (s *Stream) post() bool {
	w, p := &s.out, &s.posted
	if s.conn.solo || w.n > outboxMost || w.state == outRaw || s.conn.running.Load() < outboxLeast {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.err != nil || p.blocked || p.n+w.n > outboxMost:
		return false
	case p.buf == nil:
		p.buf, p.n = w.buf, w.n
		w.buf, w.n = nil, 0
		s.conn.outbox.add(s)
	default: // the outbox has not come to it yet
		p.n += copy(p.buf.b[p.n:], w.buf.b[:w.n])
		w.n = 0
	}
	return true
}

// tryPosted gives to the lane what was posted, if that needs no waiting. An error other than ErrWouldBlock is
// kept for who writes next.
func (s *Stream) tryPosted() error {
	p := &s.posted
	p.mu.Lock()
	defer p.mu.Unlock()
	str := s.str.Load()
	if p.buf == nil || str == nil {
		return nil
	}
	err := str.TryWriteAll(p.buf.b[:p.n])
	if errors.Is(err, quic.ErrWouldBlock) {
		return err
	}
	if err == nil {
		s.sent.Store(true)
	}
	p.err = err
	p.release()
	return err
}

// awaitWindow writes what was posted in a goroutine of its own: the peer gives no credit, and others shall not
// wait for that.
func (s *Stream) awaitWindow() {
	p := &s.posted
	p.mu.Lock()
	again := p.blocked || p.buf == nil
	p.blocked = p.buf != nil
	p.mu.Unlock()
	if again {
		return
	}
	s.t.spawn(func(context.Context) {
		s.flushPosted()
		p.mu.Lock()
		p.blocked = false
		p.mu.Unlock()
	})
}

// flushPosted writes what was posted and waits for that.
func (s *Stream) flushPosted() {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	_ = s.send(nil) // kept in out.err
}

// take returns what was posted, for the writer to write before everything else, and the error of what was
// written before it. The caller gives the buffer back.
func (p *posted) take() (buf *buffer, n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	buf, n, err = p.buf, p.n, p.err
	p.buf, p.n, p.err = nil, 0, nil
	return buf, n, err
}

// waits reports whether something is still to be written.
func (p *posted) waits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.buf != nil || p.blocked
}

// drop forgets what was not written yet.
func (p *posted) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release()
}

// release gives the buffer back. The lock is held.
func (p *posted) release() {
	p.buf.giveBack()
	p.buf, p.n = nil, 0
}
