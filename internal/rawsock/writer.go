package rawsock

import (
	"net"
	"os"
	"syscall"
)

// A Writer writes to one stream socket. It is for one goroutine at a time.
type Writer struct {
	raw  syscall.RawConn
	rest []byte
	err  error
	try  func(uintptr) bool // w.attempt, bound once, so that writing allocates nothing
}

// Init makes w write to the socket that raw reaches (Stream).
func (w *Writer) Init(raw syscall.RawConn) { w.raw, w.try = raw, w.attempt }

// Write is net.Conn's: all of p is written where there is no error, and write deadlines hold.
func (w *Writer) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	w.rest, w.err = p, nil
	err := w.raw.Write(w.try)
	if err == nil {
		err = w.err
	}
	n := len(p) - len(w.rest)
	w.rest = nil
	return n, err
}

// attempt reports whether it is done; if not, the runtime waits until the socket takes more.
func (w *Writer) attempt(fd uintptr) bool {
	for len(w.rest) > 0 {
		n, errno := Write(fd, w.rest)
		if errno == syscall.EAGAIN {
			return false
		}
		if errno != 0 {
			w.err = os.NewSyscallError("write", errno)
			return true
		}
		w.rest = w.rest[n:]
	}
	return true
}

// Stream returns how to reach c's descriptor, or nil where c is anything but the kernel's stream socket itself: a
// type that wraps one may have bytes of its own.
func Stream(c net.Conn) syscall.RawConn {
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
