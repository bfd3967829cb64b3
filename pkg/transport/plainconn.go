package transport

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sennit-mesh/sennit/internal/rawsock"
)

// A plainConn is the TCP connection below a TLS connection. crypto/tls reads and writes a record a time; a plainConn
// takes several with one system call, and holds no buffer while it waits.
type plainConn struct {
	*net.TCPConn
	raw syscall.RawConn
	cut atomic.Bool // it ended, whatever TLS makes of that: crypto/tls takes it for close_notify between two records

	// Of who reads.
	ahead *buffer // ahead.b[r:w] was received and not read; nil where nothing was
	r, w  int
	err   error // of the last receive
	try   func(fd uintptr) bool

	outMu    sync.Mutex // an alert may be written by who reads
	out      *buffer    // out.b[:outN] is collected; nil where nothing is
	outN     int
	collects bool
}

// maxRecord is the most bytes that TLS puts into one record, and longestRecord what that takes on the wire at most.
const (
	maxRecord     = 16 << 10
	longestRecord = maxRecord + 256 + 5
)

// newPlainConn bounds what the peer may have in flight to a reader that has stopped by window bytes. Below, the kernel
// chooses.
func newPlainConn(conn *net.TCPConn, window int) (*plainConn, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	_ = raw.Control(func(fd uintptr) { // without it the window is the kernel's own, and bounded too
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, window)
	})
	c := &plainConn{TCPConn: conn, raw: raw}
	c.try = c.receive
	return c, nil
}

// Read takes what was received before, or waits for more.
func (c *plainConn) Read(p []byte) (int, error) {
	if c.ahead == nil {
		if err := c.raw.Read(c.try); err != nil {
			return 0, err
		}
		if c.err != nil {
			return 0, c.err
		}
	}
	n := copy(p, c.ahead.b[c.r:c.w])
	if c.r += n; c.r == c.w {
		c.ahead.giveBack()
		c.ahead = nil
	}
	return n, nil
}

// receive takes what is there, and reports false where nothing is.
func (c *plainConn) receive(fd uintptr) bool {
	b := takeBuffer(largeBuffer)
	n, errno := rawsock.Read(fd, b.b)
	switch {
	case errno == unix.EAGAIN:
		b.giveBack()
		return false
	case errno != 0:
		c.err = os.NewSyscallError("read", errno)
	case n == 0:
		c.err = io.EOF
		c.cut.Store(true)
	default:
		c.ahead, c.r, c.w, c.err = b, 0, n, nil
		return true
	}
	b.giveBack()
	return true
}

// hasRecord reports whether a whole record was received, so that reading it does not wait: TLS may hold the beginning of
// one, and the rest is no longer than this.
func (c *plainConn) hasRecord() bool { return c.ahead != nil && c.w-c.r >= longestRecord }

// collect has writes wait for send, or for as much as a buffer holds.
func (c *plainConn) collect() {
	c.outMu.Lock()
	c.collects = true
	c.outMu.Unlock()
}

// send writes what was collected.
func (c *plainConn) send() error {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	c.collects = false
	err := c.flush()
	c.out.giveBack()
	c.out = nil
	return err
}

func (c *plainConn) Write(p []byte) (int, error) {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	if !c.collects {
		return c.TCPConn.Write(p)
	}
	if c.out == nil {
		c.out = takeBuffer(largeBuffer)
	}
	if c.outN+len(p) > len(c.out.b) {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	c.outN += copy(c.out.b[c.outN:], p) // a record fits
	return len(p), nil
}

// flush writes what was collected. The lock is held.
func (c *plainConn) flush() error {
	if c.outN == 0 {
		return nil
	}
	_, err := c.TCPConn.Write(c.out.b[:c.outN])
	c.outN = 0
	return err
}

// SetWriteDeadline does nothing: crypto/tls gives close_notify five seconds, and the peer may read slowly. Where a
// deadline is meant it is set below.
func (c *plainConn) SetWriteDeadline(time.Time) error { return nil }
