package transport

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/transport/transporttest"
)

func TestCancelledExchangeIsCleanAfter(t *testing.T) { overBoth(t, testCancelledExchangeIsCleanAfter) }

func testCancelledExchangeIsCleanAfter(t carried) {
	began, cancelled := make(chan struct{}, 1), make(chan error, 1)
	var stall atomic.Bool
	caller, callee := startPair(t, Limits{}, func(ctx context.Context, s *Stream) {
		if !stall.Load() {
			echo(ctx, s)
			return
		}
		var req exchange.Request
		_ = s.ReadRequest(&req)
		began <- struct{}{}
		<-s.Done() // waits for its service, not for the stream
		_, err := io.Copy(io.Discard, s)
		cancelled <- err
	})
	ctx := testContext(t)
	stall.Store(true)
	s, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.WriteRequest(&exchange.Request{Method: "POST", BodyLength: 10})
	_, _ = s.Write([]byte("half"))
	_ = s.Flush()
	<-began
	stall.Store(false)
	s.Reset(exchange.Timeout)
	var resp exchange.Response
	var own *ResetError
	if err := s.ReadResponse(&resp); !errors.As(err, &own) || own.Remote || own.Reason != exchange.Timeout || !errors.Is(err, ErrBroken) {
		t.Errorf("the caller itself reads %v", err)
	}
	s.Release()
	var theirs *ResetError
	if err := <-cancelled; !errors.As(err, &theirs) || !theirs.Remote || theirs.Reason != exchange.Timeout {
		t.Errorf("the callee reads %v, want the caller's reason", err)
	}
	for range 3 {
		next, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
		if err != nil {
			t.Fatal(err)
		}
		if next == s {
			t.Fatal("a reset stream is used again")
		}
		next.Release()
		if err := get(ctx, caller, toOrder, callee.addr); err != nil {
			t.Fatal(err)
		}
	}
}

func TestServiceBreaksOff(t *testing.T) { overBoth(t, testServiceBreaksOff) }

func testServiceBreaksOff(t carried) {
	caller, callee := startPair(t, Limits{}, func(_ context.Context, s *Stream) {
		var req exchange.Request
		_ = s.ReadRequest(&req)
		_ = s.WriteResponse(&exchange.Response{Status: 200, BodyLength: 100})
		_, _ = s.Write([]byte("part"))
		s.Reset(exchange.ServiceBroke)
	})
	s, err := caller.Open(testContext(t), toOrder, callee.addr, Interactive)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	_ = s.WriteRequest(&exchange.Request{Method: "GET"})
	_ = s.End()
	var resp exchange.Response
	if err := s.ReadResponse(&resp); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(s)
	var reset *ResetError
	if string(got) != "part" || !errors.As(err, &reset) || reset.Reason != exchange.ServiceBroke {
		t.Errorf("read %q, %v; want what was written before, then the reason", got, err)
	}
}

// steady makes exchanges from several goroutines until stop, and fails the test on the first error.
func steady(ctx context.Context, t testing.TB, caller, callee *node) (stop func() (exchanges int64)) {
	t.Helper()
	var wg sync.WaitGroup
	var n atomic.Int64
	ended := make(chan struct{})
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
				}
				if err := get(ctx, caller, toOrder, callee.addr); err != nil {
					t.Errorf("exchange %d: %v", n.Load(), err)
					return
				}
				n.Add(1)
			}
		})
	}
	return func() int64 { close(ended); wg.Wait(); return n.Load() }
}

func TestRotationLosesNothing(t *testing.T) { overBoth(t, testRotationLosesNothing) }

