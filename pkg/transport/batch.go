package transport

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// A batchSocket reads with UDP GRO: the kernel joins datagrams of one sender, and ReadBatch takes them
// apart again into the buffers that quic-go hands it. Addresses are remembered, which saves two allocations
// a packet. ReadBatch is called by one goroutine; writes may be concurrent. It counts what both carry.
type batchSocket struct {
	*net.UDPConn
	raw     syscall.RawConn
	six     bool // a socket of IPv6, which may carry IPv4 too
	in      message
	joined  [65535]byte // the datagrams of one read
	oob     [128]byte
	rest    []byte // of joined, not handed out yet
	size    int    // of a datagram in rest; the last may be shorter
	control []byte // of all in rest
	from    *net.UDPAddr
	known   map[netip.AddrPort]*net.UDPAddr

	reads, received, writes, sent atomic.Int64 // as in Datagrams
}

// knownAddresses bounds the memory of addresses: anybody can send a datagram.
const knownAddresses = 1024

func newBatchSocket(conn *net.UDPConn, raw syscall.RawConn) (net.PacketConn, error) {
	var gro error
	domain := 0
	if err := raw.Control(func(fd uintptr) {
		domain, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN) // known since Linux 2.6.32
		gro = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	}); err != nil {
		return nil, err
	}
	if gro != nil {
		return conn, nil // a kernel before 5.0: one datagram a time
	}
	b := &batchSocket{UDPConn: conn, raw: raw, six: domain == unix.AF_INET6, known: make(map[netip.AddrPort]*net.UDPAddr)}
	b.in.call = b.in.receive
	return b, nil
}

// ReadBatch fills as many messages as one read gives, at least one.
func (b *batchSocket) ReadBatch(messages []ipv4.Message, _ int) (int, error) {
	for len(b.rest) == 0 {
		b.in.set(b.joined[:], b.oob[:])
		if err := b.in.through(b.raw.Read); err != nil {
			return 0, err
		}
		from, err := b.in.address()
		if err != nil {
			return 0, err
		}
		n := b.in.n
		b.rest, b.control = b.joined[:n], b.oob[:b.in.header.Controllen]
		if b.size = segmentSize(b.control, unix.UDP_GRO); b.size <= 0 {
			b.size = n
		}
		b.reads.Add(1)
		b.received.Add(datagrams(n, b.size))
		b.from = b.address(from)
	}
	i := 0
	for ; i < len(messages) && len(b.rest) > 0; i++ {
		m := &messages[i]
		datagram := b.rest[:min(b.size, len(b.rest))]
		b.rest = b.rest[len(datagram):]
		m.N = copy(m.Buffers[0], datagram)
		m.NN = copy(m.OOB, b.control)
		m.Addr = b.from
	}
	return i, nil
}

// address returns the same pointer for the same address; nobody writes to it.
func (b *batchSocket) address(from netip.AddrPort) *net.UDPAddr {
	if a, ok := b.known[from]; ok {
		return a
	}
	if len(b.known) >= knownAddresses {
		clear(b.known)
	}
	a := net.UDPAddrFromAddrPort(from)
	b.known[from] = a
	return a
}

// WriteMsgUDP writes one message, as *net.UDPConn's does.
func (b *batchSocket) WriteMsgUDP(p, oob []byte, to *net.UDPAddr) (n, oobn int, err error) {
	if to.Zone != "" { // the net package knows the interfaces' names
		return b.UDPConn.WriteMsgUDP(p, oob, to)
	}
	out := messages.Get().(*message)
	defer messages.Put(out)
	out.set(p, oob)
	defer out.clear()
	if err := out.setAddress(to.AddrPort(), b.six); err != nil {
		return 0, 0, err
	}
	if err := out.through(b.raw.Write); err != nil {
		return 0, 0, err
	}
	b.writes.Add(1)
	b.sent.Add(datagrams(len(p), segmentSize(oob, unix.UDP_SEGMENT)))
	return out.n, len(oob), nil
}

// datagrams is how many datagrams of a size make so many bytes; the last may be shorter. Size 0: they are one.
func datagrams(bytes, size int) int64 {
	if size <= 0 || bytes <= size {
		return 1
	}
	return int64((bytes + size - 1) / size)
}

// segmentSize finds the size of joined datagrams in the control messages of a read (UDP_GRO, an int) or a write
// (UDP_SEGMENT, 16 bits); 0 where there is one datagram.
func segmentSize(control []byte, kind int32) int {
	for len(control) >= unix.CmsgLen(0) {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return 0
		}
		switch {
		case header.Level != unix.IPPROTO_UDP || header.Type != kind:
		case len(data) >= 4:
			return int(binary.NativeEndian.Uint32(data))
		case len(data) >= 2:
			return int(binary.NativeEndian.Uint16(data))
		}
		control = rest
	}
	return 0
}
