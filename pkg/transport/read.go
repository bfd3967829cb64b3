package transport

import (
	"errors"
	"fmt"
	"io"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// ReadRequest reads the head of the exchange's request into r, which it overwrites. Its strings are valid
// until Serve returns. For a TCP exchange, Read then returns the connection's bytes; a UDP one goes on with AcceptFlow.
func (s *Stream) ReadRequest(r *exchange.Request) error {
	payload, _, err := s.nextHead(false)
	if err != nil {
		return err
	}
	if err := parseRequest(payload, r, s.t.limits.Fields); err != nil {
		return s.refuse(err)
	}
	if r.Kind != exchange.HTTP {
		s.in.state, s.in.raw = inRaw, true
		s.out.mu.Lock()
		s.out.state = outRaw
		s.out.mu.Unlock()
		return nil
	}
	s.in.state, s.in.body = inBody, r.BodyLength
	if r.Upgrade != "" {
		s.in.body = exchange.LengthUnknown
	}
	return s.takeEnd()
}

// ReadResponse reads the next head of the response into r, which it overwrites: where r.Informational(), it
// is called again for the one that follows. Strings are valid until the next head is read, or Release.
func (s *Stream) ReadResponse(r *exchange.Response) error {
	payload, t, err := s.nextHead(true)
	if err != nil {
		return err
	}
	if err := parseResponse(payload, r, s.t.limits.Fields); err != nil {
		return s.refuse(err)
	}
	if r.Informational() != (t == frameInformational) {
		return s.refuse(fmt.Errorf("%w: status %d in a frame of type %d", ErrMalformed, r.Status, t))
	}
	if r.Informational() {
		return nil
	}
	s.in.state, s.in.body = inBody, r.BodyLength
	if r.Status == 101 {
		s.in.body = exchange.LengthUnknown
	} else {
		s.in.bodyless = exchange.BodyForbidden(s.out.method, r.Status)
	}
	return s.takeEnd()
}

// nextHead returns the payload of the head that is due.
func (s *Stream) nextHead(response bool) ([]byte, frameType, error) {
	in := &s.in
	if in.err != nil {
		return nil, 0, in.err
	}
	if in.state != inHead {
		return nil, 0, fmt.Errorf("%w: no head is due", ErrBroken)
	}
	if response {
		in.hold = 0 // the strings of the informational response before it end here
	}
	for {
		t, length, err := s.frame()
		if err != nil {
			return nil, 0, err
		}
		switch {
		case t == frameHead, t == frameInformational && response:
			payload, err := s.payload(length)
			return payload, t, err
		default:
			if err := s.other(t, length); err != nil {
				return nil, 0, err
			}
		}
	}
}

// Read reads bytes of the body, and io.EOF once the peer has ended its direction. After a 101, and on a TCP
// exchange, it reads what the peer writes.
func (s *Stream) Read(p []byte) (int, error) {
	in := &s.in
	if len(p) == 0 {
		return 0, nil
	}
	for {
		switch {
		case in.err != nil:
			return 0, in.err
		case in.state == inEnded:
			return 0, io.EOF
		case in.state == inRaw:
			return s.readRaw(p)
		case in.state == inHead:
			return 0, fmt.Errorf("%w: body read before its head", ErrBroken)
		case in.left > 0:
			return s.readData(p)
		}
		t, length, err := s.frame()
		if err != nil {
			return 0, err
		}
		switch t {
		case frameData:
			if err := s.checkLength(length); err != nil {
				return 0, err
			}
			in.left = length
		case frameTrailers:
			payload, err := s.payload(length)
			if err != nil {
				return 0, err
			}
			if in.trailed { // even without a field: what was read of each would be held
				return 0, s.refuse(fmt.Errorf("%w: trailers twice", ErrMalformed))
			}
			in.trailed = true
			if in.trailers, err = parseTrailers(payload, in.trailers, s.t.limits.Fields); err != nil {
				return 0, s.refuse(err)
			}
			if err := s.takeEnd(); err != nil {
				return 0, err
			}
		case frameEnd:
			if err := s.end(); err != nil {
				return 0, err
			}
		default:
			if err := s.other(t, length); err != nil {
				return 0, err
			}
		}
	}
}

// Trailers returns the trailer fields, once Read has returned io.EOF. Their strings are valid as long as
// those of the head.
func (s *Stream) Trailers() exchange.Fields { return s.in.trailers }

// Ended reports whether the peer's direction is complete: Read would return io.EOF without waiting.
func (s *Stream) Ended() bool { return s.in.state == inEnded }

// Buffered reports whether bytes are at hand: the next Read need not wait for the peer.
func (s *Stream) Buffered() bool { return s.in.left > 0 && s.in.r < s.in.w || s.in.w-s.in.r > 4 }

// checkLength holds the body to the length that its head stated.
func (s *Stream) checkLength(n int) error {
	in := &s.in
	if in.bodyless || in.trailed || in.body >= 0 && int64(n) > in.body {
		return s.refuse(fmt.Errorf("%w: more body than the head stated", ErrMalformed))
	}
	if in.body >= 0 {
		in.body -= int64(n)
	}
	return nil
}

// end takes an end frame.
func (s *Stream) end() error {
	if s.in.body > 0 && !s.in.bodyless {
		return s.refuse(fmt.Errorf("%w: less body than the head stated", ErrMalformed))
	}
	s.in.state = inEnded
	s.unread.Store(false)
	return nil
}

// takeEnd takes the end frame where it is next and was received already: a small exchange is then complete
// without another read.
func (s *Stream) takeEnd() error {
	in := &s.in
	if in.w-in.r >= 2 && frameType(in.buf.b[in.r]) == frameEnd && in.buf.b[in.r+1] == 0 {
		in.r += 2
		return s.end()
	}
	return nil
}

func (s *Stream) readData(p []byte) (int, error) {
	in := &s.in
	p = p[:min(len(p), in.left)]
	if in.r == in.w {
		in.r, in.w = in.hold, in.hold
		if len(p) == in.left || len(p) >= 1024 {
			n, err := s.receive(p)
			in.left -= n
			return n, err
		}
		if err := s.fill(1); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.buf.b[in.r:in.w])
	in.r += n
	in.left -= n
	if in.left == 0 {
		return n, s.takeEnd()
	}
	return n, nil
}

func (s *Stream) readRaw(p []byte) (int, error) {
	in := &s.in
	if in.r < in.w {
		n := copy(p, in.buf.b[in.r:in.w])
		in.r += n
		return n, nil
	}
	n, err := s.receive(p)
	if errors.Is(err, io.EOF) {
		in.state = inEnded
		s.unread.Store(false)
		if n > 0 {
			err = nil
		}
	}
	return n, err
}

// other takes a frame that may come anywhere, or refuses it.
func (s *Stream) other(t frameType, length int) error {
	switch {
	case t == frameReset:
		payload, err := s.payload(length)
		if err != nil {
			return err
		}
		code, n := varint(payload)
		if n != length {
			return s.refuse(fmt.Errorf("%w: reset", ErrMalformed))
		}
		reset := remoteReset(quic.StreamErrorCode(code), true)
		s.in.err = reset
		s.reset(codeNone, reset.Reason)
		return reset
	case t >= frameSkipFirst && t <= frameSkipLast:
		if s.in.skips++; s.in.skips > maxSkips {
			return s.refuse(fmt.Errorf("%w: more than %d unknown frames", ErrMalformed, maxSkips))
		}
		return s.skip(length)
	}
	return s.refuse(fmt.Errorf("%w: frame of type %d out of place", ErrMalformed, t))
}

func (s *Stream) skip(length int) error {
	in := &s.in
	for length > 0 {
		if err := s.fill(1); err != nil {
			return err
		}
		n := min(length, in.w-in.r)
		in.r += n
		length -= n
	}
	return nil
}

// frame reads the next frame's header.
func (s *Stream) frame() (frameType, int, error) {
	in := &s.in
	for need := 2; ; need = in.w - in.r + 1 {
		if err := s.fill(need); err != nil {
			return 0, 0, err
		}
		t, length, n, err := parseFrameHeader(in.buf.b[in.r:in.w], s.t.limits.Head)
		if err != nil {
			return 0, 0, s.refuse(err)
		}
		if n > 0 {
			in.r += n
			return t, length, nil
		}
	}
}

// payload reads a frame's payload and keeps it where it is until the exchange's next head.
func (s *Stream) payload(length int) ([]byte, error) {
	in := &s.in
	if err := s.fill(length); err != nil {
		return nil, err
	}
	p := in.buf.b[in.r : in.r+length]
	in.r += length
	in.hold = in.r
	return p, nil
}

// fill receives until need bytes were not looked at yet. It moves them, and never what is held.
func (s *Stream) fill(need int) error {
	in := &s.in
	if in.buf == nil {
		in.buf, in.hold, in.r, in.w = takeBuffer(need), 0, 0, 0
	}
	for in.w-in.r < need {
		switch {
		case in.r+need <= len(in.buf.b):
		case in.hold+need <= len(in.buf.b):
			in.w = in.hold + copy(in.buf.b[in.hold:], in.buf.b[in.r:in.w])
			in.r = in.hold
		default:
			larger := takeBuffer(need)
			in.w = copy(larger.b, in.buf.b[in.r:in.w])
			if in.hold > 0 {
				in.held = append(in.held, in.buf)
			} else {
				in.buf.giveBack()
			}
			in.buf, in.hold, in.r = larger, 0, 0
		}
		n, err := s.receive(in.buf.b[in.w:])
		in.w += n
		if err != nil && in.w-in.r < need {
			if errors.Is(err, io.EOF) {
				// A callee that ended the stream after the exchange before has not looked at this one.
				kind := ErrBroken
				if s.caller && in.state == inHead && in.r == in.w && in.hold == 0 {
					kind = ErrNotSent
				}
				err = fmt.Errorf("%w: stream ends within an exchange", kind)
				s.in.err = err
				s.reset(codeMalformed, exchange.Malformed)
			}
			return err
		}
	}
	return nil
}

// receive takes bytes from the stream. Every error but io.EOF is sticky.
func (s *Stream) receive(p []byte) (int, error) {
	str := s.str.Load()
	if str == nil || s.in.err != nil {
		if s.in.err == nil {
			s.in.err = s.fault()
		}
		return 0, s.in.err
	}
	s.reading.Store(true)
	n, err := str.Read(p)
	s.reading.Store(false)
	s.lastRead.Store(s.t.tick.Load())
	s.received.Add(int64(n))
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	return n, s.unreadable(err)
}

// awaitByte waits until a byte is there, and leaves it; true where the peer has ended in front of it. Errors are as those of
// receive.
func (s *Stream) awaitByte() (ended bool, err error) {
	str := s.str.Load()
	if str == nil || s.in.err != nil {
		_, err = s.receive(nil)
		return false, err
	}
	s.reading.Store(true)
	_, err = str.Peek(s.first[:])
	s.reading.Store(false)
	s.lastRead.Store(s.t.tick.Load())
	switch {
	case err == nil:
		return false, nil
	case errors.Is(err, io.EOF):
		_, _ = str.Read(s.first[:]) // as in awaitExchange
		s.in.state = inEnded
		s.unread.Store(false)
		return true, nil
	}
	return false, s.unreadable(err)
}

// unreadable keeps why nothing can be read any more.
func (s *Stream) unreadable(err error) error {
	if own := s.fault(); own != nil {
		s.in.err = own
	} else {
		s.in.err = s.broken(err, s.unsent())
	}
	return s.in.err
}

// unsent reports whether the lane was given nothing of the request, and sees to it that it will not be.
func (s *Stream) unsent() bool {
	if !s.caller {
		return false
	}
	s.posted.drop()
	return !s.sent.Load()
}

// refuse ends an exchange whose peer does not keep to the format.
func (s *Stream) refuse(err error) error {
	s.in.err = err
	if errors.Is(err, ErrTooLarge) {
		s.reset(codeOf(exchange.TooLarge), exchange.TooLarge)
	} else {
		s.reset(codeMalformed, exchange.Malformed)
	}
	return err
}
