package load

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// What a raw TCP connection to the origin begins with: one byte that says what the origin does.
const (
	// EchoMode: everything that follows is sent back.
	EchoMode byte = 'e'
	// BodyMode: each 8 bytes that follow are a number, big-endian, of bytes to send.
	BodyMode byte = 'b'
)

// Echo sends messages of size bytes over raw TCP and waits for each to come back, on as many connections at once.
func Echo(ctx context.Context, dial Dial, connections, size int, duration time.Duration) Sample {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	return fleet(connections, func(_ int, into *Sample) {
		repeat(ctx, dial, into, func(ctx context.Context, conn net.Conn) error {
			message := make([]byte, size)
			if _, err := conn.Write([]byte{EchoMode}); err != nil {
				return err
			}
			for ctx.Err() == nil {
				sent := time.Now()
				if _, err := conn.Write(message); err != nil {
					return err
				}
				if _, err := io.ReadFull(conn, message); err != nil {
					return err
				}
				into.record(time.Since(sent))
			}
			return nil
		})
	})
}

// bulkBuffer is what a reader of large bodies takes at a time: the load's own cost is to be small.
const bulkBuffer = 256 << 10

// Bodies receives bodies of size bytes over HTTP/1.1, one after the other on each connection. Every connection
// finishes the body that it has begun when the time is over, so that only whole ones count.
func Bodies(ctx context.Context, dial Dial, connections int, size int64, duration time.Duration) Sample {
	get := fmt.Appendf(nil, "GET /bytes/%d HTTP/1.1\r\nhost: origin\r\nuser-agent: bench\r\n\r\n", size)
	return bulk(ctx, dial, connections, size, duration, nil, get, func(r *bufio.Reader) error {
		status, body, err := readResponse(r)
		if err == nil && (status != 200 || body != size) {
			err = fmt.Errorf("answered with %d and %d bytes of %d", status, body, size)
		}
		return err
	})
}

// RawBodies is Bodies over raw TCP.
func RawBodies(ctx context.Context, dial Dial, connections int, size int64, duration time.Duration) Sample {
	ask := binary.BigEndian.AppendUint64(nil, uint64(size))
	return bulk(ctx, dial, connections, size, duration, []byte{BodyMode}, ask, func(r *bufio.Reader) error {
		return discard(r, size)
	})
}

func bulk(ctx context.Context, dial Dial, connections int, size int64, duration time.Duration, hello, ask []byte, read func(*bufio.Reader) error) Sample {
	ends := time.Now().Add(duration)
	// A body that does not get through within a minute is not waited for.
	ctx, cancel := context.WithDeadline(ctx, ends.Add(time.Minute))
	defer cancel()
	return fleet(connections, func(_ int, into *Sample) {
		reader := bufio.NewReaderSize(nil, bulkBuffer)
		receive := func() error {
			conn, err := dial(ctx)
			if err != nil {
				return err
			}
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
			defer stop()
			if _, err := conn.Write(hello); err != nil {
				return err
			}
			reader.Reset(conn)
			for ctx.Err() == nil && (into.Done == 0 || time.Now().Before(ends)) {
				start := time.Now()
				if _, err := conn.Write(ask); err != nil {
					return err
				}
				if err := read(reader); err != nil {
					return err
				}
				into.record(time.Since(start))
				into.Bytes += size
			}
			return nil
		}
		if err := receive(); err != nil { // one failure is told, and ends what this connection adds
			into.failed(err)
		}
	})
}
