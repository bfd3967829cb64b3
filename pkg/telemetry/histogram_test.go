package telemetry

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestPercentilesKeepTheirBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Durations of all magnitudes: an exponent and a position within it.
		draw := rapid.Custom(func(t *rapid.T) time.Duration {
			low := int64(1) << rapid.IntRange(10, 39).Draw(t, "magnitude")
			return time.Duration(rapid.Int64Range(low, 2*low-1).Draw(t, "ns"))
		})
		all := rapid.SliceOfN(draw, 1, 200).Draw(t, "durations")
		var c counters
		for _, d := range all {
			c[bucketOf(d)].Add(1)
		}
		var m merged
		m.add(c.take())
		slices.Sort(all)
		for _, p := range []float64{0, 0.01, 0.5, 0.9, 0.99, 1} {
			exact := all[max(1, int(math.Ceil(p*float64(len(all)))))-1]
			got := m.percentile(p)
			if off := math.Abs(float64(got-exact)) / float64(exact); off > 1.0/32 {
				t.Fatalf("p%g of %d is %s, exactly %s: %.4f off, the bound is 1/32", 100*p, len(all), got, exact, off)
			}
		}
	})
}

func TestBucketsCoverEveryDuration(t *testing.T) {
	for _, d := range []time.Duration{math.MinInt64, -1, 0, 1, lowest - 1, lowest, time.Millisecond, highest - 1, highest, math.MaxInt64} {
		if b := bucketOf(d); b < 0 || b >= numBuckets {
			t.Errorf("%d ns is in bucket %d of %d", d, b, numBuckets)
		}
	}
	for b := range numBuckets {
		if got := bucketOf(middleOf(b)); got != b {
			t.Errorf("the middle of bucket %d is in bucket %d", b, got)
		}
	}
	if (&merged{}).percentile(0.5) != 0 {
		t.Error("a percentile of nothing")
	}
}
