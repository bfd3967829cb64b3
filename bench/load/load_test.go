package load_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/bench/load"
	"github.com/sennit-mesh/sennit/bench/peer"
)

// origin runs the benchmark's own origin in this process.
func origin(t *testing.T) (web, raw, multiplexed string) {
	t.Helper()
	var listeners [3]net.Listener
	for i := range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i] = l
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- peer.ServeOrigin(ctx, listeners[0], listeners[1], listeners[2]) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return listeners[0].Addr().String(), listeners[1].Addr().String(), listeners[2].Addr().String()
}

const short = 100 * time.Millisecond

func TestEveryLoadAgainstTheOrigin(t *testing.T) {
	t.Parallel()
	web, raw, multiplexed := origin(t)
	ctx := t.Context()
	for _, tt := range []struct {
		name string
		run  func() load.Sample
		size int64 // of a body
	}{
		{"closed loop", func() load.Sample { return load.Closed(ctx, load.To(web), 3, short) }, 0},
		{"open loop", func() load.Sample { return load.Open(ctx, load.To(web), 3, 500, short) }, 0},
		{"new connections", func() load.Sample { return load.Connect(ctx, load.To(web), 3, short) }, 0},
		{"so many", func() load.Sample { return load.Count(ctx, load.To(web), 3, 1000, 10) }, 0},
		{"each once", func() load.Sample { return load.Each(ctx, []load.Dial{load.To(web), load.To(web)}, 3) }, 0},
		{"echo", func() load.Sample { return load.Echo(ctx, load.To(raw), 3, 64, short) }, 0},
		{"calls of HTTP/2", func() load.Sample { return load.Calls(ctx, load.To(multiplexed), 100, false, short) }, 0},
		{"calls of gRPC", func() load.Sample { return load.Calls(ctx, load.To(multiplexed), 100, true, short) }, 0},
		{"bodies", func() load.Sample { return load.Bodies(ctx, load.To(web), 2, 1_000_001, short) }, 1_000_001},
		{"raw bodies", func() load.Sample { return load.RawBodies(ctx, load.To(raw), 2, 1_000_001, short) }, 1_000_001},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.run()
			if got.Done == 0 || got.Errors != 0 || got.Latency.TotalCount() != got.Done || got.Bytes != got.Done*tt.size {
				t.Errorf("%d done, %d errors, %d latencies, %d bytes", got.Done, got.Errors, got.Latency.TotalCount(), got.Bytes)
			}
			if got.Elapsed <= 0 {
				t.Errorf("took %s", got.Elapsed)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := load.To(l.Addr().String())
	l.Close()
	ctx := t.Context()
	for name, got := range map[string]load.Sample{
		"closed loop":     load.Closed(ctx, gone, 2, short/2),
		"open loop":       load.Open(ctx, gone, 2, 100, short/2),
		"new connections": load.Connect(ctx, gone, 2, short/2),
		"so many":         load.Count(ctx, gone, 2, 10, 5),
		"each once":       load.Each(ctx, []load.Dial{gone}, 2),
		"echo":            load.Echo(ctx, gone, 2, 64, short/2),
		"calls":           load.Calls(ctx, gone, 2, true, short/2),
		"bodies":          load.Bodies(ctx, gone, 2, 1000, short/2),
	} {
		if got.Done != 0 || got.Errors == 0 || !errors.Is(got.Why, syscall.ECONNREFUSED) {
			t.Errorf("%s: %d done, %d errors: %v", name, got.Done, got.Errors, got.Why)
		}
	}
	if release, err := load.Hold(ctx, gone, 2); err == nil {
		release()
		t.Error("connections to nobody are held")
	}
}

// As many requests as were asked for are made, and connections come and go.
func TestCountIsExact(t *testing.T) {
	t.Parallel()
	web, _, _ := origin(t)
	var dialled atomic.Int64
	dial := func(ctx context.Context) (net.Conn, error) {
		dialled.Add(1)
		return load.To(web)(ctx)
	}
	if got := load.Count(t.Context(), dial, 1, 95, 10); got.Done != 95 || got.Errors != 0 || dialled.Load() != 10 {
		t.Errorf("%d done, %d errors, %d connections; want 95 on 10", got.Done, got.Errors, dialled.Load())
	}
	if got := load.Count(t.Context(), dial, 7, 95, 1000); got.Done != 95 {
		t.Errorf("%d done by 7 connections, want 95", got.Done)
	}
}

// The first answer is waited for, whatever comes before it.
func TestFirstTriesAgain(t *testing.T) {
	t.Parallel()
	web, _, _ := origin(t)
	refused := 3
	dial := func(ctx context.Context) (net.Conn, error) {
		if refused--; refused >= 0 {
			return nil, syscall.ECONNREFUSED
		}
		return load.To(web)(ctx)
	}
	if err := load.First(t.Context(), dial); err != nil || refused != -1 {
		t.Errorf("%v, %d refusals are left", err, refused)
	}
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	nobody := func(context.Context) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
	if err := load.First(ctx, nobody); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v: it does not say what was wrong, or since when it gave up", err)
	}
}

// An origin that stops once for 200 ms holds up a fifth of what is sent in a second, whatever the client does
// meanwhile. A closed loop sees it in one request a connection.
func TestAStallShowsInEverythingThatItHoldsUp(t *testing.T) {
	t.Parallel()
	const stall = 200 * time.Millisecond
	address := stallingOrigin(t, 250, stall)
	got := load.Open(t.Context(), load.To(address), 4, 500, time.Second)
	if got.Done != 500 || got.Errors != 0 {
		t.Fatalf("%d done, %d errors", got.Done, got.Errors)
	}
	if p99 := time.Duration(got.Latency.ValueAtQuantile(99)) * time.Microsecond; p99 < stall*9/10 {
		t.Errorf("the 99th percentile is %s: the requests behind the stall were left out", p99)
	}
	held := 0
	for _, bar := range got.Latency.Distribution() {
		if bar.To >= (stall / 2).Microseconds() {
			held += int(bar.Count)
		}
	}
	if held < 45 { // those of the stall's first half wait for longer than that, one each 2 ms
		t.Errorf("only %d requests waited for half of the stall", held)
	}
	address = stallingOrigin(t, 250, stall)
	if got := load.Closed(t.Context(), load.To(address), 4, time.Second); got.Latency.ValueAtQuantile(99) >= stall.Microseconds()/2 {
		t.Errorf("a closed loop's 99th percentile is %d µs: this test shows nothing", got.Latency.ValueAtQuantile(99))
	}
}

// What is never answered is an error, and its latency is not left out.
func TestOpenLoopCountsWhatIsNotAnswered(t *testing.T) {
	t.Parallel()
	address := stallingOrigin(t, 10, time.Hour)
	got := load.Open(t.Context(), load.To(address), 1, 100, 200*time.Millisecond)
	if got.Done != 9-1 || got.Errors != 20-8 || got.Latency.TotalCount() != 20 { // one was made before the clock started
		t.Errorf("%d done, %d errors, %d latencies", got.Done, got.Errors, got.Latency.TotalCount())
	}
	if p99 := time.Duration(got.Latency.ValueAtQuantile(99)) * time.Microsecond; p99 < time.Second {
		t.Errorf("the 99th percentile is %s", p99)
	}
}

// stallingOrigin answers requests, and nothing at all for a while from the given one on.
func stallingOrigin(t *testing.T, from int, stall time.Duration) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		l.Close()
		group.Wait()
	})
	var mu sync.Mutex
	served := 0
	serve := func(conn net.Conn) {
		defer conn.Close()
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		reader := bufio.NewReader(conn)
		for {
			line, err := reader.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) > 2 {
				continue
			}
			mu.Lock()
			if served++; served == from {
				timer := time.NewTimer(stall)
				select {
				case <-timer.C:
				case <-ctx.Done():
				}
			}
			mu.Unlock()
			if _, err := conn.Write([]byte("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")); err != nil {
				return
			}
		}
	}
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() { serve(conn) })
		}
	})
	return l.Addr().String()
}
