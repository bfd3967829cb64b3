package http2

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/http2"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// readFrames reads until the connection ends, and returns why.
func (c *conn) readFrames() error {
	for {
		if c.in.buffered() == 0 {
			c.turn()
		}
		h, err := c.framer.ReadFrameHeader()
		if err != nil {
			return c.unreadable(err)
		}
		if !c.settled && (h.Type != http2.FrameSettings || h.Flags.Has(http2.FlagSettingsAck)) {
			return protocolError("the first frame is not SETTINGS (RFC 9113 §3.4)")
		}
		if err := c.frame(h); err != nil {
			return err
		}
	}
}

// unreadable makes the Framer's errors our own.
func (c *conn) unreadable(err error) error {
	var of http2.ConnectionError
	switch {
	case errors.Is(err, http2.ErrFrameTooLarge):
		return &connError{codeFrameSize, "a frame larger than allowed (RFC 9113 §4.2)"}
	case errors.As(err, &of):
		return &connError{http2.ErrCode(of), fmt.Sprint(c.framer.ErrorDetail())}
	}
	return err
}

// turn is called before the reader waits: what was received is given back, and answers leave.
func (c *conn) turn() {
	c.reads.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.giveCredit()
	c.out.flush()
}

// giveCredit gives the peer back what it has used of the connection's window. The lock is held.
func (c *conn) giveCredit() {
	if c.credit >= initialWindow/2 && c.control(4) {
		_ = c.framer.WriteWindowUpdate(0, uint32(c.credit))
		c.room += int64(c.credit)
		c.credit = 0
	}
}

// taken counts n bytes of a stream that were kept as taken, where the connection's window waits for that. The lock is held.
func (c *conn) taken(s *stream, n int) {
	if c.limits.Unread > 0 && n > 0 {
		s.unread -= n
		c.credit += n
		c.giveCredit()
		c.out.flush()
	}
}

