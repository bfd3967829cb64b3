package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/quic-go/quic-go"
	"pgregory.net/rapid"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// echoFlow sends each datagram back until the caller ends the flow.
func echoFlow(_ context.Context, s *Stream) {
	var req exchange.Request
	if s.ReadRequest(&req) != nil || req.Kind != exchange.UDP {
		s.Reset(exchange.InstanceNotServed)
		return
	}
	back := make(chan []byte, 1024)
	if s.AcceptFlow(func(p []byte) { back <- bytes.Clone(p) }) != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for p := range back {
			if s.SendDatagram(p) != nil {
				return
			}
		}
	}()
	err := s.RunFlow()
	close(back)
	<-done
	if err == nil {
		_ = s.End()
	}
}

// A testFlow is a caller's end of a flow.
type testFlow struct {
	*Stream
	got   chan []byte
	ended chan error
}

func openFlow(ctx context.Context, t testing.TB, caller, callee *node) *testFlow {
	t.Helper()
	s, err := caller.Open(ctx, toOrder, callee.addr, Flows)
	if err != nil {
		t.Fatal(err)
	}
	f := &testFlow{s, make(chan []byte, 1024), make(chan error, 1)}
	if err := s.OpenFlow(exchange.Target{Port: 53, Instance: "dns-1"}, func(p []byte) { f.got <- bytes.Clone(p) }); err != nil {
		t.Fatal(err)
	}
	go func() { f.ended <- s.RunFlow() }()
	return f
}

// end ends a flow whose callee answers everything.
func (f *testFlow) end(t testing.TB) {
	t.Helper()
	if err := f.End(); err != nil {
		t.Error(err)
	}
	if err := <-f.ended; err != nil {
		t.Error(err)
	}
	f.Release()
}

func TestFlowBothWays(t *testing.T) { overBoth(t, testFlowBothWays) }

