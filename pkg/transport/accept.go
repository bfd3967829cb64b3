package transport

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// admit decides whether a peer may begin a handshake, and gives it its identity to fill in.
func (t *Transport) admit(ctx context.Context, client *quic.ClientInfo) (context.Context, error) {
	if t.draining.Load() {
		return nil, ErrDraining
	}
	if int(t.inbound.Add(1)) > t.limits.Inbound {
		t.inbound.Add(-1)
		t.refuse(RefusedLimit, client.RemoteAddr, errMany)
		return nil, errMany
	}
	context.AfterFunc(ctx, func() {
		t.inbound.Add(-1)
		t.notify()
	})
	return context.WithValue(ctx, identityKey{}, new(identity)), nil
}

// acceptQUIC serves a connection that a peer opened.
func (t *Transport) acceptQUIC(q *quic.Conn) {
	c := newConn(t, quicLink{q})
	c.identity = *q.Context().Value(identityKey{}).(*identity)
	if udp, ok := q.RemoteAddr().(*net.UDPAddr); ok {
		c.addr = udp.AddrPort()
	}
	t.accept(c)
}

// accept serves a connection whose identity and address are known.
func (t *Transport) accept(c *conn) {
	c.from = origin{c.peer, c.addr.Addr().Unmap()}
	if err := t.register(c); err != nil {
		if errors.Is(err, errCrowds) {
			t.refuse(RefusedLimit, net.TCPAddrFromAddrPort(c.addr), err)
		}
		c.close(closeRefused, err.Error())
		return
	}
	// Before any stream is accepted: one that the peer sent with its handshake would be served.
	if !t.judge(c) {
		t.refusals.counts[RefusedIdentity].Add(1) // judge has logged it
		t.unregister(c)
		return
	}
	if !t.spawn(c.serve) {
		t.unregister(c)
		c.close(closeRefused, "node stops")
		return
	}
	if !c.solo {
		t.spawn(c.deliver)
		t.spawn(c.receiveDatagrams) // whoever sends some that belong to nothing must not have them kept
	}
	if t.draining.Load() {
		c.goAway()
	}
}

// serve accepts streams until the connection ends.
func (c *conn) serve(ctx context.Context) {
	defer c.t.unregister(c)
	for {
		str, err := c.link.AcceptStream(ctx)
		if err != nil {
			return
		}
		if !c.takeStream() {
			str.CancelRead(codeRefused)
			str.CancelWrite(codeRefused)
			continue
		}
		s := newStream(c.t, c, str, false)
		c.add(s)
		if !c.t.spawn(s.serve) {
			c.giveStream()
			str.CancelRead(codeRefused)
			str.CancelWrite(codeRefused)
			return
		}
	}
}

// serve hands over one exchange after another. Between two it holds no buffer.
func (s *Stream) serve(ctx context.Context) {
	defer s.conn.giveStream()
	defer s.conn.remove(s)
	defer finish(s.str.Load())
	for s.awaitExchange() {
		s.conn.began()
		s.begin()
		s.t.serve(ctx, s)
		again := s.settle()
		s.clear()
		s.conn.ended()
		if !again {
			return
		}
	}
}

// awaitExchange returns true when the first byte of the next exchange is there.
func (s *Stream) awaitExchange() bool {
	str := s.str.Load()
	if str == nil {
		return false
	}
	n, err := str.Peek(s.first[:])
	if n == 1 {
		return true
	}
	if errors.Is(err, io.EOF) {
		// Only an end that was read, and not one that was seen, gives the peer its place for another stream back.
		_, _ = str.Read(s.first[:])
		_ = str.Close()
	} else {
		str.CancelRead(codeNone)
		str.CancelWrite(codeNone)
	}
	return false
}

// settle ends what a handler left and reports whether the stream can carry another exchange.
func (s *Stream) settle() bool {
	if s.reusable() {
		return true
	}
	s.out.mu.Lock()
	whole := s.out.state == outEnded && s.out.err == nil
	s.out.mu.Unlock()
	str := s.str.Load()
	switch {
	case str == nil || s.cause.Load() != nil:
	case s.in.raw && whole && s.in.state == inEnded:
	case whole:
		// The response is complete and the rest of the request is not wanted (RFC 9110 §7.5 lets a
		// server answer early).
		s.flushPosted()
		_ = str.Close()
		str.CancelRead(codeUnread)
	default:
		s.Reset(exchange.ServiceBroke)
	}
	return false
}
