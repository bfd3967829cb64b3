package telemetry

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// An Edge names who calls whom, and what answered.
type Edge struct {
	Caller   exchange.ServiceName
	Callee   exchange.ServiceName // as it was called
	Backend  exchange.ServiceName // the service that routing chose; zero where it chose none
	Version  string               // of the chosen instance
	Node     string               // where it runs
	Protocol exchange.Kind
}

// A Sample is one exchange as it ended.
type Sample struct {
	Outcome       exchange.Outcome
	Duration      time.Duration
	BytesSent     uint64 // towards the callee, bodies only
	BytesReceived uint64
}

// Failed reports whether the exchange counts against the callee or the mesh: an answer of 500 or more, or
// one that the proxy broke off or gave itself, but not for what the caller did, or a FaultPolicy.
func (s *Sample) Failed() bool {
	switch s.Outcome.Reason {
	case exchange.Completed:
		return s.Outcome.Status >= 500
	case exchange.CallerGone, exchange.CallerNotAllowed, exchange.Denied, exchange.Unauthenticated, exchange.Malformed, exchange.TooLarge, exchange.FaultInjected:
		return false
	}
	return true
}

// reasons are the reasons that have a counter of their own; others count as the last.
var reasons = []exchange.Reason{
	exchange.NoService, exchange.NoRoute, exchange.NoBackend, exchange.NoInstance, exchange.ConnectFailed,
	exchange.PeerLost, exchange.ServiceRefused, exchange.ServiceBroke, exchange.Timeout, exchange.CallerGone,
	exchange.CallerNotAllowed, exchange.Malformed, exchange.TooLarge, exchange.Overloaded,
	exchange.QuotaExceeded, exchange.QuotaUnavailable, exchange.ShuttingDown, exchange.InstanceNotServed,
	exchange.NameUnresolved, exchange.AddressRefused, exchange.TLSFailed, exchange.CircuitOpen, exchange.FaultInjected, exchange.Denied, exchange.Unauthenticated, "other",
}

const numReasons = 26

var reasonIndex = func() map[exchange.Reason]int {
	index := map[exchange.Reason]int{}
	for i, reason := range reasons {
		index[reason] = i
	}
	return index
}()

// An edge's counters. Each is exact; one report may hold some of an exchange's and the next the others.
type edge struct {
	name                   Edge // in memory of its own
	retired                atomic.Bool
	codes                  [numCodes]atomic.Uint32 // whose sum is the count
	failed, sent, received atomic.Uint64
	took                   atomic.Int64 // ns, of all together
	failures               [numReasons]atomic.Uint64
	latencies              counters
	idle                   int    // reports in a row without an exchange; the reporter's
	total                  *total // what it adds to; the reporter's
}

const (
	maxEdges  = 2048 // of 2.5 KB each
	idleAfter = 300  // reports without an exchange until an edge's memory is given back
)

// Overflow is the edge of everything beyond the 2,048 that are told apart; it has a callee and nothing else.
var Overflow = Edge{Callee: exchange.ServiceName{Namespace: "sennit", Name: "overflow"}}

// Edges counts exchanges by edge. Record may be called by any number of goroutines; it takes no lock and
// allocates nothing but the first time that an edge is seen.
type Edges struct {
	table atomic.Pointer[map[Edge]*edge] // replaced whole

	mu      sync.Mutex // over replacing the table, and Report
	since   time.Time
	retired []*edge // out of the table; who looked them up before may still be counting
	totals  map[Edge]*total
}

// NewEdges returns Edges that begin to count at now.
func NewEdges(now time.Time) *Edges {
	e := &Edges{since: now, totals: map[Edge]*total{}}
	e.table.Store(&map[Edge]*edge{})
	return e
}

// Record counts one exchange. The strings of name may point into a buffer that is used again.
func (e *Edges) Record(name Edge, s *Sample) { e.count(e.edge(name), s) }

// A Recorder records for one connection, whose exchanges are mostly of one edge: it remembers the last one
// and spares looking it up. It has one owner; Edges must be set.
type Recorder struct {
	Edges *Edges
	last  *edge
}

// Record is Edges.Record.
func (r *Recorder) Record(name Edge, s *Sample) {
	if r.last == nil || r.last.retired.Load() || r.last.name != name {
		r.last = r.Edges.edge(name)
	}
	r.Edges.count(r.last, s)
}

// count counts at an edge that was looked up before. Where it was retired meanwhile, its last report may have gone
// out in the middle of this exchange, however long this goroutine was held up: then it is reported once more.
func (e *Edges) count(at *edge, s *Sample) {
	at.record(s)
	if at.retired.Load() {
		e.mu.Lock()
		if !slices.Contains(e.retired, at) {
			e.retired = append(e.retired, at)
		}
		e.mu.Unlock()
	}
}

