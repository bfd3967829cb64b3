package transport

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A flow is the datagrams of a UDP exchange, beside its Stream. Behind the head, and at the callee behind one byte that
// accepts the flow, each direction of the stream is a sequence of records:
//
//	+------------------+------------------+
//	| length (integer) | payload (length) |
//	+------------------+------------------+
//
// of one datagram each. Over QUIC most of them go as QUIC datagrams (RFC 9221) in place of that, each behind the number of
// its flow, as in RFC 9297 §2.1:
//
//	+----------------+---------+
//	| flow (integer) | payload |
//	+----------------+---------+
type flow struct {
	number   uint64      // of the stream, divided by four
	accepted atomic.Bool // the callee knows the flow: until then what a caller sends goes on the stream, behind its head
	leaving  chan struct{}
	left     atomic.Bool // leaving is closed

	mu      sync.Mutex // no datagram is handed over behind the flow's end
	deliver func(p []byte)
}

const (
	// MaxDatagram is the most bytes that a datagram of a flow has: what IPv6 carries in one without jumbograms.
	MaxDatagram = 65535 - 8
	// mostQUICDatagram is beyond what any packet of quic-go's can carry.
	mostQUICDatagram = 1452
	// flowAccepted is the callee's first byte.
	flowAccepted = 0x01
)

// hand gives a datagram to whoever receives those of the flow.
func (f *flow) hand(p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.deliver != nil {
		f.deliver(p)
	}
}

func (f *flow) leave() {
	if f.left.CompareAndSwap(false, true) {
		close(f.leaving)
	}
}

// flows are those of one connection, by their numbers. Its lock is taken by the connection's own receiver and by
// whoever begins or ends a flow, and by no sender.
type flows struct {
	mu        sync.Mutex
	open      map[uint64]*flow
	receiving bool // somebody receives datagrams of a connection that this node dialled
	left      bool // the connection takes no further exchange

	strays atomic.Uint64 // datagrams of no flow, among them those of flows that have just ended
}

func (fs *flows) add(f *flow) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.open == nil {
		fs.open = make(map[uint64]*flow)
	}
	fs.open[f.number] = f
	if fs.left {
		f.leave()
	}
}

func (fs *flows) remove(f *flow) {
	fs.mu.Lock()
	delete(fs.open, f.number)
	fs.mu.Unlock()
}

func (fs *flows) find(number uint64) *flow {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.open[number]
}

// leave tells the flows that they are to go on elsewhere.
func (fs *flows) leave() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.left {
		return
	}
	fs.left = true
	for _, f := range fs.open {
		f.leave()
	}
}

// receiveDatagrams hands datagrams to their flows until the connection ends. Those of no flow are dropped: one may have
// ended while they were on their way.
func (c *conn) receiveDatagrams(ctx context.Context) {
	q, ok := c.link.(quicLink)
	if !ok {
		return
	}
	for {
		p, err := q.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		c.datagram(p)
	}
}

// datagram takes one datagram of the connection's.
func (c *conn) datagram(p []byte) {
	number, n := varint(p)
	var f *flow
	if n > 0 {
		f = c.flows.find(number)
	}
	if f == nil {
		c.flows.strays.Add(1)
		return
	}
	f.hand(p[n:])
}

// OpenFlow begins a UDP exchange on a stream of class Flows: it writes the head. deliver gets the datagrams that the callee
// sends, from now on until Release; it is called by one goroutine at a time, must not block, and must not keep its
// argument. RunFlow must be called.
func (s *Stream) OpenFlow(target exchange.Target, deliver func(p []byte)) error {
	s.beginFlow(deliver)
	if err := s.WriteRequest(&exchange.Request{Kind: exchange.UDP, Target: target}); err != nil {
		return err
	}
	c := s.conn
	c.flows.mu.Lock()
	first := !c.flows.receiving && !c.solo
	c.flows.receiving = c.flows.receiving || first
	c.flows.mu.Unlock()
	if first {
		c.t.spawn(c.receiveDatagrams)
	}
	return nil
}

// AcceptFlow says inside Config.Serve, behind ReadRequest, that datagrams of the flow are taken. deliver is as in OpenFlow,
// and is not called any more once Serve has returned. Strings of the request's head become invalid with RunFlow, which must
// be called.
func (s *Stream) AcceptFlow(deliver func(p []byte)) error {
	s.beginFlow(deliver)
	s.flow.accepted.Store(true)
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	if err := s.mayWrite(outRaw); err != nil {
		return err
	}
	return s.send([]byte{flowAccepted})
}

func (s *Stream) beginFlow(deliver func(p []byte)) {
	f := &flow{deliver: deliver, leaving: make(chan struct{})}
	switch str := s.str.Load().(type) {
	case *quic.Stream:
		f.number = uint64(str.StreamID()) / 4
	case *tcpStream: // it carries its datagrams itself
		f.number = uint64(str.number)
	}
	s.conn.flows.add(f)
	s.flow = f
}