func testRotationLosesNothing(t carried) {
	a := transporttest.NewAuthority(t)
	server, client := a.Wallet(orders), a.Wallet(cart)
	callee := startNode(t, server, Limits{}, echo)
	caller := startNode(t, client, Limits{}, nil)
	ctx := testContext(t)
	stop := steady(ctx, t, caller, callee)
	for i := range 6 {
		before := server.Handshakes()
		if i%2 == 0 {
			client.Rotate(cart, time.Hour)
		} else {
			server.Rotate(orders, time.Hour)
		}
		for server.Handshakes() == before && ctx.Err() == nil { // until a lane was made anew
			caller.sweep(caller.conns(), time.Now())
			callee.sweep(callee.conns(), time.Now())
			if err := get(ctx, caller, toOrder, callee.addr); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := stop(); n == 0 {
		t.Error("no exchange ran")
	}
	caller.sweep(caller.conns(), time.Now()) // a lane that was being dialled at the change may have come after the last one
	cert, _ := client.Certificate(cart)
	for _, c := range caller.conns() {
		c.mu.Lock()
		if !c.draining && !sameLeaf(c.cert, cert) {
			t.Error("a lane with the old certificate takes exchanges")
		}
		c.mu.Unlock()
	}
}

func TestLaneEndsWithItsCertificate(t *testing.T) { overBoth(t, testLaneEndsWithItsCertificate) }

func testLaneEndsWithItsCertificate(t carried) {
	caller, callee := startPair(t, Limits{}, echo)
	if err := get(testContext(t), caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{callee, caller} { // who calls closes a lane of TCP before, and the other hears of it
		for _, c := range n.conns() {
			n.sweep([]*conn{c}, c.expires.Add(-time.Second))
			if n == callee && c.link.Context().Err() != nil {
				t.Error("closed before its certificate ended")
			}
		}
	}
	for _, c := range callee.conns() {
		callee.sweep([]*conn{c}, c.expires)
		if c.link.Context().Err() == nil {
			t.Error("a connection outlives its certificate")
		}
	}
}

func TestIdleLaneCloses(t *testing.T) { overBoth(t, testIdleLaneCloses) }

func testIdleLaneCloses(t carried) {
	caller, callee := startPair(t, Limits{}, echo)
	if err := get(testContext(t), caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	c := caller.conns()[0]
	caller.sweep(caller.conns(), time.Now().Add(59*time.Second))
	if c.link.Context().Err() != nil {
		t.Error("closed before a minute")
	}
	caller.sweep(caller.conns(), time.Now().Add(61*time.Second))
	if c.link.Context().Err() == nil {
		t.Error("an idle lane stays")
	}
}

func TestLeastRecentlyUsedLaneMakesPlace(t *testing.T) {
	overBoth(t, testLeastRecentlyUsedLaneMakesPlace)
}

func testLeastRecentlyUsedLaneMakesPlace(t carried) {
	a := transporttest.NewAuthority(t)
	callee := startNode(t, a.Wallet(orders), Limits{}, echo)
	caller := startNode(t, a.Wallet(cart), Limits{Lanes: 2}, nil)
	ctx := testContext(t)
	for _, name := range []string{"b", "c", "b", "d"} {
		caller.tick.Add(1)
		if err := get(ctx, caller, Key{Local: cart, Node: name, Remote: orders}, callee.addr); err != nil {
			t.Fatal(err)
		}
	}
	lanes := *caller.lanes.Load()
	if _, ok := lanes[Key{Local: cart, Node: "c", Remote: orders}]; ok || len(lanes) != 2 {
		t.Errorf("%d lanes, and the oldest is among them: %v", len(lanes), ok)
	}
}

func TestDrainLosesNothing(t *testing.T) { overBoth(t, testDrainLosesNothing) }

func testDrainLosesNothing(t carried) {
	release := make(chan struct{})
	caller, callee := startPair(t, Limits{}, func(ctx context.Context, s *Stream) {
		var req exchange.Request
		if s.ReadRequest(&req) != nil {
			return
		}
		if req.Path == "/slow" {
			<-release
		}
		_ = s.WriteResponse(&exchange.Response{Status: 204})
		_ = s.End()
	})
	ctx := testContext(t)
	slow, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
	if err != nil {
		t.Fatal(err)
	}
	_ = slow.WriteRequest(&exchange.Request{Method: "GET", Path: "/slow"})
	_ = slow.End()

	// Others go on until the lane is refused, which must be said to be safe to repeat.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				if err := get(ctx, caller, toOrder, callee.addr); err != nil {
					if !errors.Is(err, ErrNotSent) {
						t.Errorf("an exchange was lost: %v", err)
					}
					return
				}
			}
		})
	}
	drained := make(chan error, 1)
	go func() { drained <- callee.Drain(ctx) }()
	wg.Wait()
	select {
	case err := <-drained:
		t.Fatalf("Drain returned %v while an exchange ran", err)
	default:
	}
	close(release)
	var resp exchange.Response
	if err := slow.ReadResponse(&resp); err != nil || resp.Status != 204 {
		t.Errorf("the running exchange got %d, %v", resp.Status, err)
	}
	slow.Release()
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if err := get(ctx, callee, Key{Local: orders, Node: "a", Remote: cart}, caller.addr); !errors.Is(err, ErrDraining) || !errors.Is(err, ErrNotSent) {
		t.Errorf("a drained node opens lanes: %v", err)
	}
}

