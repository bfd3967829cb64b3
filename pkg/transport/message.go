package transport

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sennit-mesh/sennit/internal/rawsock"
)

// A message is one call of recvmsg or sendmsg (internal/rawsock). It is used again and again, by one goroutine at a
// time, and lives on the heap: the kernel is given pointers into it.
type message struct {
	header unix.Msghdr
	vector unix.Iovec
	name   unix.RawSockaddrInet6 // has room for an Inet4 too
	call   func(uintptr) bool    // receive or send, bound once
	n      int
	errno  syscall.Errno
}

// messages are for writers, of which there is one for each connection.
var messages = sync.Pool{New: func() any {
	m := new(message)
	m.call = m.send
	return m
}}

// set says where the bytes and the control messages are; neither may move before clear.
func (m *message) set(p, oob []byte) {
	m.vector.Base = unsafe.SliceData(p)
	m.vector.SetLen(len(p))
	m.header = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&m.name)), Namelen: unix.SizeofSockaddrInet6, Iov: &m.vector, Control: unsafe.SliceData(oob)}
	m.header.SetIovlen(1)
	m.header.SetControllen(len(oob))
}

// clear lets go of what set was given.
func (m *message) clear() { m.header, m.vector = unix.Msghdr{}, unix.Iovec{} }

// through waits, by Read or Write of a syscall.RawConn, until the call is through.
func (m *message) through(wait func(func(uintptr) bool) error) error {
	if err := wait(m.call); err != nil {
		return err
	}
	if m.errno != 0 {
		return os.NewSyscallError("sendmsg or recvmsg", m.errno)
	}
	return nil
}

func (m *message) receive(fd uintptr) bool {
	m.n, m.errno = rawsock.Recvmsg(fd, &m.header)
	return m.errno != syscall.EAGAIN
}

func (m *message) send(fd uintptr) bool {
	m.n, m.errno = rawsock.Sendmsg(fd, &m.header)
	return m.errno != syscall.EAGAIN
}

// address returns whom a message came from.
func (m *message) address() (netip.AddrPort, error) {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&m.name.Port))[:])
	switch m.name.Family {
	case unix.AF_INET:
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(&m.name))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), port), nil
	case unix.AF_INET6:
		addr := netip.AddrFrom16(m.name.Addr)
		if m.name.Scope_id != 0 {
			addr = addr.WithZone(strconv.Itoa(int(m.name.Scope_id)))
		}
		return netip.AddrPortFrom(addr, port), nil
	}
	return netip.AddrPort{}, fmt.Errorf("datagram of address family %d", m.name.Family)
}

// setAddress says whom a message goes to; six: through a socket of IPv6. An address must have no zone.
func (m *message) setAddress(to netip.AddrPort, six bool) error {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&m.name.Port))[:], to.Port())
	if !six {
		if !to.Addr().Unmap().Is4() {
			return fmt.Errorf("write to %s: %w", to, unix.EAFNOSUPPORT)
		}
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(&m.name))
		four.Family, four.Addr = unix.AF_INET, to.Addr().Unmap().As4()
		m.header.Namelen = unix.SizeofSockaddrInet4
		return nil
	}
	m.name.Family, m.name.Addr, m.name.Flowinfo, m.name.Scope_id = unix.AF_INET6, to.Addr().As16(), 0, 0
	return nil
}
