package transport

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

const stalled = 500

// stallServer answers small requests, and to "/flood" as many bytes as the caller takes.
func stallServer(_ context.Context, s *Stream) {
	var req exchange.Request
	if s.ReadRequest(&req) != nil {
		return
	}
	_ = s.WriteResponse(&exchange.Response{Status: 200, BodyLength: exchange.LengthUnknown})
	if req.Path != "/flood" {
		_ = s.End()
		return
	}
	p := make([]byte, 16<<10)
	for {
		if _, err := s.Write(p); err != nil {
			return
		}
	}
}

// openStalled opens exchanges whose response nobody reads behind its head.
func openStalled(ctx context.Context, t testing.TB, caller, callee *node) (streams []*Stream) {
	t.Helper()
	for range stalled {
		s, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.WriteRequest(&exchange.Request{Method: "GET", Path: "/flood"})
		_ = s.End()
		var resp exchange.Response
		if err := s.ReadResponse(&resp); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	return streams
}

// exchangeRate is how many exchanges a second one goroutine makes: the best of several short rounds, so that what
// else the machine does matters little.
func exchangeRate(ctx context.Context, t testing.TB, caller, callee *node) float64 {
	t.Helper()
	best := 0.0
	for range 5 {
		const n = 200
		start := time.Now()
		for range n {
			if err := get(ctx, caller, toOrder, callee.addr); err != nil {
				t.Fatal(err)
			}
		}
		best = max(best, n/time.Since(start).Seconds())
	}
	return best
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestStalledReadersHinderNobody(t *testing.T) { overBoth(t, testStalledReadersHinderNobody) }

func testStalledReadersHinderNobody(t carried) {
	caller, callee := startPair(t, Limits{}, stallServer)
	ctx := testContext(t)
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	before := heap()
	streams := openStalled(ctx, t, caller, callee)
	awaitQuiet(ctx, t, caller)
	for t.carrier == QUIC && len(caller.conns()) < 2 && ctx.Err() == nil { // the lane finds a way around
		if err := get(ctx, caller, toOrder, callee.addr); err != nil {
			t.Fatal(err)
		}
	}
	grown := heap() - before
	// Another lane, on which nobody stalls, is measured in turn, so that whatever else the machine does meets both.
	freeCaller, freeCallee := startPair(t, Limits{}, stallServer)
	alone, among := 0.0, 0.0
	for range 8 {
		alone, among = exchangeRate(ctx, t, freeCaller, freeCallee), exchangeRate(ctx, t, caller, callee)
		if among >= alone/3 || raceEnabled {
			break
		}
	}
	t.Logf("%.0f exchanges/s alone, %.0f among %d stalled readers that hold %d KB each, both ends together",
		alone, among, stalled, grown/stalled>>10)
	if among < alone/3 && !raceEnabled { // which slows what quic-go does for each blocked stream more than all else
		t.Errorf("%.0f exchanges/s among stalled readers, %.0f without", among, alone)
	}
	// A window of 64 KB for each, and as much again for what its packets and both ends' streams cost.
	if most := int64(stalled * 2 * firstWindow); grown > most {
		t.Errorf("%d stalled readers hold %d MB, at most %d MB is right", stalled, grown>>20, most>>20)
	}
	for _, s := range streams {
		s.Release()
	}
}

// awaitQuiet returns when no more bytes arrive: all windows are full.
func awaitQuiet(ctx context.Context, t testing.TB, n *node) {
	t.Helper()
	quiet := 0
	for last := uint64(0); ; {
		received := uint64(0)
		for _, c := range n.conns() {
			received += bytesReceived(t, c.link)
		}
		if received-last >= 4<<10 {
			quiet = 0
		} else if quiet++; quiet == 5 {
			return
		}
		last = received
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("bytes go on arriving")
		}
	}
}

// bytesReceived is what has arrived on a link, read or not.
func bytesReceived(t testing.TB, l link) (sum uint64) {
	t.Helper()
	if q, ok := l.(quicLink); ok {
		return q.ConnectionStats().BytesReceived
	}
	k := l.(*tcpLink)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.streams {
		raw, err := s.conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil {
				t.Error(err)
				return
			}
			sum += info.Bytes_received
		}); err != nil {
			t.Fatal(err)
		}
	}
	return sum
}

