package transport

import (
	"io"
	"testing"

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
			s.Release()
		}
		if again := len(seen) == 1; again != tt.again {
			t.Errorf("%s: 3 exchanges on %d streams", tt.class, len(seen))
		}
	}
}
