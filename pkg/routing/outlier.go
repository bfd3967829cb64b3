package routing

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A standing is what this node makes of an instance as one of a service: whether it is ejected, for which the service's
// policy decides. What exchanges read and count is atomic; the rest belongs to whoever holds the pool's ejections.
type standing struct {
	ejected atomic.Int64 // Unix nanoseconds until which it is; 0: it never was
	errors  atomic.Int32 // in a row
	tally   tally

	times int // it was ejected, that still count
}

// outliers are a policy's, made ready. They never change.
type outliers struct {
	consecutive int32       // 0: not for these
	statistics  *statistics // nil: not for these
	base, most  time.Duration
	share       int // of the instances, in percent, that may be ejected at a time
	panic       int // of the instances, in percent, that must be left
}

// mostEjection bounds what a body can ask for.
const mostEjection = 7 * 24 * time.Hour

func compileOutliers(o *snapshot.Outliers) *outliers {
	if o == nil {
		return nil
	}
	base := bounded(o.EjectionMs, mostEjection)
	return &outliers{
		consecutive: int32(min(o.ConsecutiveErrors, math.MaxInt32)),
		base:        base,
		most:        max(base, bounded(o.MaxEjectionMs, mostEjection)),
		share:       int(min(o.MaxEjectedPercent, 100)),
		panic:       int(min(o.PanicPercent, 100)),
		statistics:  compileStatistics(o),
	}
}

// bounded is a number of milliseconds as a duration, at most most.
func bounded(ms uint64, most time.Duration) time.Duration {
	return time.Duration(min(ms, uint64(most.Milliseconds()))) * time.Millisecond
}

// ejections are those of a pool.
type ejections struct {
	ignored atomic.Int64  // Unix nanoseconds until which none counts, because too few instances are left; 0: they count
	total   atomic.Uint64 // since the pool was made

	intervalEnds atomic.Int64 // Unix nanoseconds; 0: the first has not begun

	mu sync.Mutex // over what follows, and the standings' times; never waited for by an exchange
	by *outliers  // whoever ejected last
}

// heeds reports whether the backend's requests keep away from the instances that are ejected.
func (b *backend) heeds(now int64) bool {
	return b.resilience != nil && b.resilience.outliers != nil && now >= b.pool.ejections.ignored.Load()
}

func (s *standing) isEjected(now int64) bool {
	until := s.ejected.Load()
	return until != 0 && now < until
}

// Judged reports whether anybody wants to know what becomes of the exchange at the decision's instance.
func (d *Decision) Judged() bool {
	if d.Instance == nil || d.backend == nil || d.backend.resilience == nil {
		return false
	}
	r := d.backend.resilience
	return r.outliers != nil || r.breaker != nil && r.breaker.adaptive != nil
}

// Judge tells how the decision's instance did with one attempt, and how long its response's head, or the failure, took.
// What says nothing about the instance is not told. It takes no lock that it would have to wait for, and allocates
// nothing, but where it ejects the instance, and once at the end of an interval.
func (d *Decision) Judge(failed bool, took time.Duration, now time.Time) {
	if !d.Judged() {
		return
	}
	r, s := d.backend.resilience, d.Instance.standing
	if r.breaker != nil && r.breaker.adaptive != nil && !d.raw {
		d.backend.pool.concurrency.measure(r.breaker.adaptive, failed, took, now.UnixNano())
	}
	o := r.outliers
	if o == nil {
		return
	}
	if o.statistics != nil {
		d.backend.pool.tallied(d.Instance, o, failed, took, now)
	}
	if !failed {
		if s.errors.Load() != 0 { // a write would take the line from every reader
			s.errors.Store(0)
		}
		return
	}
	if o.consecutive == 0 || s.isEjected(now.UnixNano()) { // what runs there still was begun before
		return
	}
	if s.errors.Add(1) >= o.consecutive {
		d.backend.pool.eject(d.Instance, o, now)
	}
}

// eject ejects an instance for as long as its ejections before say, where not too many are already. Where another
// exchange is about to do so, that one's word counts; the next error asks again.
func (p *pool) eject(i *Instance, o *outliers, now time.Time) {
	if p.ejections.mu.TryLock() {
		p.ejectLocked(i, o, now.UnixNano())
		p.ejections.mu.Unlock()
	}
}

// ejectLocked is eject for whoever holds the pool's ejections.
func (p *pool) ejectLocked(i *Instance, o *outliers, at int64) {
	e, s := &p.ejections, i.standing
	if s.isEjected(at) {
		return
	}
	s.errors.Store(0)
	called := p.set.Load().called
	ejected := 0
	for _, other := range called {
		if other.standing.isEjected(at) {
			ejected++
		}
	}
	if ejected >= max(1, len(called)*o.share/100) {
		return
	}
	if before := s.ejected.Load(); before != 0 && o.base > 0 { // each base without an ejection takes one back
		s.times = int(max(0, int64(s.times)-(at-before)/int64(o.base)))
	}
	s.times++
	// A product that is too large for the type is too long as well.
	s.ejected.Store(at + int64(min(o.most, o.base*time.Duration(min(s.times, int(o.most/max(o.base, 1))+1)))))
	e.total.Add(1)
	e.by = o
	p.reckon()
}

// recount is for a set that is new.
func (p *pool) recount() {
	p.ejections.mu.Lock()
	defer p.ejections.mu.Unlock()
	if p.ejections.by != nil {
		p.reckon()
	}
}

// reckon finds until when ejections are ignored: until so many have ended that enough healthy instances are left. It
// needs no clock: an ejection that has ended long ago has the same place among the ends.
func (p *pool) reckon() {
	called := p.set.Load().called
	healthy := 0
	var ends []int64
	for _, i := range called {
		if i.unhealthy {
			continue
		}
		healthy++
		if end := i.standing.ejected.Load(); end != 0 {
			ends = append(ends, end)
		}
	}
	needed := (len(called)*p.ejections.by.panic + 99) / 100
	var until int64
	switch spare := healthy - needed; {
	case spare < 0:
		until = math.MaxInt64
	case len(ends) > spare:
		slices.Sort(ends)
		until = ends[len(ends)-spare-1]
	}
	p.ejections.ignored.Store(until)
}