func TestBudgetResetsTheSlowest(t *testing.T) { overBoth(t, testBudgetResetsTheSlowest) }

func testBudgetResetsTheSlowest(t carried) {
	const budget = 8 << 20 // of 32 MB that 500 windows are
	caller, callee := startPair(t, Limits{Buffered: budget}, stallServer)
	ctx := testContext(t)
	streams := openStalled(ctx, t, caller, callee)
	var reset atomic.Int64
	for caller.tick.Load() == 0 {
		runtime.Gosched()
	}
	caller.tick.Add(1) // what was read in this very tick is not reset
	caller.keepBudget(caller.conns())
	left := 0
	for i, s := range streams {
		if s.cause.Load() == nil {
			left++
			continue
		}
		reset.Add(1)
		var cause *ResetError
		if _, err := io.Copy(io.Discard, s); !errors.As(err, &cause) || cause.Reason != exchange.Overloaded {
			t.Fatalf("stream %d was reset, and reads %v", i, err)
		}
	}
	if left > budget/firstWindow || left == 0 {
		t.Errorf("%d stalled streams are left, the budget has place for %d", left, budget/firstWindow)
	}
	if streams[0].cause.Load() == nil && reset.Load() > 0 && streams[len(streams)-1].cause.Load() != nil {
		t.Error("the stream that was read last was reset before the one that was read first")
	}
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Errorf("an exchange after that: %v", err)
	}
	for _, s := range streams {
		s.Release()
	}
}

// TestWhatWasReadSinceIsNotReset: between finding a stream that nobody reads and resetting it, its exchange may end
// and another begin.
func TestWhatWasReadSinceIsNotReset(t *testing.T) { overBoth(t, testWhatWasReadSinceIsNotReset) }

func testWhatWasReadSinceIsNotReset(t carried) {
	caller, callee := startPair(t, Limits{}, stallServer)
	s, err := caller.Open(testContext(t), toOrder, callee.addr, Interactive)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	var resp exchange.Response
	if err := errors.Join(s.WriteRequest(&exchange.Request{Method: "GET", Path: "/flood"}), s.End(), s.ReadResponse(&resp)); err != nil {
		t.Fatal(err)
	}
	found := s.lastRead.Load()
	caller.tick.Add(1)
	p := make([]byte, firstWindow)
	if _, err := io.ReadFull(s, p); err != nil {
		t.Fatal(err)
	}
	if s.shed(found, caller.tick.Load()) || s.cause.Load() != nil {
		t.Error("a stream was reset that was read since it was found to stall")
	}
	found = s.lastRead.Load()
	if s.shed(found, found) {
		t.Error("a stream was reset that was read in this very tick")
	}
	if !s.shed(found, found+1) {
		t.Error("a stream that stalls was not reset")
	}
	var cause *ResetError
	if _, err := io.Copy(io.Discard, s); !errors.As(err, &cause) || cause.Reason != exchange.Overloaded {
		t.Errorf("it reads %v", err)
	}
}

func TestWindowBound(t *testing.T) {
	tr := &Transport{limits: Limits{}.withDefaults()}
	for _, tt := range []struct {
		name string
		read int64
		want int64
	}{
		{"nothing read", 0, 64 << 10},
		{"half a window", 32 << 10, 64 << 10},
		{"more than half", 32<<10 + 1, 128 << 10},
		{"enough for the next", 96<<10 + 1, 256 << 10},
		{"never beyond the most", 1 << 30, 256 << 10},
	} {
		s := &Stream{t: tr, caller: true, conn: &conn{}}
		s.received.Store(tt.read)
		if got := tr.windowOf(s); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}
