package routing

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestExplainIsWhatPickDoes: for random tables and requests, the rule, the answer and the instance of Pick are those of
// the explanation, and each rule before the one that decides has a reason why it does not match.
func TestExplainIsWhatPickDoes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	decided := 0
	for range 300 {
		var rules []*snapshot.Rule
		for i := range 1 + r.IntN(8) {
			rule := randomRule(r, i)
			rule.Backends = []*snapshot.Backend{to("orders", uint32(1+r.IntN(3))), {Namespace: "shop", Service: "gone", Port: 80, Weight: uint32(r.IntN(3)), Answer: 500}}
			rules = append(rules, rule)
		}
		table := tableOf(t, instances("a", "b", "-c"), rules...)
		for range 5 {
			req := randomRequest(r)
			e := table.Explain(&Question{
				From: web, To: orders, Port: 80, Method: req.Method, Scheme: req.Scheme, Authority: req.Authority, Path: req.Path, Fields: req.Fields,
			}, start)
			for range 5 {
				if why := differs(table, e, req, r); why != "" {
					t.Fatalf("%s\n%+v\nfor %+v", why, e, req)
				}
			}
			for _, v := range e.Rules {
				if v.Decides {
					decided++
					break
				}
				if e.Rule != "" && (v.Matches || v.Why == "") {
					t.Fatalf("before the rule that decides: %+v\nin %+v\nfor %+v", v, e, req)
				}
			}
		}
	}
	if decided < 50 {
		t.Errorf("only %d requests were decided by a rule", decided)
	}
}

// differs picks once and says what the explanation has otherwise.
func differs(table *Table, e *Explanation, req *exchange.Request, r *rand.Rand) string {
	var d Decision
	table.Pick(&Call{Caller: web, Callee: orders, Port: 80, Now: start, Random: rand.NewPCG(r.Uint64(), 0)}, req, &d)
	defer d.Done()
	decides := ""
	for _, v := range e.Rules {
		if v.Decides {
			decides += v.Rule
		}
	}
	switch {
	case d.Rule != e.Rule || decides != e.Rule:
		return fmt.Sprintf("rule %q was picked, %q explained, %q marked", d.Rule, e.Rule, decides)
	case d.backend == nil && (d.Status != e.Status || d.Detail != e.Detail || len(e.Backends) > 0):
		return fmt.Sprintf("answered with %d (%s), explained %d (%s)", d.Status, d.Detail, e.Status, e.Detail)
	case d.backend == nil:
		return ""
	}
	for _, b := range e.Backends {
		if b.Service != d.Service {
			continue
		}
		if b.Status != d.Status {
			return fmt.Sprintf("backend %s answers %d, explained %d", b.Service, d.Status, b.Status)
		}
		if d.Instance == nil {
			return ""
		}
		for _, i := range b.Instances {
			if i.Instance == d.Instance.ID {
				return ""
			}
		}
		return fmt.Sprintf("instance %s was picked and not explained", d.Instance.ID)
	}
	return fmt.Sprintf("backend %s was picked and not explained", d.Service)
}

