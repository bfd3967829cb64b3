package transport

import (
	"errors"
	"fmt"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// WriteRequest writes the head of a request. It is held back until Flush, End or enough bytes, so that a
// small exchange is one packet; the head of a TCP exchange leaves at once. An error that wraps ErrTooLarge
// or ErrMalformed leaves the stream unused.
func (s *Stream) WriteRequest(r *exchange.Request) error {
	w := &s.out
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := s.mayWriteHead(len(r.Fields)); err != nil {
		return err
	}
	bound := 64 + len(r.Target.Instance) + len(r.Target.Called) + len(r.Method) + len(r.Authority) + len(r.Path) + len(r.Upgrade)
	start, err := s.room(bound, r.Fields)
	if err != nil {
		return err
	}
	b, err := appendRequest(w.buf.b[:start], r)
	if err != nil {
		return err
	}
	if err := s.seal(frameHead, start, b); err != nil {
		return err
	}
	w.method = staticMethod(r.Method)
	s.upgrade = r.Upgrade != ""
	if r.Kind != exchange.HTTP {
		w.state = outRaw
		s.in.state, s.in.raw = inRaw, true
		return s.flush()
	}
	w.state = outBody
	return nil
}

// WriteResponse writes the final head, a 101 among them. It is held back as in WriteRequest.
func (s *Stream) WriteResponse(r *exchange.Response) error {
	return s.writeResponse(frameHead, r)
}

// WriteInformational writes a head with a status from 100 to 199 other than 101, and flushes it.
func (s *Stream) WriteInformational(r *exchange.Response) error {
	if !r.Informational() {
		return fmt.Errorf("%w: status %d is not informational", ErrMalformed, r.Status)
	}
	if err := s.writeResponse(frameInformational, r); err != nil {
		return err
	}
	return s.Flush()
}

func (s *Stream) writeResponse(t frameType, r *exchange.Response) error {
	w := &s.out
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := s.mayWriteHead(len(r.Fields)); err != nil {
		return err
	}
	if r.Status < 100 || r.Status > 599 {
		return fmt.Errorf("%w: status %d", ErrMalformed, r.Status)
	}
	start, err := s.room(64+len(r.Upgrade), r.Fields)
	if err != nil {
		return err
	}
	if err := s.seal(t, start, appendResponse(w.buf.b[:start], r)); err != nil {
		return err
	}
	if t == frameHead {
		w.state = outBody
	}
	return nil
}

// WriteTrailers writes trailer fields, once and behind all data.
func (s *Stream) WriteTrailers(fields exchange.Fields) error {
	w := &s.out
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := s.mayWrite(outBody); err != nil || len(fields) == 0 {
		return err
	}
	if len(fields) > s.t.limits.Fields {
		return fmt.Errorf("%w: %d trailers", ErrTooLarge, len(fields))
	}
	start, err := s.room(64, fields)
	if err != nil {
		return err
	}
	return s.seal(frameTrailers, start, appendFields(w.buf.b[:start], fields))
}

// Write writes bytes of the body; on a TCP exchange and after a 101, bytes of the connection. A few are held
// back until Flush, End or more; on a TCP exchange none are. It keeps nothing of p.
func (s *Stream) Write(p []byte) (int, error) {
	w := &s.out
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state == outRaw && w.err == nil {
		if err := s.send(p); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	if err := s.mayWrite(outBody); err != nil {
		return 0, err
	}
	written := 0
	for len(p) > 0 {
		chunk := p[:min(len(p), maxData)]
		if err := s.writeData(chunk); err != nil {
			return written, err
		}
		written += len(chunk)
		p = p[len(chunk):]
	}
	return written, nil
}

func (s *Stream) writeData(chunk []byte) error {
	w := &s.out
	s.takeBuffer(smallBuffer)
	if w.n+maxFrameHeader > len(w.buf.b) {
		if err := s.flush(); err != nil {
			return err
		}
	}
	w.n = len(appendFrameHeader(w.buf.b[:w.n], frameData, len(chunk)))
	n := copy(w.buf.b[w.n:], chunk)
	w.n += n
	if rest := chunk[n:]; len(rest) > 0 {
		if err := s.flush(); err != nil {
			return err
		}
		if len(rest) > len(w.buf.b)/2 {
			return s.send(rest)
		}
		w.n = copy(w.buf.b, rest)
	}
	return nil
}

// End completes this direction of the exchange and flushes. On a TCP exchange it is CloseWrite.
func (s *Stream) End() error {
	w := &s.out
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state == outRaw {
		return s.closeWrite()
	}
	if err := s.mayWrite(outBody); err != nil {
		return err
	}
	s.takeBuffer(smallBuffer)
	if w.n+maxFrameHeader > len(w.buf.b) {
		if err := s.flush(); err != nil {
			return err
		}
	}
	w.n = len(appendFrameHeader(w.buf.b[:w.n], frameEnd, 0))
	if err := s.flush(); err != nil {
		return err
	}
	w.state = outEnded
	return nil
}

// CloseWrite sends FIN on a TCP exchange: the peer reads io.EOF, and what it writes still arrives.
func (s *Stream) CloseWrite() error {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	if s.out.state != outRaw {
		return fmt.Errorf("%w: not a TCP exchange", ErrBroken)
	}
	return s.closeWrite()
}

func (s *Stream) closeWrite() error {
	if s.out.err != nil {
		return s.out.err
	}
	s.out.state = outEnded
	if str := s.str.Load(); str != nil {
		return str.Close()
	}
	return s.fault()
}

// Flush sends what was held back.
func (s *Stream) Flush() error {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	return s.flush()
}

func (s *Stream) mayWriteHead(fields int) error {
	if fields > s.t.limits.Fields {
		return fmt.Errorf("%w: %d fields, at most %d", ErrTooLarge, fields, s.t.limits.Fields)
	}
	return s.mayWrite(outHead)
}

func (s *Stream) mayWrite(state outState) error {
	if s.out.err != nil {
		return s.out.err
	}
	if own := s.fault(); own != nil {
		return own
	}
	if s.out.state != state {
		return fmt.Errorf("%w: written out of turn", ErrBroken)
	}
	return nil
}

func (s *Stream) takeBuffer(n int) {
	w := &s.out
	if w.buf == nil {
		w.buf = takeBuffer(n)
	}
}

// room makes sure that a payload of at most bound bytes and the fields fits into the buffer, and returns
// where it starts: behind the longest header.
func (s *Stream) room(bound int, fields exchange.Fields) (start int, err error) {
	for i := range fields {
		bound += len(fields[i].Name) + len(fields[i].Value) + 10
	}
	if bound > largeBuffer-maxFrameHeader {
		return 0, fmt.Errorf("%w: about %d bytes", ErrTooLarge, bound)
	}
	w := &s.out
	if w.buf != nil && w.n+maxFrameHeader+bound > len(w.buf.b) {
		larger := takeBuffer(largeBuffer)
		if w.n+maxFrameHeader+bound > len(larger.b) {
			if err := s.flush(); err != nil {
				return 0, err
			}
		}
		copy(larger.b, w.buf.b[:w.n])
		w.buf.giveBack()
		w.buf = larger
	}
	s.takeBuffer(bound + maxFrameHeader)
	return w.n + maxFrameHeader, nil
}

// seal puts the header before the payload b[start:], which lies in the buffer.
func (s *Stream) seal(t frameType, start int, b []byte) error {
	w := &s.out
	length := len(b) - start
	if length > s.t.limits.Head {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, length, s.t.limits.Head)
	}
	n := len(appendFrameHeader(w.buf.b[:w.n], t, length))
	w.n = n + copy(w.buf.b[n:], b[start:])
	return nil
}

func (s *Stream) flush() error {
	w := &s.out
	if w.err != nil {
		return w.err
	}
	if w.n == 0 {
		return nil
	}
	if s.post() {
		return nil
	}
	p := w.buf.b[:w.n]
	w.n = 0
	return s.send(p)
}

// send gives bytes to the lane, behind those that were posted.
func (s *Stream) send(p []byte) error {
	buf, n, err := s.posted.take()
	defer buf.giveBack()
	if err == nil && buf != nil {
		err = s.write(buf.b[:n])
	} else if err != nil {
		err = s.unwritten(err)
	}
	if err != nil || len(p) == 0 {
		return err
	}
	return s.write(p)
}

func (s *Stream) write(p []byte) error {
	w := &s.out
	str := s.str.Load()
	if str == nil {
		w.err = s.fault()
		return w.err
	}
	if w.unwanted {
		return nil
	}
	s.sending.Store(s.t.tick.Load() + 1)
	n, err := str.Write(p)
	s.sending.Store(0)
	if n > 0 {
		s.sent.Store(true)
	}
	if err == nil {
		return nil
	}
	return s.unwritten(err)
}

// unwritten turns an error of the lane's into the writer's.
func (s *Stream) unwritten(err error) error {
	w := &s.out
	if own := s.fault(); own != nil {
		w.err = own
		return w.err
	}
	w.err = s.broken(err, s.caller && !s.sent.Load())
	var reset *ResetError
	if s.caller && errors.As(w.err, &reset) && reset.Remote && reset.code == codeUnread {
		// The callee wants no more of the request; its response is whole, or this exchange came behind the
		// last that it takes on this stream. What it sent decides, so the rest is dropped here.
		w.err, w.unwanted = nil, true
	}
	return w.err
}

// appendReset appends a reset frame.
func appendReset(b []byte, code quic.StreamErrorCode) []byte {
	var payload [8]byte
	p := appendVarint(payload[:0], uint64(code))
	return append(appendFrameHeader(b, frameReset, len(p)), p...)
}

// staticMethod returns a copy of the method that outlives its request, for the ones that matter to framing.
func staticMethod(method string) string {
	for _, m := range staticMethods {
		if m == method {
			return m
		}
	}
	return ""
}
