package routing

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

var (
	web    = exchange.ServiceName{Namespace: "shop", Name: "web"}
	orders = exchange.ServiceName{Namespace: "shop", Name: "orders"}
	start  = time.Unix(1_000_000, 0)
)

// random returns a source whose seed a failing test prints.
func random(t testing.TB) rand.Source {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.NewPCG(seed, 0)
}

// apply feeds a table and returns the subjects that came into effect.
func apply(t testing.TB, table *Table, subject string, revision uint64, body proto.Message) []string {
	t.Helper()
	applied, err := table.Apply(subject, snapshot.Version{Revision: revision}, body)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, a := range applied {
		all = append(all, fmt.Sprintf("%s@%d", a.Subject, a.Version.Revision))
	}
	return all
}

func want(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func to(service string, weight uint32) *snapshot.Backend {
	return &snapshot.Backend{Namespace: "shop", Service: service, Port: 80, Weight: weight, Shards: 1}
}

// outbound has rules at port 80.
func outboundOf(rules ...*snapshot.Rule) *snapshot.Outbound {
	return &snapshot.Outbound{Ports: []*snapshot.OutboundPort{{Number: 80, Protocol: snapshot.Protocol_PROTOCOL_HTTP, Rules: rules}}}
}

// instances are endpoints of shop/orders; a name that begins with "-" is unhealthy.
func instances(names ...string) *snapshot.Endpoints {
	body := &snapshot.Endpoints{Shards: 1}
	for _, name := range names {
		body.Endpoints = append(body.Endpoints, &snapshot.Endpoint{
			Node: "node-" + name, Address: "10.0.0.1:7000", Service: "shop/orders", Instance: name, Unhealthy: name[0] == '-', Labels: map[string]string{"version": "v1"},
		})
	}
	return body
}

func outSubject(service string) string { return snapshot.OutSubject("shop", service, "") }
func epSubject(service string, n uint32) string {
	return snapshot.EndpointsSubject("shop", service, n)
}

// tableOf has shop/orders with rules, and instances behind the backend orders.
func tableOf(t testing.TB, endpoints *snapshot.Endpoints, rules ...*snapshot.Rule) *Table {
	table := New()
	apply(t, table, epSubject("orders", 0), 1, endpoints)
	if got := apply(t, table, outSubject("orders"), 2, outboundOf(rules...)); len(got) != 1 {
		t.Fatalf("the rules are not in effect: %v", table.Needs())
	}
	return table
}

func callOf(source rand.Source) *Call {
	return &Call{Caller: web, Callee: orders, Port: 80, Now: start, Random: source}
}

func get(path string, fields ...exchange.Field) *exchange.Request {
	return &exchange.Request{Method: "GET", Scheme: "http", Authority: "orders", Path: path, Fields: fields}
}

func TestNoRouteArrivesBeforeItsEndpoints(t *testing.T) {
	table := tableOf(t, instances("a"), &snapshot.Rule{Origin: "old", Backends: []*snapshot.Backend{to("orders", 1)}})
	next := to("orders-v2", 1)
	next.Shards = 2
	want(t, "route without endpoints", apply(t, table, outSubject("orders"), 3, outboundOf(&snapshot.Rule{Origin: "new", Backends: []*snapshot.Backend{to("orders", 1), next}})), nil)
	want(t, "needs", table.Needs(), []string{epSubject("orders-v2", 0), epSubject("orders-v2", 1), epSubject("orders", 0)})

	rule := func() string {
		var d Decision
		table.Pick(callOf(rand.NewPCG(1, 1)), get("/"), &d)
		defer d.Done()
		return d.Rule
	}
	first, second := instances("b"), instances("c")
	first.Shards, second.Shards = 2, 2
	want(t, "the first of two shards", apply(t, table, epSubject("orders-v2", 0), 4, first), nil)
	if got := rule(); got != "old" {
		t.Fatalf("rule %q is in effect before its endpoints", got)
	}
	want(t, "the second", apply(t, table, epSubject("orders-v2", 1), 5, second), []string{epSubject("orders-v2", 0) + "@4", epSubject("orders-v2", 1) + "@5", outSubject("orders") + "@3"})
	if got := rule(); got != "new" {
		t.Fatalf("rule %q is in effect, want new", got)
	}
}

func TestOlderVersionsAreNotApplied(t *testing.T) {
	table := tableOf(t, instances("a"), &snapshot.Rule{Origin: "two", Backends: []*snapshot.Backend{to("orders", 1)}})
	older := outboundOf(&snapshot.Rule{Origin: "one", Backends: []*snapshot.Backend{to("orders", 1)}})
	want(t, "older rules", apply(t, table, outSubject("orders"), 1, older), nil)
	want(t, "the same version", apply(t, table, outSubject("orders"), 2, older), nil)
	want(t, "older endpoints", apply(t, table, epSubject("orders", 0), 1, instances("b")), nil)
	want(t, "absent", apply(t, table, outSubject("orders"), 0, nil), nil)
	var d Decision
	table.Pick(callOf(random(t)), get("/"), &d)
	if d.Rule != "two" || d.Instance.ID != "a" {
		t.Errorf("rule %q, instance %q", d.Rule, d.Instance.ID)
	}
	if applied, err := table.Apply(outSubject("orders"), snapshot.Version{Epoch: 1, Revision: 1}, older); err != nil || len(applied) != 1 {
		t.Errorf("a newer epoch is not applied: %v, %v", applied, err)
	}
}

func TestGoneCountsAsHeld(t *testing.T) {
	table := New()
	apply(t, table, outSubject("orders"), 1, outboundOf(&snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}}))
	want(t, "gone endpoints", apply(t, table, epSubject("orders", 0), 2, nil), []string{epSubject("orders", 0) + "@2", outSubject("orders") + "@1"})
	var d Decision
	table.Pick(callOf(random(t)), get("/"), &d)
	if d.Status != 503 || d.Reason != exchange.NoInstance {
		t.Errorf("answered %d %s", d.Status, d.Reason)
	}
	want(t, "gone service", apply(t, table, outSubject("orders"), 3, nil), []string{outSubject("orders") + "@3"})
	table.Pick(callOf(random(t)), get("/"), &d)
	if d.Status != 503 || d.Reason != exchange.NoService {
		t.Errorf("answered %d %s", d.Status, d.Reason)
	}
}

