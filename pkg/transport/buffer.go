package transport

import "sync"

// A buffer is lent to a stream while an exchange runs, and to nobody while a stream is idle.
type buffer struct {
	b []byte
}

const (
	smallBuffer = 4 << 10
	largeBuffer = maxHead + smallBuffer // a head of the greatest length, and room behind it
)

var (
	smallBuffers = sync.Pool{New: func() any { return &buffer{make([]byte, smallBuffer)} }}
	largeBuffers = sync.Pool{New: func() any { return &buffer{make([]byte, largeBuffer)} }}
)

// takeBuffer returns a buffer of at least n bytes; n is at most largeBuffer.
func takeBuffer(n int) *buffer {
	if n <= smallBuffer {
		return smallBuffers.Get().(*buffer)
	}
	return largeBuffers.Get().(*buffer)
}

func (b *buffer) giveBack() {
	switch {
	case b == nil:
	case len(b.b) == smallBuffer:
		smallBuffers.Put(b)
	default:
		largeBuffers.Put(b)
	}
}
