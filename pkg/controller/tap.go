package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api"
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
	of := one.to
	if of.IsZero() {
		of = one.from
	}
	r, done, ok := c.permit(w, r, ofService("tap", of.Namespace, of.Name))
	if !ok {
		return
	}
	defer done()
	if _, known := c.members.list()[one.node]; one.node != "" && !known {
		socket.WriteFailure(w, http.StatusNotFound, fmt.Errorf("%q is not a node (`sennit status` lists them)", one.node))
		return
	}
	if err := c.recorder.act(r, one.event(), func() error { return c.taps.add(one) }); err != nil {
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

// event is what the audit records of a tap: whose exchanges are looked at, and all that was chosen.
func (o *tap) event() *audit.Event {
	event := &audit.Event{Kind: audit.Reading, Verb: "tap", Detail: o.filter.Values().Encode()}
	service := o.to
	if service.IsZero() {
		service = o.from
	}
	switch {
	case !service.IsZero():
		event.Resource, event.Namespace, event.Name = api.Service.GroupResource().String(), service.Namespace, service.Name
	case o.node != "":
		event.Resource, event.Name = api.Nodes.GroupResource().String(), o.node
	}
	if o.node != "" {
		event.Detail = strings.TrimPrefix(event.GetDetail()+"&node="+o.node, "&")
	}
	return event
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