func TestPeerKilled(t *testing.T) {
	t.Parallel()
	began := make(chan struct{}, 1)
	caller, callee := startPair(t, Limits{Silence: 4 * time.Second, Handshake: 4 * time.Second}, func(ctx context.Context, s *Stream) {
		var req exchange.Request
		_ = s.ReadRequest(&req)
		began <- struct{}{}
		<-ctx.Done()
	})
	ctx := testContext(t)
	s, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.WriteRequest(&exchange.Request{Method: "POST"})
	_ = s.End()
	unsent, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
	if err != nil {
		t.Fatal(err)
	}
	<-began
	callee.killed = true
	_ = callee.socket.Close() // as kill -9 does: nothing is said
	var resp exchange.Response
	if err := s.ReadResponse(&resp); !errors.Is(err, ErrBroken) || errors.Is(err, ErrNotSent) {
		t.Errorf("after the request was sent: %v", err)
	}
	s.Release()
	<-unsent.Done() // quic-go ends the streams of a connection one after the other
	_ = unsent.WriteRequest(&exchange.Request{Method: "POST"})
	if err := unsent.End(); !errors.Is(err, ErrNotSent) {
		t.Errorf("before the request was sent: %v", err)
	}
	unsent.Release()
	if err := get(ctx, caller, toOrder, callee.addr); !errors.Is(err, ErrNotSent) {
		t.Errorf("a new dial: %v", err)
	}
}

func TestFailedDialIsRemembered(t *testing.T) { overBoth(t, testFailedDialIsRemembered) }

func testFailedDialIsRemembered(t carried) {
	a := transporttest.NewAuthority(t)
	caller := startNode(t, a.Wallet(cart), Limits{Handshake: 200 * time.Millisecond}, nil)
	nobody := netip.MustParseAddrPort("127.0.0.1:9")
	ctx := testContext(t)
	first := get(ctx, caller, toOrder, nobody)
	if !errors.Is(first, ErrNotSent) {
		t.Fatal(first)
	}
	l := (*caller.lanes.Load())[toOrder]
	l.mu.Lock()
	l.sides[Interactive].until = time.Now().Add(time.Hour)
	l.mu.Unlock()
	if second := get(ctx, caller, toOrder, nobody); !errors.Is(second, first) {
		t.Errorf("second call got %v, want what the first found", second)
	}
}

// TestPeerBreaksTheFormat writes to a stream past its own codec, as a faulty node would.
func TestPeerBreaksTheFormat(t *testing.T) { overBoth(t, testPeerBreaksTheFormat) }

