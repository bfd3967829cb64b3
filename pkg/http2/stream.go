package http2

import (
	"io"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A chunk holds bytes of a body that nobody has read yet.
type chunk struct {
	b    [chunkSize]byte
	n    int // b[:n]
	next *chunk
}

const chunkSize = 4 << 10

var chunks = sync.Pool{New: func() any { return new(chunk) }}

// A stream carries one exchange. One goroutine may read it while another writes. The connection's lock is over all of
// it; what the reader of the connection has put in is taken out under it.
type stream struct {
	c  *conn
	id uint32

	// What comes in.
	readable sync.Cond
	first    *chunk // unread bytes: first.b[off:first.n], and the chunks behind it
	final    *chunk // the last of them
	off      int
	room     int64 // what the peer may send
	taken    int   // what was read and not given back to the peer
	unread   int   // what is kept, where the connection's window waits for it to be taken
	declared int64 // what is left of a stated length; LengthUnknown
	bodyless bool  // no data may come, whatever length is stated
	ended    bool  // END_STREAM was received
	trailers exchange.Fields
	readErr  error // what broke it off
	waits    io.Closer
	owner    *ClientStream // nil: a server's

	// What goes out.
	writable sync.Cond
	window   int64 // what may be sent; below 0 after a change of the peer's settings
	begun    bool  // the (final) head was written
	finished bool  // END_STREAM was
	left     int64 // of a stated length; LengthUnknown
	forbids  bool  // no body may follow
	writeErr error
	stalled  time.Time // since when it waits for the peer; zero: it does not
	lastData int       // where the header of the data frame is that was written last
	lastTurn uint64    // outbox.turn then, of which the first is 1
}

// open prepares a stream for an exchange. The lock is held.
func (s *stream) open(c *conn, id uint32) {
	trailers := s.trailers[:0]
	*s = stream{c: c, id: id, trailers: trailers, room: int64(c.limits.Window), window: c.peer.window}
	s.declared, s.left = exchange.LengthUnknown, exchange.LengthUnknown
	s.readable.L, s.writable.L = &c.mu, &c.mu
}

// drop gives unread bytes up.
func (s *stream) drop() {
	for s.first != nil {
		next := s.first.next
		s.first.next = nil
		chunks.Put(s.first)
		s.first = next
	}
	s.final, s.off = nil, 0
}

// breakOff wakes whoever waits with err. What has come whole can still be read. The lock is held.
func (s *stream) breakOff(err error) {
	if s.readErr == nil && !s.ended {
		s.readErr = err
	}
	if s.writeErr == nil {
		s.writeErr = err
	}
	s.readable.Broadcast()
	s.writable.Broadcast()
	s.c.out.room.Broadcast()
	if s.waits != nil {
		s.waits.Close()
	}
}

// append takes bytes that have come.
func (s *stream) append(p []byte) {
	for len(p) > 0 {
		if s.final == nil || s.final.n == chunkSize {
			next := chunks.Get().(*chunk)
			next.n = 0
			if s.final == nil {
				s.first = next
			} else {
				s.final.next = next
			}
			s.final = next
		}
		n := copy(s.final.b[s.final.n:], p)
		s.final.n += n
		p = p[n:]
	}
	s.readable.Signal()
}

// end takes the end of what comes in.
func (s *stream) end() {
	s.ended = true
	s.readable.Broadcast()
	if s.finished {
		s.c.complete(s)
	}
}

// complete ends an exchange of which both directions are whole.
func (c *conn) complete(s *stream) {
	c.patience.earn(patienceOfExchanges)
	c.remove(s)
}

// read waits for bytes of the body and takes what is there. io.EOF is its end.
func (s *stream) read(p []byte) (int, error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for s.first == nil {
		switch {
		case s.readErr != nil:
			return 0, s.readErr
		case s.ended:
			return 0, io.EOF
		}
		s.readable.Wait()
	}
	total := 0
	for s.first != nil && len(p) > 0 {
		n := copy(p, s.first.b[s.off:s.first.n])
		p = p[n:]
		total += n
		if s.off += n; s.off == s.first.n {
			next := s.first.next
			s.first.next = nil
			chunks.Put(s.first)
			if s.first, s.off = next, 0; next == nil {
				s.final = nil
			}
		}
	}
	c.taken(s, total)
	// The window is given back as it is taken, in halves, so that an update is not sent for each read.
	if s.taken += total; s.taken >= c.limits.Window/2 && !s.ended && s.readErr == nil && c.control(4) {
		s.room += int64(s.taken)
		_ = c.framer.WriteWindowUpdate(s.id, uint32(s.taken))
		s.taken = 0
		c.out.flush()
	}
	return total, nil
}

// isEnded reports whether the end of the body was received, and everything before it read.
func (s *stream) isEnded() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.ended && s.first == nil
}

// interrupt has w closed when the peer gives the exchange up, or the connection ends; nil ends that.
func (s *stream) interrupt(w io.Closer) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.waits = w
	if w != nil && s.writeErr != nil {
		w.Close()
	}
}

// canWrite says why nothing more can be written, or nil. The lock is held.
func (s *stream) canWrite() error {
	if s.writeErr != nil {
		return s.writeErr
	}
	return s.c.out.err
}