// endFlow lets go of the flow: nothing is delivered from now on.
func (s *Stream) endFlow() {
	f := s.flow
	if f == nil {
		return
	}
	s.flow = nil
	s.conn.flows.remove(f)
	f.mu.Lock()
	f.deliver = nil
	f.mu.Unlock()
}

// Leaving is closed when the flow is to go on elsewhere: its connection drains, where the exchange runs on until it is ended,
// or RunFlow has returned.
func (s *Stream) Leaving() <-chan struct{} { return s.flow.leaving }

// FlowAccepted reports whether the callee takes the flow.
func (s *Stream) FlowAccepted() bool { return s.flow.accepted.Load() }

// SendDatagram sends one datagram of a flow, of at most MaxDatagram bytes: as a QUIC datagram where the connection carries
// those and it fits into a packet, else on the stream. It waits while the lane takes no more, so that whoever has another
// datagram by then may drop it. One goroutine sends at a time; it keeps nothing of p, and an error ends the flow. That a
// datagram was sent does not say that it arrives.
func (s *Stream) SendDatagram(p []byte) error {
	if len(p) > MaxDatagram {
		return fmt.Errorf("%w: datagram of %d bytes, at most %d", ErrTooLarge, len(p), MaxDatagram)
	}
	select {
	case <-s.done: // QUIC datagrams do not fail with the stream
		return s.flowEnded()
	default:
	}
	f := s.flow
	if q, ok := s.conn.link.(quicLink); ok && len(p) < mostQUICDatagram && f.accepted.Load() {
		b := takeBuffer(smallBuffer)
		sent := q.SendDatagram(append(appendVarint(b.b[:0], f.number), p...))
		b.giveBack()
		if _, large := sent.(*quic.DatagramTooLargeError); !large { //nolint:errorlint // quic-go returns it as it is
			if sent != nil {
				return s.broken(sent, false)
			}
			return nil
		}
	}
	return s.writeRecord(p)
}

// flowEnded says why nothing more can be sent.
func (s *Stream) flowEnded() error {
	if own := s.fault(); own != nil {
		return own
	}
	str := s.str.Load()
	if str == nil {
		return fmt.Errorf("%w: the flow has ended", ErrBroken)
	}
	return s.broken(context.Cause(str.Context()), false)
}

// writeRecord writes one datagram to the stream.
func (s *Stream) writeRecord(p []byte) error {
	b := takeBuffer(len(p) + 4)
	defer b.giveBack()
	record := append(appendVarint(b.b[:0], uint64(len(p))), p...)
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	if err := s.mayWrite(outRaw); err != nil {
		return err
	}
	return s.send(record)
}

// RunFlow hands the datagrams that come on the stream over until the peer ends its direction, where it returns nil, or the
// flow breaks. Between two of them it holds no buffer.
func (s *Stream) RunFlow() error {
	defer s.flow.leave()
	in := &s.in
	for i, b := range in.held {
		b.giveBack()
		in.held[i] = nil
	}
	in.held, in.hold = in.held[:0], 0
	if s.caller {
		first, err := s.nextBytes(1)
		if err != nil || first == nil {
			return err
		}
		if first[0] != flowAccepted {
			return s.refuse(fmt.Errorf("%w: a flow accepted by %#02x", ErrMalformed, first[0]))
		}
		in.r++
		s.flow.accepted.Store(true)
	}
	for {
		record, err := s.nextRecord()
		if err != nil || record == nil {
			return err
		}
		s.flow.hand(record)
	}
}

// nextRecord reads one record and returns its payload, valid until the next call; nil where the peer has ended.
func (s *Stream) nextRecord() ([]byte, error) {
	in := &s.in
	for need := 1; ; need = in.w - in.r + 1 {
		b, err := s.nextBytes(need)
		if err != nil || b == nil {
			return nil, err
		}
		length, n := varint(b)
		switch {
		case n < 0 || n > 0 && length > MaxDatagram:
			return nil, s.refuse(fmt.Errorf("%w: length of a datagram", ErrMalformed))
		case n == 0:
			continue
		}
		if err := s.fill(n + int(length)); err != nil {
			return nil, err
		}
		in.r += n + int(length)
		return in.buf.b[in.r-int(length) : in.r : in.r], nil
	}
}

// nextBytes returns what was received and not looked at, at least need bytes; nil where the peer has ended in front of
// them. It waits for the first byte without a buffer.
func (s *Stream) nextBytes(need int) ([]byte, error) {
	in := &s.in
	if in.r == in.w {
		in.buf.giveBack()
		in.buf, in.r, in.w = nil, 0, 0
		ended, err := s.awaitByte()
		if err != nil || ended {
			return nil, err
		}
	}
	if err := s.fill(need); err != nil {
		return nil, err
	}
	return in.buf.b[in.r:in.w], nil
}
