package origination

import (
	"crypto/tls"
	"net"
	"sync"
	"syscall"

	"github.com/sennit-mesh/sennit/internal/rawsock"
)

// A Conn is a connection that a node has made, with TLS inside or without. What is read and written is the caller's.
type Conn struct {
	net.Conn // with or without TLS
	raw      *net.TCPConn
	closed   func()
}

// Plain is a connection without TLS.
func Plain(raw *net.TCPConn) *Conn { return &Conn{Conn: raw, raw: raw, closed: func() {}} }

// WhenClosed has closed called once, when the connection is. It is called before anybody else has the connection.
func (c *Conn) WhenClosed(closed func()) { c.closed = sync.OnceFunc(closed) }

// Scheme is that of requests on it.
func (c *Conn) Scheme() string {
	if _, secured := c.Conn.(*tls.Conn); secured {
		return "https"
	}
	return "http"
}

// Close closes the connection at once, from any goroutine: TLS would wait to say goodbye to a peer that takes nothing.
func (c *Conn) Close() error {
	c.closed()
	return c.raw.Close()
}

// Abort closes it with a reset, so that what was cut off is no end.
func (c *Conn) Abort() {
	_ = c.raw.SetLinger(0)
	_ = c.Close()
}

// CloseWrite ends the direction to the host.
func (c *Conn) CloseWrite() error {
	if secured, ok := c.Conn.(*tls.Conn); ok {
		return secured.CloseWrite()
	}
	return c.raw.CloseWrite()
}

// Quiet reports whether nothing has arrived, not even the end: an idle connection to which that happens is one that
// the other end closes, or speaks on without being asked.
func (c *Conn) Quiet() bool {
	raw, err := c.raw.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Control(func(fd uintptr) {
		var first [1]byte
		_, errno := rawsock.Peek(fd, first[:])
		quiet = errno == syscall.EAGAIN
	})
	return err == nil && quiet
}
