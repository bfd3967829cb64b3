package load

import (
	"context"
	"sync/atomic"
	"time"
)

// Count makes a given number of GETs in a closed loop. Each connection is closed after it has made perConnection of
// them, and another takes its place, so that connections come and go as they do over a longer time. A request that
// fails counts as made. It ends early where ctx does.
func Count(ctx context.Context, dial Dial, connections int, requests int64, perConnection int) Sample {
	var left atomic.Int64
	left.Store(requests)
	return fleet(connections, func(_ int, into *Sample) {
		one := client{dial: dial}
		defer one.close()
		for made := 1; left.Add(-1) >= 0 && ctx.Err() == nil; made++ {
			sent := time.Now()
			if err := one.exchange(ctx); err == nil {
				into.record(time.Since(sent))
			} else if ctx.Err() == nil {
				into.failed(err)
			}
			if made%perConnection == 0 {
				one.close()
			}
		}
	})
}
