package controller

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

func newTap(id string, filter *telemetry.TapFilter, nodes ...string) *tap {
	one := &tap{id: id, filter: filter, lines: make(chan telemetry.TapLine, 2), asked: map[string]time.Time{}, dropped: map[string]uint64{}}
	one.aim(nodes, time.Unix(0, 0))
	return one
}

// A node is told of the taps that concern it, and heard of its own callers and of what was asked for alone.
func TestTapsTakeWhatANodeMayTell(t *testing.T) {
	t.Parallel()
	var open taps
	one := newTap("one", &telemetry.TapFilter{Method: "GET"}, "web1", "web2")
	if err := errors.Join(open.add(one), open.add(newTap("two", &telemetry.TapFilter{}, "web2"))); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(100, 0)
	runs := func(s exchange.ServiceName) bool { return s.Name == "orders" }
	get := func(caller, method string) *telemetry.TappedExchange {
		return &telemetry.TappedExchange{Caller: caller, Method: method, Path: "/"}
	}
	answer := open.serve("web1", &telemetry.TapRequest{Batches: []*telemetry.TapBatch{
		{Tap: []byte("one"), Dropped: 3, Exchanges: []*telemetry.TappedExchange{
			get("default/payments", "GET"), get("default/orders", "PUT"), get("nonsense/x/y", "GET"), get("", "GET"),
			get("default/orders", "GET"), get("default/orders", "GET"), get("default/orders", "GET"),
		}},
		{Tap: []byte("two"), Exchanges: []*telemetry.TappedExchange{get("default/orders", "GET")}, Dropped: 7},
		{Tap: []byte("gone"), Dropped: 7},
	}}, runs, now)
	if len(answer.GetTaps()) != 1 || string(answer.GetTaps()[0].GetId()) != "one" {
		t.Errorf("web1 is told of %v", answer.GetTaps())
	}
	for range 2 {
		if l := <-one.lines; l.Exchange.Caller != "default/orders" || l.Exchange.Method != "GET" || l.Exchange.Node != "web1" {
			t.Errorf("shown: %+v", l.Exchange)
		}
	}
	if lines := one.missing(); len(lines) != 1 || lines[0].Dropped != 4 || lines[0].Node != "web1" { // one found the queue full
		t.Errorf("missing: %v", lines)
	}
	if len(one.missing()) != 0 || len(open.find([]byte("two")).lines) != 0 || len(open.find([]byte("two")).missing()) != 0 {
		t.Error("a node told of a tap that does not concern it")
	}
	if nudge, changed := one.aim([]string{"web2", "web1"}, now.Add(tapNudge)); changed || !slices.Equal(nudge, []string{"web2"}) {
		t.Errorf("nudged: %v (changed: %v), want who does not ask by itself", nudge, changed)
	}
	open.remove(one)
	if answer := open.serve("web1", &telemetry.TapRequest{}, runs, now); len(answer.GetTaps()) != 0 {
		t.Errorf("after the end: %v", answer)
	}
	for range maxTaps - 1 {
		if err := open.add(newTap(string(randomID()), &telemetry.TapFilter{})); err != nil {
			t.Fatal(err)
		}
	}
	if err := open.add(one); !errors.Is(err, errTooManyTaps) {
		t.Errorf("one more: %v", err)
	}
}
