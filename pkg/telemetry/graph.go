package telemetry

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// ErrReport is returned for a report that no node of ours would send.
var ErrReport = errors.New("not a report")

// A GraphEdge is one edge of the live graph, as commands and the console show it.
type GraphEdge struct {
	Caller   string `json:"caller"`
	Callee   string `json:"callee"`
	Backend  string `json:"backend,omitempty"`
	Version  string `json:"version,omitempty"`
	Node     string `json:"node,omitempty"` // where the backend's instance runs
	Protocol string `json:"protocol"`

	Count         uint64            `json:"count"` // in the window
	Failed        uint64            `json:"failed"`
	Rate          float64           `json:"rate"`    // exchanges per second
	Success       float64           `json:"success"` // share from 0 to 1
	P50           float64           `json:"p50"`     // seconds
	P90           float64           `json:"p90"`
	P99           float64           `json:"p99"`
	SentRate      float64           `json:"sentRate"` // bytes per second
	ReceivedRate  float64           `json:"receivedRate"`
	StatusClasses [6]uint64         `json:"statusClasses"` // [0] none, [1] 1xx … [5] 5xx
	Failures      map[string]uint64 `json:"failures,omitempty"`
}

// A Fold says which edges are shown as one: it empties what shall not be told apart. nil tells all apart.
type Fold func(GraphEdge) GraphEdge

// ByVersion shows edges by caller, callee, backend, version and protocol, wherever the instances run.
func ByVersion(e GraphEdge) GraphEdge { e.Node = ""; return e }

// ByService shows edges by caller, callee and protocol.
func ByService(e GraphEdge) GraphEdge { e.Backend, e.Version, e.Node = "", "", ""; return e }

type graphKey struct{ caller, callee, backend, version, node, protocol string }

// Limits on what nodes can make a controller hold.
const (
	maxGraphEdges   = 100_000 // summaries in the window, of all nodes
	maxNodeEdges    = 25_000  // of one node: ten full reports, and no more than leaves room for others
	maxReportsAhead = 4       // of one node in one second of the window, on average
	maxNameBytes    = 512
)

// A Graph merges the reports of all nodes. What a report counted leaves the graph when the report leaves the
// window, so nothing of a node that went silent stays. It goes by the controller's clock alone, and is safe
// for concurrent use.
type Graph struct {
	window time.Duration

	mu        sync.Mutex
	began     time.Time       // the arrival of the first report after a time without
	arrived   []arrival       // in the window, oldest first
	reports   map[string]held // by node
	summaries int
}

// held is what is in the window of one node.
type held struct{ reports, summaries int }

type arrival struct {
	at     time.Time
	node   string
	report *EdgeReport
}

// NewGraph returns a Graph over the last window, from a second to an hour.
func NewGraph(window time.Duration) *Graph {
	return &Graph{window: min(max(window, time.Second), time.Hour), reports: map[string]held{}}
}

// Add takes in the report of an authenticated node, which must not be changed afterwards.
func (g *Graph) Add(node string, report *EdgeReport, now time.Time) error {
	if err := checkReport(report); err != nil {
		return fmt.Errorf("report of node %s: %w", node, err)
	}
	if len(report.Edges) == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.expire(now)
	of := g.reports[node]
	if of.reports >= maxReportsAhead*max(1, int(g.window/time.Second)) {
		return fmt.Errorf("report of node %s: %w: too many within %s", node, ErrReport, g.window)
	}
	if of.summaries+len(report.Edges) > maxNodeEdges {
		return fmt.Errorf("report of node %s: %w: the graph holds %d summaries of it, which is the most", node, ErrReport, of.summaries)
	}
	if g.summaries+len(report.Edges) > maxGraphEdges {
		return fmt.Errorf("report of node %s: %w: the graph holds %d summaries, which is the most", node, ErrReport, g.summaries)
	}
	if len(g.arrived) == 0 {
		// The first report counted the second before it.
		g.began = now.Add(-min(max(time.Duration(report.EndUnixMs-report.StartUnixMs)*time.Millisecond, 0), g.window))
	}
	g.arrived = append(g.arrived, arrival{now, node, report})
	g.reports[node] = held{of.reports + 1, of.summaries + len(report.Edges)}
	g.summaries += len(report.Edges)
	return nil
}

