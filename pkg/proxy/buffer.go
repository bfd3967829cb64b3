package proxy

import "sync"

// copyBuffer is the size of the buffers between the two sides of an exchange, in bytes. A request body that
// fits is held until the response begins, so that the request can be sent again.
const copyBuffer = 16 << 10

// buffers are taken for as long as a body is copied and never kept by an idle connection.
var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

func takeBuffer() *[copyBuffer]byte { return buffers.Get().(*[copyBuffer]byte) }

func giveBack(b *[copyBuffer]byte) {
	if b != nil {
		buffers.Put(b)
	}
}
