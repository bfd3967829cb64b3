package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/sennit-mesh/sennit/pkg/transport"
)

// tunnel passes bytes both ways between a connection and a stream until both directions have ended, each by
// itself: a half-closed connection stays open the other way. early was read from conn already. It returns
// how many bytes went each way, and the first error that was not an end; errLocal where conn is at fault. What
// broke off on one side is a reset on the other, and never an end.
func tunnel(conn io.ReadWriteCloser, stream *transport.Stream, early []byte) (toStream, toConn int64, err error) {
	var group sync.WaitGroup
	var once sync.Once
	fail := func(cause error) {
		once.Do(func() { err = cause })
		// Whoever reads the response must not wait for an answer to what did not arrive. And each direction may wait
		// for conn: one for it to take bytes, which it does not because the other cannot take its own.
		stream.Reset(failed(cause).reason)
		abort(conn)
	}
	group.Go(func() {
		var cause error
		if toStream, cause = copyToStream(stream, conn, early); cause != nil {
			fail(cause)
		}
	})
	var cause error
	if toConn, cause = copyToConn(conn, stream); cause != nil {
		fail(cause)
	}
	group.Wait()
	return toStream, toConn, err
}

func copyToStream(stream *transport.Stream, conn io.Reader, early []byte) (int64, error) {
	if len(early) > 0 {
		if _, err := stream.Write(early); err != nil {
			return 0, err
		}
		if err := stream.Flush(); err != nil {
			return 0, err
		}
	}
	total := int64(len(early))
	var window window
	defer window.release()
	for {
		piece, err := window.read(conn)
		if len(piece) > 0 {
			if _, err := stream.Write(piece); err != nil {
				return total, err
			}
			if err := stream.Flush(); err != nil {
				return total, err
			}
			total += int64(len(piece))
		}
		if errors.Is(err, io.EOF) {
			return total, stream.End()
		}
		if err != nil {
			return total, fmt.Errorf("%w: %w", errLocal, err)
		}
	}
}

func copyToConn(conn io.ReadWriteCloser, stream *transport.Stream) (int64, error) {
	var total int64
	var window window
	defer window.release()
	for {
		piece, err := window.read(stream)
		if len(piece) > 0 {
			if _, err := conn.Write(piece); err != nil {
				return total, fmt.Errorf("%w: %w", errLocal, err)
			}
			total += int64(len(piece))
		}
		if errors.Is(err, io.EOF) {
			if err := closeWrite(conn); err != nil {
				return total, fmt.Errorf("%w: %w", errLocal, err)
			}
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// abort closes a connection with a reset, and one that speaks TLS without the word that would make an end of it.
func abort(conn io.Closer) {
	if outside, ok := conn.(interface{ Abort() }); ok { // with TLS of our own
		outside.Abort()
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// aborted is a connection whose Close is a reset.
type aborted struct{ net.Conn }

func (a aborted) Close() error {
	abort(a.Conn)
	return nil
}

// closeWrite ends one direction of a connection, where it has two.
func closeWrite(conn io.Closer) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