func TestExplainSaysWhy(t *testing.T) {
	limits := []*snapshot.Limit{{Id: "shop/orders/each", ByCaller: true}}
	body := outboundOf(
		&snapshot.Rule{Origin: "admin", Match: &snapshot.Match{Path: &snapshot.StringMatch{Kind: snapshot.StringMatch_PREFIX, Value: "/admin"}}, Backends: []*snapshot.Backend{to("orders", 1)}},
		&snapshot.Rule{Origin: "put", Match: &snapshot.Match{Method: "PUT"}, Backends: []*snapshot.Backend{to("orders", 1)}},
		&snapshot.Rule{Origin: "beta", Match: &snapshot.Match{Headers: []*snapshot.FieldMatch{{Name: "x-user", Value: &snapshot.StringMatch{Value: "beta"}}}}, Backends: []*snapshot.Backend{to("orders", 1)}},
		&snapshot.Rule{Origin: "all", Limits: []uint32{0}, Backends: []*snapshot.Backend{to("orders", 3), {Namespace: "shop", Service: "gone", Port: 80, Weight: 1, Answer: 500, AnswerReason: "there is no Service shop/gone"}}},
		&snapshot.Rule{Origin: "hidden", Backends: []*snapshot.Backend{to("orders", 1)}},
	)
	body.Limits = limits
	table := New()
	apply(t, table, epSubject("orders", 0), 1, instances("a", "b", "-c"))
	apply(t, table, outSubject("orders"), 1, body)
	ask := func(change func(q *Question)) *Explanation {
		q := &Question{From: web, To: orders, Port: 80, Method: "POST", Authority: "orders", Path: "/api"}
		change(q)
		return table.Explain(q, start)
	}
	e := ask(func(*Question) {})
	if e.Rule != "all" || e.Status != 0 || len(e.Policies) != 1 || e.Policies[0] != (PolicyVerdict{"QuotaPolicy", "shop/orders/each", "counts by calling service"}) {
		t.Errorf("%+v", e)
	}
	for i, want := range []string{
		"the path /api is not /admin or below it", "the method is POST, not PUT", `the header x-user is not there; it must be "beta"`,
		"", "a rule before it matches and decides",
	} {
		if e.Rules[i].Why != want {
			t.Errorf("%s: %q, want %q", e.Rules[i].Rule, e.Rules[i].Why, want)
		}
	}
	got := ""
	for _, b := range e.Backends {
		got += fmt.Sprintf("%s %v %d %s:", b.Service, b.Share, b.Status, b.Detail)
		sum := 0.0
		for _, i := range b.Instances {
			got += " " + i.Instance
			if sum += i.Share; i.Share < 0.3 || i.Share > 0.45 { // of 0.75, with 20 sigma
				t.Errorf("%+v", i)
			}
		}
		got += "\n"
	}
	if want := "shop/orders 0.75 0 : a b\nshop/gone 0.25 500 there is no Service shop/gone:\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if e := ask(func(q *Question) { q.Fields = exchange.Fields{{Name: "X-User", Value: "beta"}} }); e.Rule != "beta" || !e.Rules[2].Decides || !e.Rules[3].Matches {
		t.Errorf("%+v", e)
	}
	if e := ask(func(q *Question) { q.Fields = exchange.Fields{{Name: "X-User", Value: "alpha"}} }); e.Rules[2].Why != `the header x-user is not "beta"` {
		t.Errorf("%+v", e.Rules[2])
	}
	if e := ask(func(q *Question) { q.Path = "/x/../admin" }); e.Status != 400 || len(e.Backends) > 0 || !strings.Contains(e.Rules[0].Why, "several ways") {
		t.Errorf("%+v", e)
	}
	if e := ask(func(q *Question) { q.Port = 81 }); e.Status != 503 || e.Reason != exchange.NoService {
		t.Errorf("%+v", e)
	}
	for _, i := range table.pools[orders].set.Load().instances {
		if i.InFlight() != 0 {
			t.Errorf("instance %s has %d in flight when all is explained", i.ID, i.InFlight())
		}
	}
}

// TestExplainAtAGateway: rules are those of the closest hostname first, as PickIngress tries them.
func TestExplainAtAGateway(t *testing.T) {
	table := New()
	in := &snapshot.Inbound{Ingress: &snapshot.Ingress{
		Rules: []*snapshot.Rule{
			{Origin: "shop", Match: &snapshot.Match{Method: "PUT"}, Backends: []*snapshot.Backend{to("orders", 1)}},
			{Origin: "any", Backends: []*snapshot.Backend{to("orders", 1)}},
		},
		Listeners: []*snapshot.IngressListener{{Name: "l", Port: 443, Tls: &snapshot.IngressTLS{}, Hosts: []*snapshot.IngressHost{
			{Hostname: "shop.example.com", Rules: []uint32{0}}, {Hostname: "*.example.com", Rules: []uint32{1}},
		}}},
	}}
	apply(t, table, epSubject("orders", 0), 1, instances("a"))
	apply(t, table, snapshot.InSubject("shop", "edge"), 1, in)
	q := &Question{From: edge, To: edge, Gateway: true, Port: 443, Method: "GET", Scheme: "https", Authority: "Shop.example.com", Path: "/"}
	e := table.Explain(q, start)
	if e.Rule != "any" || len(e.Rules) != 2 || e.Rules[0].Hostname != "shop.example.com" || e.Rules[0].Why != "the method is GET, not PUT" ||
		e.Rules[1].Hostname != "*.example.com" || !e.Rules[1].Decides || len(e.Backends) != 1 || len(e.Backends[0].Instances) != 1 {
		t.Errorf("%+v", e)
	}
	q.Method = "PUT"
	if e := table.Explain(q, start); e.Rule != "shop" || !e.Rules[1].Matches || e.Rules[1].Decides {
		t.Errorf("%+v", e)
	}
	q.Authority = "other.org"
	if e := table.Explain(q, start); e.Status != 404 || e.Rule != "" || e.Detail != "no listener of the gateway is for this host" && !strings.Contains(e.Detail, "no rule") {
		t.Errorf("%+v", e)
	}
}
