package routing

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// An adaptive is how a policy lets the number of requests under way follow what a service bears. It never changes.
type adaptive struct {
	interval    time.Duration
	requests    int64 // that an interval must have had; one with fewer goes on
	least, most int64 // that may be under way
	tolerance   float64
	probe       time.Duration // how often the limit is halved for one interval
}

const (
	mostUnderWay = 1 << 30
	// firstLimit is the limit before anything is measured. A service that is overloaded from the start must not have that pass
	// for its speed.
	firstLimit = 16
	// fewest is where the limit comes to rest when the latency is too long whatever the limit: half of it and its root.
	fewest = 4
	// steepest is the least part that is left of the limit after one interval.
	steepest = 0.5
	// baselines is of how many probes the least latency counts: what is older is of another time.
	baselines = 2
)

func compileAdaptive(s *snapshot.AdaptiveConcurrency) *adaptive {
	if s == nil {
		return nil
	}
	a := &adaptive{
		interval: max(bounded(s.IntervalMs, mostInterval), leastInterval), requests: max(int64(s.MinRequests), 1),
		least: int64(max(min(s.MinConcurrency, mostUnderWay), 1)), tolerance: max(float64(s.ToleranceThousandths)/1000, 1),
		probe: max(bounded(s.ProbeIntervalMs, mostInterval), leastInterval),
	}
	a.most = max(int64(min(s.MaxConcurrency, mostUnderWay)), a.least)
	return a
}

// A concurrency is how many requests this node may have under way to a service at a time, as measured. What exchanges read
// and count is atomic; the rest belongs to whoever holds mu, which no exchange waits for.
type concurrency struct {
	limit atomic.Int64 // 0: nothing is measured yet
	peak  atomic.Int64 // that were under way in the interval that runs
	count atomic.Int64 // of its attempts
	took  atomic.Int64 // nanoseconds until their heads, of all together
	ends  atomic.Int64 // Unix nanoseconds
	floor atomic.Int64 // nanoseconds: the latency without a queue, as far as it is known; 0: it is not

	mu       sync.Mutex
	floors   [baselines]int64 // the least of each probe's time; 0: there was none
	probes   int64            // Unix nanoseconds of the next
	restored int64            // the limit to go back to after a probe; 0: none runs
	found    bool             // the latency has risen once: before that the limit doubles, and not only grows by its root
}

// now is the limit that holds.
func (c *concurrency) now(a *adaptive) int64 {
	limit := c.limit.Load()
	if limit == 0 {
		limit = firstLimit
	}
	return min(max(limit, a.least), a.most)
}

// entered notes how many are under way with one more.
func (c *concurrency) entered(n int64) {
	if n > c.peak.Load() { // a write would take the line from every reader
		c.peak.Store(n) // of two at once the lower may stay: they are one apart
	}
}

// measure counts an attempt, and at the end of an interval sets the limit for the next. A failure that was fast says
// nothing of a queue.
func (c *concurrency) measure(a *adaptive, failed bool, took time.Duration, at int64) {
	if failed && int64(took) <= c.floor.Load() {
		return
	}
	c.took.Add(int64(took))
	count := c.count.Add(1)
	ends := c.ends.Load()
	if at < ends || count < a.requests || !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if c.ends.Load() != ends {
		return
	}
	c.ends.Store(at + int64(a.interval))
	n, sum, peak := c.count.Swap(0), c.took.Swap(0), c.peak.Swap(0)
	if ends == 0 {
		c.probes = at + int64(a.probe)
		return // what came before an interval
	}
	c.adjust(a, max(sum/n, 1), peak, at)
}

// adjust sets the limit by what an interval was like: its mean latency in nanoseconds, and how many were under way at
// most. limit × gradient + √limit, where the gradient is the tolerated part of the latency without a queue in that of
// now: the root keeps some requests waiting, so that more capacity is seen.
func (c *concurrency) adjust(a *adaptive, latency, peak, at int64) {
	limit := c.now(a)
	floor := c.noteFloor(latency)
	if c.restored != 0 { // the probe is over, and has left its latency among the floors
		c.limit.Store(c.restored)
		c.restored = 0
		return
	}
	gradient := min(max(a.tolerance*float64(floor)/float64(latency), steepest), 1)
	root := math.Sqrt(float64(limit))
	next := float64(limit)
	switch {
	case gradient < 1 && limit <= max(a.least, fewest):
		c.floors = [baselines]int64{latency} // with so few there is no queue: it takes so long now
		c.floor.Store(latency)
	case gradient < 1:
		c.found = true
		next = float64(min(limit, max(peak, 1)))*gradient + root
	case peak < limit/2: // what is not used proves nothing
	case c.found:
		next += root
	default:
		next *= 2
	}
	limit = min(max(int64(next), a.least), a.most)
	if at >= c.probes {
		c.probes = at + int64(a.probe)
		copy(c.floors[1:], c.floors[:])
		c.floors[0] = 0
		c.restored, limit = limit, max(limit/2, a.least)
	}
	c.limit.Store(limit)
}

// noteFloor returns the least latency of the probes that count, with this one.
func (c *concurrency) noteFloor(latency int64) int64 {
	if c.floors[0] == 0 || latency < c.floors[0] {
		c.floors[0] = latency
	}
	floor := c.floors[0]
	for _, f := range c.floors[1:] {
		if f != 0 {
			floor = min(floor, f)
		}
	}
	c.floor.Store(floor)
	return floor
}
