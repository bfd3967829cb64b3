package capture

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// untaken is for how long bytes may wait for somebody outside to take them, and probes for an answer, until the
	// kernel ends the connection.
	untaken = 60 * time.Second
	// probeAfter is after how long a silence the kernel asks whether somebody outside is still there.
	probeAfter = 30 * time.Second
)

// serveOutside hands over a connection from outside, where its source does not have too many.
func (ls *Listeners) serveOutside(conn *net.TCPConn, rule Listener, s *socket) {
	far, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return
	}
	source := sourceOf(far.AddrPort().Addr())
	if !s.sources.enter(source, ls.cfg.MaxOfSource) {
		s.refused.Add(1)
		if ls.refusal.Allow() {
			ls.cfg.Log.Warn("connection from outside refused: its source has too many", "service", rule.As.String(), "peer", source.String(), "limit", ls.cfg.MaxOfSource)
		}
		conn.SetLinger(0)
		return
	}
	defer s.sources.leave(source)
	if err := guardOutside(conn); err != nil { // it has gone already
		return
	}
	s.accepted.Add(1)
	ls.cfg.Handle(s.ctx, conn, rule)
}

// guardOutside has the kernel end a connection whose other end is gone, or takes nothing.
func guardOutside(conn *net.TCPConn) error {
	err := conn.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: probeAfter, Interval: probeAfter / 3, Count: 3})
	if err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var option error
	err = raw.Control(func(fd uintptr) {
		option = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(untaken.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return option
}

// sources count the open connections of one listener by where they come from.
type sources struct {
	mu   sync.Mutex
	open map[netip.Prefix]int // no more entries than the listener has connections
}

// sourceOf is what counts as one source: an IPv4 address, and of IPv6 the 64 bits that one host usually has to itself.
func sourceOf(address netip.Addr) netip.Prefix {
	address = address.Unmap().WithZone("")
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	prefix, err := address.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // no address has more bits than it has
	}
	return prefix
}

func (s *sources) enter(source netip.Prefix, limit int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[source] >= limit {
		return false
	}
	if s.open == nil {
		s.open = make(map[netip.Prefix]int)
	}
	s.open[source]++
	return true
}

func (s *sources) leave(source netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[source]--; s.open[source] <= 0 {
		delete(s.open, source)
	}
}
