package load

import (
	"bufio"
	"context"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Open sends GETs at a fixed rate, in requests a second, for the given time, whether or not answers come, over at
// most as many connections at once. What no connection is free for waits, and its latency counts from the moment
// at which it was meant to be sent: a stall shows in every request that it held up, and not in one alone (leaving
// the others out is known as coordinated omission).
//
// What fails, or is not answered when the round has ended and grace has passed, counts as an error, and as a
// latency that is as long as it has waited by then.
func Open(ctx context.Context, dial Dial, connections int, rate float64, duration time.Duration) Sample {
	ctx, cancel := context.WithTimeout(ctx, duration+grace+time.Second)
	defer cancel()
	// All connections are there, and were used once, before the clock starts. One that fails is dialled again
	// when its turn comes.
	clients := make([]client, connections)
	fleet(connections, func(i int, _ *Sample) {
		clients[i].dial = dial
		_ = clients[i].exchange(ctx)
	})
	due := make(chan time.Time, int(rate*duration.Seconds())) // holds all of them: nothing slows the clock
	go pace(ctx, due, rate)
	return fleet(connections, func(i int, into *Sample) {
		defer clients[i].close()
		for intended := range due {
			if err := clients[i].exchange(ctx); err != nil {
				into.failed(err)
				_ = into.Latency.RecordValue(min(max(1, time.Since(intended).Microseconds()), most)) // is within bounds
				continue
			}
			into.record(time.Since(intended))
		}
	})
}

// A client is one connection that is dialled when it is needed.
type client struct {
	dial   Dial
	conn   net.Conn
	reader *bufio.Reader
	stop   func() bool
}

// exchange makes one request, and fails at once when ctx has ended.
func (c *client) exchange(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.conn == nil {
		conn, err := c.dial(ctx)
		if err != nil {
			return err
		}
		c.conn, c.reader = conn, bufio.NewReaderSize(conn, 4096)
		c.stop = context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	}
	err := exchange(c.conn, c.reader)
	if err != nil {
		c.close()
	}
	return err
}

func (c *client) close() {
	if c.conn != nil {
		c.stop()
		c.conn.Close()
		c.conn = nil
	}
}

// shortest is the least that pace sleeps: more wakes than this gives would take the processor from what is measured.
const shortest = 50 * time.Microsecond

// pace fills due with the moments at which requests are meant to be sent, when they have come, and closes it. It
// sleeps in the kernel, on a thread of its own: Go's timers wake an idle program up to a millisecond late. The
// thread goes back to Go and does not end: the kernel kills children when the thread that started them ends
// (Pdeathsig), and that may be this one.
func pace(ctx context.Context, due chan<- time.Time, rate float64) {
	defer close(due)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)                    // nanoseconds; where it fails, it sleeps longer by 50 µs
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }() // back to the default
	start := time.Now()
	for i := range cap(due) {
		intended := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		for wait := time.Until(intended); wait > 0; wait = time.Until(intended) {
			if ctx.Err() != nil {
				return
			}
			span := unix.NsecToTimespec(min(max(wait, shortest), 100*time.Millisecond).Nanoseconds())
			_ = unix.Nanosleep(&span, nil) // interrupted by a signal: it sleeps again
		}
		due <- intended
	}
}
