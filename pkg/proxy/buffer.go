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

// A window is what a body is copied through: small, and large behind a read that would have filled the small one, so
// that bulk costs a quarter of the system calls and of the waits for the lane, and a connection that is quiet behind
// it holds little. Its zero value is ready.
type window struct {
	small  *[copyBuffer]byte
	large  *[bulkBuffer]byte
	filled bool // the small one, by the last read
}

// read returns what one read of from brings. It is valid until the next.
func (w *window) read(from io.Reader) ([]byte, error) {
	var room []byte
	if w.filled {
		if w.large == nil {
			w.large = bulkBuffers.Get().(*[bulkBuffer]byte)
			giveBack(w.small)
			w.small = nil
		}
		room = w.large[:]
	} else {
		if w.small == nil {
			w.small = takeBuffer()
			w.giveLarge()
		}
		room = w.small[:]
	}
	n, err := from.Read(room)
	w.filled = n >= copyBuffer
	return room[:n], err
}

func (w *window) release() {
	giveBack(w.small)
	w.giveLarge()
	*w = window{}
}

func (w *window) giveLarge() {
	if w.large != nil {
		bulkBuffers.Put(w.large)
		w.large = nil
	}
}
