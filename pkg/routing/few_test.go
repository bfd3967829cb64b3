package routing

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// manyNodes are two instances on each of so many nodes; on the last ones they are unhealthy.
func manyNodes(nodes, unhealthy int) *snapshot.Endpoints {
	body := &snapshot.Endpoints{Shards: 1}
	for i := range nodes {
		for _, instance := range []string{"a", "b"} {
			body.Endpoints = append(body.Endpoints, &snapshot.Endpoint{
				Node: fmt.Sprint("node-", i), Address: "10.0.0.1:7000", Service: "shop/orders",
				Instance: fmt.Sprint(instance, i), Unhealthy: i >= nodes-unhealthy,
			})
		}
	}
	return body
}

// called are the nodes that a table sends requests to, and how many instances.
func called(t *testing.T, table *Table) (nodes []string, instances int) {
	seen, ids := map[string]bool{}, map[string]bool{}
	call := callOf(random(t))
	var d Decision
	for range 5000 {
		table.Pick(call, get("/"), &d)
		if d.Instance == nil {
			t.Fatalf("%d %s", d.Status, d.Reason)
		}
		seen[d.Instance.Node], ids[d.Instance.ID] = true, true
		d.Done()
	}
	return slices.Sorted(maps.Keys(seen)), len(ids)
}

func TestFewNodesOfACalleeAreCalled(t *testing.T) {
	rule := &snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}}
	for _, tt := range []struct {
		name             string
		nodes, unhealthy int
		want             int
	}{
		{"all of few", maxNodes, 0, maxNodes},
		{"no more of many", 100, 0, maxNodes},
		{"the unhealthy take no place", 100, 60, maxNodes},
		{"all of few that are healthy", 100, 90, 10},
		{"no more where none is healthy", 100, 100, maxNodes},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := tableOf(t, manyNodes(tt.nodes, tt.unhealthy), rule)
			if nodes, instances := called(t, table); len(nodes) != tt.want || instances != 2*tt.want {
				t.Errorf("%d nodes and %d instances are called, want %d and all of theirs", len(nodes), instances, tt.want)
			}
		})
	}
}

func TestOneNodeThatGoesMovesNoOther(t *testing.T) {
	endpoints := manyNodes(100, 0)
	table := tableOf(t, endpoints, &snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}})
	before, _ := called(t, table)
	left := &snapshot.Endpoints{Shards: 1}
	for _, e := range endpoints.Endpoints {
		if e.Node != before[0] {
			left.Endpoints = append(left.Endpoints, e)
		}
	}
	apply(t, table, epSubject("orders", 0), 3, left)
	after, _ := called(t, table)
	fresh := 0
	for _, node := range after {
		if !slices.Contains(before, node) {
			fresh++
		}
	}
	if len(after) != maxNodes || fresh != 1 {
		t.Errorf("after one of %d nodes went, %d are called, %d of them new", len(before), len(after), fresh)
	}
}

// TestCallersShareTheNodes wants many callers to use all nodes of a callee alike.
func TestCallersShareTheNodes(t *testing.T) {
	const callers, nodes = 300, 100
	uses := map[string]int{}
	for i := range callers {
		table := New()
		table.Node = fmt.Sprint("host-", i)
		apply(t, table, epSubject("orders", 0), 1, manyNodes(nodes, 0))
		for _, m := range table.pools[orders].set.Load().rest.healthy {
			uses[m.instance.Node]++
		}
	}
	const mean = callers * maxNodes / nodes * 2 // instances
	for i := range nodes {
		if got := uses[fmt.Sprint("node-", i)]; got < mean/2 || got > 2*mean {
			t.Errorf("node %d is called by %d callers, on average it is %d", i, got/2, mean/2)
		}
	}
}
