package transport

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A stream that leaves the pool gives its place back: a lane does not run out of streams by having been busier once
// than its pool is large, however often that happens.
func TestStreamsThatLeaveThePoolGiveTheirPlaceBack(t *testing.T) {
	overBoth(t, testStreamsThatLeaveThePoolGiveTheirPlaceBack)
}

func testStreamsThatLeaveThePoolGiveTheirPlaceBack(t carried) {
	const streams, atOnce, rounds = 16, 8, 20
	inside := make(chan struct{}, atOnce)
	together := make(chan struct{})
	caller, callee := startPair(t, Limits{Streams: streams, IdleStreams: 1, Connections: 1}, func(ctx context.Context, s *Stream) {
		inside <- struct{}{}
		<-together
		echo(ctx, s)
	})
	ctx := testContext(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for round := range rounds {
		var group sync.WaitGroup
		for range atOnce {
			group.Go(func() {
				s, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
				for ; errors.Is(err, ErrBusy) && ctx.Err() == nil; s, err = caller.Open(ctx, toOrder, callee.addr, Interactive) {
					<-tick.C // the place is on its way back
				}
				if err != nil {
					t.Errorf("round %d: %v", round, err)
					inside <- struct{}{}
					<-together
					return
				}
				defer s.Release()
				if err := s.WriteRequest(&exchange.Request{Method: "GET", Scheme: "http", Authority: "orders", Path: "/"}); err != nil {
					t.Error(err)
				}
				if err := s.End(); err != nil {
					t.Error(err)
				}
				var resp exchange.Response
				if err := s.ReadResponse(&resp); err != nil {
					t.Error(err)
				}
				if _, err := io.Copy(io.Discard, s); err != nil {
					t.Error(err)
				}
			})
		}
		for range atOnce { // all of them run at once
			<-inside
		}
		for range atOnce {
			together <- struct{}{}
		}
		group.Wait()
		if t.Failed() {
			return
		}
	}
}