func TestServiceNeverSeemsSmallerWhileItIsShardedAnew(t *testing.T) {
	table := tableOf(t, instances("a", "b"), &snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}})
	count := func() int { return len(table.pools[orders].set.Load().instances) }
	half, other := instances("a"), instances("b")
	half.Shards, other.Shards = 2, 2
	apply(t, table, epSubject("orders", 0), 3, half)
	if count() != 2 {
		t.Fatal("half of the instances are missing while the second shard is on its way")
	}
	want(t, "needs", table.Needs(), []string{epSubject("orders", 0), epSubject("orders", 1)})
	apply(t, table, epSubject("orders", 1), 4, other)
	apply(t, table, epSubject("orders", 1), 6, nil)
	if count() != 2 {
		t.Fatal("half of the instances are missing after the second shard went")
	}
	apply(t, table, epSubject("orders", 0), 7, instances("a", "b"))
	if count() != 2 {
		t.Fatal("instances are missing")
	}

	// From four shards to two: the second is still the one of before, with a quarter.
	shards := func(count uint32, number uint32, revision uint64, names ...string) []string {
		body := instances(names...)
		body.Shards = count
		return apply(t, table, epSubject("orders", number), revision, body)
	}
	for i, name := range []string{"a", "b", "c", "d"} {
		shards(4, uint32(i), uint64(10+i), name)
	}
	if want(t, "first of two", shards(2, 0, 20, "a", "c"), nil); count() != 4 {
		t.Fatalf("%d of 4 instances are left between two sets", count())
	}
	if shards(2, 1, 21, "b", "d"); count() != 4 {
		t.Fatalf("%d of 4 instances are left", count())
	}
}

func TestConsumerRules(t *testing.T) {
	table := tableOf(t, instances("a"), &snapshot.Rule{Origin: "everyone", Backends: []*snapshot.Backend{to("orders", 1)}})
	call := callOf(random(t))
	rule := func() string {
		var d Decision
		table.Pick(call, get("/"), &d)
		d.Done()
		return d.Rule + string(d.Reason)
	}
	if got := rule(); got != "everyone" || !table.Ready("shop", orders) {
		t.Errorf("a caller of the service's own namespace gets %q", got)
	}
	call.Caller.Namespace = "desk"
	if got := rule(); got != "no-service" || table.Ready("desk", orders) {
		t.Errorf("before it is known whether desk has rules of its own it gets %q", got)
	}
	own := snapshot.OutSubject("shop", "orders", "desk")
	apply(t, table, own, 0, nil)
	if got := rule(); got != "everyone" {
		t.Errorf("desk has no rules and gets %q", got)
	}
	apply(t, table, own, 7, outboundOf(&snapshot.Rule{Origin: "desk", Backends: []*snapshot.Backend{to("orders", 1)}}))
	if got := rule(); got != "desk" {
		t.Errorf("desk has rules and gets %q", got)
	}
	apply(t, table, own, 8, nil)
	if got := rule(); got != "everyone" {
		t.Errorf("desk's rules are gone and it gets %q", got)
	}
}

