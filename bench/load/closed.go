package load

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"time"
)

// request is what every small HTTP exchange sends.
var request = []byte("GET /api/items?page=1 HTTP/1.1\r\nhost: origin\r\nuser-agent: bench\r\naccept: */*\r\n\r\n")

// Closed keeps connections busy with one GET after the other each, for the given time: every connection sends
// its next request when the answer to the one before is there.
func Closed(ctx context.Context, dial Dial, connections int, duration time.Duration) Sample {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	return fleet(connections, func(_ int, into *Sample) {
		repeat(ctx, dial, into, func(ctx context.Context, conn net.Conn) error {
			reader := bufio.NewReaderSize(conn, 4096)
			for ctx.Err() == nil {
				sent := time.Now()
				if err := exchange(conn, reader); err != nil {
					return err
				}
				into.record(time.Since(sent))
			}
			return nil
		})
	})
}

// exchange sends one small GET and reads its answer, which is to be 200.
func exchange(conn net.Conn, reader *bufio.Reader) error {
	if _, err := conn.Write(request); err != nil {
		return err
	}
	status, _, err := readResponse(reader)
	if err == nil && status != 200 {
		err = fmt.Errorf("answered with %d", status)
	}
	return err
}

// Connect opens a connection, makes one request on it and closes it, again and again, at a given number of
// connections at a time. Its latency is that of all three together.
func Connect(ctx context.Context, dial Dial, concurrency int, duration time.Duration) Sample {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	return fleet(concurrency, func(_ int, into *Sample) {
		reader := bufio.NewReaderSize(nil, 4096)
		for ctx.Err() == nil {
			start := time.Now()
			// The context ends the dialling only: what is under way when the round ends is finished.
			if err := once(context.WithoutCancel(ctx), dial, reader); err != nil {
				into.failed(err)
				pause(ctx, time.Millisecond)
				continue
			}
			into.record(time.Since(start))
		}
	})
}

// once makes one request on a connection of its own.
func once(ctx context.Context, dial Dial, reader *bufio.Reader) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	reader.Reset(conn)
	return exchange(conn, reader)
}

// First sends one request after the other, each on a connection of its own and a millisecond behind the one that
// failed, until one is answered. It returns an error where ctx ends before, with what was wrong last.
func First(ctx context.Context, dial Dial) error {
	reader := bufio.NewReaderSize(nil, 4096)
	for {
		err := once(ctx, dial, reader)
		if err == nil {
			return nil
		}
		if ended := ctx.Err(); ended != nil {
			return fmt.Errorf("no request is answered: %w; the last: %w", ended, err)
		}
		pause(ctx, time.Millisecond)
	}
}

// Each makes one request through every one of the dials, on a connection of its own, at a given number at a time.
func Each(ctx context.Context, dials []Dial, concurrency int) Sample {
	work := make(chan Dial, len(dials))
	for _, d := range dials {
		work <- d
	}
	close(work)
	return fleet(concurrency, func(_ int, into *Sample) {
		reader := bufio.NewReaderSize(nil, 4096)
		for dial := range work {
			start := time.Now()
			if err := once(ctx, dial, reader); err != nil {
				into.failed(err)
				continue
			}
			into.record(time.Since(start))
		}
	})
}

// Hold opens connections, makes one request on each, and leaves them open and idle until release is called.
func Hold(ctx context.Context, dial Dial, connections int) (release func(), err error) {
	var held []net.Conn
	release = func() {
		for _, conn := range held {
			conn.Close()
		}
	}
	reader := bufio.NewReaderSize(nil, 4096)
	for len(held) < connections {
		conn, err := dial(ctx)
		if err != nil {
			release()
			return nil, fmt.Errorf("connection %d: %w", len(held)+1, err)
		}
		held = append(held, conn)
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		reader.Reset(conn)
		if err := exchange(conn, reader); err != nil {
			release()
			return nil, fmt.Errorf("request on connection %d: %w", len(held), err)
		}
		conn.SetDeadline(time.Time{})
	}
	return release, nil
}
