package http2

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/sennit-mesh/sennit/internal/rawsock"
)

// inputSize is the size of the buffer that a connection reads into: two frames of the largest size that is allowed.
const inputSize = 2 * maxFrame

// maxFrame is the largest payload that a peer may send: the least that RFC 9113 §6.5.2 has everybody take.
const maxFrame = 16 << 10

var inputBuffers = sync.Pool{New: func() any { return new([inputSize]byte) }}

// An input is the reading side of a connection. It has a buffer only while there are bytes in it, so that an idle
// connection holds none (docs/decisions/0011); on what is no kernel's socket it keeps it.
type input struct {
	src    net.Conn
	socket syscall.RawConn // nil where src is not a kernel's stream socket
	buf    *[inputSize]byte
	r, w   int // buf[r:w] was not taken yet

	attempt func(uintptr) bool // in.readSocket, bound once, so that waiting allocates nothing
	err     error
}

func (in *input) init(src net.Conn) {
	in.src = src
	if in.socket = rawsock.Stream(src); in.socket != nil {
		in.attempt = in.readSocket
	}
}

func (in *input) buffered() int { return in.w - in.r }

// fill waits for bytes where there are none.
func (in *input) fill() error {
	if in.r < in.w {
		return nil
	}
	in.r, in.w = 0, 0
	if in.socket == nil {
		if in.buf == nil {
			in.buf = inputBuffers.Get().(*[inputSize]byte)
		}
		n, err := in.src.Read(in.buf[:])
		if in.w = n; n > 0 {
			return nil
		}
		if err == nil {
			err = io.ErrNoProgress
		}
		return err
	}
	in.release()
	if err := in.socket.Read(in.attempt); err != nil {
		return err
	}
	return in.err
}

// readSocket tries once to read into a borrowed buffer, which it keeps if that brings something; false has the runtime
// wait until the socket is readable.
func (in *input) readSocket(fd uintptr) bool {
	b := inputBuffers.Get().(*[inputSize]byte)
	n, errno := rawsock.Read(fd, b[:])
	in.err = nil
	switch {
	case errno == syscall.EAGAIN:
		inputBuffers.Put(b)
		return false
	case errno != 0:
		in.err = os.NewSyscallError("read", errno)
	case n == 0:
		in.err = io.EOF
	default:
		in.buf, in.w = b, n
		return true
	}
	inputBuffers.Put(b)
	return true
}

// Read is io.Reader's, for the Framer.
func (in *input) Read(p []byte) (int, error) {
	if err := in.fill(); err != nil {
		return 0, err
	}
	n := copy(p, in.buf[in.r:in.w])
	in.r += n
	return n, nil
}

// whole takes n bytes, at most maxFrame, in one piece. They are valid until the next call.
func (in *input) whole(n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	if err := in.fill(); err != nil {
		return nil, err
	}
	if in.w-in.r < n && len(in.buf)-in.r < n {
		in.w = copy(in.buf[:], in.buf[in.r:in.w])
		in.r = 0
	}
	for in.w-in.r < n {
		k, err := in.src.Read(in.buf[in.w:])
		if in.w += k; k > 0 {
			continue
		}
		if err == nil {
			err = io.ErrNoProgress
		}
		return nil, err
	}
	in.r += n
	return in.buf[in.r-n : in.r], nil
}

// skip drops n bytes.
func (in *input) skip(n int) error {
	for n > 0 {
		if err := in.fill(); err != nil {
			return err
		}
		k := min(n, in.buffered())
		in.r += k
		n -= k
	}
	return nil
}

func (in *input) release() {
	if in.buf != nil {
		inputBuffers.Put(in.buf)
		in.buf = nil
	}
}