func (e *Edges) edge(name Edge) *edge {
	table := *e.table.Load()
	if counted := table[name]; counted != nil {
		return counted
	}
	if counted := table[Overflow]; counted != nil && len(table) > maxEdges {
		return counted
	}
	return e.add(name)
}

// record counts the exchange itself last: a report that has it has the rest of it as well, or one before had.
func (e *edge) record(s *Sample) {
	if s.Failed() {
		e.failed.Add(1)
	}
	if s.Outcome.Reason != exchange.Completed {
		i, known := reasonIndex[s.Outcome.Reason]
		if !known {
			i = numReasons - 1
		}
		e.failures[i].Add(1)
	}
	if s.BytesSent > 0 {
		e.sent.Add(s.BytesSent)
	}
	if s.BytesReceived > 0 {
		e.received.Add(s.BytesReceived)
	}
	e.latencies[bucketOf(s.Duration)].Add(1)
	e.took.Add(int64(s.Duration))
	e.codes[codeOf(s.Outcome.Status)].Add(1)
}

func (e *Edges) add(name Edge) *edge {
	e.mu.Lock()
	defer e.mu.Unlock()
	table := *e.table.Load()
	if len(table) >= maxEdges {
		name = Overflow
	}
	if counted := table[name]; counted != nil {
		return counted
	}
	table = maps.Clone(table)
	counted := &edge{name: name.clone()}
	counted.total = e.totalOf(counted.name)
	table[counted.name] = counted
	e.table.Store(&table)
	return counted
}

// Report returns what was counted since the report before and begins anew.
func (e *Edges) Report(now time.Time) *EdgeReport {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forget()
	report := &EdgeReport{StartUnixMs: e.since.UnixMilli(), EndUnixMs: now.UnixMilli()}
	e.since = now
	for _, r := range e.retired {
		if summary := r.take(); summary != nil {
			report.Edges = append(report.Edges, summary)
		}
	}
	clear(e.retired)
	e.retired = e.retired[:0]
	table := *e.table.Load()
	for _, counted := range table {
		if summary := counted.take(); summary != nil {
			report.Edges = append(report.Edges, summary)
		}
		if counted.idle >= idleAfter {
			counted.retired.Store(true)
			counted.idle = 0 // the next report takes what was still counted
			e.retired = append(e.retired, counted)
		}
	}
	if len(e.retired) > 0 {
		table = maps.Clone(table)
		for _, r := range e.retired {
			delete(table, r.name)
		}
		e.table.Store(&table)
	}
	return report
}

// take returns the counters, adds them to the total and sets them to zero; nil where nothing was counted.
func (e *edge) take() *EdgeSummary {
	count, total := uint64(0), e.total
	classes := make([]uint64, 6)
	for i := range e.codes {
		if e.codes[i].Load() == 0 {
			continue
		}
		n := uint64(e.codes[i].Swap(0))
		count += n
		classes[classOf(i)] += n
		total.codes[i] += n
	}
	if count == 0 {
		e.idle++
		return nil
	}
	e.idle, total.idle = 0, 0
	s := &EdgeSummary{
		Caller: text(e.name.Caller), Callee: text(e.name.Callee), Backend: text(e.name.Backend),
		Version: e.name.Version, Node: e.name.Node, Protocol: e.name.Protocol.String(),
		Count: count, Failed: e.failed.Swap(0), BytesSent: e.sent.Swap(0), BytesReceived: e.received.Swap(0),
		StatusClasses: classes, Latencies: e.latencies.take(),
	}
	for i := range e.failures {
		if n := e.failures[i].Swap(0); n > 0 {
			s.Failures = append(s.Failures, &FailureCount{Reason: string(reasons[i]), Count: n})
			total.failures[i] += n
		}
	}
	total.sent += s.BytesSent
	total.received += s.BytesReceived
	total.took += time.Duration(e.took.Swap(0))
	total.latencies.add(s.Latencies)
	return s
}

func (e Edge) clone() Edge {
	for _, s := range []*string{&e.Caller.Namespace, &e.Caller.Name, &e.Callee.Namespace, &e.Callee.Name,
		&e.Backend.Namespace, &e.Backend.Name, &e.Version, &e.Node} {
		*s = strings.Clone(*s)
	}
	return e
}

func text(s exchange.ServiceName) string {
	if s.IsZero() {
		return ""
	}
	return s.String()
}
