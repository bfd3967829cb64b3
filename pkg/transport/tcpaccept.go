package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// acceptTCP accepts connections until ctx ends.
func (t *Transport) acceptTCP(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { t.listener.Close() })
	defer stop()
	config := t.listenTLS(TCP)
	config.DynamicRecordSizingDisabled = true
	for pause := time.Duration(0); ; {
		conn, err := t.listener.Accept()
		if err == nil {
			pause = 0
			t.admitTCP(conn.(*net.TCPConn), config)
			continue
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		pause = min(max(2*pause, 10*time.Millisecond), time.Second)
		t.log.Warn("a connection over TCP cannot be accepted (are too many files open?)", "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// admitTCP decides whether a peer may begin a handshake.
func (t *Transport) admitTCP(conn *net.TCPConn, config *tls.Config) {
	handshake := func(ctx context.Context) {
		plain, err := newPlainConn(conn, t.limits.BulkWindow)
		if err == nil {
			err = t.greet(ctx, plain, config)
		} else {
			t.leaves()
		}
		if err != nil {
			conn.Close()
			t.log.Debug("connection over TCP refused", "addr", conn.RemoteAddr(), "err", err)
		}
	}
	many := int(t.inbound.Add(1)) > t.limits.Inbound
	if many {
		t.refuse(RefusedLimit, conn.RemoteAddr(), errMany)
	}
	if many || !t.spawn(handshake) {
		t.leaves()
		conn.Close()
	}
}

// leaves takes back what a connection was counted as in inbound.
func (t *Transport) leaves() {
	t.inbound.Add(-1)
	t.notify()
}

// greet verifies who opened a connection and asks what it is for. The error is for the log: the peer learns nothing.
func (t *Transport) greet(ctx context.Context, plain *plainConn, config *tls.Config) (err error) {
	counted := true
	defer func() {
		if counted {
			t.leaves()
		}
	}()
	id := new(identity)
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, identityKey{}, id), t.limits.Handshake)
	defer cancel()
	_ = plain.SetKeepAliveConfig(t.keepAlive())
	c := tls.Server(plain, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	if c.ConnectionState().NegotiatedProtocol != alpn {
		return errors.New("peer does not speak " + alpn)
	}
	stop := context.AfterFunc(ctx, func() { _ = plain.SetDeadline(past) })
	defer stop()
	var hello [1 + len(linkToken{}) + 4]byte
	if _, err := io.ReadFull(c, hello[:1]); err != nil {
		return err
	}
	switch hello[0] {
	case helloControl:
		if !stop() {
			return context.Cause(ctx)
		}
		counted = false // as long as the link is
		t.acceptLink(id, plain, c)
		return nil
	case helloStream:
		if _, err := io.ReadFull(c, hello[1:]); err != nil {
			return err
		}
		if !stop() {
			return context.Cause(ctx)
		}
		return t.acceptStream(ctx, id, plain, c, linkToken(hello[1:]), binary.BigEndian.Uint32(hello[1+len(linkToken{}):]))
	}
	return fmt.Errorf("%w: connection of kind %#02x", ErrMalformed, hello[0])
}

// acceptLink begins a link with its control connection.
func (t *Transport) acceptLink(id *identity, plain *plainConn, control *tls.Conn) {
	k := newTCPLink(t, plain, control)
	k.peer = id.peer
	context.AfterFunc(k.ctx, func() {
		t.mu.Lock()
		delete(t.links, k.token)
		t.mu.Unlock()
		t.leaves()
	})
	if !t.spawn(k.write) {
		k.end(errStops)
		plain.Close()
		return
	}
	if t.draining.Load() {
		_ = k.CloseWithError(closeRefused, ErrDraining.Error())
		return
	}
	t.mu.Lock()
	t.links[k.token] = k
	t.mu.Unlock()
	k.mu.Lock()
	k.words = append(append(k.words, byte(wordWelcome)), k.token[:]...)
	k.words = appendVarint(k.words, uint64(max(k.silence/time.Millisecond, 1)))
	k.schedule(nil)
	k.mu.Unlock()
	c := newConn(t, k)
	c.identity = *id
	c.addr = plain.RemoteAddr().(*net.TCPAddr).AddrPort()
	t.accept(c)
	t.spawn(func(context.Context) { k.read(bufio.NewReaderSize(control, 512)) })
}

// acceptStream gives a stream of a link its connection.
func (t *Transport) acceptStream(ctx context.Context, id *identity, plain *plainConn, c *tls.Conn, token linkToken, number uint32) error {
	t.mu.Lock()
	k := t.links[token]
	t.mu.Unlock()
	if k == nil {
		return errors.New("stream of a link that is not there")
	}
	of := k.control.ConnectionState()
	if id.peer != k.peer || !c.ConnectionState().PeerCertificates[0].Equal(of.PeerCertificates[0]) || c.ConnectionState().ServerName != of.ServerName {
		return fmt.Errorf("%w: stream of %s on a link of another", ErrIdentity, id.peer)
	}
	s := newTCPStream(k, number)
	s.begin(plain, c)
	return k.take(ctx, s)
}
