package transport

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"time"
)

// A ConnectionState is what `sennit status` shows of one connection.
type ConnectionState struct {
	Key      Key // of an inbound connection: the caller and the service here; Node is not known and empty
	Inbound  bool
	Class    Class // of an outbound connection
	Addr     netip.AddrPort
	Carrier  Carrier // QUIC or TCP
	Why      string  // it is that one; empty where it is the usual one
	Running  int     // exchanges
	Idle     int     // streams that wait for one
	Draining bool    // takes no further exchange
	Crowded  bool    // many of its streams stall
	RTT      time.Duration
	Expires  time.Time // when the first of both certificates ends
}

// Connections returns the state of all connections, in no order.
func (t *Transport) Connections() []ConnectionState {
	conns := t.conns()
	states := make([]ConnectionState, 0, len(conns))
	for _, c := range conns {
		state := ConnectionState{Carrier: c.carrier(), Class: c.class, Addr: c.addr, Expires: c.expires, RTT: c.link.rtt()}
		if c.lane != nil {
			state.Key, state.Why = c.lane.key, t.why(c)
		} else {
			state.Inbound = true
			state.Key = Key{Local: c.peer, Remote: c.local}
		}
		c.mu.Lock()
		state.Running, state.Idle, state.Draining, state.Crowded = int(c.running.Load()), len(c.idle), c.draining, c.crowded
		c.mu.Unlock()
		states = append(states, state)
	}
	return states
}

// carrier is what the connection runs over.
func (c *conn) carrier() Carrier {
	if c.solo {
		return TCP
	}
	return QUIC
}

// Datagrams counts what went over the node's UDP socket since it was opened, and in how many system calls: the
// kernel joins several of one peer in a read (GRO) and cuts a write into several (GSO).
type Datagrams struct{ Received, Reads, Sent, Writes int64 }

// Datagrams returns all zeros where the kernel joins none.
func (t *Transport) Datagrams() Datagrams {
	b, ok := t.socket.(*batchSocket)
	if !ok {
		return Datagrams{}
	}
	return Datagrams{Received: b.received.Load(), Reads: b.reads.Load(), Sent: b.sent.Load(), Writes: b.writes.Load()}
}

// why says why a connection that this node dialled goes over its carrier.
func (t *Transport) why(c *conn) string {
	switch {
	case t.only != Auto:
		return "this node is set to it"
	case c.lane.key.Carrier != Auto:
		return "the service is set to it"
	case !c.solo:
		return ""
	}
	if way, blocked := t.ways.find(c.addr); blocked {
		return fmt.Sprintf("UDP does not get through since %s (%v); it is tried again at %s",
			way.since.Format(time.TimeOnly), way.err, way.again.Format(time.TimeOnly))
	}
	return "UDP gets through again: QUIC takes its place"
}

// Recheck judges both ends of all connections again and closes those that are no longer trusted, with what
// runs on them. It is called when the roster, or what is revoked, has changed. Handshakes that run meanwhile are
// judged when they have ended (judge).
func (t *Transport) Recheck() {
	t.rechecks.Add(1)
	own := make(map[*tls.Certificate]error)
	for _, c := range t.conns() {
		t.recheck(c, own)
	}
}

// judge closes a connection that was registered after the peer was judged by what no longer holds, and reports
// whether it stays.
func (t *Transport) judge(c *conn) bool {
	return t.rechecks.Load() == c.judged || t.recheck(c, make(map[*tls.Certificate]error))
}

// recheck judges one connection and reports whether it stays; own are the verdicts on this node's certificates so far.
func (t *Transport) recheck(c *conn, own map[*tls.Certificate]error) bool {
	peer, err := t.credentials.Verify(c.link.handshake())
	if err == nil && peer != c.peer {
		err = fmt.Errorf("%w: it is %s now", ErrIdentity, peer)
	}
	if err == nil {
		verdict, known := own[c.cert]
		if !known {
			verdict = t.verifyOwn(c.cert)
			own[c.cert] = verdict
		}
		err = verdict
	}
	if err != nil {
		t.log.Warn("lane closed: one of its ends is no longer trusted", "peer", c.peer, "service", c.local, "err", err)
		c.close(closeRefused, "not trusted")
	}
	return err == nil
}

// verifyOwn judges a certificate of this node's as peers do.
func (t *Transport) verifyOwn(own *tls.Certificate) error {
	var state tls.ConnectionState
	for _, der := range own.Certificate {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("this node's certificate: %w", err)
		}
		state.PeerCertificates = append(state.PeerCertificates, certificate)
	}
	if _, err := t.credentials.Verify(state); err != nil {
		return fmt.Errorf("this node's certificate: %w", err)
	}
	return nil
}
