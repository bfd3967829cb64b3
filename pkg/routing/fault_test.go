package routing

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// spoiledTable has one rule for shop/orders with these faults, and instances a and b.
func spoiledTable(t testing.TB, faults ...*snapshot.Fault) *Table {
	t.Helper()
	table := New()
	apply(t, table, epSubject("orders", 0), 1, instances("a", "b"))
	rule := &snapshot.Rule{Origin: "r", Backends: []*snapshot.Backend{to("orders", 1)}}
	for i, f := range faults {
		f.Id = fmt.Sprint("shop/p/", i)
		rule.Faults = append(rule.Faults, uint32(i))
	}
	body := outboundOf(rule)
	body.Faults = faults
	apply(t, table, outSubject("orders"), 1, body)
	return table
}

// hits counts how many of n requests each fault hits, and all faults together.
func hits(table *Table, call *Call, req *exchange.Request, n int) (each map[string]int, any int) {
	each = map[string]int{}
	var d Decision
	for range n {
		table.Pick(call, req, &d)
		for _, f := range d.Faults {
			each[f.ID]++
		}
		if len(d.Faults) > 0 {
			any++
		}
		d.Done()
	}
	return each, any
}

// TestShareOfFaults wants what is hit to be within five standard deviations of the binomial distribution, for shares
// down to those of one in a hundred thousand, and faults to be drawn for on their own.
func TestShareOfFaults(t *testing.T) {
	const n = 400_000
	within := func(what string, got int, p float64) {
		t.Helper()
		if mean, sigma := n*p, math.Sqrt(n*p*(1-p)); math.Abs(float64(got)-mean) > 5*sigma {
			t.Errorf("%s: %d of %d are hit, want %.0f±%.0f", what, got, n, mean, 5*sigma)
		}
	}
	shares := []uint32{1, 10, 125_000, 500_000, 999_999, 1_000_000}
	var faults []*snapshot.Fault
	for _, share := range shares {
		faults = append(faults, &snapshot.Fault{Share: share, DelayMs: 1})
	}
	each, _ := hits(spoiledTable(t, faults...), callOf(rand.NewPCG(11, 7)), get("/"), n)
	for i, share := range shares {
		within(fmt.Sprint(share, " millionths"), each[fmt.Sprint("shop/p/", i)], float64(share)/1e6)
	}
	_, any := hits(spoiledTable(t, &snapshot.Fault{Share: 300_000}, &snapshot.Fault{Share: 200_000}), callOf(rand.NewPCG(12, 7)), get("/"), n)
	within("one of two", any, 1-0.7*0.8)
}

func TestFaultsMatch(t *testing.T) {
	ops := exchange.ServiceName{Namespace: "ops", Name: "probe"}
	header := func(value string) *snapshot.Match {
		return &snapshot.Match{Headers: []*snapshot.FieldMatch{{Name: "x-test", Value: exact(value)}}}
	}
	test := exchange.Field{Name: "X-Test", Value: "1"}
	for _, tt := range []struct {
		name   string
		fault  *snapshot.Fault
		caller exchange.ServiceName
		req    *exchange.Request
		want   bool
	}{
		{"everything", &snapshot.Fault{}, web, get("/"), true},
		{"the caller", &snapshot.Fault{Callers: []string{"ops/probe", "shop/web"}}, web, get("/"), true},
		{"another caller", &snapshot.Fault{Callers: []string{"ops/probe"}}, web, get("/"), false},
		{"the same name elsewhere", &snapshot.Fault{Callers: []string{"shop/probe"}}, ops, get("/"), false},
		{"a header", &snapshot.Fault{Matches: []*snapshot.Match{header("1")}}, web, get("/", test), true},
		{"without the header", &snapshot.Fault{Matches: []*snapshot.Match{header("1")}}, web, get("/"), false},
		{"one of several", &snapshot.Fault{Matches: []*snapshot.Match{header("2"), {Path: prefix("/a")}, header("1")}}, web, get("/", test), true},
		{"none of several", &snapshot.Fault{Matches: []*snapshot.Match{header("2"), {Path: prefix("/a")}}}, web, get("/ab", test), false},
		{"a method", &snapshot.Fault{Matches: []*snapshot.Match{{Method: "POST"}}}, web, get("/"), false},
		{"a path, however it is written", &snapshot.Fault{Matches: []*snapshot.Match{{Path: prefix("/api")}}}, web, get("/%61pi/x"), true},
		{"a path of which servers disagree", &snapshot.Fault{Matches: []*snapshot.Match{{Path: prefix("/api")}}}, web, get("/api%2fx"), false},
		{"a match of everything", &snapshot.Fault{Matches: []*snapshot.Match{{Path: prefix("/a")}, {}}}, web, get("/"), true},
		{"caller and match", &snapshot.Fault{Callers: []string{"ops/probe"}, Matches: []*snapshot.Match{header("1")}}, web, get("/", test), false},
		{"bytes that nobody looks at", &snapshot.Fault{}, web, nil, false},
	} {
		tt.fault.Share, tt.fault.Reset_ = 1_000_000, true
		call := callOf(rand.NewPCG(1, 2))
		call.Caller = tt.caller
		var d Decision
		table := spoiledTable(t, tt.fault)
		if call.Caller.Namespace != "shop" {
			apply(t, table, snapshot.OutSubject("shop", "orders", "ops"), 1, nil) // has no rules of its own
		}
		table.Pick(call, tt.req, &d)
		if got := len(d.Faults) == 1; got != tt.want || got == (d.Instance != nil) || d.Status != 0 {
			t.Errorf("%s: hit %v, want %v; instance %v, status %d", tt.name, got, tt.want, d.Instance, d.Status)
		}
		d.Done()
	}
}