func testFlowBothWays(t carried) {
	caller, callee := startPair(t, Limits{}, echoFlow)
	ctx := testContext(t)
	for range 2 {
		f := openFlow(ctx, t, caller, callee)
		for _, size := range []int{0, 1, 63, 64, 512, 1100, 1400, 1452, 1500, 9000, 65507, MaxDatagram} {
			p := bytes.Repeat([]byte{byte(size)}, size)
			if err := f.SendDatagram(p); err != nil {
				t.Fatal(size, err)
			}
			select { // one after the other: a QUIC datagram may overtake what goes on the stream
			case got := <-f.got:
				if !bytes.Equal(got, p) {
					t.Fatalf("of %d bytes %d came back", size, len(got))
				}
			case <-ctx.Done():
				t.Fatalf("datagram of %d bytes did not come back", size)
			}
		}
		if err := f.SendDatagram(make([]byte, MaxDatagram+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v for more than a datagram can have", err)
		}
		if !f.FlowAccepted() {
			t.Error("the flow is not accepted")
		}
		f.end(t)
	}
	for _, n := range []*node{caller, callee} {
		for _, c := range n.conns() {
			for left := -1; left != 0; time.Sleep(time.Millisecond) { // the callee ends its own when it has heard
				if ctx.Err() != nil {
					t.Fatalf("%d flows are remembered that have ended", left)
				}
				c.flows.mu.Lock()
				left = len(c.flows.open)
				c.flows.mu.Unlock()
			}
		}
	}
}

// TestDatagramsAreQUICDatagrams: what fits into a packet is not on the stream once the callee has accepted the flow.
func TestDatagramsAreQUICDatagrams(t *testing.T) {
	caller, callee := startPair(t, Limits{}, echoFlow)
	ctx := testContext(t)
	f := openFlow(ctx, t, caller, callee)
	defer f.end(t)
	exchange := func(size int) (onStream bool) {
		before := f.received.Load()
		if err := f.SendDatagram(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-f.got:
		case <-ctx.Done():
			t.Fatal("no answer")
		}
		return f.received.Load() != before
	}
	exchange(100)
	for !f.FlowAccepted() { // the answer may be there before
		time.Sleep(time.Millisecond)
	}
	for range 20 {
		if exchange(1000) {
			t.Fatal("the answer of 1000 bytes came on the stream")
		}
	}
	if !exchange(1500) {
		t.Error("the answer of 1500 bytes did not come on the stream")
	}
}

// TestFlowIsRefused: whoever sends hears why.
func TestFlowIsRefused(t *testing.T) { overBoth(t, testFlowIsRefused) }

func testFlowIsRefused(t carried) {
	caller, callee := startPair(t, Limits{}, func(_ context.Context, s *Stream) {
		var req exchange.Request
		if s.ReadRequest(&req) == nil {
			s.Reset(exchange.Denied)
		}
	})
	f := openFlow(testContext(t), t, caller, callee)
	var reset *ResetError
	if err := <-f.ended; !errors.As(err, &reset) || reset.Reason != exchange.Denied || !reset.Remote {
		t.Errorf("the flow ended with %v", err)
	}
	var err error
	for err == nil { // until the refusal is there
		err = f.SendDatagram([]byte("x"))
	}
	if !errors.As(err, &reset) || reset.Reason != exchange.Denied {
		t.Errorf("sending fails with %v", err)
	}
	f.Release()
}

// TestFlowsLeaveADrainingLane: they run on, and their callers know.
func TestFlowsLeaveADrainingLane(t *testing.T) { overBoth(t, testFlowsLeaveADrainingLane) }

func testFlowsLeaveADrainingLane(t carried) {
	caller, callee := startPair(t, Limits{}, echoFlow)
	ctx := testContext(t)
	f := openFlow(ctx, t, caller, callee)
	if err := f.SendDatagram([]byte("before")); err != nil {
		t.Fatal(err)
	}
	<-f.got
	select {
	case <-f.Leaving():
		t.Error("the flow is to leave at once")
	default:
	}
	drained := make(chan error, 1)
	go func() { drained <- callee.Drain(ctx) }()
	select {
	case <-f.Leaving():
	case <-ctx.Done():
		t.Fatal("a draining callee does not tell its flows to leave")
	}
	if err := f.SendDatagram([]byte("after")); err != nil {
		t.Fatal(err)
	}
	if got := <-f.got; string(got) != "after" {
		t.Errorf("%q came back", got)
	}
	f.end(t)
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// TestStrayDatagrams: those of no flow are counted and end nothing.
func TestStrayDatagrams(t *testing.T) {
	caller, callee := startPair(t, Limits{}, echoFlow)
	ctx := testContext(t)
	f := openFlow(ctx, t, caller, callee)
	if err := f.SendDatagram([]byte("x")); err != nil {
		t.Fatal(err)
	}
	<-f.got
	q := f.conn.link.(quicLink)
	for _, p := range [][]byte{{}, {0x40}, {0x3f, 'x'}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
		if err := q.SendDatagram(p); err != nil {
			t.Fatal(err)
		}
	}
	at := callee.conns()[0]
	for at.flows.strays.Load() < 4 {
		if ctx.Err() != nil {
			t.Fatalf("%d of 4 strays are counted", at.flows.strays.Load())
		}
		time.Sleep(time.Millisecond)
	}
	if err := f.SendDatagram([]byte("y")); err != nil {
		t.Fatal(err)
	}
	if got := <-f.got; string(got) != "y" {
		t.Errorf("%q came back", got)
	}
	f.end(t)
}

// A script is a pipe that gives what a peer wrote, and takes nothing.
type script struct {
	io.Reader
	one    [1]byte
	peeked []byte
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.peeked) > 0 {
		n := copy(p, s.peeked)
		s.peeked = s.peeked[n:]
		return n, nil
	}
	return s.Reader.Read(p)
}

func (s *script) Peek(p []byte) (int, error) {
	if len(s.peeked) == 0 {
		if _, err := io.ReadFull(s.Reader, s.one[:]); err != nil {
			return 0, err
		}
		s.peeked = s.one[:]
	}
	return copy(p, s.peeked), nil
}

func (*script) CancelRead(quic.StreamErrorCode)  {}
func (*script) CancelWrite(quic.StreamErrorCode) {}
func (*script) Write(p []byte) (int, error)      { return len(p), nil }
func (*script) TryWriteAll([]byte) error         { return nil }
func (*script) Close() error                     { return nil }
func (*script) Context() context.Context         { return context.Background() }

// runScript runs the callee's end of a flow on which a peer wrote something.
func runScript(from io.Reader) (got [][]byte, err error) {
	t := &Transport{limits: Limits{}.withDefaults()}
	s := newStream(t, &conn{t: t}, &script{Reader: from}, true)
	s.caller = false
	s.in.state, s.in.raw = inRaw, true
	s.out.state = outRaw
	if err := s.AcceptFlow(func(p []byte) { got = append(got, bytes.Clone(p)) }); err != nil {
		return nil, err
	}
	err = s.RunFlow()
	s.clear()
	return got, err
}

// TestRecordsComeAsTheyWere, whatever their lengths, and however they are cut on their way.
func TestRecordsComeAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(0, 70), rapid.IntRange(0, 2000), rapid.IntRange(0, MaxDatagram)), 0, 20).Draw(t, "sizes")
		seed := rapid.Uint64().Draw(t, "seed")
		fill := rand.NewChaCha8([32]byte{byte(seed)})
		var wire bytes.Buffer
		var want [][]byte
		for _, size := range sizes {
			p := make([]byte, size)
			_, _ = fill.Read(p)
			want = append(want, p)
			wire.Write(append(appendVarint(nil, uint64(size)), p...))
		}
		var from io.Reader = &wire
		switch rapid.IntRange(0, 2).Draw(t, "cut") {
		case 0:
			from = iotest.OneByteReader(from)
		case 1:
			from = iotest.HalfReader(from)
		}
		got, err := runScript(from)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d of %d records, %v", len(got), len(want), err)
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("record %d of %d bytes is another", i, len(want[i]))
			}
		}
	})
}

