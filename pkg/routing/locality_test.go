package routing

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// placed are endpoints by their places: "eu/a:3-1" is three instances in zone a of region eu, one of which is
// unhealthy. An instance is called by its place and a number.
func placed(places ...string) *snapshot.Endpoints {
	body := &snapshot.Endpoints{Shards: 1}
	for _, p := range places {
		var count, ill int
		place, counts, _ := strings.Cut(p, ":")
		region, zone, _ := strings.Cut(place, "/")
		if _, err := fmt.Sscanf(counts+"-0", "%d-%d", &count, &ill); err != nil {
			panic(err)
		}
		for i := range count {
			name := fmt.Sprint(place, i)
			body.Endpoints = append(body.Endpoints, &snapshot.Endpoint{
				Node: "node-" + name, Address: "10.0.0.1:7000", Service: "shop/orders", Instance: name, Zone: zone, Region: region, Unhealthy: i < ill,
			})
		}
	}
	return body
}

// nodeAt is the table of a node in a place, with orders preferred by closeness.
func nodeAt(t testing.TB, place string, prefer snapshot.Locality, balance snapshot.Balance, endpoints *snapshot.Endpoints) *Table {
	table := New()
	table.Node = "caller"
	table.Region, table.Zone, _ = strings.Cut(place, "/")
	b := to("orders", 1)
	b.Balance, b.Locality = balance, prefer
	apply(t, table, epSubject("orders", 0), 1, endpoints)
	apply(t, table, outSubject("orders"), 1, outboundOf(&snapshot.Rule{Backends: []*snapshot.Backend{b}}))
	return table
}

const (
	anywhere = snapshot.Locality_LOCALITY_NONE
	byZone   = snapshot.Locality_LOCALITY_ZONE
	byRegion = snapshot.Locality_LOCALITY_REGION
)

// TestCloseInstancesAreAskedFirst compares the share of each place with what the tiers are defined to have.
func TestCloseInstancesAreAskedFirst(t *testing.T) {
	for _, tt := range []struct {
		name   string
		at     string
		prefer snapshot.Locality
		of     []string
		want   map[string]float64 // by place
	}{
		{"without preference", "eu/a", anywhere, []string{"eu/a:2", "eu/b:2", "us/c:4"}, map[string]float64{"eu/a": .25, "eu/b": .25, "us/c": .5}},
		{"the zone", "eu/a", byZone, []string{"eu/a:2", "eu/b:2", "us/c:4"}, map[string]float64{"eu/a": 1}},
		{"the region", "eu/a", byRegion, []string{"eu/a:1", "eu/b:3", "us/c:4"}, map[string]float64{"eu/a": .25, "eu/b": .75}},
		{"a few that are ill", "eu/a", byZone, []string{"eu/a:4-1", "eu/b:2", "us/c:4"}, map[string]float64{"eu/a": 1}},
		{"too many that are ill", "eu/a", byZone, []string{"eu/a:4-2", "eu/b:2", "us/c:4"}, map[string]float64{"eu/a": .7, "eu/b": .3}},
		{"in the region too", "eu/a", byZone, []string{"eu/a:4-3", "eu/b:4-3", "us/c:4"}, map[string]float64{"eu/a": .35, "eu/b": .35, "us/c": .3}},
		{"everywhere", "eu/a", byZone, []string{"eu/a:4-3", "eu/b:8-7", "us/c:8-7"}, map[string]float64{"eu/a": .5, "eu/b": .25, "us/c": .25}},
		{"all of the zone are ill", "eu/a", byZone, []string{"eu/a:2-2", "eu/b:2", "us/c:4"}, map[string]float64{"eu/b": 1}},
		{"all of the region are ill", "eu/a", byZone, []string{"eu/a:2-2", "eu/b:2-2", "us/c:4"}, map[string]float64{"us/c": 1}},
		{"all are ill", "eu/a", byZone, []string{"eu/a:2-2", "eu/b:2-2", "us/c:4-4"}, map[string]float64{"eu/a": 1}},
		{"none in the zone", "eu/z", byZone, []string{"eu/a:1", "eu/b:1", "us/c:4"}, map[string]float64{"eu/a": .5, "eu/b": .5}},
		{"none in the region", "ap/z", byZone, []string{"eu/a:1", "us/c:1"}, map[string]float64{"eu/a": .5, "us/c": .5}},
		{"a zone of the name in another region", "eu/a", byZone, []string{"us/a:2", "eu/b:2"}, map[string]float64{"eu/b": 1}},
		{"zones without regions", "/a", byZone, []string{"/a:1", "/b:1"}, map[string]float64{"/a": 1}},
		{"a node that says nothing", "/", byZone, []string{"/a:1", "eu/b:1", "/:2"}, map[string]float64{"/a": .25, "eu/b": .25, "/": .5}},
		{"instances that say nothing", "eu/a", byZone, []string{"/:2", "eu/b:1"}, map[string]float64{"eu/b": 1}},
	} {
		for _, balance := range drawing {
			table := nodeAt(t, tt.at, tt.prefer, balance, placed(tt.of...))
			const n = 20_000
			counts, expected := map[string]int{}, map[string]float64{}
			for id, c := range picked(table, callOf(rand.NewPCG(20261125, 9)), n) {
				counts[strings.TrimRight(id, "0123456789")] += c
			}
			for place, share := range tt.want {
				expected[place] = share * n
			}
			if x := chiSquare(counts, expected); x > 13.8 || len(counts) != len(expected) { // p = 0.001 at 2 degrees
				t.Errorf("%s, %v: chi-square %.1f: %v, want %v", tt.name, balance, x, counts, expected)
			}
		}
	}
}