func testPeerBreaksTheFormat(t carried) {
	head, _ := appendRequest(nil, &exchange.Request{Method: "POST", Scheme: "http", Path: "/", BodyLength: 3})
	whole := append(appendFrameHeader(nil, frameHead, len(head)), head...)
	for _, tt := range []struct {
		name  string
		bytes string
		want  exchange.Reason // Completed: served
	}{
		{"unknown frames that may be skipped", "\x20\x01x" + string(whole) + "\x3f\x00\x03\x03abc\x05\x00", exchange.Completed},
		{"data before a head", "\x03\x01a", exchange.Malformed},
		{"unknown frame that may not be skipped", "\x07\x00", exchange.Malformed},
		{"head too large", "\x01\x80\x01\x00\x01", exchange.TooLarge},
		{"informational request", "\x02\x00", exchange.Malformed},
		{"second head", string(whole) + string(whole), exchange.Malformed},
		{"more body than stated", string(whole) + "\x03\x04abcd\x05\x00", exchange.Malformed},
		{"less body than stated", string(whole) + "\x03\x02ab\x05\x00", exchange.Malformed},
		{"data behind trailers", string(whole) + "\x03\x02ab\x04\x02\x01\x80\x03\x01c\x05\x00", exchange.Malformed},
		{"empty trailers twice", string(whole) + "\x03\x03abc\x04\x01\x00\x04\x01\x00\x05\x00", exchange.Malformed},
		{"data behind empty trailers", string(whole) + "\x03\x02ab\x04\x01\x00\x03\x01c\x05\x00", exchange.Malformed},
		{"too many unknown frames", strings.Repeat("\x20\x00", maxSkips+1), exchange.Malformed},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := carried{sub, t.carrier}
			caller, callee := startPair(t, Limits{}, echo)
			s, err := caller.Open(testContext(t), toOrder, callee.addr, Interactive)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Release()
			s.out.state = outBody
			if err := s.send([]byte(tt.bytes)); err != nil {
				t.Fatal(err)
			}
			var resp exchange.Response
			if err = s.ReadResponse(&resp); err == nil {
				_, err = io.Copy(io.Discard, s)
			}
			var reset *ResetError
			if tt.want == exchange.Completed {
				if err != nil {
					t.Error(err)
				}
			} else if !errors.As(err, &reset) || reset.Reason != tt.want || !reset.Remote {
				t.Errorf("%v, want a reset by the peer because %q", err, tt.want)
			}
		})
	}
}

// TestPeerSaysNonsenseOfItself opens the stream of the dialled end for something else than to say that it drains:
// the caller must neither forget the connection nor keep it.
func TestPeerSaysNonsenseOfItself(t *testing.T) {
	began, hold := make(chan struct{}), make(chan struct{})
	caller, callee := startPair(t, Limits{}, func(ctx context.Context, s *Stream) {
		var req exchange.Request
		if s.ReadRequest(&req) != nil {
			return
		}
		if req.Path == "/hold" {
			close(began)
			<-hold
		}
		_ = s.WriteResponse(&exchange.Response{Status: 204})
		_ = s.End()
	})
	ctx := testContext(t)
	s, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.WriteRequest(&exchange.Request{Method: "GET", Path: "/hold"}), s.End()); err != nil {
		t.Fatal(err)
	}
	<-began
	first := s.conn
	for _, c := range callee.conns() {
		str, err := c.link.(quicLink).Conn.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = str.Write([]byte{0x7f})
		_ = str.Close()
	}
	for draining := false; !draining && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		first.mu.Lock()
		draining = first.draining
		first.mu.Unlock()
	}
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	if n := len(caller.conns()); n != 2 {
		t.Errorf("%d connections are known while an exchange runs on the first, want 2", n)
	}
	close(hold)
	var resp exchange.Response
	if err := s.ReadResponse(&resp); err != nil || resp.Status != 204 {
		t.Errorf("the exchange that ran: %d, %v", resp.Status, err)
	}
	s.Release()
	select {
	case <-first.link.Context().Done():
	case <-ctx.Done():
		t.Error("the connection stays open")
	}
}

// TestIdleLaneIsKeptAlive wants a lane without exchanges to outlive the silence after which a peer counts as lost.
func TestIdleLaneIsKeptAlive(t *testing.T) { overBoth(t, testIdleLaneIsKeptAlive) }

func testIdleLaneIsKeptAlive(t carried) {
	t.Parallel()
	const silence = 8 * time.Second // more than a machine may stand still, behind the last word
	caller, callee := startPair(t, Limits{Silence: silence}, echo)
	ctx := testContext(t)
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	c := caller.conns()[0]
	select {
	case <-c.link.Context().Done():
		t.Fatalf("an idle lane ends: %v", context.Cause(c.link.Context()))
	case <-time.After(3 * silence): // nothing else tells that something does not happen
	}
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Error(err)
	}
	if conns := caller.conns(); len(conns) != 1 || conns[0] != c {
		t.Error("the lane was made anew")
	}
}

func TestConnectionIDsNameTheGeneration(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		id, err := connectionIDs{7}.GenerateConnectionID()
		if err != nil || id.Len() != (connectionIDs{}).ConnectionIDLen() || id.Bytes()[0] != 7 {
			t.Fatalf("%s, %v", id, err)
		}
		seen[string(id.Bytes())] = true
	}
	if len(seen) != 100 {
		t.Errorf("%d of 100 IDs differ", len(seen))
	}
}
