package proxy

import (
	"errors"
	"io"
	"net"
)

// A hello is the beginning of a connection with TLS, until it is known whom its client asks for. crypto/tls reads it, and
// nobody else: how it is cut into records, and what is no TLS, is understood here as by any server. What was read is kept,
// and nothing is answered: TLS that passes through is for somebody else to answer. It is for one goroutine until pass.
type hello struct {
	net.Conn
	kept   []byte
	passed bool // the rest is TLS's
	ended  bool // nothing more comes; for whoever reads
}

// mostHello bounds what a client may send before it has said whom it asks for, in bytes. A hello has some hundred, with a
// key that no quantum computer finds two thousand, and what is in several records a head for each.
const mostHello = 16 << 10

var (
	errHello = errors.New("what its client sends first is too long for TLS")
	// errPassed ends a handshake that is not held here.
	errPassed = errors.New("TLS passes through")
)

// pass has everything read and written from now on.
func (h *hello) pass() { h.kept, h.passed = nil, true }

// Read is net.Conn's.
func (h *hello) Read(p []byte) (int, error) {
	if h.passed {
		n, err := h.Conn.Read(p)
		h.ended = errors.Is(err, io.EOF)
		return n, err
	}
	if len(p) > mostHello-len(h.kept) {
		p = p[:mostHello-len(h.kept)]
	}
	if len(p) == 0 {
		return 0, errHello
	}
	n, err := h.Conn.Read(p)
	h.kept = append(h.kept, p[:n]...)
	return n, err
}

// Write is net.Conn's.
func (h *hello) Write(p []byte) (int, error) {
	if !h.passed {
		return len(p), nil
	}
	return h.Conn.Write(p)
}
