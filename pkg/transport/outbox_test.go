package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// Exchanges that run side by side share packets: one for each would be a packet in each direction, and
// acknowledgements beside them.
func TestExchangesShareDatagrams(t *testing.T) {
	const sideBySide, each = 64, 100
	caller, callee := startPair(t, Limits{}, smallServer())
	ctx := testContext(t)
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	sent := func() (packets uint64) {
		for _, c := range caller.conns() {
			packets += c.link.(quicLink).ConnectionStats().PacketsSent
		}
		return packets
	}
	before := sent()
	var wg sync.WaitGroup
	for range sideBySide {
		wg.Go(func() {
			var resp exchange.Response
			p := make([]byte, 512)
			for range each {
				if err := smallExchange(ctx, caller, callee, &resp, p); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if packets := sent() - before; packets > sideBySide*each/2 {
		t.Errorf("%d exchanges took %d packets of the caller's", sideBySide*each, packets)
	}
}

// besides keeps an exchange running on the lane, so that others' bytes are collected.
func besides(ctx context.Context, t testing.TB, caller, callee *node) {
	t.Helper()
	for range outboxLeast {
		s, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Release)
	}
}

// What was posted waits for the window like everything else, loses nothing and keeps its order, and hinders
// nobody meanwhile.
func TestPostedBytesWaitForTheWindow(t *testing.T) {
	proceed := make(chan struct{})
	got := make(chan []byte, 1)
	caller, callee := startPair(t, Limits{}, func(ctx context.Context, s *Stream) {
		var req exchange.Request
		if s.ReadRequest(&req) != nil {
			return
		}
		if req.Path == "/slow" {
			select {
			case <-proceed:
			case <-ctx.Done():
			}
		}
		body, err := io.ReadAll(s)
		if err != nil {
			t.Error(err)
		}
		if req.Path == "/slow" {
			got <- body
		}
		if s.WriteResponse(&exchange.Response{Status: 200}) == nil {
			_ = s.End()
		}
	})
	ctx := testContext(t)
	besides(ctx, t, caller, callee)
	slow, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Release()
	if err := slow.WriteRequest(&exchange.Request{Method: "PUT", Path: "/slow", BodyLength: exchange.LengthUnknown}); err != nil {
		t.Fatal(err)
	}
	var want []byte
	written := make(chan error, 1)
	go func() {
		written <- func() error {
			for i := range 2 * firstWindow / 1000 {
				piece := bytes.Repeat([]byte{byte(i)}, 1000)
				want = append(want, piece...)
				if _, err := slow.Write(piece); err != nil {
					return err
				}
				if err := slow.Flush(); err != nil {
					return err
				}
			}
			return slow.End()
		}()
	}()
	for waits := false; !waits; { // until the window is full and something is left
		slow.posted.mu.Lock()
		waits = slow.posted.blocked
		slow.posted.mu.Unlock()
		if waits = waits || slow.sending.Load() != 0; ctx.Err() != nil {
			t.Fatal("nothing ever waits for the window")
		}
		if err := get(ctx, caller, toOrder, callee.addr); err != nil {
			t.Fatal(err)
		}
	}
	close(proceed)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	var resp exchange.Response
	if err := slow.ReadResponse(&resp); err != nil || resp.Status != 200 {
		t.Fatalf("%d, %v", resp.Status, err)
	}
	if !bytes.Equal(<-got, want) {
		t.Error("the body arrived as another")
	}
}

// A request that the outbox still had when the lane broke was certainly not processed.
func TestPostedRequestIsNotSent(t *testing.T) {
	caller, callee := startPair(t, Limits{}, echo)
	ctx := testContext(t)
	s, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	s.posted.buf, s.posted.n = takeBuffer(1), 1 // as if the outbox had not come to it
	s.conn.close(closeDone, "test")
	var resp exchange.Response
	if err := s.ReadResponse(&resp); !errors.Is(err, ErrNotSent) {
		t.Errorf("%v does not wrap %v", err, ErrNotSent)
	}
	if s.posted.waits() {
		t.Error("the request may still be sent")
	}
}
