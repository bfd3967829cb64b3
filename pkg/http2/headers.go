package http2

import (
	"errors"
	"time"

	"golang.org/x/net/http2"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// readHeaders takes HEADERS and the CONTINUATION frames behind it. The Framer has seen to their order.
func (c *conn) readHeaders(h http2.FrameHeader) error {
	p, err := c.in.whole(int(h.Length))
	if err != nil {
		return err
	}
	if h.StreamID == 0 {
		return protocolError("HEADERS of no stream (RFC 9113 §6.2)")
	}
	if p, err = unpad(h, p); err != nil {
		return err
	}
	ofItself := false
	if h.Flags.Has(http2.FlagHeadersPriority) {
		if len(p) < 5 {
			return &connError{codeFrameSize, "HEADERS without the priority that it announces (RFC 9113 §6.2)"}
		}
		ofItself = beUint32(p)&largestValue == h.StreamID
		p = p[5:]
	}
	end := h.Flags.Has(http2.FlagHeadersEndStream)
	what, err := c.expects(h.StreamID, end)
	if err != nil {
		return err
	}
	if err := c.readBlock(what.kind, p, h.Flags.Has(http2.FlagHeadersEndHeaders)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ofItself && what.kind == ofRequest {
		return c.refuse(h.StreamID, codeProtocol, "a stream that depends on itself")
	}
	switch what.kind {
	case ofRequest:
		return c.opened(h.StreamID, end)
	case ofResponse:
		if s := c.streams[h.StreamID]; s != nil {
			return c.answered(s, end)
		}
	case ofTrailers:
		if s := c.streams[h.StreamID]; s != nil {
			return c.trailed(s)
		}
	case unwanted:
		if what.refusal != "" {
			return c.refuse(h.StreamID, what.code, what.refusal)
		}
	}
	return nil
}

// An expectation is what a block of fields is taken for.
type expectation struct {
	kind    kind
	code    http2.ErrCode
	refusal string // of a stream whose block is unwanted
}

// expects tells what a block of fields is that begins now.
func (c *conn) expects(id uint32, end bool) (expectation, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		switch {
		case s.ended:
			return expectation{unwanted, http2.ErrCodeStreamClosed, "HEADERS behind the end (RFC 9113 §5.1)"}, nil
		case c.client && !s.awaitsTrailers():
			return expectation{kind: ofResponse}, nil
		case !end:
			return expectation{unwanted, codeProtocol, "trailers that do not end the stream (RFC 9113 §8.1)"}, nil
		}
		return expectation{kind: ofTrailers}, nil
	}
	switch {
	case id%2 == 0, c.client && id > c.highest:
		return expectation{}, protocolError("HEADERS of a stream that the peer cannot open (RFC 9113 §5.1.1)")
	case id <= c.highest:
		for i := range c.gone {
			if c.gone[i].id == id {
				return expectation{}, nil // they were on their way when the stream was reset
			}
		}
		if c.client {
			return expectation{}, c.wasted("HEADERS of a stream that has ended")
		}
		return expectation{}, &connError{http2.ErrCodeStreamClosed, "HEADERS of a stream that has ended (RFC 9113 §5.1)"}
	case id > c.last: // behind the second GOAWAY: nobody has looked at it, as that said
		c.highest = id
		return expectation{}, c.wasted("HEADERS behind GOAWAY")
	}
	c.highest = id
	// Handlers count, and not only streams: a peer may reset streams faster than what they began can be stopped
	// (CVE-2023-44487).
	if len(c.streams) >= c.limits.Streams || c.running >= 2*c.limits.Streams {
		return expectation{unwanted, http2.ErrCodeRefusedStream, "more streams than allowed (RFC 9113 §5.1.2)"}, nil
	}
	return expectation{kind: ofRequest}, nil
}

// readBlock decodes a block of fields that begins with p.
func (c *conn) readBlock(k kind, p []byte, ended bool) error {
	c.decoder.begin(k)
	if err := c.decoder.fragment(p); err != nil {
		return err
	}
	if !ended {
		if err := c.nc.SetReadDeadline(time.Now().Add(c.limits.HeadTimeout)); err != nil {
			return err
		}
	}
	timed := !ended
	for !ended {
		h, err := c.framer.ReadFrameHeader()
		if err != nil {
			return c.unreadable(err)
		}
		if p, err = c.in.whole(int(h.Length)); err != nil {
			return err
		}
		if err := c.decoder.fragment(p); err != nil {
			return err
		}
		ended = h.Flags.Has(http2.FlagContinuationEndHeaders)
	}
	if timed {
		if err := c.nc.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
	}
	return c.decoder.end()
}

// refuse resets a stream, which may not be ours yet. The lock is held, as in all that follows.
func (c *conn) refuse(id uint32, code http2.ErrCode, why string) error {
	if s := c.streams[id]; s != nil {
		return c.offend(s, code, why)
	}
	if c.control(4) {
		_ = c.framer.WriteRSTStream(id, code)
	}
	c.gone[c.goneNext] = goneOne{id, int64(c.limits.Window)}
	c.goneNext = (c.goneNext + 1) % goneMost
	return c.wasted(why)
}

// trailed takes trailers.
func (c *conn) trailed(s *stream) error {
	if s.ended {
		return nil
	}
	err := c.decoder.err
	if err == nil && s.declared > 0 {
		err = malformed("a body that is not as long as its Content-Length (RFC 9113 §8.1.1)")
	}
	if err != nil {
		return c.offend(s, codeFor(err), err.Error())
	}
	s.trailers = append(s.trailers[:0], c.decoder.fields...)
	s.end()
	return nil
}

func codeFor(err error) http2.ErrCode {
	if errors.Is(err, ErrTooLarge) {
		return codeCalm
	}
	return codeProtocol
}

// opened takes the head of a request, and has it handled.
func (c *conn) opened(id uint32, end bool) error {
	s := takeServerStream()
	s.open(c, id)
	err := c.decoder.request(&s.request, c.scheme, end)
	if err != nil && !errors.Is(err, ErrTooLarge) {
		giveServerStream(s)
		return c.refuse(id, codeProtocol, err.Error())
	}
	if err != nil {
		s.request.Reset()
		s.request.Method, s.request.Path = "", ""
		s.refusal = err
		s.bodyless = false
	}
	s.head = s.request.Method == "HEAD"
	s.tunnel = s.request.Upgrade != "" || s.request.Method == "CONNECT"
	if s.refusal == nil && !s.tunnel {
		s.declared = s.request.BodyLength
	}
	s.ended = end
	c.streams[id] = &s.stream
	c.running++
	c.group.Add(1)
	go s.run()
	return nil
}

// answered takes the head of a response.
func (c *conn) answered(s *stream, end bool) error {
	o := s.owner
	at := o.heads
	if at == mostHeads {
		return c.offend(s, codeCalm, "more informational responses than anybody reads")
	}
	r := &o.responses[at]
	if err := c.decoder.response(r, o.method, end); err != nil {
		return c.offend(s, codeFor(err), err.Error())
	}
	o.heads++
	if o.protocol != "" && r.Status >= 200 && r.Status < 300 {
		r.Status, r.Upgrade, r.BodyLength = 101, o.protocol, exchange.LengthUnknown
		o.final = true
	} else if !r.Informational() {
		o.final = true
		s.declared, s.bodyless = r.BodyLength, exchange.BodyForbidden(o.method, r.Status)
		if s.bodyless {
			s.declared = exchange.LengthUnknown
		}
	}
	s.readable.Broadcast()
	if end {
		s.end()
	}
	return nil
}

// mayBring reports whether n bytes of a body may come now.
func (s *stream) mayBring(n int) bool {
	if s.owner != nil && !s.owner.final {
		return false
	}
	return !s.bodyless || n == 0
}

// awaitsTrailers reports whether the final head has come.
func (s *stream) awaitsTrailers() bool { return s.owner != nil && s.owner.final }
