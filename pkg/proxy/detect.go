package proxy

import (
	"net"
	"syscall"

	"github.com/sennit-mesh/sennit/pkg/http2"
)

// arrived returns when the first byte of a request is there, or at the beginning of a connection the first that tell
// which version of HTTP it speaks. What speaks another than HTTP/2 waits for nothing: its first byte says so.
func (c *caller) arrived() (err error) {
	if c.version == http2.IsHTTP2 {
		return nil // agreed on with TLS; its codec waits for the rest
	}
	if c.version == http2.Unsure {
		if c.version, err = detect(c.guard.conn); err != nil || c.version == http2.IsHTTP2 {
			return err
		}
	}
	return c.http.Await()
}

// detect looks at a connection's first bytes and leaves them where they are.
func detect(conn *net.TCPConn) (guess http2.Guess, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return http2.NotHTTP2, err
	}
	seen := 0
	readErr := raw.Read(func(fd uintptr) bool {
		for {
			var first [http2.Decisive]byte
			n, _, errno := syscall.Recvfrom(int(fd), first[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			switch errno {
			case nil:
			case syscall.EINTR:
				continue
			case syscall.EAGAIN:
				return false
			default:
				err = errno
				return true
			}
			guess = http2.Detect(first[:n])
			// Woken without more: the rest does not come, and HTTP/1.1's codec says so.
			if guess == http2.Unsure && n <= seen {
				guess = http2.NotHTTP2
			}
			seen = n
			return guess != http2.Unsure
		}
	})
	if err == nil {
		err = readErr
	}
	return guess, err
}
