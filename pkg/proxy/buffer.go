package proxy

import (
	"io"
	"sync"
)

// copyBuffer is the size of the buffers between the two sides of an exchange, in bytes. A request body that
// fits is held until the response begins, so that the request can be sent again.
const copyBuffer = 16 << 10

// bulkBuffer is the size for bodies that keep filling the other: a frame of a lane's at a time.
const bulkBuffer = 64 << 10

// buffers are taken for as long as a body is copied and never kept by an idle connection.
var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

var bulkBuffers = sync.Pool{New: func() any { return new([bulkBuffer]byte) }}

func takeBuffer() *[copyBuffer]byte { return buffers.Get().(*[copyBuffer]byte) }

func giveBack(b *[copyBuffer]byte) {
	if b != nil {
		buffers.Put(b)
	}
}

// A window is what a body is copied through: small at first, and large from the first read that fills it, so that
// bulk costs a quarter of the system calls and of the waits for the lane. Its zero value is ready.
type window struct {
	small  *[copyBuffer]byte
	large  *[bulkBuffer]byte
	filled bool // by the last read
}

// read returns what one read of from brings. It is valid until the next.
func (w *window) read(from io.Reader) ([]byte, error) {
	if w.filled && w.large == nil {
		w.large = bulkBuffers.Get().(*[bulkBuffer]byte)
		giveBack(w.small)
		w.small = nil
	}
	var room []byte
	if w.large != nil {
		room = w.large[:]
	} else {
		if w.small == nil {
			w.small = takeBuffer()
		}
		room = w.small[:]
	}
	n, err := from.Read(room)
	w.filled = n == len(room)
	return room[:n], err
}

func (w *window) release() {
	giveBack(w.small)
	if w.large != nil {
		bulkBuffers.Put(w.large)
	}
	*w = window{}
}
