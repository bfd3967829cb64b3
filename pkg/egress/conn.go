package egress

import (
	"crypto/tls"
	"net"
	"syscall"

	"github.com/sennit-mesh/sennit/internal/rawsock"
)

// A Conn is a connection to a host outside. What is read and written is the caller's; TLS is inside.
type Conn struct {
	net.Conn // with or without TLS
	raw      *net.TCPConn
	done     func()
}

// Scheme is that of requests on it.
func (c *Conn) Scheme() string {
	if _, secured := c.Conn.(*tls.Conn); secured {
		return "https"
	}
	return "http"
}

// Close closes the connection at once, from any goroutine: TLS would wait to say goodbye to a peer that takes nothing.
func (c *Conn) Close() error {
	c.done()
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
// the host closes, or a host that speaks without being asked.
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
