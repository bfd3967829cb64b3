package routing

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// crowd is a table of 1,000 services: 999 with 5 rules, and orders with 5,000.
func crowd(t testing.TB) *Table {
	table := New()
	apply(t, table, epSubject("orders", 0), 1, instances("a", "b", "c", "d", "e", "f", "g", "h"))
	for i := range 999 {
		apply(t, table, outSubject(fmt.Sprint("s", i)), 1, crowdRules(5))
	}
	apply(t, table, outSubject("orders"), 1, crowdRules(5000))
	return table
}

// crowdRules are so many rules with matches, and one of the rest.
func crowdRules(count int) *snapshot.Outbound {
	var rules []*snapshot.Rule
	for i := range count {
		m := &snapshot.Match{Path: prefix(fmt.Sprintf("/api/v1/thing-%d", i))}
		switch i % 4 {
		case 1:
			m.Path = exact(fmt.Sprintf("/api/v1/thing-%d/list", i))
		case 2:
			m.Headers = []*snapshot.FieldMatch{{Name: "x-user", Value: exact("beta")}}
		case 3:
			m.Query = []*snapshot.FieldMatch{{Name: "page", Value: exact("7")}}
		}
		rules = append(rules, &snapshot.Rule{Origin: fmt.Sprint("r", i), Match: m, Backends: []*snapshot.Backend{to("orders", 90), to("orders", 10)}})
	}
	return outboundOf(append(rules, &snapshot.Rule{Origin: "rest", Backends: []*snapshot.Backend{to("orders", 1)}})...)
}

var crowdRequests = []*exchange.Request{
	get("/api/v1/thing-4000/42?page=7&x=y", fieldsOf("x-user", "beta")...),
	get("/api/v1/thing-4001/list", fieldsOf("x-user", "beta")...),
	get("/api/v1/thing-4002/42", fieldsOf("x-user", "beta")...),
	get("/api/v1/thing-4003/42?size=1&page=%37", fieldsOf("x-user", "beta")...),
	get("/somewhere/else", fieldsOf("x-user", "beta")...),
	get("/api/v1/thing-4000/a%2fb"),
	get("/api/v1/thing-4000//a/./b%2fc/../d"),
	get("/api/v1/th%69ng-4000"),
	get("/api/v1/thing-4000//a;v=1/./b%2fc/../d"),
	get("/api/v1/thing-4001//a/./b%2fc/../d"), // there is a rule below
	get("/api/v1/thing-4001//a;v=1/./b%2fc/../d"),
}

// fieldsOf are a browser's usual fields and one more.
func fieldsOf(name, value string) []exchange.Field {
	return []exchange.Field{{Name: "Accept", Value: "*/*"}, {Name: "User-Agent", Value: "curl/8.0"}, {Name: "Accept-Encoding", Value: "gzip"},
		{Name: "Cookie", Value: "session=1"}, {Name: "X-Request-Id", Value: "1"}, {Name: name, Value: value}}
}

func TestPickAllocatesNothing(t *testing.T) {
	table := crowd(t)
	call := callOf(rand.NewPCG(1, 2))
	var d Decision
	for _, req := range crowdRequests {
		if n := testing.AllocsPerRun(100, func() {
			table.Pick(call, req, &d)
			table.MarkUnreachable(d.Instance, start)
			table.PickAgain(call, &d)
			d.Done()
		}); n != 0 {
			t.Errorf("%s: %v allocations", req.Path, n)
		}
		for _, i := range table.pools[orders].set.Load().instances {
			table.MarkReachable(i)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	table := crowd(b)
	for _, req := range crowdRequests {
		b.Run(req.Path, func(b *testing.B) {
			call := callOf(rand.NewPCG(1, 2))
			var d Decision
			b.ReportAllocs()
			for b.Loop() {
				table.Pick(call, req, &d)
				d.Done()
			}
		})
	}
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			call := callOf(rand.NewPCG(rand.Uint64(), 2))
			var d Decision
			for pb.Next() {
				table.Pick(call, crowdRequests[0], &d)
				d.Done()
			}
		})
	})
}
