package http1

import (
	"io"
	"os"
	"syscall"

	"github.com/sennit-mesh/sennit/internal/rawsock"
)

// readSocket tries once to read into a borrowed buffer, which it keeps if that brings something. It reports
// whether it is done; if not, the runtime waits until the socket is readable or the read deadline passes.
func (in *input) readSocket(fd uintptr) bool {
	b := takeBuffer(smallest)
	n, errno := rawsock.Read(fd, b.b)
	in.attemptN, in.attemptE = n, nil
	switch {
	case errno == syscall.EAGAIN:
		giveBuffer(b)
		return false
	case errno != 0:
		in.attemptE = os.NewSyscallError("read", errno)
	case n == 0:
		in.attemptE = io.EOF
	default:
		in.head = b
		return true
	}
	giveBuffer(b)
	return true
}

// A silence tells whether a socket has nothing to read: neither bytes nor an end. Without a socket it is assumed.
type silence struct {
	socket syscall.RawConn
	peek   func(uintptr)
	first  [1]byte
	silent bool
}

func (s *silence) init(socket syscall.RawConn) {
	s.socket = socket
	s.peek = func(fd uintptr) {
		_, errno := rawsock.Peek(fd, s.first[:])
		s.silent = errno == syscall.EAGAIN
	}
}

func (s *silence) holds() bool {
	if s.socket == nil {
		return true
	}
	return s.socket.Control(s.peek) == nil && s.silent
}
