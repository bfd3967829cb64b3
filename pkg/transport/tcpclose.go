package transport

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/quic-go/quic-go"
)

// CancelRead reads no more, and says so.
func (s *tcpStream) CancelRead(code quic.StreamErrorCode) {
	if s.stopReading(&quic.StreamError{ErrorCode: code}) {
		s.link.say(wordStop, s, uint64(s.number), uint64(code))
	}
}

// CancelWrite writes no more, and says so.
func (s *tcpStream) CancelWrite(code quic.StreamErrorCode) {
	if s.stopWriting(&quic.StreamError{ErrorCode: code}) {
		s.link.say(wordReset, s, uint64(s.number), uint64(code))
	}
}

// stopReading has reading fail with err from now on, and reports whether it would not have anyway.
func (s *tcpStream) stopReading(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readErr != nil || s.ended {
		return false
	}
	s.readErr = err
	close(s.unread)
	if s.conn != nil {
		_ = s.conn.SetReadDeadline(past)
	}
	return true
}

// stopWriting does the same for writing.
func (s *tcpStream) stopWriting(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writeErr != nil || s.closed {
		return false
	}
	s.writeErr = err
	s.cancel(err)
	if s.conn != nil {
		_ = s.conn.TCPConn.SetWriteDeadline(past)
	}
	return true
}

// cancelled takes what the peer said.
func (s *tcpStream) cancelled(said cancelled) {
	if said.reading != nil {
		s.stopReading(said.reading)
	}
	if said.writing != nil {
		s.stopWriting(said.writing)
	}
	s.closeWhenOver()
}

// fail ends a stream whose link has ended.
func (s *tcpStream) fail(err error) {
	s.stopReading(err)
	s.stopWriting(err)
	s.closeConn()
}

// Close writes FIN behind everything else, and waits for place for it as Write does. Where TryWriteAll took something
// it does not wait, and that is written in a goroutine of its own.
func (s *tcpStream) Close() error {
	select {
	case <-s.there:
	default: // nothing was written
		s.CancelRead(codeNone)
		s.CancelWrite(codeNone)
		return nil
	}
	if _, err := s.writable(); errors.Is(err, quic.ErrStreamClosed) {
		return nil
	} else if err != nil {
		return err
	}
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	if len(s.pending) == 0 {
		return s.writeFIN()
	}
	if !s.link.t.spawn(s.closeBehind) {
		return errStops
	}
	return nil
}

// closeBehind writes what TryWriteAll took, and FIN.
func (s *tcpStream) closeBehind(ctx context.Context) {
	stop := context.AfterFunc(ctx, s.closeConn)
	defer stop()
	_ = s.conn.TCPConn.SetWriteDeadline(time.Now().Add(s.link.silence)) // nobody would wake it
	_, err := s.tls.Write(s.pending)
	s.pending = nil
	if err == nil {
		err = s.writeFIN()
	}
	if err != nil {
		s.stopWriting(err)
	}
	s.mu.Lock()
	finished := s.finished
	s.mu.Unlock()
	if finished {
		s.linger(ctx)
	}
}

func (s *tcpStream) writeFIN() error {
	if err := s.tls.CloseWrite(); err != nil {
		return s.unwritten(err)
	}
	_ = s.conn.CloseWrite()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writeErr == nil {
		s.closed = true
		s.cancel(quic.ErrStreamClosed)
	}
	return s.writeErr
}

// finish is called when the Stream is done: the connection is closed, without losing what was written.
func (s *tcpStream) finish() {
	s.link.forget(s)
	s.mu.Lock()
	s.finished = true
	behind := s.closing && !s.closed && s.writeErr == nil
	lingers := s.closed && !s.ended
	s.mu.Unlock()
	switch {
	case behind: // closeBehind does the rest
	case !lingers:
		s.link.after(s)
	case !s.link.t.spawn(s.linger):
		s.closeConn()
	}
}

// linger closes the connection when the peer has: what still arrives where nobody reads would have the kernel reset
// it, and what this end has written be lost.
func (s *tcpStream) linger(ctx context.Context) {
	s.mu.Lock()
	already := s.lingers
	s.lingers = true
	s.mu.Unlock()
	if already {
		return
	}
	stop := context.AfterFunc(ctx, s.closeConn)
	defer stop()
	_ = s.conn.SetReadDeadline(time.Now().Add(s.link.silence))
	_, _ = io.Copy(io.Discard, s.conn.TCPConn)
	s.closeConn()
}

// closeWhenOver closes the connection where neither direction has anything left.
func (s *tcpStream) closeWhenOver() {
	s.mu.Lock()
	// What was written before FIN is still on its way, unless the peer wants none of it.
	over := s.writeErr != nil && (s.readErr != nil || s.ended) || s.finished && (s.writeErr != nil || s.ended || !s.closing)
	s.mu.Unlock()
	if over {
		s.closeConn()
	}
}

func (s *tcpStream) closeConn() {
	s.link.forget(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return
	}
	s.gone = true
	if s.conn != nil {
		s.conn.Close()
	}
}
