package http1

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/sennit-mesh/sennit/internal/rawsock"
)

// leastRoom is how many free bytes a read into a buffer is worth.
const leastRoom = 1 << 10

// worthDirect is how much room of the caller's makes a read past the buffer worth that what follows is not read along.
const worthDirect = 4 << 10

// input is the reading side of a connection.
//
// A head stays where it was read, because strings point to it: it fills the beginning of the buffer, up to
// floor, until begin is called for the next one. What follows it (body, trailers, the next head) is read into
// the room behind it, or, where that is too small, into a buffer of its own. The bytes that nobody has taken
// yet are current().b[r:w].
//
// Between exchanges it has no buffer: see await.
type input struct {
	src    net.Conn
	socket syscall.RawConn // nil where src is not a kernel's stream socket

	head  *buffer // the current head, and what follows it while spill is nil
	spill *buffer // what follows the head once its buffer had no room
	floor int     // bytes of current() below it are still pointed to
	r, w  int

	first    [16]byte           // the first bytes of a head where there is no socket to wait for
	attempt  func(uintptr) bool // in.readSocket, bound once, so that waiting allocates nothing
	attemptN int
	attemptE error
}

func (in *input) init(src net.Conn) {
	in.src = src
	in.socket = rawsock.Stream(src)
	if in.socket != nil {
		in.attempt = in.readSocket
	}
}

func (in *input) current() *buffer {
	if in.spill != nil {
		return in.spill
	}
	return in.head
}

func (in *input) buffered() int { return in.w - in.r }

func (in *input) unread() []byte {
	if in.r == in.w {
		return nil
	}
	return in.current().b[in.r:in.w]
}

// begin invalidates the current head: it moves what was read past it to the beginning of a buffer, or gives
// the buffers back where there is nothing.
func (in *input) begin() {
	in.floor = 0
	if in.r == in.w {
		in.release()
		return
	}
	if in.spill != nil {
		giveBuffer(in.head)
		in.head, in.spill = in.spill, nil
	}
	in.w = copy(in.head.b, in.head.b[in.r:in.w])
	in.r = 0
}

func (in *input) release() {
	giveBuffer(in.head)
	giveBuffer(in.spill)
	in.head, in.spill = nil, nil
	in.floor, in.r, in.w = 0, 0, 0
}

// hijack returns a copy of the unread bytes and gives the buffers back.
func (in *input) hijack() []byte {
	rest := bytes.Clone(in.unread())
	in.release()
	return rest
}

// await returns when there is at least one unread byte. It must follow begin. While it waits on a socket, the
// connection has no buffer: each attempt borrows one. Where it waits on anything else it reads a few bytes.
func (in *input) await() error {
	if in.r < in.w {
		return nil
	}
	if in.socket == nil {
		n, err := in.src.Read(in.first[:])
		if n == 0 {
			return orNoProgress(err)
		}
		in.head = takeBuffer(smallest)
		in.w = copy(in.head.b, in.first[:n])
		return nil
	}
	if err := in.socket.Read(in.attempt); err != nil {
		return err
	}
	if in.attemptE != nil {
		return in.attemptE
	}
	in.w = in.attemptN
	return nil
}

// fill reads more bytes behind those that are unread, which may move.
func (in *input) fill() error {
	if in.current() == nil {
		in.head = takeBuffer(smallest)
	}
	if in.r == in.w {
		in.r, in.w = in.floor, in.floor
	}
	if cur := in.current(); len(cur.b)-in.w < leastRoom {
		in.makeRoom(cur)
	}
	cur := in.current()
	if in.w == len(cur.b) {
		return tooLarge("no room left")
	}
	n, err := in.src.Read(cur.b[in.w:])
	in.w += n
	if n == 0 {
		return orNoProgress(err)
	}
	return nil
}

func (in *input) makeRoom(cur *buffer) {
	unread := cur.b[in.r:in.w]
	if len(cur.b)-in.floor-len(unread) >= leastRoom {
		copy(cur.b[in.floor:], unread)
		in.r, in.w = in.floor, in.floor+len(unread)
		return
	}
	larger := takeBuffer(max(smallest, 2*len(unread)))
	in.w = copy(larger.b, unread)
	in.r = 0
	if in.floor > 0 {
		in.floor = 0
		in.spill = larger // cur is the head's: a spill has no floor
		return
	}
	giveBuffer(cur)
	if in.spill != nil {
		in.spill = larger
	} else {
		in.head = larger
	}
}

// read takes unread bytes, or where there are none reads from the connection, directly into a p that is worth it.
func (in *input) read(p []byte) (int, error) {
	if in.r == in.w {
		if len(p) >= worthDirect {
			n, err := in.src.Read(p)
			if n > 0 {
				return n, nil
			}
			return 0, orNoProgress(err)
		}
		if err := in.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.unread())
	in.r += n
	return n, nil
}

// hasLine reports whether the next line is there without reading.
func (in *input) hasLine() bool { return bytes.IndexByte(in.unread(), '\n') >= 0 }

// line takes the next line and returns it without its CRLF. It is valid until the next call.
func (in *input) line(limit int) ([]byte, error) {
	for seen := 0; ; {
		unread := in.unread()
		if i := bytes.IndexByte(unread[seen:], '\n'); i >= 0 {
			end := seen + i
			if end == 0 || unread[end-1] != '\r' {
				return nil, malformed("a line ends in a bare LF (RFC 9112 §2.2)")
			}
			if end-1 > limit {
				return nil, tooLarge("a chunk's size line")
			}
			in.r += end + 1
			return unread[:end-1], nil
		}
		seen = len(unread)
		if seen > limit+1 {
			return nil, tooLarge("a chunk's size line")
		}
		if err := in.fill(); err != nil {
			return nil, err
		}
	}
}

// crlf takes the line end that follows a chunk's data.
func (in *input) crlf() error {
	for {
		unread := in.unread()
		if len(unread) > 0 && unread[0] != '\r' || len(unread) > 1 && unread[1] != '\n' {
			return malformed("a chunk is longer than its size (RFC 9112 §7.1)")
		}
		if len(unread) > 1 {
			in.r += 2
			return nil
		}
		if err := in.fill(); err != nil {
			return err
		}
	}
}

// section takes the lines up to and with the first empty one, all of them in one piece, which stays valid
// until begin. Where it has to wait for the rest, it does so until timeout has passed, if there is one.
func (in *input) section(limit int, timeout time.Duration, what string) (_ []byte, err error) {
	timed := false
	for start, seen := 0, 0; ; { // of the current line, of what was not searched yet
		unread := in.unread()
		for {
			i := bytes.IndexByte(unread[seen:], '\n')
			if i < 0 {
				seen = len(unread)
				break
			}
			end := seen + i
			if end == start || unread[end-1] != '\r' {
				return nil, malformed("a line ends in a bare LF (RFC 9112 §2.2)")
			}
			if end+1 > limit {
				return nil, tooLarge(what)
			}
			if end-1 == start {
				in.r += end + 1
				in.floor = in.r
				if timed {
					err = in.src.SetReadDeadline(time.Time{})
				}
				return unread[: end+1 : end+1], err
			}
			start, seen = end+1, end+1
		}
		if len(unread) >= limit {
			return nil, tooLarge(what)
		}
		if timeout > 0 && !timed {
			timed = true
			if err := in.src.SetReadDeadline(time.Now().Add(timeout)); err != nil {
				return nil, err
			}
		}
		if err := in.fill(); err != nil {
			return nil, err
		}
	}
}

func orNoProgress(err error) error {
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// broken turns an end of the stream in the middle of something into io.ErrUnexpectedEOF.
func broken(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
