package http1

import "sync"

// Buffers have 8 KiB, doubled up to 128 KiB, and are shared by all connections of the process: a connection
// has some only while bytes are on their way.
const (
	smallest = 8 << 10
	classes  = 5
)

type buffer struct {
	b     []byte
	class int
}

var buffers [classes]sync.Pool

// takeBuffer returns a buffer of at least size bytes, or of the largest class.
func takeBuffer(size int) *buffer {
	class := 0
	for smallest<<class < size && class < classes-1 {
		class++
	}
	if b, ok := buffers[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, smallest<<class), class: class}
}

// giveBuffer gives b back. Strings that point into it are invalid from then on. A nil b is allowed.
func giveBuffer(b *buffer) {
	if b != nil {
		buffers[b.class].Put(b)
	}
}
