package telemetry

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

const (
	// MaxTaps bounds how many taps one node has at once.
	MaxTaps = 16
	// tapRate is how many exchanges a tap takes in a second, and at once. It bounds what a tap costs a busy node.
	tapRate = 200
	// tapQueue is how many exchanges wait to be shown.
	tapQueue = 256
)

// ErrTooManyTaps is returned where MaxTaps are open.
var ErrTooManyTaps = errors.New("too many taps are open")

// Taps are those who look at exchanges of one node as they end. The zero Taps has none, and it is safe for concurrent
// use. An exchange that nobody taps costs one atomic load.
type Taps struct {
	open    atomic.Pointer[[]*Tap] // nil: nobody looks; replaced whole
	mu      sync.Mutex             // over replacing it
	dropped atomic.Uint64          // of all taps that there were
}

// A Tap takes in the exchanges that its filter wants, as many as its rate and its queue have room for.
type Tap struct {
	of      *Taps
	filter  filter
	rate    *rate.Limiter
	queue   chan *TappedExchange
	dropped atomic.Uint64
}

// Open begins a tap; who opens it closes it.
func (t *Taps) Open(wanted *TapFilter) (*Tap, error) {
	f, err := wanted.compile()
	if err != nil {
		return nil, err
	}
	tap := &Tap{of: t, filter: f, rate: rate.NewLimiter(tapRate, tapRate), queue: make(chan *TappedExchange, tapQueue)}
	t.mu.Lock()
	defer t.mu.Unlock()
	var open []*Tap
	if old := t.open.Load(); old != nil {
		open = slices.Clone(*old)
	}
	if len(open) >= MaxTaps {
		return nil, ErrTooManyTaps
	}
	open = append(open, tap)
	t.open.Store(&open)
	return tap, nil
}

// Len is how many taps are open.
func (t *Taps) Len() int {
	if open := t.open.Load(); open != nil {
		return len(*open)
	}
	return 0
}

// Dropped is how many exchanges taps wanted and did not get, since the node started.
func (t *Taps) Dropped() uint64 { return t.dropped.Load() }

// See shows an exchange to whoever taps it. It does not block, and reads a's strings before it returns.
func (t *Taps) See(a *Access) {
	if open := t.open.Load(); open != nil {
		for _, tap := range *open {
			tap.see(a)
		}
	}
}

func (t *Tap) see(a *Access) {
	if !t.filter.wants(a) {
		return
	}
	if len(t.queue) == cap(t.queue) || !t.rate.AllowN(time.Now(), 1) {
		t.drop()
		return
	}
	select {
	case t.queue <- tapped(a):
	default:
		t.drop()
	}
}

func (t *Tap) drop() {
	t.dropped.Add(1)
	t.of.dropped.Add(1)
}

// Seen is where exchanges come. It is never closed.
func (t *Tap) Seen() <-chan *TappedExchange { return t.queue }

// Dropped returns how many exchanges were wanted and did not get in since it was called before.
func (t *Tap) Dropped() uint64 { return t.dropped.Swap(0) }

// Close ends the tap.
func (t *Tap) Close() {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	old := t.of.open.Load()
	if old == nil {
		return
	}
	open := slices.DeleteFunc(slices.Clone(*old), func(other *Tap) bool { return other == t })
	if len(open) == 0 {
		t.of.open.Store(nil)
		return
	}
	t.of.open.Store(&open)
}

// Take empties up to n exchanges into a batch; nil where there is nothing to tell.
func (t *Tap) Take(n int) *TapBatch {
	batch := &TapBatch{Dropped: t.Dropped()}
	for len(batch.Exchanges) < n {
		select {
		case seen := <-t.queue:
			batch.Exchanges = append(batch.Exchanges, seen)
			continue
		default:
		}
		break
	}
	if len(batch.GetExchanges()) == 0 && batch.GetDropped() == 0 {
		return nil
	}
	return batch
}

// Lost counts a batch that was taken and could not be told as dropped.
func (t *Tap) Lost(batch *TapBatch) {
	t.dropped.Add(uint64(len(batch.GetExchanges())) + batch.GetDropped())
	t.of.dropped.Add(uint64(len(batch.GetExchanges())))
}

// tapped is what a tap shows of an exchange, in memory of its own.
func tapped(a *Access) *TappedExchange {
	e := &TappedExchange{
		StartUnixNs: a.Start.UnixNano(), DurationNs: int64(a.Sample.Duration),
		Caller: text(a.Edge.Caller), Callee: text(a.Edge.Callee), Backend: text(a.Edge.Backend),
		Version: own(a.Edge.Version), Node: own(a.Edge.Node), Instance: own(a.Instance), Protocol: a.Edge.Protocol.String(),
		Method: own(a.Method), Host: own(a.Host), Path: own(withoutQuery(a.Path)),
		Status: uint32(max(a.Sample.Outcome.Status, 0)), Reason: string(a.Sample.Outcome.Reason),
		BytesSent: a.Sample.BytesSent, BytesReceived: a.Sample.BytesReceived, Rule: own(a.Rule), Lane: a.Lane, Fault: own(a.Fault),
	}
	if a.Trace.ID != (exchange.Trace{}).ID {
		e.TraceId = slices.Clone(a.Trace.ID[:])
	}
	return e
}

// own is s in memory of its own, cut to what a line of the access log would hold, and in UTF-8.
func own(s string) string { return printable(s, maxValue) }