func TestMalformedRecords(t *testing.T) {
	for _, tt := range []struct {
		name string
		wire []byte
		want error
	}{
		{"length in more bytes than it needs", []byte{0x40, 0x01, 'x'}, ErrMalformed},
		{"more than a datagram can have", append(appendVarint(nil, MaxDatagram+1), 'x'), ErrMalformed},
		{"the end within a length", []byte{0x40}, ErrBroken},
		{"the end within a record", []byte{0x02, 'x'}, ErrBroken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := runScript(bytes.NewReader(tt.wire)); !errors.Is(err, tt.want) || len(got) > 0 {
				t.Errorf("%v, and %d records", err, len(got))
			}
		})
	}
}

// FuzzFlow reads what a peer may write on the stream of a flow, and send as a QUIC datagram.
func FuzzFlow(f *testing.F) {
	f.Add([]byte{0x00, 0x02, 'h', 'i', 0x40, 0x41})
	f.Add([]byte{0x7f, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := runScript(bytes.NewReader(b))
		var again []byte
		for _, p := range got {
			again = append(appendVarint(again, uint64(len(p))), p...)
		}
		if !bytes.HasPrefix(b, again) || err == nil && len(again) != len(b) {
			t.Fatalf("%x was read as %x, %v", b, again, err)
		}
		c := &conn{}
		seven := &flow{number: 7, leaving: make(chan struct{})}
		var handed []byte
		seven.deliver = func(p []byte) { handed = append([]byte{7}, p...) }
		c.flows.add(seven)
		c.datagram(b)
		if (handed != nil) != (len(b) > 0 && b[0] == 7) || handed != nil && !bytes.Equal(handed, b) {
			t.Fatalf("%x gave the flow %x", b, handed)
		}
	})
}

