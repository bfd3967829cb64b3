package transport

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// TestResetByAProcess wants the code with which a process reset its stream to come to the caller's node.
func TestResetByAProcess(t *testing.T) { overBoth(t, testResetByAProcess) }

func testResetByAProcess(t carried) {
	caller, callee := startPair(t, Limits{}, func(_ context.Context, s *Stream) {
		var req exchange.Request
		_ = s.ReadRequest(&req)
		code, _ := strconv.ParseUint(req.Path, 10, 32)
		s.ResetBy(uint32(code))
	})
	ctx := testContext(t)
	for code, want := range map[uint32]uint32{1: 1, 8: 8, 255: 255, 0: 0, 256: 0, 1 << 31: 0} {
		s, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
		if err != nil {
			t.Fatal(err)
		}
		var resp exchange.Response
		err = errors.Join(s.WriteRequest(&exchange.Request{Method: "GET", Path: strconv.Itoa(int(code))}), s.End())
		if err == nil {
			err = s.ReadResponse(&resp)
		}
		var reset *ResetError
		if !errors.As(err, &reset) || !errors.Is(err, ErrBroken) || reset.Reason != exchange.ServiceBroke || !reset.Remote || reset.Process != want {
			t.Errorf("code %d: %v, %+v", code, err, reset)
		}
		s.Release()
	}
}
