package controller

import (
	"slices"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// taps are those of operators that are open. It is safe for concurrent use.
type taps struct {
	mu   sync.Mutex
	open map[string]*tap // by id
}

// A tap shows an operator exchanges as nodes see them end.
type tap struct {
	id       string
	filter   *telemetry.TapFilter
	from, to exchange.ServiceName   // of the filter
	node     string                 // the only one; "": all that it concerns
	lines    chan telemetry.TapLine // full: what comes is counted

	mu      sync.Mutex
	nodes   []string             // that it concerns, sorted
	asked   map[string]time.Time // when a node asked last
	dropped map[string]uint64    // by node, since told last
}

func (t *taps) add(one *tap) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) >= maxTaps {
		return errTooManyTaps
	}
	if t.open == nil {
		t.open = map[string]*tap{}
	}
	t.open[one.id] = one
	return nil
}

func (t *taps) remove(one *tap) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, one.id)
}

func (t *taps) list() []*tap {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*tap, 0, len(t.open))
	for _, one := range t.open {
		list = append(list, one)
	}
	return list
}

func (t *taps) find(id []byte) *tap {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[string(id)]
}

// serve answers a node that asks who taps it, and takes what it has seen. runs tells which callers the node may speak
// of: those that run there.
func (t *taps) serve(node string, request *telemetry.TapRequest, runs func(exchange.ServiceName) bool, now time.Time) *telemetry.TapAnswer {
	answer := &telemetry.TapAnswer{Node: node, Nonce: request.GetNonce()}
	for _, batch := range request.GetBatches() {
		if one := t.find(batch.GetTap()); one != nil && one.concerns(node) {
			one.take(node, batch, runs)
		}
	}
	for _, one := range t.list() {
		if one.ask(node, now) {
			answer.Taps = append(answer.Taps, &telemetry.TapOrder{Id: []byte(one.id), Filter: one.filter})
		}
	}
	return answer
}

func (o *tap) concerns(node string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, found := slices.BinarySearch(o.nodes, node)
	return found
}

// ask notes that a node asked, and reports whether the tap concerns it.
func (o *tap) ask(node string, now time.Time) bool {
	if !o.concerns(node) {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked[node] = now
	return true
}

// take hands a node's batch on.
func (o *tap) take(node string, batch *telemetry.TapBatch, runs func(exchange.ServiceName) bool) {
	dropped := batch.GetDropped()
	for _, e := range o.filter.Chosen(batch.GetExchanges()) {
		if caller, err := exchange.ParseServiceName(e.GetCaller()); err != nil || !runs(caller) {
			continue // it would tell lies about others
		}
		select {
		case o.lines <- telemetry.TapLine{Exchange: e.Shown(node)}:
		default:
			dropped++
		}
	}
	if dropped > 0 {
		o.mu.Lock()
		o.dropped[node] += dropped
		o.mu.Unlock()
	}
}

// aim sets which nodes the tap concerns, and returns those that must be nudged; changed says that they are others than
// before.
func (o *tap) aim(nodes []string, now time.Time) (nudge []string, changed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	slices.Sort(nodes)
	changed = o.nodes == nil || !slices.Equal(nodes, o.nodes)
	o.nodes = append([]string{}, nodes...)
	for _, node := range nodes {
		if now.Sub(o.asked[node]) > 3*tapNudge {
			nudge = append(nudge, node)
		}
	}
	return nudge, changed
}

// missing returns what was dropped since it was called before.
func (o *tap) missing() []telemetry.TapLine {
	o.mu.Lock()
	defer o.mu.Unlock()
	var lines []telemetry.TapLine
	for node, dropped := range o.dropped {
		lines = append(lines, telemetry.TapLine{Node: node, Dropped: dropped})
	}
	clear(o.dropped)
	return lines
}
