package quota

import "math/bits"

// A bucket is refilled at a rate. It is kept as the time at which it is full again: a token costs the time in which
// one flows in, and what costs no more than the burst does from now on is there.
//
// Tokens in leases can still be spent all at once, so that they take up room in the bucket as long as they are out:
// it is never full sooner than what is leased would take to flow in.
type bucket struct {
	full    int64
	leased  int64 // tokens
	ceiling int64 // full never exceeds it when tokens are granted; on disk
}

// longest is what takes longer than anybody waits, in nanoseconds: seventy years. A sum of two is still a time.
const longest = 1 << 61

// slack is reserved beyond what is needed: what each of several grants of a round is rounded up by, and far less than
// a token.
const slack = 1000

// cost is the time in which n tokens flow in, rounded up; longest where it is longer.
func cost(limit Limit, n int64) int64 {
	hi, lo := bits.Mul64(uint64(n), uint64(limit.Per))
	if hi >= uint64(limit.Requests) {
		return longest
	}
	q, rest := bits.Div64(hi, lo, uint64(limit.Requests))
	if rest > 0 {
		q++
	}
	return int64(min(q, longest))
}

// worth is how many tokens a time is worth, rounded down.
func worth(limit Limit, d int64) int64 {
	if d <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(d), uint64(limit.Requests))
	if hi >= uint64(limit.Per) {
		return longest
	}
	q, _ := bits.Div64(hi, lo, uint64(limit.Per))
	return int64(min(q, longest))
}

func (b *bucket) settle(limit Limit, now int64) { b.full = max(b.full, now+cost(limit, b.leased)) }

func (b *bucket) free(limit Limit, now int64) int64 {
	return worth(limit, now+cost(limit, limit.Burst)-b.full)
}

func (b *bucket) raise(limit Limit, n, _ int64) int64 {
	return b.full + cost(limit, n+limit.Burst/reserveShare) + slack
}

func (b *bucket) grant(limit Limit, n, now int64) int64 {
	n = max(min(n, b.free(limit, now), worth(limit, b.ceiling-b.full)), 0)
	b.full += cost(limit, n)
	b.leased += n
	b.settle(limit, now)
	return n
}

func (b *bucket) release(limit Limit, tokens, unused, now int64) {
	b.settle(limit, now)
	b.leased -= tokens
	b.full -= cost(limit, unused)
	b.settle(limit, now)
}

func (b *bucket) horizon(limit Limit, now int64) (ends, reset int64) {
	return now + int64(bucketLease), max(b.full+cost(limit, 1)-cost(limit, limit.Burst), now)
}

func (b *bucket) idle(now int64) bool { return b.leased == 0 && b.full <= now }

func (b *bucket) reserved() (window, ceiling int64) { return 0, b.ceiling }

func (b *bucket) reserve(_, ceiling int64) { b.ceiling = max(b.ceiling, ceiling) }
