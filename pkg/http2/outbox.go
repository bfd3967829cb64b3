package http2

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/sennit-mesh/sennit/internal/rawsock"
)

const (
	// outboxSize is what can wait to be written, in bytes.
	outboxSize = 64 << 10
	// outboxHeads is how much of it frames of streams may fill. What is left is for answers to what the peer sends
	// (acknowledgements, resets, windows), for which the reader cannot wait: a peer that has used it up sends without
	// reading.
	outboxHeads = 56 << 10
	// outboxData is how much of it data may fill, so that heads and ends find room behind it.
	outboxData = 48 << 10
	// outboxYields is how often others go first: those that run meanwhile write into the same system call (see
	// docs/decisions/0024).
	outboxYields = 2
)

var outboxBuffers = sync.Pool{New: func() any { return new([outboxSize]byte) }}

// An outbox collects the frames that a connection has to send, of all its streams in the order in which they were
// made, and writes them in as few system calls as it can. The connection's lock is over it.
type outbox struct {
	dst    net.Conn
	socket rawsock.Writer
	direct bool // socket is dst's

	buf     *[outboxSize]byte // nil: nothing waits
	n       int               // buf[:n]
	turn    uint64            // how many buffers were taken to be written, and one
	writing bool              // somebody writes, or will
	since   time.Time         // when the write that runs began
	err     error             // of a write: sticky
	room    sync.Cond         // the buffer was taken, or err was set, or the connection's window has grown
	deliver func()            // conn.deliver, bound once
}

// Write is io.Writer's, for the Framer: it appends a frame. Room was asked for before.
func (o *outbox) Write(p []byte) (int, error) {
	if o.buf == nil {
		o.buf = outboxBuffers.Get().(*[outboxSize]byte)
	}
	if len(p) > outboxSize-o.n {
		return 0, errFlooded
	}
	o.n += copy(o.buf[o.n:], p)
	return len(p), nil
}

var errFlooded = errors.New("the peer sends and does not read")

// frame appends the header of a frame whose payload follows.
func (o *outbox) frame(length int, t http2.FrameType, flags http2.Flags, id uint32) {
	h := [...]byte{byte(length >> 16), byte(length >> 8), byte(length), byte(t), byte(flags), byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}
	_, _ = o.Write(h[:])
}

// frameHeader is the length of a frame's header.
const frameHeader = 9

// flush has what waits written soon, by a goroutine of its own where nobody writes yet. The lock is held.
func (o *outbox) flush() {
	if o.n > 0 && !o.writing && o.err == nil {
		o.writing = true
		go o.deliver()
	}
}

// deliver writes until nothing waits.
func (c *conn) deliver() {
	for range outboxYields {
		runtime.Gosched()
	}
	c.mu.Lock()
	for c.out.n > 0 && c.out.err == nil {
		c.writeOut()
	}
	c.out.writing = false
	c.written()
	c.mu.Unlock()
}

// flushNow is flush for a stream that is alone: its own goroutine writes, once, and wakes no other. The lock is held,
// and given up meanwhile.
func (c *conn) flushNow() {
	o := &c.out
	if o.n == 0 || o.writing || o.err != nil {
		return
	}
	if len(c.streams) > 1 {
		o.flush()
		return
	}
	o.writing = true
	c.writeOut()
	o.writing = false
	o.flush() // what came meanwhile
	if !o.writing {
		c.written()
	}
}

// writeOut writes what waits, without the lock.
func (c *conn) writeOut() {
	o := &c.out
	buf, n := o.buf, o.n
	o.buf, o.n, o.since = nil, 0, c.now()
	o.turn++
	o.room.Broadcast()
	c.mu.Unlock()
	var err error
	if o.direct {
		_, err = o.socket.Write(buf[:n])
	} else {
		_, err = o.dst.Write(buf[:n])
	}
	outboxBuffers.Put(buf)
	c.mu.Lock()
	o.since = time.Time{}
	if err != nil && o.err == nil {
		o.err = fmt.Errorf("write: %w", err)
		c.fail(o.err)
	}
}
