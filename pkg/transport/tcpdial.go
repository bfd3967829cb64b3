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
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/internal/segments"
)

// dialled is what a link needs to make the connections of its streams.
type dialled struct {
	lane  *lane
	cert  *tls.Certificate
	addr  netip.AddrPort
	class Class
	asked atomic.Int64 // when the last ping was sent; Unix nanoseconds
}

// dialTCP opens a link to addr.
func (t *Transport) dialTCP(ctx context.Context, l *lane, addr netip.AddrPort, class Class) (*conn, error) {
	cert, err := t.credentials.Certificate(l.key.Local)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", l.key.Local, err)
	}
	ctx, cancel := context.WithTimeout(ctx, t.limits.Handshake)
	defer cancel()
	id := new(identity)
	plain, control, err := t.connectTLS(ctx, addr, class, t.dialTLS(l.key, cert, l.tcpSessions.of(cert), id))
	if err != nil {
		return nil, err
	}
	k := newTCPLink(t, plain, control)
	k.dialled = &dialled{lane: l, cert: cert, addr: addr, class: class}
	r := bufio.NewReaderSize(control, 512)
	if err := k.welcome(ctx, r); err != nil {
		plain.Close()
		return nil, err
	}
	if !t.spawn(k.write) {
		plain.Close()
		return nil, errStops
	}
	if !t.spawn(func(context.Context) { k.read(r) }) {
		k.end(errStops)
		return nil, errStops
	}
	return l.newConn(k, id, addr, class), nil
}

// welcome says what the connection is for, and learns whether the peer takes it: only then has it accepted this
// end's certificate.
func (k *tcpLink) welcome(ctx context.Context, r *bufio.Reader) error {
	stop := context.AfterFunc(ctx, func() { _ = k.conn.SetDeadline(past) })
	defer stop()
	if _, err := k.control.Write([]byte{helloControl}); err != nil {
		return err
	}
	w, err := r.ReadByte()
	if err != nil {
		return fmt.Errorf("peer does not take the connection: %w", err)
	}
	if word(w) == wordWelcome {
		if _, err := io.ReadFull(r, k.token[:]); err != nil {
			return err
		}
	}
	v, err := readVarint(r)
	switch {
	case err != nil:
		return err
	case word(w) == wordClose:
		return &quic.ApplicationError{ErrorCode: quic.ApplicationErrorCode(v), Remote: true}
	case word(w) != wordWelcome || v == 0:
		return fmt.Errorf("%w: word %#02x for a welcome", ErrMalformed, w)
	}
	if v < uint64(k.silence/time.Millisecond) {
		k.silence = time.Duration(v) * time.Millisecond
	}
	if !stop() {
		return context.Cause(ctx) // the deadline is past, or will be
	}
	return nil
}

// dial makes a stream's connection, for as long as somebody wants it.
func (s *tcpStream) dial(ctx context.Context) {
	k := s.link
	ctx, cancel := context.WithTimeout(ctx, k.t.limits.Handshake)
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	d := k.dialled
	id := identity{}
	plain, t, err := k.t.connectTLS(ctx, d.addr, d.class, k.t.dialTLS(d.lane.key, d.cert, d.lane.tcpSessions.of(d.cert), &id))
	if err == nil {
		hello := append([]byte{helloStream}, k.token[:]...)
		if _, err = t.Write(binary.BigEndian.AppendUint32(hello, s.number)); err != nil {
			plain.Close()
		}
	}
	if err == nil {
		s.begin(plain, t)
		return
	}
	err = fmt.Errorf("connection for a stream of lane %s at %s: %w", d.lane.key, d.addr, err)
	if cause := context.Cause(k.ctx); cause != nil {
		err = cause
	}
	s.stopReading(err)
	s.stopWriting(err)
	s.closeConn()
	close(s.there)
}

// connectTLS makes one connection.
func (t *Transport) connectTLS(ctx context.Context, addr netip.AddrPort, class Class, config *tls.Config) (*plainConn, *tls.Conn, error) {
	dialer := net.Dialer{KeepAliveConfig: t.keepAlive()}
	if !addr.Addr().IsLoopback() { // which carries all that it takes
		dialer.Control = segments.Short
	}
	if from := t.local.Addr(); from.IsValid() && !from.IsUnspecified() {
		dialer.LocalAddr = &net.TCPAddr{IP: from.AsSlice(), Zone: from.Zone()}
	}
	conn, err := dialer.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, nil, err
	}
	most := t.limits.StreamWindow
	if class == Bulk {
		most = t.limits.BulkWindow
	}
	plain, err := newPlainConn(conn.(*net.TCPConn), most)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	config.DynamicRecordSizingDisabled = true // a lane's peers are near, and records cost
	c := tls.Client(plain, config)
	if err := c.HandshakeContext(ctx); err != nil {
		plain.Close()
		return nil, nil, err
	}
	if c.ConnectionState().NegotiatedProtocol != alpn {
		plain.Close()
		return nil, nil, errors.New("peer does not speak " + alpn)
	}
	return plain, c, nil
}

// keepAlive finds connections of streams that lead nowhere, and keeps those that wait in the pool known to the
// firewalls on their way. It says nothing of a peer that is only slow.
func (t *Transport) keepAlive() net.KeepAliveConfig {
	every := max(t.limits.Silence, time.Second)
	return net.KeepAliveConfig{Enable: true, Idle: every, Interval: every, Count: 3}
}
