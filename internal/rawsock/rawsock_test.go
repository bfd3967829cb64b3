package rawsock

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// connected returns the two ends of a TCP connection on loopback.
func connected(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

func writer(t testing.TB, c net.Conn) *Writer {
	t.Helper()
	w := new(Writer)
	w.Init(Stream(c))
	return w
}

func TestWriteWaitsForTheReader(t *testing.T) {
	a, b := connected(t)
	w := writer(t, a)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // more than two socket buffers hold
	written := make(chan error, 1)
	go func() {
		n, err := w.Write(sent)
		if err == nil && n != len(sent) {
			err = io.ErrShortWrite
		}
		written <- errors.Join(err, a.CloseWrite())
	}()
	got, err := io.ReadAll(b)
	if err := errors.Join(err, <-written); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("other bytes arrived")
	}
}

func TestWriteErrors(t *testing.T) {
	a, b := connected(t)
	w := writer(t, a)
	a.SetWriteDeadline(time.Now().Add(-time.Second))
	if _, err := w.Write(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("behind the deadline: %v", err)
	}
	a.SetWriteDeadline(time.Time{})
	b.SetLinger(0)
	b.Close()
	var err error
	for err == nil { // until the reset has arrived
		_, err = w.Write([]byte("x"))
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("to a peer that reset: %v", err)
	}
	if _, err = w.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("behind that: %v", err)
	}
	a.Close()
	if _, err = w.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("to a closed connection: %v", err)
	}
}

func TestPeekLeavesAndReadTakes(t *testing.T) {
	a, b := connected(t)
	raw := Stream(b)
	if _, err := a.Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	var got [4]byte
	for _, tt := range []struct {
		name string
		call func(uintptr, []byte) (int, syscall.Errno)
		want string
	}{{"peek", Peek, "ab"}, {"peek again", Peek, "ab"}, {"read", Read, "ab"}} {
		err := raw.Read(func(fd uintptr) bool {
			n, errno := tt.call(fd, got[:])
			if errno == syscall.EAGAIN {
				return false
			}
			if string(got[:n]) != tt.want {
				t.Errorf("%s: %q, %v", tt.name, got[:n], errno)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := raw.Control(func(fd uintptr) {
		if _, errno := Read(fd, got[:]); errno != syscall.EAGAIN {
			t.Errorf("with nothing there: %v", errno)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

func TestOnlySockets(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if Stream(a) != nil {
		t.Error("a pipe is taken for a socket")
	}
}

func BenchmarkWrite(b *testing.B) {
	one, other := connected(b)
	go io.Copy(io.Discard, other)
	w := writer(b, one)
	p := make([]byte, 256)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Write(p); err != nil {
			b.Fatal(err)
		}
	}
}