func (g *Graph) expire(now time.Time) {
	n := 0
	for n < len(g.arrived) && now.Sub(g.arrived[n].at) >= g.window {
		a := g.arrived[n]
		g.summaries -= len(a.report.Edges)
		of := g.reports[a.node]
		if of.reports--; of.reports == 0 {
			delete(g.reports, a.node)
		} else {
			g.reports[a.node] = held{of.reports, of.summaries - len(a.report.Edges)}
		}
		n++
	}
	g.arrived = slices.Delete(g.arrived, 0, n)
}

// Edges returns the graph as it is now, folded, in the order of names.
func (g *Graph) Edges(now time.Time, fold Fold) []GraphEdge {
	g.mu.Lock()
	g.expire(now)
	arrived, began := slices.Clone(g.arrived), g.began
	g.mu.Unlock()
	if len(arrived) == 0 {
		return []GraphEdge{}
	}
	seconds := min(max(now.Sub(began), time.Second), g.window).Seconds()
	type sum struct {
		GraphEdge
		sent, received uint64
		latencies      merged
	}
	sums := map[graphKey]*sum{}
	for _, a := range arrived {
		for _, s := range a.report.Edges {
			e := GraphEdge{Caller: s.Caller, Callee: s.Callee, Backend: s.Backend, Version: s.Version, Node: s.Node, Protocol: s.Protocol}
			if fold != nil {
				e = fold(e)
			}
			key := graphKey{e.Caller, e.Callee, e.Backend, e.Version, e.Node, e.Protocol}
			to := sums[key]
			if to == nil {
				to = &sum{GraphEdge: e}
				sums[key] = to
			}
			to.Count += s.Count
			to.Failed += s.Failed
			to.sent += s.BytesSent
			to.received += s.BytesReceived
			for i, n := range s.StatusClasses {
				to.StatusClasses[i] += n
			}
			for _, f := range s.Failures {
				if to.Failures == nil {
					to.Failures = map[string]uint64{}
				}
				to.Failures[f.Reason] += f.Count
			}
			to.latencies.add(s.Latencies)
		}
	}
	out := make([]GraphEdge, 0, len(sums))
	for _, s := range sums {
		s.Rate = float64(s.Count) / seconds
		s.Success = 1
		if s.Count > 0 {
			s.Success = 1 - min(1, float64(s.Failed)/float64(s.Count))
		}
		s.SentRate, s.ReceivedRate = float64(s.sent)/seconds, float64(s.received)/seconds
		s.P50, s.P90, s.P99 = s.latencies.percentile(0.5).Seconds(), s.latencies.percentile(0.9).Seconds(), s.latencies.percentile(0.99).Seconds()
		out = append(out, s.GraphEdge)
	}
	slices.SortFunc(out, func(a, b GraphEdge) int {
		return cmp.Or(cmp.Compare(a.Caller, b.Caller), cmp.Compare(a.Callee, b.Callee), cmp.Compare(a.Backend, b.Backend),
			cmp.Compare(a.Version, b.Version), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Protocol, b.Protocol))
	})
	return out
}

// checkReport refuses what would break the sums or fill the memory.
func checkReport(r *EdgeReport) error {
	if len(r.GetEdges()) > 2*maxEdges+1 {
		return fmt.Errorf("%w: %d edges", ErrReport, len(r.GetEdges()))
	}
	for _, s := range r.GetEdges() {
		if s == nil {
			return fmt.Errorf("%w: an edge that is none", ErrReport)
		}
		if len(s.Caller)+len(s.Callee)+len(s.Backend)+len(s.Version)+len(s.Node)+len(s.Protocol) > maxNameBytes {
			return fmt.Errorf("%w: an edge with long names", ErrReport)
		}
		if len(s.StatusClasses) > 6 || len(s.Failures) > numReasons {
			return fmt.Errorf("%w: %d classes and %d reasons", ErrReport, len(s.StatusClasses), len(s.Failures))
		}
		for _, f := range s.Failures {
			if f == nil || len(f.Reason) > 64 {
				return fmt.Errorf("%w: a reason that is none", ErrReport)
			}
		}
		l := s.GetLatencies()
		if len(l.GetBuckets()) != len(l.GetCounts()) || len(l.GetBuckets()) > numBuckets {
			return fmt.Errorf("%w: %d buckets with %d counts", ErrReport, len(l.GetBuckets()), len(l.GetCounts()))
		}
		for _, b := range l.GetBuckets() {
			if b >= numBuckets {
				return fmt.Errorf("%w: bucket %d", ErrReport, b)
			}
		}
	}
	return nil
}