// BenchmarkFlow sends datagrams one after the other and waits for each. What it allocates is quic-go's: two pieces where a
// datagram is sent and three where it is received, at each end.
func BenchmarkFlow(b *testing.B) {
	for _, carrier := range []Carrier{QUIC, TCP} {
		b.Run(carrier.String(), func(b *testing.B) {
			caller, callee := benchPair(b, carrier, func(_ context.Context, s *Stream) {
				var req exchange.Request
				if s.ReadRequest(&req) != nil {
					return
				}
				back := make(chan [100]byte, 16)
				defer close(back)
				if s.AcceptFlow(func(p []byte) { back <- [100]byte(p) }) != nil {
					return
				}
				go func() {
					var p [100]byte
					for p = range back {
						_ = s.SendDatagram(p[:])
					}
				}()
				_ = s.RunFlow()
			})
			ctx := testContext(b)
			s, err := caller.Open(ctx, toOrder, callee.addr, Flows)
			if err != nil {
				b.Fatal(err)
			}
			got := make(chan struct{}, 1)
			if err := s.OpenFlow(exchange.Target{Port: 53}, func([]byte) { got <- struct{}{} }); err != nil {
				b.Fatal(err)
			}
			go func() { _ = s.RunFlow() }()
			p := make([]byte, 100)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.SendDatagram(p); err != nil {
					b.Fatal(err)
				}
				<-got
			}
			s.Reset(exchange.CallerGone)
		})
	}
}

// TestFlowAllocatesNothing of ours for a datagram: what quic-go does is its own.
func TestFlowAllocatesNothing(t *testing.T) {
	f := &flow{number: 3, leaving: make(chan struct{})}
	var handed atomic.Int64
	f.deliver = func(p []byte) { handed.Add(int64(len(p))) }
	c := &conn{}
	c.flows.add(f)
	datagram := append([]byte{3}, make([]byte, 1000)...)
	record := append(appendVarint(nil, 1000), make([]byte, 1000)...)
	t0 := &Transport{limits: Limits{}.withDefaults()}
	s := newStream(t0, &conn{t: t0}, &script{Reader: endless(record)}, true)
	s.in.state, s.in.raw, s.out.state = inRaw, true, outRaw
	s.beginFlow(f.deliver)
	allocs := testing.AllocsPerRun(200, func() {
		c.datagram(datagram)
		if p, err := s.nextRecord(); err != nil || len(p) != 1000 {
			t.Fatal(len(p), err)
		}
		if err := s.writeRecord(datagram); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 0 && !raceEnabled {
		t.Errorf("%v allocations", allocs)
	}
}

// endless repeats a record.
type repeat struct {
	record []byte
	at     int
}

func endless(record []byte) io.Reader { return &repeat{record: record} }

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.record[r.at:])
	r.at = (r.at + n) % len(r.record)
	return n, nil
}

// TestSenderHearsOfTheEnd: QUIC datagrams do not fail with the flow's stream, and whoever sends them is told all the same.
func TestSenderHearsOfTheEnd(t *testing.T) { overBoth(t, testSenderHearsOfTheEnd) }

func testSenderHearsOfTheEnd(t carried) {
	caller, callee := startPair(t, Limits{}, func(_ context.Context, s *Stream) {
		var req exchange.Request
		if s.ReadRequest(&req) != nil || s.AcceptFlow(func([]byte) { s.Reset(exchange.ServiceRefused) }) != nil {
			return
		}
		_ = s.RunFlow()
	})
	ctx := testContext(t)
	f := openFlow(ctx, t, caller, callee)
	for !f.FlowAccepted() && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	var err error
	for err == nil && ctx.Err() == nil {
		err = f.SendDatagram([]byte("x"))
	}
	var reset *ResetError
	if !errors.As(err, &reset) || reset.Reason != exchange.ServiceRefused {
		t.Errorf("sending fails with %v", err)
	}
	<-f.ended
	f.Release()
}
