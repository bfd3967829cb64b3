package proxy

import (
	"io"
	"testing"
)

// reads is a reader that brings so many bytes in each read, as far as there is room.
type reads []int

func (r *reads) Read(p []byte) (int, error) {
	if len(*r) == 0 {
		return 0, io.EOF
	}
	n := min((*r)[0], len(p))
	*r = (*r)[1:]
	return n, nil
}

// A window has room for bulk while there is bulk, and no longer.
func TestWindowFollowsWhatIsRead(t *testing.T) {
	from := reads{10, copyBuffer, bulkBuffer, bulkBuffer, 10, bulkBuffer}
	want := []int{10, copyBuffer, bulkBuffer, bulkBuffer, 10, copyBuffer}
	var w window
	defer w.release()
	for i, n := range want {
		piece, err := w.read(&from)
		if err != nil || len(piece) != n {
			t.Errorf("read %d brought %d bytes, %v; want %d", i, len(piece), err, n)
		}
		if w.small != nil && w.large != nil {
			t.Errorf("behind read %d it holds both", i)
		}
	}
}