// TestFaultsAreBeforeInstances wants a request that is held back to count nowhere, and to be routed by what holds when
// it goes on.
func TestFaultsAreBeforeInstances(t *testing.T) {
	table := spoiledTable(t, &snapshot.Fault{Share: 1_000_000, DelayMs: 100})
	call := callOf(random(t))
	var d Decision
	table.Pick(call, get("/"), &d)
	if d.Instance != nil || d.Rule != "r" || d.Service != orders || d.Injection() != (Injection{Delay: 100 * time.Millisecond}) {
		t.Fatalf("%+v", d)
	}
	for _, i := range table.pools[orders].set.Load().instances {
		if n := i.load.inFlight.Load(); n != 0 {
			t.Errorf("%d exchanges are in flight at %s", n, i.ID)
		}
	}
	apply(t, table, epSubject("orders", 0), 2, instances("c"))
	table.Proceed(call, &d)
	if d.Instance == nil || d.Instance.ID != "c" || d.Instance.load.inFlight.Load() != 1 {
		t.Fatalf("%+v", d.Instance)
	}
	table.Proceed(call, &d)
	if n := d.Instance.load.inFlight.Load(); n != 1 {
		t.Errorf("it goes on twice: %d are in flight", n)
	}
	d.Done()
}

// TestFaultsSpareWhatNobodyIsAskedFor: a rule that redirects has no callee whose trouble could be tried.
func TestFaultsSpareWhatNobodyIsAskedFor(t *testing.T) {
	table := New()
	apply(t, table, epSubject("orders", 0), 1, instances("a"))
	body := outboundOf(&snapshot.Rule{Origin: "r", Faults: []uint32{0}, Filters: &snapshot.Filters{Redirect: &snapshot.Redirect{Status: 302, Hostname: "x"}}})
	body.Faults = []*snapshot.Fault{{Id: "f", Share: 1_000_000, Abort: 503}}
	apply(t, table, outSubject("orders"), 1, body)
	var d Decision
	table.Pick(callOf(random(t)), get("/"), &d)
	if d.Status != 302 || len(d.Faults) != 0 {
		t.Errorf("%+v", d)
	}
}

// TestFaultsOfABackend hit those requests alone that the backend gets.
func TestFaultsOfABackend(t *testing.T) {
	table := New()
	apply(t, table, epSubject("orders", 0), 1, instances("a"))
	apply(t, table, epSubject("orders-v2", 0), 1, instances("b"))
	v2 := to("orders-v2", 1)
	v2.Faults = []uint32{0}
	body := outboundOf(&snapshot.Rule{Origin: "r", Backends: []*snapshot.Backend{{Namespace: "shop", Service: "orders-v3", Port: 80}, to("orders", 1), v2}})
	body.Faults = []*snapshot.Fault{{Id: "f", Share: 1_000_000, Abort: 503}}
	apply(t, table, outSubject("orders"), 1, body)
	call := callOf(random(t))
	var d Decision
	for range 100 {
		table.Pick(call, get("/"), &d)
		if (len(d.Faults) == 1) != (d.Service.Name == "orders-v2") {
			t.Fatalf("%v of %s", d.Faults, d.Service)
		}
		d.Done()
	}
}

func TestInjections(t *testing.T) {
	slow, refuse, broken, thin := &Fault{Delay: time.Second}, &Fault{Delay: 2 * time.Second, Status: 503, GRPC: 14}, &Fault{Reset: true}, &Fault{ResponseRate: 10, RequestRate: 7}
	for _, tt := range []struct {
		faults []*Fault
		want   Injection
	}{
		{nil, Injection{}},
		{[]*Fault{slow, refuse, broken}, Injection{Delay: 2 * time.Second, Status: 503, GRPC: 14}},
		{[]*Fault{broken, refuse}, Injection{Delay: 2 * time.Second, Reset: true}},
		{[]*Fault{{ResponseRate: 20}, thin, {RequestRate: 5}}, Injection{ResponseRate: 10, RequestRate: 5}},
	} {
		if got := (&Decision{Faults: tt.faults}).Injection(); got != tt.want {
			t.Errorf("%+v, want %+v", got, tt.want)
		}
	}
}

