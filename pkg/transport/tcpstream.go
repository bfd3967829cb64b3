package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// A tcpStream is a stream that is a TLS connection by itself. It does what a *quic.Stream does: one goroutine reads,
// one writes, anybody may cancel. FIN is TLS's close_notify with TCP's FIN behind it; cancelling is said on the link's
// control connection, and then the connection is closed.
type tcpStream struct {
	link   *tcpLink
	number uint32
	ctx    context.Context // see pipe
	cancel context.CancelCauseFunc
	there  chan struct{} // closed when the connection is, or cannot be
	unread chan struct{} // closed when nothing is read any more

	// The reader's.
	peeked [1]byte
	looked bool // peeked is to be read first
	// The writer's.
	pending []byte // what TryWriteAll took

	mu       sync.Mutex
	conn     *plainConn // below tls; both are set before there is closed, or stay nil
	tls      *tls.Conn
	readErr  error // reading was cancelled, by either end
	writeErr error // writing was
	ended    bool  // the peer's FIN was read
	closing  bool  // Close was called
	closed   bool  // and FIN is written
	finished bool  // the Stream is done with it
	lingers  bool  // somebody waits for the peer's end
	gone     bool  // the connection is closed
}

// past is a deadline that wakes whoever waits.
var past = time.Unix(1, 0)

// wordWithin is how long a stream whose connection broke waits for the control connection to say why.
const wordWithin = time.Second

func newTCPStream(k *tcpLink, number uint32) *tcpStream {
	s := &tcpStream{link: k, number: number, there: make(chan struct{}), unread: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// begin gives the stream its connection, which is closed where nobody wants it any more.
func (s *tcpStream) begin(conn *plainConn, t *tls.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || s.finished || s.readErr != nil && s.writeErr != nil {
		s.gone = true
		conn.Close()
	} else {
		s.conn, s.tls = conn, t
		if s.readErr != nil {
			_ = conn.SetReadDeadline(past)
		}
		if s.writeErr != nil {
			_ = conn.TCPConn.SetWriteDeadline(past)
		}
	}
	close(s.there)
}

// Context is that of a pipe.
func (s *tcpStream) Context() context.Context { return s.ctx }

// Peek waits for one byte; p has no place for more.
func (s *tcpStream) Peek(p []byte) (int, error) {
	if !s.looked {
		n, err := s.Read(s.peeked[:])
		if n == 0 {
			return 0, err
		}
		s.looked = true
	}
	p[0] = s.peeked[0]
	return 1, nil
}

func (s *tcpStream) Read(p []byte) (int, error) {
	if s.looked {
		s.looked = false
		p[0] = s.peeked[0]
		return 1, nil
	}
	select {
	case <-s.there:
	case <-s.unread:
	}
	s.mu.Lock()
	t, ended, err := s.tls, s.ended, s.readErr
	s.mu.Unlock()
	switch {
	case err != nil:
		return 0, err
	case ended:
		return 0, io.EOF
	}
	n, err := t.Read(p)
	for n > 0 && n < len(p) && s.conn.hasRecord() {
		var more int
		if more, err = t.Read(p[n:]); more == 0 {
			break
		}
		n += more
	}
	if n > 0 || err == nil {
		return n, nil // an error is there again the next time
	}
	if errors.Is(err, io.EOF) && !s.conn.cut.Load() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.readErr != nil {
			return 0, s.readErr
		}
		s.ended = true
		return 0, io.EOF
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // or it would pass for the end
	}
	s.broke(s.unread, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	return 0, s.readErr
}

// broke gives both directions up, for what the control connection says of the one that was being used: that is said
// before the stream's connection is closed.
func (s *tcpStream) broke(said <-chan struct{}, err error) {
	timer := time.NewTimer(wordWithin)
	defer timer.Stop()
	select {
	case <-said:
		return
	case <-s.link.ctx.Done():
		err = context.Cause(s.link.ctx)
	case <-timer.C:
		err = fmt.Errorf("connection of a stream broke: %w", err)
	}
	s.stopReading(err)
	s.stopWriting(err)
}

func (s *tcpStream) Write(p []byte) (int, error) {
	t, err := s.writable()
	if err != nil {
		return 0, err
	}
	if len(s.pending) > 0 {
		if _, err := t.Write(s.pending); err != nil {
			return 0, s.unwritten(err)
		}
		s.pending = nil
	}
	if len(p) > maxRecord {
		s.conn.collect()
	}
	n, err := t.Write(p)
	if len(p) > maxRecord {
		if sent := s.conn.send(); err == nil {
			err = sent
		}
	}
	if err != nil {
		return n, s.unwritten(err)
	}
	return n, nil
}

// writable waits for the connection.
func (s *tcpStream) writable() (*tls.Conn, error) {
	select {
	case <-s.there:
	case <-s.ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.writeErr != nil:
		return nil, s.writeErr
	case s.closing:
		return nil, quic.ErrStreamClosed
	}
	return s.tls, nil
}

func (s *tcpStream) unwritten(err error) error {
	s.broke(s.ctx.Done(), err)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writeErr
}

// mostPending is what TryWriteAll takes, in bytes: what a stream may hold back, and a reset behind it.
const mostPending = largeBuffer + 64

// TryWriteAll leaves p to the next Write, or to Close.
func (s *tcpStream) TryWriteAll(p []byte) error {
	select {
	case <-s.there:
	default:
		return quic.ErrWouldBlock
	}
	if len(s.pending)+len(p) > mostPending {
		return quic.ErrWouldBlock
	}
	if _, err := s.writable(); err != nil {
		return err
	}
	s.pending = append(s.pending, p...)
	return nil
}
