package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

const (
	// maxTaps bounds the taps of all operators together; a node takes so many orders.
	maxTaps = telemetry.MaxTaps / 2
	// tapNudge is how often nodes that a tap concerns, and that do not ask by themselves, are nudged.
	tapNudge = time.Second
	// tapQueue is how many lines wait for an operator.
	tapQueue = 1024
	// tapTime is how long a tap lasts at most: one that was left in a terminal ends by itself.
	tapTime = time.Hour
	// maxTapBatches bounds what a node's request may hold.
	maxTapBatches = 2 * maxTaps
)

var errTooManyTaps = fmt.Errorf("%d taps are open, which is as many as there may be: end one of them", maxTaps)

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

// tapped answers a node that asks who taps it (bus.VerbTap).
func (c *Controller) tapped(_ context.Context, node string, request []byte) ([]byte, error) {
	var asked telemetry.TapRequest
	if err := proto.Unmarshal(request, &asked); err != nil || len(asked.GetNonce()) != 16 || len(asked.GetBatches()) > maxTapBatches {
		return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_INVALID, Message: "not a question who taps"}
	}
	runs := func(service exchange.ServiceName) bool { return c.members.allowed(node, service) }
	answer := c.taps.serve(node, &asked, runs, time.Now())
	answer.Cluster = c.cfg.Cluster
	return telemetry.SealTaps(c.authority.Signer(), answer)
}

// concerned lists the nodes that see exchanges which a tap wants: those that run the caller, and call the called
// service.
func (c *Controller) concerned(o *tap) []string {
	if o.node != "" {
		return []string{o.node}
	}
	nodes := []string{}
	if !o.to.IsZero() {
		name := snapshot.Escape(o.to.Namespace) + "." + snapshot.Escape(o.to.Name) + "."
		out, endpoints := snapshot.ConfigPrefix+"out."+name, snapshot.ConfigPrefix+"endpoints."+name
		nodes = c.publisher.Applied().Followers(func(subject string) bool {
			return strings.HasPrefix(subject, out) || strings.HasPrefix(subject, endpoints)
		})
	} else {
		for node := range c.members.list() {
			nodes = append(nodes, node)
		}
	}
	if !o.from.IsZero() {
		nodes = slices.DeleteFunc(nodes, func(node string) bool { return !c.members.allowed(node, o.from) })
	}
	return nodes
}

// tap shows an operator exchanges as they end, until he goes.
func (c *Controller) tap(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	filter, err := telemetry.ParseFilter(q)
	if err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, err)
		return
	}
	one := &tap{
		id: string(randomID()), filter: filter, node: q.Get("node"), lines: make(chan telemetry.TapLine, tapQueue),
		asked: map[string]time.Time{}, dropped: map[string]uint64{},
	}
	one.from, _ = exchange.ParseServiceName(filter.GetFrom()) // zero: none, as the filter was compiled
	one.to, _ = exchange.ParseServiceName(filter.GetTo())
	if _, known := c.members.list()[one.node]; one.node != "" && !known {
		socket.WriteFailure(w, http.StatusNotFound, fmt.Errorf("%q is not a node (`sennit status` lists them)", one.node))
		return
	}
	detail := filter.Values().Encode()
	if one.node != "" {
		detail = strings.TrimPrefix(detail+"&node="+one.node, "&")
	}
	event := &audit.Event{Kind: audit.Reading, Verb: "tap", Resource: "exchanges", Detail: detail}
	if err := c.recorder.act(r, event, func() error { return c.taps.add(one) }); err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, errTooManyTaps) {
			status = http.StatusTooManyRequests
		}
		socket.WriteFailure(w, status, err)
		c.taps.remove(one)
		return
	}
	defer c.taps.remove(one)
	ctx, cancel := context.WithTimeout(r.Context(), tapTime)
	defer cancel()
	c.showTap(ctx, one, socket.Lines(w))
}

// showTap writes lines until ctx ends or line fails.
func (c *Controller) showTap(ctx context.Context, one *tap, line func(v any) error) {
	tick := time.NewTicker(tapNudge)
	defer tick.Stop()
	turn := func() error {
		nudge, changed := one.aim(c.concerned(one), time.Now())
		for _, node := range nudge {
			if err := c.conn.Nudge(node); err != nil {
				c.log.Warn("a node does not hear that it is tapped", "err", err)
			}
		}
		lines := one.missing()
		if changed || len(lines) == 0 { // one each time, to find out who has gone
			alive := telemetry.TapLine{}
			if changed {
				alive.Nodes = one.nodes
			}
			lines = append(lines, alive)
		}
		for _, l := range lines {
			if err := line(l); err != nil {
				return err
			}
		}
		return nil
	}
	err := turn()
	for err == nil {
		select {
		case l := <-one.lines:
			err = line(l)
		case <-tick.C:
			err = turn()
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				_ = line(telemetry.TapLine{Ended: fmt.Sprintf("a tap lasts for %s at most: begin it again", tapTime)}) // the last word
			}
			return
		}
	}
}

func randomID() []byte {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	return id
}
