// Package load puts load on what is measured, and says what came of it: requests in a closed loop and at a fixed
// rate, messages that are echoed, large bodies, new connections, and connections that are held idle.
//
// Every function dials by itself through the Dial that it is given, runs for a time or until its context ends,
// ends every goroutine that it started, and returns a Sample. Latencies of the closed loops are those of a client
// that waits for each answer; only Open says what a client sees that does not. The load is as cheap as Go can
// make it, because it shares the machine with what it measures.
//
// Start reading at Sample and Open; response.go reads HTTP/1.1.
package load

import (
	"cmp"
	"context"
	"net"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Dial opens one connection of an application.
type Dial func(ctx context.Context) (net.Conn, error)

// To dials an address over TCP.
func To(address string) Dial {
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
}

// A Sample is what one round of load saw.
type Sample struct {
	Done    int64 // requests, messages, bodies or connections that went well
	Errors  int64 // those that did not
	Why     error // of one of the errors
	Bytes   int64 // of bodies; 0 where that is not what is measured
	Elapsed time.Duration
	Latency *hdrhistogram.Histogram // microseconds, of what went well
}

// most is the longest latency that is told from longer ones, in microseconds.
const most = 60_000_000

// grace is what a request may take that runs when its round ends.
const grace = 2 * time.Second

func newSample() Sample { return Sample{Latency: hdrhistogram.New(1, most, 3)} }

func (s *Sample) record(latency time.Duration) {
	s.Done++
	_ = s.Latency.RecordValue(min(max(1, latency.Microseconds()), most)) // fails outside of these bounds only
}

func (s *Sample) failed(err error) {
	s.Errors++
	s.Why = cmp.Or(s.Why, err)
}

func (s *Sample) add(other Sample) {
	s.Done += other.Done
	s.Errors += other.Errors
	s.Why = cmp.Or(s.Why, other.Why)
	s.Bytes += other.Bytes
	s.Latency.Merge(other.Latency)
}

// fleet runs work in n goroutines, each with a Sample of its own, and returns their sum.
func fleet(n int, work func(index int, into *Sample)) Sample {
	start := time.Now()
	total := newSample()
	var mu sync.Mutex
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			one := newSample()
			work(i, &one)
			mu.Lock()
			defer mu.Unlock()
			total.add(one)
		})
	}
	group.Wait()
	total.Elapsed = time.Since(start)
	return total
}

// repeat runs work, which uses one connection until ctx ends or something fails, again and again until ctx ends.
// A failure counts as one error.
func repeat(ctx context.Context, dial Dial, into *Sample, work func(ctx context.Context, conn net.Conn) error) {
	for ctx.Err() == nil {
		conn, err := dial(ctx)
		if err == nil {
			stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now().Add(grace)) })
			err = work(ctx, conn)
			stop()
			conn.Close()
		}
		if err != nil && !over(ctx) {
			into.failed(err)
			pause(ctx, time.Millisecond) // a refused connection must not spin
		}
	}
}

// over reports whether ctx has ended. A dial fails by the deadline of its context a moment before the context does.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
