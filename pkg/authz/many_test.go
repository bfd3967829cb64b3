package authz

import (
	"fmt"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// written are a hundred policies as operators write them, of every kind in turn, for one caller and the paths below one.
func written(caller, where string) []*snapshot.AuthorizationPolicy {
	var all []*snapshot.AuthorizationPolicy
	for i := range 100 {
		path := fmt.Sprintf("/%s/things%d", where, i)
		source := &snapshot.AuthorizationSource{Services: []string{caller, fmt.Sprintf("shop/other%d", i)}}
		o, rule := &snapshot.AuthorizationOperation{}, &snapshot.AuthorizationRule{}
		deny := false
		switch i % 6 {
		case 0: // by source
			source.Nodes = []string{"n1", "n2"}
			o.Methods = []string{"PURGE"}
		case 1: // by path
			o.Methods, o.Paths = []string{"GET", "POST"}, prefix(path)
		case 2: // by method
			source = &snapshot.AuthorizationSource{Namespaces: []string{name(caller).Namespace}}
			o.Methods, deny = []string{"DELETE", "PUT"}, true
		case 3: // by header
			o.Headers = []*snapshot.AuthorizationHeader{{Name: "x-tenant", Value: fmt.Sprint("t", i)}}
		case 4: // by claims, every other at a path
			rule.When = []string{fmt.Sprintf("'team%d' in user.claims.groups", i)}
			if i%4 == 0 {
				o.Paths = prefix(path)
			}
		case 5: // by host, and one by a condition on the request
			o.Hosts, o.Paths = []string{"orders.example.com"}, prefix(path)
			if i == 5 {
				o = &snapshot.AuthorizationOperation{}
				rule.When = []string{"request.method == 'GET' && request.path.startsWith('/status')"}
			}
		}
		rule.From, rule.To = []*snapshot.AuthorizationSource{source}, to(o)
		all = append(all, policyOf(fmt.Sprintf("shop/%s-%03d", where, i), deny, rule))
	}
	return all
}

// manyCases are requests to a service that 100 policies are about, and to one that 900 more are about which are for others.
func manyCases(tb testing.TB, visit func(name string, rules *Rules, q *Request, allowed bool)) {
	hundred := written("shop/cart", "api")
	thousand := hundred
	for i := range 9 {
		thousand = append(thousand, written(fmt.Sprintf("other%d/caller", i), fmt.Sprint("v", i))...)
	}
	for _, of := range []struct {
		name     string
		policies []*snapshot.AuthorizationPolicy
	}{{"100", hundred}, {"1000", thousand}} {
		rules := rulesOf(tb, of.policies...)
		for _, tt := range []struct{ name, method, path, tenant string }{
			{"by path", "GET", "/api/things97/items/4711?expand=all", "none"},
			{"by header", "GET", "/none/things/4711", "t99"},
			{"by claims", "GET", "/api/things88/items/4711?expand=all", "none"},
			{"refused", "GET", "/none/things/4711", "none"},
			{"refused by its method", "DELETE", "/none/things/4711", "none"},
		} {
			visit(of.name+", "+tt.name, rules, &Request{
				Caller: name("shop/cart"), TrustDomain: "mesh.example.com", Node: "n1", Port: 80, Method: tt.method, Path: tt.path, Host: "orders.example.com",
				Fields: fieldsOf("accept: */* | user-agent: x | x-request-id: 1 | cookie: y | x-tenant: " + tt.tenant + " | traceparent: z | accept-encoding: gzip"),
				User:   userOf(tb, `{"iss": "https://id.example.com", "sub": "me", "groups": ["dev", "ops", "team88"]}`),
			}, tt.path != "/none/things/4711" || tt.tenant != "none")
		}
	}
}

func BenchmarkDecideAmongMany(b *testing.B) {
	manyCases(b, func(name string, rules *Rules, q *Request, allowed bool) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if rules.Decide(q).Denied == allowed {
					b.Fatal("decided otherwise")
				}
			}
		})
	})
}

func TestDecidingAmongManyAllocatesNothing(t *testing.T) {
	manyCases(t, func(name string, rules *Rules, q *Request, allowed bool) {
		if d := rules.Decide(q); d.Denied == allowed {
			t.Errorf("%s: %+v", name, d)
		}
		if n := testing.AllocsPerRun(100, func() { rules.Decide(q) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	})
}
