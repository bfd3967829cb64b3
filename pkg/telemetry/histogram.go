package telemetry

import (
	"math"
	"sync/atomic"
	"time"
)

// Buckets are log-linear: each power of two of nanoseconds is cut into 16 of the same width, so that a
// bucket is at most 1/16 of its lower end wide, and its middle at most 1/32 from any duration in it. That
// is the bound on the error of every percentile from 1 µs to 1,100 s; what is shorter counts as 1 µs, what
// is longer as 1,100 s.
const (
	subBits    = 4
	lowest     = 1 << 10 // ns
	highest    = 1 << 40 // ns
	numBuckets = 30 << subBits
)

// bucketOf cuts the bucket's index out of the bits of the duration as a float: the exponent and the first
// four bits of the mantissa stand side by side.
func bucketOf(d time.Duration) int {
	f := float64(min(max(d, lowest), highest-1))
	return int(math.Float64bits(f)>>(52-subBits)) - int(math.Float64bits(lowest)>>(52-subBits))
}

// middleOf returns the duration that stands for a bucket.
func middleOf(bucket int) time.Duration {
	bits := (uint64(bucket) + math.Float64bits(lowest)>>(52-subBits)) << (52 - subBits)
	low, high := math.Float64frombits(bits), math.Float64frombits(bits+1<<(52-subBits))
	return time.Duration((low + high) / 2)
}

// counters is a histogram that many write to.
type counters [numBuckets]atomic.Uint32

func (c *counters) take() *Latencies {
	out := &Latencies{}
	for i := range c {
		if c[i].Load() == 0 {
			continue
		}
		if n := c[i].Swap(0); n > 0 {
			out.Buckets = append(out.Buckets, uint32(i))
			out.Counts = append(out.Counts, uint64(n))
		}
	}
	return out
}

// merged is a sum of histograms; it has one owner.
type merged [numBuckets]uint64

func (m *merged) add(l *Latencies) {
	for i, b := range l.GetBuckets() {
		m[b] += l.GetCounts()[i]
	}
}

// percentile returns the duration that the share p, from 0 to 1, of all were not longer than; 0 of none.
func (m *merged) percentile(p float64) time.Duration {
	total := uint64(0)
	for _, n := range m {
		total += n
	}
	rank := max(1, uint64(math.Ceil(p*float64(total))))
	seen := uint64(0)
	for i, n := range m {
		if seen += n; seen >= rank {
			return middleOf(i)
		}
	}
	return 0
}
