package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/bus"
)

const (
	// A refusal of a node is recorded in the audit at once, and those of the same kind behind it together: after a minute,
	// then two, up to an hour. So a hostile node writes some ten records of each kind in its first day, whatever it does.
	firstRefusalPause   = time.Minute
	longestRefusalPause = time.Hour

	// maxRefused bounds nodes and kinds that are told apart. Names are of the registry or of join tokens.
	maxRefused = 8192
)

// refusals count what nodes are refused, by the bus and by this controller, and say it to the audit. It is safe for
// concurrent use.
type refusals struct {
	mu     sync.Mutex
	counts map[refusedKind]*refusedCount
}

// A refusedKind is what a node was refused: by the bus ("publish", "subscribe", "payload", "connect"), or of its requests
// ("flood", "too-many", "denied", "invalid", or the verb of a signed refusal: "join", "renew", "workload").
type refusedKind struct{ node, kind string }

type refusedCount struct {
	total   uint64
	pending uint64 // not in the audit yet
	detail  string // of the first of these
	due     time.Time
	pause   time.Duration
}

// add counts refusals, for the audit to be told with the next second.
func (r *refusals) add(node, kind, detail string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take(node, kind, detail, n)
}

// now counts one, and returns what is to be recorded at once; nil where nothing is.
func (r *refusals) now(node, kind, detail string, now time.Time) *audit.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	of, c := r.take(node, kind, detail, 1)
	return c.event(of, now)
}

func (r *refusals) take(node, kind, detail string, n int) (refusedKind, *refusedCount) {
	of := refusedKind{node, kind}
	if r.counts[of] == nil && len(r.counts) >= maxRefused {
		of.node = ""
	}
	c := r.counts[of]
	if c == nil {
		if r.counts == nil {
			r.counts = map[refusedKind]*refusedCount{}
		}
		c = &refusedCount{}
		r.counts[of] = c
	}
	if c.pending == 0 {
		c.detail = detail
	}
	c.total += uint64(n)
	c.pending += uint64(n)
	return of, c
}

// event is what is to be recorded now.
func (c *refusedCount) event(of refusedKind, now time.Time) *audit.Event {
	if c.pending == 0 || now.Before(c.due) {
		return nil
	}
	c.pause = min(2*c.pause, longestRefusalPause)
	if c.pause == 0 || now.Sub(c.due) > longestRefusalPause { // the first, or the first for long
		c.pause = firstRefusalPause
	}
	c.due = now.Add(c.pause)
	event := &audit.Event{
		Kind: audit.Refusal, Actor: cmp.Or(of.node, "unknown"), From: "the bus", Verb: of.kind, Resource: api.Nodes.GroupResource().String(), Name: of.node, Detail: c.detail,
		Unrecorded: c.pending - 1,
	}
	c.pending = 0
	return event
}

// overdue are the events of what came since, and whose pauses are over.
func (r *refusals) overdue(now time.Time) (events []*audit.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for of, c := range r.counts {
		if event := c.event(of, now); event != nil {
			events = append(events, event)
		}
	}
	return events
}

// each calls fn for each count. It must not call r.
func (r *refusals) each(fn func(node, kind string, total uint64)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for of, c := range r.counts {
		fn(of.node, of.kind, c.total)
	}
}

// refusedByBus takes in what the bus's server refused (bus.ServerConfig.Refused). What is due goes to the audit with the
// next second (recordRefusals), since the server must not wait for the disk.
func (c *Controller) refusedByBus(r bus.Refusal) { c.refusals.add(r.Node, r.Kind, r.Detail, r.Count) }

// refusedRequest takes in that a request was refused (bus.RequestsConfig.Refused).
func (c *Controller) refusedRequest(node, verb, why string) { c.refusals.add(node, why, verb, 1) }

// recordRefusals says to the audit what nodes were refused, until ctx ends.
func (c *Controller) recordRefusals(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			for _, event := range c.refusals.overdue(now) {
				writing, cancel := context.WithTimeout(ctx, recordTimeout)
				_, err := c.recorder.writer.Record(writing, event)
				cancel()
				if err != nil && ctx.Err() == nil && !errors.Is(err, audit.ErrStopped) {
					c.log.Error("what a node was refused cannot be recorded", "node", event.GetActor(), "err", fmt.Errorf("%s %s: %w", event.GetVerb(), event.GetDetail(), err))
				}
			}
		}
	}
}
