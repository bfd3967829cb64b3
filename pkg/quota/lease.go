package quota

import (
	"math"
	"sync/atomic"
	"time"
)

// A Lease is one grant of tokens. It is safe for concurrent use; Take never blocks and never allocates.
// Each grant is a Lease of its own: a refill that added to a shared counter would mint tokens that a
// concurrent Take had already seen expire.
type Lease struct {
	id   uint64
	left atomic.Int64 // may be below zero between a Take and its own correction; far below when closed
	size int64        // tokens granted
	low  int64        // where left arrives here, it is time to ask for more

	sent time.Time // when it was asked for, by both clocks
	life time.Duration
}

// closed is what a closed lease has left: so little that no correction lifts it above zero.
const closed = math.MinInt64 / 2

// newLease is a grant to a request that was sent at a time, which has both clocks' readings.
func newLease(g *Grant, sent time.Time) *Lease {
	l := &Lease{id: g.GetLease(), size: int64(g.GetTokens()), sent: sent, life: time.Duration(g.GetLifeNs())}
	l.low = l.size / 2
	l.left.Store(l.size)
	return l
}

// take spends a token and reports whether there was one, and how many are left. It fails with nothing spent where
// the lease has ended or is closed.
func (l *Lease) take(now time.Time) (left int64, ok bool) {
	if l.ended(now) {
		return 0, false
	}
	if left = l.left.Add(-1); left < 0 {
		l.left.Add(1)
		return 0, false
	}
	return left, true
}

// giveBack takes back what a take spent. Where the lease was closed meanwhile the token is lost.
func (l *Lease) giveBack() { l.left.Add(1) }

// ended reports whether the lease is worth nothing any more: by monotonic or by wall time, whichever is first. The
// first stands still while a host sleeps, the second may be set back.
func (l *Lease) ended(now time.Time) bool {
	return now.Sub(l.sent) >= l.life || time.Duration(now.UnixNano()-l.sent.UnixNano()) >= l.life
}

// close ends the lease and returns how many of its tokens are certain never to be spent. It is called once.
func (l *Lease) close() (unused int64) {
	return max(l.left.Swap(closed), 0)
}

// unspent is how many tokens are left, for display.
func (l *Lease) unspent() int64 { return max(l.left.Load(), 0) }