// reserve waits until the outbox has room for n bytes below most. The lock is held.
func (s *stream) reserve(n, most int) error {
	o := &s.c.out
	for o.n+n > most {
		if err := s.canWrite(); err != nil {
			return err
		}
		o.flush()
		s.stall()
		o.room.Wait()
	}
	s.stalled = time.Time{}
	return s.canWrite()
}

func (s *stream) stall() {
	if s.stalled.IsZero() {
		s.stalled = s.c.now()
	}
}

// fits waits for room for a block of fields of at most size bytes. The lock is held.
func (s *stream) fits(size int) error {
	const frames = mostFragments * frameHeader
	if int64(size) > min(s.c.peer.head, outboxHeads-frames) {
		return tooLarge("a head, for the peer")
	}
	return s.reserve(size+frames, outboxHeads)
}

// writeHead writes a block of fields that was sized before. fill encodes it. The lock is held.
func (s *stream) writeHead(size int, end bool, fill func(*encoder)) error {
	c := s.c
	if err := s.fits(size); err != nil {
		return err
	}
	c.encoder.begin()
	fill(&c.encoder)
	c.encoder.put(&c.out, s.id, min(c.peer.frame, largestFrame), end)
	if end {
		s.finish()
	}
	return nil
}

// finish notes that END_STREAM was written.
func (s *stream) finish() {
	s.finished = true
	if s.ended {
		s.c.complete(s)
	}
}

// write writes bytes of the body. It waits for the peer's windows, and for room.
func (s *stream) write(p []byte) (written int, err error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.writeErr != nil:
		return 0, s.writeErr
	case len(p) == 0:
		return 0, nil
	case !s.begun || s.finished || s.forbids:
		return 0, sequence("write body: no body was begun, it was finished, or there is none")
	case s.left != exchange.LengthUnknown && int64(len(p)) > s.left:
		return 0, sequence("write body: more than the stated length")
	}
	for len(p) > 0 {
		n, err := s.awaitWindow(len(p))
		if err != nil {
			return written, err
		}
		s.lastData, s.lastTurn = c.out.n, c.out.turn
		c.out.frame(n, http2.FrameData, 0, s.id)
		_, _ = c.out.Write(p[:n])
		s.window -= int64(n)
		c.window -= int64(n)
		if n == len(p) || n >= worthData {
			c.patience.earn(2 * patienceOfData)
		}
		if s.left != exchange.LengthUnknown {
			s.left -= int64(n)
		}
		p = p[n:]
		written += n
	}
	return written, nil
}

// awaitWindow returns how many bytes of at most most can be sent now. The lock is held.
func (s *stream) awaitWindow(most int) (int, error) {
	c := s.c
	for {
		if err := s.canWrite(); err != nil {
			return 0, err
		}
		n := min(int64(most), s.window, c.window, largestFrame, int64(c.peer.frame))
		free := int64(outboxData - c.out.n - frameHeader)
		if n > 0 && (free >= n || free >= largestFrame/2) {
			s.stalled = time.Time{}
			return int(min(n, free)), nil
		}
		c.out.flush()
		s.stall()
		if s.window <= 0 {
			s.writable.Wait()
		} else {
			c.out.room.Wait()
		}
	}
}

// finishBody ends what goes out, with trailers where there are some.
func (s *stream) finishBody(trailers exchange.Fields) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.finished && s.writeErr == nil, s.finished && s.ended:
		c.flushNow()
		return nil
	case s.writeErr != nil:
		return s.writeErr
	case !s.begun:
		return sequence("finish: nothing was begun")
	case s.left > 0 && !s.forbids:
		return sequence("finish: less was written than the stated length")
	}
	trailers = onlyTrailers(trailers)
	if len(trailers) > 0 {
		if err := checkFields(trailers); err != nil {
			return err
		}
		if err := s.writeHead(sizeOf(trailers), true, func(e *encoder) { e.fields(trailers) }); err != nil {
			return err
		}
	} else if s.lastTurn == c.out.turn {
		c.out.buf[s.lastData+4] |= byte(http2.FlagDataEndStream) // it is still here
		s.finish()
	} else {
		if err := s.reserve(frameHeader, outboxHeads); err != nil {
			return err
		}
		c.out.frame(0, http2.FrameData, http2.FlagDataEndStream, s.id)
		s.finish()
	}
	c.flushNow()
	return nil
}

// onlyTrailers drops the fields that have no place in trailers (RFC 9110 §6.5.1), in place of the slice.
func onlyTrailers(fields exchange.Fields) exchange.Fields {
	for i := range fields {
		if !isTrailer(fields[i].Name) {
			kept := exchange.Fields{}
			for _, f := range fields {
				if isTrailer(f.Name) {
					kept = append(kept, f)
				}
			}
			return kept
		}
	}
	return fields
}

func isTrailer(name string) bool {
	name = lower(name)
	m := meaningOf(name)
	return (m == endToEnd || m == cookieField) && name != "trailer"
}

func (s *stream) flush() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if err := s.canWrite(); err != nil {
		return err
	}
	s.c.flushNow()
	return nil
}

func (s *stream) giveUp(code http2.ErrCode, why string) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.reset(s, code, why)
}

// A body is a stream's incoming one. It implements exchange.Body.
type body struct{ s *stream }

func (b *body) Read(p []byte) (int, error) { return b.s.read(p) }

// Trailers returns the trailer fields once Read has returned io.EOF. They are valid for as long as the exchange.
func (b *body) Trailers() exchange.Fields { return b.s.trailers }