// TestCloseInstancesShareAlike wants those of a tier to have the shares that the algorithm gives.
func TestCloseInstancesShareAlike(t *testing.T) {
	for _, balance := range drawing {
		table := nodeAt(t, "eu/a", byZone, balance, placed("eu/a:4-2", "eu/b:3", "us/c:2"))
		counts := picked(table, callOf(rand.NewPCG(20261125, 10)), 30_000)
		expected := map[string]float64{"eu/a2": 10_500, "eu/a3": 10_500, "eu/b0": 3000, "eu/b1": 3000, "eu/b2": 3000}
		if x := chiSquare(counts, expected); x > 18.5 || len(counts) != 5 { // p = 0.001 at 4 degrees
			t.Errorf("%v: chi-square %.1f of %v", balance, x, counts)
		}
	}
}

// TestUnreachableIsFartherAway wants what this node cannot reach, and has tried, to be left for the next closest.
func TestUnreachableIsFartherAway(t *testing.T) {
	table := nodeAt(t, "eu/a", byZone, snapshot.Balance_BALANCE_LEAST_REQUEST, placed("eu/a:2", "eu/b:1", "us/c:1"))
	all := table.pools[orders].set.Load().instances
	call := callOf(random(t))
	for i, want := range []string{"eu/a1", "eu/b0", "us/c0"} {
		table.MarkUnreachable(all[i], start)
		if got := picked(table, call, 200); got[want] != 200 {
			t.Errorf("with %d unreachable: %v", i+1, got)
		}
	}
	table.MarkUnreachable(all[3], start)
	if got := picked(table, call, 200); got["eu/a0"]+got["eu/a1"] != 200 {
		t.Errorf("with all unreachable: %v", got)
	}
	for _, i := range all {
		table.MarkReachable(i)
	}
	var d Decision
	table.Pick(call, get("/"), &d)
	way := d.Instance.Node
	for table.PickAgain(call, &d) {
		way += " " + d.Instance.Node
	}
	if want := "node-eu/b0 node-us/c0"; !strings.HasSuffix(way, want) {
		t.Errorf("tried %s, want %s last", way, want)
	}
}

// TestFewAreCalledOfEachTier wants a large service to have few nodes called, and a close one not to be left out.
func TestFewAreCalledOfEachTier(t *testing.T) {
	table := nodeAt(t, "eu/a", byZone, snapshot.Balance_BALANCE_RANDOM, placed("us/c:400", "eu/b:300", "eu/a:60"))
	nodes := map[string]bool{}
	for id := range picked(table, callOf(random(t)), 5000) {
		if !strings.HasPrefix(id, "eu/a") {
			t.Fatalf("%s is called", id)
		}
		nodes[id] = true
	}
	if len(nodes) != maxNodes {
		t.Errorf("%d nodes are called", len(nodes))
	}
}

// TestLocalityComesWithThePolicy wants a policy to find the instances that are there, and those that come.
func TestLocalityComesWithThePolicy(t *testing.T) {
	table := nodeAt(t, "eu/a", anywhere, snapshot.Balance_BALANCE_RANDOM, placed("eu/a:1", "eu/b:1"))
	b := to("orders", 1)
	b.Locality = byZone
	apply(t, table, outSubject("orders"), 2, outboundOf(&snapshot.Rule{Backends: []*snapshot.Backend{b}}))
	if got := picked(table, callOf(random(t)), 100); got["eu/a0"] != 100 {
		t.Errorf("after the policy: %v", got)
	}
	apply(t, table, epSubject("orders", 0), 2, placed("eu/b:1", "us/c:3"))
	if got := picked(table, callOf(random(t)), 100); got["eu/b0"] != 100 {
		t.Errorf("after the instances changed: %v", got)
	}
	apply(t, table, epSubject("orders", 0), 3, placed())
	var d Decision
	if table.Pick(callOf(random(t)), get("/"), &d); d.Status != 503 {
		t.Errorf("without instances: %d", d.Status)
	}
	b.Locality = 77 // of a later version
	apply(t, table, outSubject("orders"), 3, outboundOf(&snapshot.Rule{Backends: []*snapshot.Backend{b}}))
	apply(t, table, epSubject("orders", 0), 4, placed("us/c:1"))
	if got := picked(table, callOf(random(t)), 10); got["us/c0"] != 10 {
		t.Errorf("with what is not known: %v", got)
	}
}

func TestNearPicksAllocateNothing(t *testing.T) {
	table := nodeAt(t, "eu/a", byZone, snapshot.Balance_BALANCE_LEAST_REQUEST, placed("eu/a:4-3", "eu/b:4-3", "us/c:4"))
	call, req := callOf(rand.NewPCG(1, 2)), get("/")
	var d Decision
	if n := testing.AllocsPerRun(100, func() { table.Pick(call, req, &d); table.PickAgain(call, &d); d.Done() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPickNear(b *testing.B) {
	table := nodeAt(b, "eu/a", byZone, snapshot.Balance_BALANCE_LEAST_REQUEST, placed("eu/a:40-30", "eu/b:40-30", "us/c:40"))
	call, req := callOf(rand.NewPCG(1, 2)), get("/")
	var d Decision
	b.ReportAllocs()
	for b.Loop() {
		table.Pick(call, req, &d)
		d.Done()
	}
}
