package transport

import (
	"context"
	"io"
	"runtime"
	"testing"
	"weak"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A request that cannot be sent again must not go out on a stream that the callee may be about to end.
func TestBulkStreamsAreUsedOnce(t *testing.T) { overBoth(t, testBulkStreamsAreUsedOnce) }

func testBulkStreamsAreUsedOnce(t carried) {
	caller, callee := startPair(t, Limits{}, echo)
	ctx := testContext(t)
	for _, tt := range []struct {
		class Class
		again bool
	}{{Interactive, true}, {Bulk, false}} {
		seen := map[*Stream]bool{}
		for range 3 {
			s, err := caller.Open(ctx, toOrder, callee.addr, tt.class)
			if err != nil {
				t.Fatal(err)
			}
			seen[s] = true
			ask(t, s)
			s.Release()
		}
		if again := len(seen) == 1; again != tt.again {
			t.Errorf("%s: 3 exchanges on %d streams", tt.class, len(seen))
		}
	}
}

// ask makes one exchange without a body.
func ask(t testing.TB, s *Stream) {
	t.Helper()
	if err := s.WriteRequest(&exchange.Request{Method: "GET", Scheme: "http", Authority: "orders", Path: "/"}); err != nil {
		t.Fatal(err)
	}
	if err := s.End(); err != nil {
		t.Fatal(err)
	}
	var resp exchange.Response
	if err := s.ReadResponse(&resp); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, s); err != nil {
		t.Fatal(err)
	}
}

// A stream that is used once is forgotten, and who served it hears of no interruption.
func TestStreamsUsedOnceAreForgotten(t *testing.T) {
	interrupted := make(chan struct{}, 1)
	goOn := make(chan struct{})
	caller, callee := startPair(t, Limits{}, func(ctx context.Context, s *Stream) {
		s.Interrupt(closing(interrupted))
		echo(ctx, s)
		<-goOn
		s.Interrupt(nil)
	})
	ctx := testContext(t)
	var streams []weak.Pointer[quic.Stream]
	for range 20 {
		s, err := caller.Open(ctx, toOrder, callee.addr, Bulk)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, weak.Make(s.str.Load().(*quic.Stream)))
		ask(t, s)
		s.Release()
		goOn <- struct{}{}
	}
	for left := len(streams); left > 2; { // the connection may still hold the last ones somewhere
		if ctx.Err() != nil {
			t.Fatalf("%d streams of %d are still held", left, len(streams))
		}
		runtime.GC()
		left = 0
		for _, s := range streams {
			if s.Value() != nil {
				left++
			}
		}
	}
	select {
	case <-interrupted:
		t.Error("who served a whole exchange was interrupted")
	default:
	}
}

// closing is an io.Closer that says so.
type closing chan struct{}

func (c closing) Close() error {
	select {
	case c <- struct{}{}:
	default:
	}
	return nil
}
