package controller

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/registry"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// A registration counts once, and neither an old one after a restart nor one with a time far ahead, which would
// shut out those that follow it.
func TestReplayedRegistrationsAreRefused(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var sent sentTimes
	for _, tt := range []struct {
		name  string
		node  string
		sent  time.Time
		taken bool
	}{
		{"the first", "web1", now, true},
		{"the same again", "web1", now, false},
		{"an older one", "web1", now.Add(-time.Second), false},
		{"another node's", "web2", now.Add(-time.Minute), true},
		{"one of years ahead", "web1", now.AddDate(5, 0, 0), false},
		{"the one that follows", "web1", now.Add(time.Second), true},
		{"an old one of a node that nobody remembers", "web3", now.Add(-time.Hour), false},
		{"the beginning of time", "web3", time.Unix(0, -1<<63), false},
	} {
		if err := sent.check(tt.node, tt.sent, now); (err == nil) != tt.taken {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if len(sent.last) != 2 {
		t.Errorf("%d entries for two nodes", len(sent.last))
	}
}

// stored are records of instances that nobody changes.
type stored struct {
	registry.Records
	instances []*snapshot.Instance
	end       func()
}

func (s stored) Follow(ctx context.Context, _ uint64, fn func(registry.Entry) error) error {
	for i, in := range s.instances {
		service, err := exchange.ParseServiceName(in.GetService())
		if err != nil {
			return err
		}
		data, err := proto.Marshal(in)
		if err != nil {
			return err
		}
		if err := fn(registry.Entry{Subject: registry.InstanceSubject(in.GetNode(), registry.Key{Service: service, Name: "a"}), Data: data, Sequence: uint64(i + 1)}); err != nil {
			return err
		}
	}
	s.end()
	return ctx.Err()
}

// A node that was removed is called no more, although it says that it is alive; neither is a service that was taken
// away from its node.
func TestInstancesOfRemovedNodesAreNotCalled(t *testing.T) {
	t.Parallel()
	orders, payments := exchange.ServiceName{Namespace: "default", Name: "orders"}, exchange.ServiceName{Namespace: "default", Name: "payments"}
	services := []exchange.ServiceName{orders}
	ctx, cancel := context.WithCancel(t.Context())
	c := &Controller{members: &members{}, catalogue: registry.NewCatalogue(registry.CatalogueConfig{
		Records: stored{end: cancel, instances: []*snapshot.Instance{
			{Service: "default/orders", Node: "web1"}, {Service: "default/payments", Node: "web1"},
			{Service: "default/orders", Node: "web2"}, {Service: "default/orders", Node: "unknown"},
		}},
		Changed: func(uint64) {}, Log: slog.New(slog.DiscardHandler),
	})}
	if err := c.catalogue.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		nodes []ca.Node
		want  string
	}{
		{"all may", []ca.Node{{Name: "web1", Services: []exchange.ServiceName{orders, payments}}, {Name: "web2", Services: services}}, "unknown/default/orders web1/default/orders web1/default/payments web2/default/orders"},
		{"a service was taken away", []ca.Node{{Name: "web1", Services: services}, {Name: "web2", Services: services}}, "unknown/default/orders web1/default/orders web2/default/orders"},
		{"a node was removed", []ca.Node{{Name: "web1", Services: services}, {Name: "web2", State: "removed", Services: services}}, "unknown/default/orders web1/default/orders"},
		{"its name was given to another host", []ca.Node{{Name: "web1", Services: services}, {Name: "web2", State: "active", Services: services}}, "unknown/default/orders web1/default/orders web2/default/orders"},
	} {
		c.members.take(tt.nodes)
		instances, _, _ := c.instances()
		var got []string
		for _, in := range instances {
			got = append(got, in.GetNode()+"/"+in.GetService())
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: called are %s", tt.name, s)
		}
	}
}

// A node says what its own services called, and nothing about the callers of others.
func TestANodeReportsItsOwnCallersOnly(t *testing.T) {
	t.Parallel()
	orders := exchange.ServiceName{Namespace: "default", Name: "orders"}
	report := &telemetry.EdgeReport{Edges: []*telemetry.EdgeSummary{
		{Caller: "default/orders", Callee: "default/payments"},
		{Caller: "default/payments", Callee: "default/orders"},
		{Callee: telemetry.Overflow.Callee.String()},
		{Callee: "default/payments"},
		{Caller: "a/b/c", Callee: "default/payments"},
		nil,
	}}
	ownEdges(report, func(s exchange.ServiceName) bool { return s == orders })
	if len(report.Edges) != 2 || report.Edges[0].Callee != "default/payments" || report.Edges[1].Caller != "" {
		t.Errorf("left are %v", report.Edges)
	}
}