// frame takes one frame behind its header.
func (c *conn) frame(h http2.FrameHeader) error {
	switch h.Type {
	case http2.FrameHeaders:
		return c.readHeaders(h)
	case http2.FrameData, http2.FrameRSTStream, http2.FrameWindowUpdate, http2.FramePriority, http2.FramePing:
		p, err := c.in.whole(int(h.Length))
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		switch h.Type {
		case http2.FrameData:
			return c.data(h, p)
		case http2.FrameRSTStream:
			return c.resetByPeer(h, p)
		case http2.FrameWindowUpdate:
			return c.windowUpdate(h, p)
		case http2.FramePriority:
			return c.priority(h, p)
		default:
			return c.ping(h, p)
		}
	case http2.FrameSettings, http2.FrameGoAway:
		f, err := c.framer.ReadFrameForHeader(h)
		if err != nil {
			return c.unreadable(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if settings, ok := f.(*http2.SettingsFrame); ok {
			return c.settings(settings)
		}
		return c.goneAway(f.(*http2.GoAwayFrame))
	case http2.FramePushPromise:
		return protocolError("PUSH_PROMISE, which was not allowed (RFC 9113 §8.4)")
	case http2.FrameContinuation: // within readHeaders only; the Framer refuses any other
		return protocolError("CONTINUATION without HEADERS (RFC 9113 §6.10)")
	}
	// What is not known is ignored (RFC 9113 §5.5).
	if err := c.in.skip(int(h.Length)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wasted("an unknown frame")
}

// unpad cuts the padding off a payload (RFC 9113 §6.1).
func unpad(h http2.FrameHeader, p []byte) ([]byte, error) {
	if !h.Flags.Has(http2.FlagDataPadded) {
		return p, nil
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, protocolError("padding longer than its frame (RFC 9113 §6.1)")
	}
	return p[1 : len(p)-int(p[0])], nil
}

// idle reports whether no stream of that number was opened yet. The lock is held.
func (c *conn) idle(id uint32) bool { return id > c.highest || id%2 == 0 }

// data takes DATA. The lock is held, as in all that follows.
func (c *conn) data(h http2.FrameHeader, p []byte) error {
	length := int64(len(p)) // padding counts (RFC 9113 §6.9.1)
	if h.StreamID == 0 || c.idle(h.StreamID) {
		return protocolError("DATA of no stream (RFC 9113 §6.1)")
	}
	p, err := unpad(h, p)
	if err != nil {
		return err
	}
	if c.room -= length; c.room < 0 {
		return &connError{codeFlow, "more data than the connection's window (RFC 9113 §6.9.1)"}
	}
	c.credit += int(length)
	end := h.Flags.Has(http2.FlagDataEndStream)
	switch {
	case len(p) > 0:
		c.patience.earn(patienceOfData)
	case !end:
		if err := c.wasted("empty DATA"); err != nil {
			return err
		}
	}
	s := c.streams[h.StreamID]
	switch {
	case s == nil:
		return c.dataOfGone(h.StreamID, length)
	case s.ended:
		return c.offend(s, http2.ErrCodeStreamClosed, "DATA behind the end (RFC 9113 §5.1)")
	case s.room < length:
		return c.offend(s, codeFlow, "more data than the stream's window (RFC 9113 §6.9.1)")
	case !s.mayBring(len(p)):
		return c.offend(s, codeProtocol, "DATA before the head, or where there is no body (RFC 9113 §8.1)")
	case s.declared != exchange.LengthUnknown && (int64(len(p)) > s.declared || end && int64(len(p)) < s.declared):
		return c.offend(s, codeProtocol, "a body that is not as long as its Content-Length (RFC 9113 §8.1.1)")
	}
	s.room -= length
	s.taken += int(length) - len(p)
	if s.declared != exchange.LengthUnknown {
		s.declared -= int64(len(p))
	}
	if s.readErr == nil {
		s.append(p)
		if c.limits.Unread > 0 {
			s.unread += len(p)
			c.credit -= len(p)
		}
	}
	if end {
		s.end()
	}
	return nil
}

// dataOfGone takes DATA of a stream that has ended.
func (c *conn) dataOfGone(id uint32, length int64) error {
	for i := range c.gone {
		if g := &c.gone[i]; g.id == id { // it was on its way when the stream was reset
			if g.room -= length; g.room < 0 {
				return &connError{codeFlow, "more data than the stream's window (RFC 9113 §6.9.1)"}
			}
			return nil
		}
	}
	if err := c.wasted("DATA of a stream that has ended"); err != nil {
		return err
	}
	if c.control(4) {
		_ = c.framer.WriteRSTStream(id, http2.ErrCodeStreamClosed)
	}
	return nil
}

// offend resets a stream for what the peer has sent. That costs patience: who has the streams reset that it opens makes
// as much work as who resets them itself (CVE-2025-8671).
func (c *conn) offend(s *stream, code http2.ErrCode, why string) error {
	c.reset(s, code, why)
	return c.wasted(why)
}

func (c *conn) resetByPeer(h http2.FrameHeader, p []byte) error {
	switch {
	case len(p) != 4:
		return &connError{codeFrameSize, "RST_STREAM of a wrong size (RFC 9113 §6.4)"}
	case c.idle(h.StreamID):
		return protocolError("RST_STREAM of no stream (RFC 9113 §6.4)")
	}
	s := c.streams[h.StreamID]
	if s == nil {
		return c.wasted("RST_STREAM of a stream that has ended")
	}
	s.breakOff(&ResetError{Code: http2.ErrCode(beUint32(p)), Remote: true})
	c.remove(s)
	return c.wasted("RST_STREAM")
}

func beUint32(p []byte) uint32 {
	return uint32(p[0])<<24 | uint32(p[1])<<16 | uint32(p[2])<<8 | uint32(p[3])
}

func (c *conn) windowUpdate(h http2.FrameHeader, p []byte) error {
	if len(p) != 4 {
		return &connError{codeFrameSize, "WINDOW_UPDATE of a wrong size (RFC 9113 §6.9)"}
	}
	if err := c.wasted("WINDOW_UPDATE"); err != nil {
		return err
	}
	n := int64(beUint32(p) & largestValue)
	if h.StreamID == 0 {
		switch {
		case n == 0:
			return protocolError("WINDOW_UPDATE of nothing (RFC 9113 §6.9)")
		case c.window+n > largestValue:
			return &connError{codeFlow, "a window that is too large (RFC 9113 §6.9.1)"}
		}
		c.window += n
		c.out.room.Broadcast()
		return nil
	}
	if c.idle(h.StreamID) {
		return protocolError("WINDOW_UPDATE of no stream (RFC 9113 §6.9)")
	}
	s := c.streams[h.StreamID]
	switch {
	case s == nil:
		return nil
	case n == 0:
		return c.offend(s, codeProtocol, "WINDOW_UPDATE of nothing (RFC 9113 §6.9)")
	case s.window+n > largestValue:
		return c.offend(s, codeFlow, "a window that is too large (RFC 9113 §6.9.1)")
	}
	s.window += n
	s.writable.Signal()
	return nil
}

// priority looks at a signal that nobody heeds (RFC 9113 §5.3.2).
func (c *conn) priority(h http2.FrameHeader, p []byte) error {
	if err := c.wasted("PRIORITY"); err != nil {
		return err
	}
	switch {
	case h.StreamID == 0:
		return protocolError("PRIORITY of no stream (RFC 9113 §6.3)")
	case len(p) != 5:
		if s := c.streams[h.StreamID]; s != nil {
			return c.offend(s, codeFrameSize, "PRIORITY of a wrong size (RFC 9113 §6.3)")
		}
		return &connError{codeFrameSize, "PRIORITY of a wrong size (RFC 9113 §6.3)"}
	case beUint32(p)&largestValue == h.StreamID: // what else it says is not heeded
		if s := c.streams[h.StreamID]; s != nil {
			return c.offend(s, codeProtocol, "a stream that depends on itself")
		}
		return protocolError("a stream that depends on itself")
	}
	return nil
}

func (c *conn) ping(h http2.FrameHeader, p []byte) error {
	switch {
	case len(p) != 8:
		return &connError{codeFrameSize, "PING of a wrong size (RFC 9113 §6.7)"}
	case h.StreamID != 0:
		return protocolError("PING of a stream (RFC 9113 §6.7)")
	}
	data := [8]byte(p)
	if h.Flags.Has(http2.FlagPingAck) {
		if data == drainPing {
			c.lastCall()
		}
		if data == alivePing && !c.drainPinged {
			c.pinged = time.Time{}
			return nil
		}
		return c.wasted("an answer to no PING")
	}
	if err := c.wasted("PING"); err != nil {
		return err
	}
	if c.control(8) {
		_ = c.framer.WritePing(true, data)
	}
	return nil
}

// settings takes what the peer says of itself (RFC 9113 §6.5.2).
func (c *conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return c.wasted("an acknowledgement")
	}
	if c.settled {
		if err := c.wasted("SETTINGS"); err != nil {
			return err
		}
	}
	c.settled = true
	was := c.peer
	for i := range f.NumSettings() {
		set := f.Setting(i)
		switch set.ID {
		case http2.SettingHeaderTableSize:
			c.encoder.hpack.SetMaxDynamicTableSize(min(set.Val, hpackTable))
		case http2.SettingEnablePush:
			if set.Val > 1 || c.client && set.Val != 0 {
				return protocolError("ENABLE_PUSH of a value that it does not have (RFC 9113 §6.5.2)")
			}
		case http2.SettingMaxConcurrentStreams:
			c.peer.streams = int(min(int64(set.Val), int64(c.limits.Streams)))
		case http2.SettingInitialWindowSize:
			if set.Val > largestValue {
				return &connError{codeFlow, "a window that is too large (RFC 9113 §6.5.2)"}
			}
			c.peer.window = int64(set.Val)
		case http2.SettingMaxFrameSize:
			if set.Val < maxFrame || set.Val >= 1<<24 {
				return protocolError("MAX_FRAME_SIZE out of its range (RFC 9113 §6.5.2)")
			}
			c.peer.frame = int(set.Val)
		case http2.SettingMaxHeaderListSize:
			c.peer.head = int64(set.Val)
		case http2.SettingEnableConnectProtocol:
			if set.Val > 1 || c.peer.tunnels && set.Val == 0 {
				return protocolError("ENABLE_CONNECT_PROTOCOL of a value that it does not have, or taken back (RFC 8441 §3)")
			}
			c.peer.tunnels = set.Val == 1
		}
	}
	// Once for all: a frame has room for thousands of them.
	if change := c.peer.window - was.window; change != 0 {
		for _, s := range c.streams {
			if s.window += change; s.window > largestValue {
				return &connError{codeFlow, "a window that is too large (RFC 9113 §6.9.2)"}
			}
			s.writable.Signal()
		}
	}
	if !c.peer.known {
		c.peer.known = true
		c.out.room.Broadcast() // whoever waits to hear of it (Tunnels)
	}
	if c.control(0) {
		_ = c.framer.WriteSettingsAck()
	}
	return nil
}

// goneAway takes GOAWAY: the peer looks at no further streams of ours.
func (c *conn) goneAway(f *http2.GoAwayFrame) error {
	c.draining = true
	if c.client {
		for id, s := range c.streams {
			if id > f.LastStreamID {
				s.breakOff(fmt.Errorf("%w: it goes away (GOAWAY %v)", ErrNotProcessed, f.ErrCode))
				c.remove(s)
			}
		}
	}
	if err := c.wasted("GOAWAY"); err != nil {
		return err
	}
	c.drained()
	return nil
}
