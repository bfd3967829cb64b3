package http1

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// streamSocket returns how to read c's descriptor, or nil where c is anything but the kernel's socket itself:
// a type that wraps one may have bytes of its own.
func streamSocket(c net.Conn) syscall.RawConn {
	var raw syscall.RawConn
	var err error
	switch c := c.(type) {
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	}
	if err != nil {
		return nil
	}
	return raw
}

// readSocket tries once to read into a borrowed buffer, which it keeps if that brings something. It reports
// whether it is done; if not, the runtime waits until the socket is readable or the read deadline passes.
func (in *input) readSocket(fd uintptr) bool {
	b := takeBuffer(smallest)
	n, err := syscall.Read(int(fd), b.b)
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), b.b)
	}
	in.attemptN, in.attemptE = n, nil
	switch {
	case err == syscall.EAGAIN:
		giveBuffer(b)
		return false
	case err != nil:
		in.attemptE = os.NewSyscallError("read", err)
	case n == 0:
		in.attemptE = io.EOF
	default:
		in.head = b
		return true
	}
	giveBuffer(b)
	return true
}

// A silence tells whether a socket has nothing to read: neither bytes nor an end.
type silence struct {
	socket syscall.RawConn
	peek   func(uintptr)
	silent bool
}

func (s *silence) init(socket syscall.RawConn) {
	s.socket = socket
	s.peek = func(fd uintptr) {
		var b [1]byte
		_, _, errno := syscall.Syscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), 1,
			syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
		s.silent = errno == syscall.EAGAIN
	}
}

func (s *silence) holds() bool {
	if s.socket == nil {
		return true
	}
	return s.socket.Control(s.peek) == nil && s.silent
}