func TestBodiesThatCannotBeUsedChangeNothing(t *testing.T) {
	good := &snapshot.Rule{Origin: "good", Backends: []*snapshot.Backend{to("orders", 1)}}
	table := tableOf(t, instances("a"), good)
	bad := instances("b")
	bad.Endpoints[0].Address = "nowhere"
	for _, tt := range []struct {
		subject string
		body    proto.Message
	}{
		{outSubject("orders"), outboundOf(&snapshot.Rule{Match: &snapshot.Match{Path: &snapshot.StringMatch{Kind: snapshot.StringMatch_REGEX, Value: "("}}})},
		{outSubject("orders"), outboundOf(&snapshot.Rule{Match: &snapshot.Match{Path: &snapshot.StringMatch{Kind: 9}}})},
		{outSubject("orders"), instances("a")},
		{epSubject("orders", 0), bad},
		{epSubject("orders", 0), &snapshot.Endpoints{Shards: 1 << 30}},
		{"sennit.config.node.a", &snapshot.NodeConfig{}},
		{"nonsense", nil},
	} {
		if _, err := table.Apply(tt.subject, snapshot.Version{Revision: 9}, tt.body); err == nil {
			t.Errorf("%s %v: no error", tt.subject, tt.body)
		}
	}
	var d Decision
	table.Pick(callOf(random(t)), get("/"), &d)
	if d.Rule != "good" || d.Instance == nil || d.Instance.ID != "a" {
		t.Errorf("after bad bodies: %+v", d)
	}
}

func TestDropForgets(t *testing.T) {
	table := tableOf(t, instances("a"), &snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}})
	table.Drop(outSubject("orders"))
	table.Drop(epSubject("orders", 0))
	if table.Ready("shop", orders) || len(table.Needs()) != 0 || len(table.pools)+len(table.outbounds)+len(table.loads)+len(*table.services.Load()) != 0 {
		t.Errorf("something is left: %+v", table)
	}
}

// Readers pick while the writer swaps rules and endpoints. Every decision must be of one generation: the
// rule's number, its backend's, and an instance of that backend.
func TestSwapsUnderConcurrentReaders(t *testing.T) {
	table := New()
	generation := func(i int) {
		service := fmt.Sprintf("orders-%d", i%5)
		apply(t, table, outSubject("orders"), uint64(2*i+2), outboundOf(
			&snapshot.Rule{Origin: service, Match: &snapshot.Match{Path: &snapshot.StringMatch{Kind: snapshot.StringMatch_PREFIX, Value: "/a"}}, Backends: []*snapshot.Backend{to(service, 1)}}))
		body := instances(service+".a", service+".b")
		apply(t, table, epSubject(service, 0), uint64(2*i+1), body)
	}
	generation(0)
	var readers sync.WaitGroup
	var stop atomic.Bool
	var picked atomic.Int64
	for range 4 {
		readers.Go(func() {
			call := callOf(rand.NewPCG(rand.Uint64(), 0))
			var d Decision
			for !stop.Load() {
				table.Pick(call, get("/a/b"), &d)
				if d.Instance == nil || d.Rule != d.Service.Name || d.Instance.ID[:len(d.Rule)] != d.Rule {
					t.Errorf("a request was lost or mixed: %+v", d)
					return
				}
				table.MarkUnreachable(d.Instance, start)
				table.PickAgain(call, &d)
				d.Done()
				picked.Add(1)
			}
		})
	}
	for i := 1; i < 400 || picked.Load() < 1000 && !t.Failed(); i++ {
		generation(i)
	}
	stop.Store(true)
	readers.Wait()
	for key, l := range table.loads {
		if n := l.inFlight.Load(); n != 0 {
			t.Errorf("%v has %d exchanges in flight after all ended", key, n)
		}
	}
}

func TestARuleNamesItsLimits(t *testing.T) {
	table := New()
	rule := &snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}, Limits: []uint32{1}}
	body := outboundOf(rule)
	body.Limits = []*snapshot.Limit{{Id: "shop/q/other"}, {Id: "shop/q/all"}}
	apply(t, table, snapshot.OutSubject("shop", "orders", ""), 1, body)
	apply(t, table, snapshot.EndpointsSubject("shop", "orders", 0), 1, &snapshot.Endpoints{Shards: 1, Endpoints: []*snapshot.Endpoint{
		{Node: "a", Address: "192.0.2.1:7443", Service: "shop/orders", Instance: "1"},
	}})
	var d Decision
	table.Pick(&Call{Caller: web, Callee: orders, Port: 80, Now: start, Random: random(t)}, &exchange.Request{Path: "/"}, &d)
	if len(d.Limits) != 1 || d.Limits[0].GetId() != "shop/q/all" || d.Instance == nil {
		t.Fatalf("limits %v of instance %v", d.Limits, d.Instance)
	}
	instance := d.Instance
	d.Refuse(429, exchange.QuotaExceeded, "")
	if d.Instance != nil || d.Status != 429 || instance.load.inFlight.Load() != 0 {
		t.Errorf("a refused request is still one of %v", d.Instance)
	}
	rule.Limits = []uint32{2} // one that is not there must not let everything pass
	if _, err := table.Apply(snapshot.OutSubject("shop", "orders", ""), snapshot.Version{Revision: 2}, body); err == nil {
		t.Error("a limit that is not there was taken")
	}
}
