// Package segments keeps TCP segments so short that links of small packets carry them.
package segments

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// most is how long a segment is at the most, in bytes behind the headers of IP and TCP: as a link of 1,280 bytes carries
// it, which is the least that IPv6 asks for (RFC 8200 §5), options and all. Where longer packets are dropped without a word,
// kernels keep sending them as they come (net.ipv4.tcp_mtu_probing is off by default), and not even a handshake gets
// through.
const most = 1200

// Short bounds what both ends of a connection send in one segment (Control of a net.Dialer), or of every connection that a
// socket accepts (Control of a net.ListenConfig).
func Short(_, _ string, raw syscall.RawConn) error {
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, most)
	}); err != nil {
		return err
	}
	return failed
}