// TestFaultsThatCannotBeUsed refuses bodies that no compiler of ours makes, and keeps what was.
func TestFaultsThatCannotBeUsed(t *testing.T) {
	table := spoiledTable(t)
	for name, body := range map[string]proto.Message{
		"more than all":  &snapshot.Outbound{Faults: []*snapshot.Fault{{Share: 1_000_001}}},
		"no error":       &snapshot.Outbound{Faults: []*snapshot.Fault{{Abort: 200}}},
		"no expression":  &snapshot.Outbound{Faults: []*snapshot.Fault{{Matches: []*snapshot.Match{{Path: &snapshot.StringMatch{Kind: snapshot.StringMatch_REGEX, Value: "("}}}}}},
		"no caller":      &snapshot.Outbound{Faults: []*snapshot.Fault{{Callers: []string{"a/b/c"}}}},
		"not there":      outboundOf(&snapshot.Rule{Faults: []uint32{0}}),
		"none of a part": outboundOf(&snapshot.Rule{Backends: []*snapshot.Backend{{Namespace: "shop", Service: "orders", Weight: 1, Faults: []uint32{3}}}}),
	} {
		if _, err := table.Apply(outSubject("orders"), snapshot.Version{Revision: 9}, body); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	apply(t, table, outSubject("orders"), 2, outboundOf(&snapshot.Rule{Origin: "new", Backends: []*snapshot.Backend{to("orders", 1)}}))
}

func TestExplainFaults(t *testing.T) {
	table := spoiledTable(t,
		&snapshot.Fault{Share: 125_000, DelayMs: 2000, Abort: 503, AbortGrpc: 14},
		&snapshot.Fault{Share: 1_000_000, Reset_: true, Callers: []string{"ops/probe"}},
		&snapshot.Fault{Share: 1_000_000, RequestRate: 5, ResponseRate: 10, Matches: []*snapshot.Match{{Method: "POST"}, {Path: prefix("/a")}}},
	)
	e := table.Explain(&Question{From: web, To: orders, Port: 80, Method: "GET", Scheme: "http", Authority: "orders", Path: "/"}, start)
	var got []string
	for _, p := range e.Policies {
		got = append(got, p.Kind+" "+p.Name+" "+p.Detail)
	}
	want := `FaultPolicy shop/p/0 12.5 % of requests: held back for 2s, then answered with 503 (gRPC: 14)
FaultPolicy shop/p/1 does nothing to it: the caller is not ops/probe
FaultPolicy shop/p/2 does nothing to it: the method is GET, not POST (and none of 1 other matches takes it)`
	if strings.Join(got, "\n") != want {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
	if len(e.Backends) != 1 || len(e.Backends[0].Instances) != 2 || e.Status != 0 {
		t.Errorf("%+v", e.Backends)
	}
}

// unhit are faults that hit none of crowdRequests.
func unhit() []*snapshot.Fault {
	return []*snapshot.Fault{
		{Id: "caller", Share: 1_000_000, Reset_: true, Callers: []string{"ops/probe"}},
		{Id: "header", Share: 10_000, Reset_: true, Matches: []*snapshot.Match{{Headers: []*snapshot.FieldMatch{{Name: "x-fault", Value: exact("1")}}}}},
	}
}

// spoiledCrowd is crowd, of which every rule of orders has faults that hit nothing.
func spoiledCrowd(t testing.TB, faults []*snapshot.Fault) *Table {
	table := crowd(t)
	body := crowdRules(5000)
	body.Faults = faults
	for _, r := range body.Ports[0].Rules {
		for i := range faults {
			r.Faults = append(r.Faults, uint32(i))
		}
	}
	apply(t, table, outSubject("orders"), 2, body)
	return table
}

func TestFaultsThatHitNothingAllocateNothing(t *testing.T) {
	table := spoiledCrowd(t, unhit())
	call := callOf(rand.NewPCG(1, 2))
	var d Decision
	for _, req := range crowdRequests {
		if n := testing.AllocsPerRun(1000, func() {
			table.Pick(call, req, &d)
			d.Done()
		}); n != 0 {
			t.Errorf("%s: %v allocations", req.Path, n)
		}
	}
}

// BenchmarkPickWithFaults picks with no faults at all, with faults for another caller, for another caller and for a
// header of 1 % of the requests, and for a header of all of them.
func BenchmarkPickWithFaults(b *testing.B) {
	always := unhit()
	always[1].Share = 1_000_000
	for _, bb := range []struct {
		name   string
		faults []*snapshot.Fault
	}{{"none", nil}, {"caller", unhit()[:1]}, {"caller+header", unhit()}, {"caller+header-always", always}} {
		table := spoiledCrowd(b, bb.faults)
		b.Run(bb.name, func(b *testing.B) {
			call := callOf(rand.NewPCG(1, 2))
			var d Decision
			b.ReportAllocs()
			for b.Loop() {
				table.Pick(call, crowdRequests[0], &d)
				d.Done()
			}
		})
	}
}
