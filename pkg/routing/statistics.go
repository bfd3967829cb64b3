package routing

import (
	"cmp"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A tally is what an instance did in the interval that runs.
type tally struct {
	attempts atomic.Uint64 // the upper half counts all, the lower those that failed
	took     atomic.Int64  // nanoseconds until the responses' heads, of all together
}

func (t *tally) add(failed bool, took time.Duration) {
	one := uint64(1) << 32
	if failed {
		one++
	}
	t.took.Add(int64(took))
	t.attempts.Add(one)
}

// take empties the tally. What ends at this moment may be half in it and half in the next.
func (t *tally) take() (all, failed uint64, took int64) {
	attempts := t.attempts.Swap(0)
	return attempts >> 32, attempts & math.MaxUint32, t.took.Swap(0)
}

// statistics say by what an interval's tallies make outliers. They never change.
type statistics struct {
	interval time.Duration
	rate     *successRate // nil: not by it
	latency  *latency     // nil: not by it
}

// A successRate makes outliers of the instances whose share of successes is more than factor standard deviations
// below the mean of all: Envoy's definition.
type successRate struct {
	instances int // with as many requests, at least
	requests  uint64
	factor    float64
}

// A latency makes outliers of the instances whose mean time to the response's head is more than factor times the median
// of all, and slower than that by more than least. A mean and a deviation would be the slow one's own where instances are few.
type latency struct {
	instances int
	requests  uint64
	factor    float64
	least     time.Duration
}

const (
	leastInterval = 100 * time.Millisecond
	mostInterval  = 24 * time.Hour
)

func compileStatistics(o *snapshot.Outliers) *statistics {
	s := &statistics{interval: max(bounded(o.IntervalMs, mostInterval), leastInterval)}
	if r := o.SuccessRate; r != nil {
		s.rate = &successRate{int(min(r.MinInstances, math.MaxInt32)), uint64(r.MinRequests), float64(r.FactorThousandths) / 1000}
	}
	if l := o.Latency; l != nil {
		s.latency = &latency{int(min(l.MinInstances, math.MaxInt32)), uint64(l.MinRequests), float64(l.FactorThousandths) / 1000, bounded(l.MinDifferenceMs, mostInterval)}
	}
	if s.rate == nil && s.latency == nil {
		return nil
	}
	return s
}

// tallied adds an attempt to the interval that runs, and where that is over, ejects the outliers of it. One exchange does so
// for all, and where another is ejecting, a later one.
func (p *pool) tallied(i *Instance, o *outliers, failed bool, took time.Duration, now time.Time) {
	i.standing.tally.add(failed, took)
	at, e := now.UnixNano(), &p.ejections
	ends := e.intervalEnds.Load()
	if at < ends || !e.mu.TryLock() {
		return
	}
	defer e.mu.Unlock()
	if e.intervalEnds.Load() != ends {
		return
	}
	e.intervalEnds.Store(at + int64(o.statistics.interval))
	called := p.set.Load().called
	taken := make([]interval, 0, len(called))
	for _, i := range called {
		all, failed, took := i.standing.tally.take()
		if all > 0 && !i.standing.isEjected(at) {
			taken = append(taken, interval{i, all, failed, took})
		}
	}
	if ends == 0 || at-ends > int64(o.statistics.interval) {
		return // it is the first, or what was counted is of long ago
	}
	for _, i := range o.statistics.outliers(taken) {
		p.ejectLocked(i, o, at)
	}
}

// An interval is what one instance did in one.
type interval struct {
	instance *Instance
	all      uint64 // not 0
	failed   uint64
	took     int64
}

// outliers lists those of an interval, the worst first.
func (s *statistics) outliers(of []interval) []*Instance {
	var all []*Instance
	if s.rate != nil {
		all = s.rate.outliers(of)
	}
	if s.latency != nil {
		all = append(all, s.latency.outliers(of)...)
	}
	return all
}

// withRequests leaves those that had enough of them, by a measure, in its order; none where they are too few.
func withRequests(of []interval, requests uint64, instances int, measure func(interval) float64) (found []interval, measures []float64) {
	for _, i := range of {
		if i.all >= requests {
			found = append(found, i)
		}
	}
	if len(found) < max(instances, 1) {
		return nil, nil
	}
	slices.SortFunc(found, func(a, b interval) int { return cmp.Compare(measure(a), measure(b)) })
	for _, i := range found {
		measures = append(measures, measure(i))
	}
	return found, measures
}

func (r *successRate) outliers(of []interval) (all []*Instance) {
	found, rates := withRequests(of, r.requests, r.instances, func(i interval) float64 { return float64(i.all-i.failed) / float64(i.all) })
	mean := 0.0
	for _, rate := range rates {
		mean += rate / float64(len(rates))
	}
	variance := 0.0
	for _, rate := range rates {
		variance += (rate - mean) * (rate - mean) / float64(len(rates))
	}
	threshold := mean - r.factor*math.Sqrt(variance)
	for i, rate := range rates {
		if rate < threshold {
			all = append(all, found[i].instance)
		}
	}
	return all
}

func (l *latency) outliers(of []interval) (all []*Instance) {
	found, means := withRequests(of, l.requests, l.instances, func(i interval) float64 { return float64(i.took) / float64(i.all) })
	if len(found) == 0 {
		return nil
	}
	median := (means[(len(means)-1)/2] + means[len(means)/2]) / 2
	for i := len(found) - 1; i >= 0; i-- { // the slowest first
		if means[i] > l.factor*median && means[i]-median > float64(l.least) {
			all = append(all, found[i].instance)
		}
	}
	return all
}
