package authz

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func whenOf(conditions ...string) *snapshot.AuthorizationRule {
	return &snapshot.AuthorizationRule{When: conditions}
}

func userOf(tb testing.TB, claims string) *authn.User {
	tb.Helper()
	u, err := authn.ParseUser([]byte(claims))
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

const someClaims = `{"iss": "https://id.example.com", "sub": "me", "aud": ["a", "b"], "level": 3, "admin": true, "none": null,
	"groups": ["dev", "ops"], "ids": [1, 2], "realm": {"roles": ["reader"]}, "empty": []}`

// TestConditions has what conditions are about. What cannot be told counts against the caller: a policy that denies takes it
// for true, and one that allows for false.
func TestConditions(t *testing.T) {
	q := &Request{
		Caller: name("shop/cart"), TrustDomain: "mesh.example.com", Node: "n1", Port: 80, Method: "GET", Path: "/a%62c?q=1", Host: "Orders.:80",
		Fields: fieldsOf("X-Tenant: t1 | x-two: a | x-two: b | x_odd: c"), User: userOf(t, someClaims),
	}
	for _, tt := range []struct{ condition, want string }{
		{`source.service == 'shop/cart' && source.namespace == 'shop' && source.trustDomain == 'mesh.example.com' && source.node == 'n1'`, "true"},
		{`request.method == 'GET' && request.port == 80 && request.host == 'orders'`, "true"},
		{`request.path == '/abc'`, "true"},
		{`request.headers['x-tenant'] == 't1' && request.headers['X-Tenant'].startsWith('t')`, "true"},
		{`'x-tenant' in request.headers && !('x-none' in request.headers)`, "true"},
		{`request.headers['x-none'] == ''`, "untold"},
		{`request.headers['x-two'] == 'a'`, "untold"},
		{`'x-two' in request.headers`, "untold"},
		{`request.headers['x-odd'] == 'c'`, "untold"},
		{`has(request.headers.x_two)`, "untold"},
		{`has(request.headers.x_odd)`, "true"},
		{`request.headers.exists(h, h == 'x-odd') && !request.headers.exists(h, h == 'x_odd')`, "true"},
		{`request.headers.exists(h, h == 'x-tenant') && size(request.headers) == 3`, "true"},
		{`user.issuer == 'https://id.example.com' && user.subject == 'me' && 'b' in user.audiences`, "true"},
		{`'ops' in user.claims.groups && !('x' in user.claims.groups)`, "true"},
		{`2 in user.claims.ids && !('2' in user.claims.ids)`, "true"},
		{`user.claims.groups.exists(g, g.startsWith('de')) && size(user.claims.groups) == 2 && user.claims.groups[1] == 'ops'`, "true"},
		{`user.claims.groups == ['dev', 'ops'] && user.claims.groups + ['x'] == ['dev', 'ops', 'x']`, "true"},
		{`user.claims.realm == {'roles': ['reader']} && 'reader' in user.claims.realm.roles`, "true"},
		{`user.claims.level >= 3 && user.claims.admin && user.claims.none == null`, "true"},
		{`has(user.claims.level) && !has(user.claims.nothing)`, "true"},
		{`user.claims.nothing == 1`, "untold"},
		{`user.claims.groups == 'dev'`, "false"},
		{`user.claims.admin == 'true'`, "false"},
		{`user.claims.level.startsWith('3')`, "untold"},
		{`'dev' in user.claims.level`, "untold"},
		{`user.claims.empty.exists(x, true)`, "false"},
		{`false && user.claims.nothing == 1`, "false"},
		{`1 / (request.port - 80) == 0`, "untold"},
	} {
		deny := rulesOf(t, policyOf("p", true, whenOf(tt.condition))).Decide(q).Denied
		allow := !rulesOf(t, policyOf("p", false, whenOf(tt.condition))).Decide(q).Denied
		if got := map[[2]bool]string{{true, true}: "true", {false, false}: "false", {true, false}: "untold"}[[2]bool{deny, allow}]; got != tt.want {
			t.Errorf("%s: %s, want %s", tt.condition, got, tt.want)
		}
	}
}

// TestConditionsOfWhatIsNotThere has a connection that nobody looks into, and a request without an end user.
func TestConditionsOfWhatIsNotThere(t *testing.T) {
	for _, tt := range []struct {
		condition string
		q         Request
		untold    bool
	}{
		{`request.method == 'GET'`, Request{TCP: true, Method: "GET"}, true},
		{`request.path == ''`, Request{TCP: true}, true},
		{`size(request.headers) == 0`, Request{TCP: true}, true},
		{`request.host == ''`, Request{Method: "GET", Path: "/"}, true},
		{`request.port == 80`, Request{TCP: true, Port: 80}, false},
		{`user.subject == ''`, Request{Method: "GET", Path: "/"}, true},
		{`size(user.audiences) == 0`, Request{Method: "GET", Path: "/"}, true},
		{`!has(user.claims.admin)`, Request{Method: "GET", Path: "/"}, true},
		{`source.node == ''`, Request{Method: "GET", Path: "/"}, true},
		{`source.trustDomain == ''`, Request{Method: "GET", Path: "/"}, true},
		{`source.namespace == ''`, Request{Method: "GET", Path: "/"}, true},
	} {
		if !rulesOf(t, policyOf("p", true, whenOf(tt.condition))).Decide(&tt.q).Denied {
			t.Errorf("%s: a policy that denies lets it pass", tt.condition)
		}
		if denied := rulesOf(t, policyOf("p", false, whenOf(tt.condition))).Decide(&tt.q).Denied; denied != tt.untold {
			t.Errorf("%s: a policy that allows refuses it: %t", tt.condition, denied)
		}
	}
}

// TestConditionsOnPathsAreAsThoseOfRules: who asks for the path in CEL is not led around by it either.
func TestConditionsOnPathsAreAsThoseOfRules(t *testing.T) {
	deny := rulesOf(t, policyOf("p", true, whenOf(`request.path.startsWith('/admin')`)))
	for _, path := range []string{"/admin", "/%61dmin", "//admin", "/x/../admin", "/x%2f..%2fadmin", "/admin;x"} {
		if !deny.Decide(&Request{Method: "GET", Path: path}).Denied {
			t.Errorf("%s passes", path)
		}
	}
	if !rulesOf(t, policyOf("p", true, whenOf(`request.method == 'DELETE'`))).Decide(&Request{Method: "delete", Path: "/"}).Denied {
		t.Error("a method in small letters passes")
	}
	if rulesOf(t, policyOf("p", true, whenOf(`request.port == 81`))).Decide(&Request{Method: "get", Path: "//x", Port: 80}).Denied {
		t.Error("what nobody asks for is in the way")
	}
}

// TestPoliciesShareAConditionThatCannotBeTold: what is found out once counts for each of them as it has to.
func TestPoliciesShareAConditionThatCannotBeTold(t *testing.T) {
	const untold = `request.headers['x-none'] == 'a'`
	refuses := rulesOf(t, dry(policyOf("a", true, whenOf(untold))), policyOf("b", true, whenOf(untold)), policyOf("c", false, whenOf(untold)))
	if d := refuses.Decide(&Request{Method: "GET", Path: "/"}); d.Policy != "b" {
		t.Errorf("%+v", d)
	}
	lets := rulesOf(t, policyOf("a", true, whenOf(`request.port == 81`)), policyOf("b", true, whenOf(`request.port == 81`)), policyOf("c", false, whenOf(`request.port == 80`)))
	if d := lets.Decide(&Request{Method: "GET", Path: "/", Port: 80}); d.Denied {
		t.Errorf("%+v", d)
	}
}

// TestConditionsOnOneClaimAreTakenApart: they are found by their texts, and one text means different things to them.
func TestConditionsOnOneClaimAreTakenApart(t *testing.T) {
	rules := rulesOf(t, policyOf("has", true, whenOf(`has(user.claims.team) && 'a' in user.claims.team`)),
		policyOf("in", true, whenOf(`'a' in user.claims.team`, `request.port == 80`)), policyOf("is", true, whenOf(`user.claims.team == 'a'`, `request.port == 81`)))
	for _, tt := range []struct {
		claims string
		port   uint16
		want   string
	}{{`{"team": ["a"]}`, 82, "has"}, {`{"team": ["b"]}`, 80, ""}, {`{}`, 80, "in"}, {`{"team": "a"}`, 81, "has"}, {`{"team": {"b": 1}}`, 81, ""}, {`{}`, 81, "is"}, {`{}`, 82, ""}} {
		if d := rules.Decide(&Request{Method: "GET", Path: "/", Port: tt.port, User: userOf(t, tt.claims)}); d.Policy != tt.want {
			t.Errorf("%s, port %d: %+v, want %q", tt.claims, tt.port, d, tt.want)
		}
	}
	lets := rulesOf(t, policyOf("in", false, whenOf(`'a' in user.claims.team`)), policyOf("is", false, whenOf(`user.claims.team == 'a'`)))
	for claims, denied := range map[string]bool{`{"team": ["a"]}`: false, `{"team": "a"}`: false, `{"team": {"a": 1}}`: false, `{"team": "b"}`: true, `{"team": 1}`: true, `{}`: true} {
		if d := lets.Decide(&Request{Method: "GET", Path: "/", User: userOf(t, claims)}); d.Denied != denied {
			t.Errorf("%s: %+v", claims, d)
		}
	}
}

func TestAllConditionsOfARuleAreNeeded(t *testing.T) {
	rule := whenOf(`request.method == 'GET'`, `request.port == 80`)
	rule.From = from("shop/cart")
	rules := rulesOf(t, policyOf("p", false, rule))
	for _, tt := range []struct {
		request string
		denied  bool
	}{{"shop/cart GET / 80", false}, {"shop/cart GET / 81", true}, {"shop/cart PUT / 80", true}, {"shop/web GET / 80", true}} {
		if got := rules.Decide(requestOf(t, tt.request)).Denied; got != tt.denied {
			t.Errorf("%s: denied %t", tt.request, got)
		}
	}
}

func TestConditionsThatDoNotCompileAreRefused(t *testing.T) {
	_, err := Compile(&snapshot.Authorization{Policies: []*snapshot.AuthorizationPolicy{policyOf("shop/p", true, whenOf(`request.method = 'GET'`))}})
	if err == nil || !strings.Contains(err.Error(), `policy shop/p: rule 0: condition "request.method = 'GET'": 1:16: `) {
		t.Errorf("%v", err)
	}
}

// costly are conditions, and what evaluating them allocates: a text of the request that becomes a value of CEL is one allocation,
// which the library cannot do without, and a regular expression takes it apart again. What compares with texts needs no CEL.
var costly = []struct {
	name, condition string
	allocations     float64
}{
	{"port", `request.port == 80`, 0},
	{"method", `request.method == 'GET'`, 0},
	{"method and path", `request.method == 'GET' && request.path.startsWith('/api')`, 0},
	{"header", `request.headers['x-tenant'] == 't1'`, 0},
	{"whether there is a header", `'x-tenant' in request.headers`, 0},
	{"subject", `user.subject == 'me'`, 0},
	{"group", `'ops' in user.claims.groups`, 0},
	{"groups by prefix", `user.claims.groups.exists(g, g.startsWith('op'))`, 0},
	{"regular expression", `request.path.matches('^/ap[a-z]$')`, 3},
}

func TestWhatConditionsAllocate(t *testing.T) {
	q := &Request{Method: "GET", Path: "/api", Fields: fieldsOf("accept: */* | x-tenant: t1"), Port: 80, User: userOf(t, someClaims)}
	for _, tt := range costly {
		rules := rulesOf(t, policyOf("p", false, whenOf(tt.condition)))
		if n := testing.AllocsPerRun(100, func() { rules.Decide(q) }); n > tt.allocations {
			t.Errorf("%s: %v allocations, want %v", tt.name, n, tt.allocations)
		}
	}
}

func BenchmarkConditions(b *testing.B) {
	q := &Request{
		Caller: name("shop/cart"), Port: 80, Method: "GET", Path: "/api", Host: "orders",
		Fields: fieldsOf("accept: */* | x-tenant: t1"), User: userOf(b, someClaims),
	}
	for _, bb := range costly {
		b.Run(bb.name, func(b *testing.B) {
			rules := rulesOf(b, policyOf("p", false, whenOf(bb.condition)))
			b.ReportAllocs()
			for b.Loop() {
				if rules.Decide(q).Denied {
					b.Fatal("denied")
				}
			}
		})
	}
}

// BenchmarkConditionsAlike has 100 policies with one condition: it is evaluated once.
func BenchmarkConditionsAlike(b *testing.B) {
	var all []*snapshot.AuthorizationPolicy
	for range 100 {
		all = append(all, policyOf("p", true, whenOf(`request.port == 81`)))
	}
	rules, q := rulesOf(b, all...), &Request{Caller: name("shop/cart"), Port: 80, Method: "GET", Path: "/api"}
	b.ReportAllocs()
	for b.Loop() {
		if rules.Decide(q).Denied {
			b.Fatal("denied")
		}
	}
}

// TestManyConditions: what is evaluated once for all rules, and what is beyond that, decide alike.
func TestManyConditions(t *testing.T) {
	var all []*snapshot.AuthorizationPolicy
	for i := range maxWhens + 8 {
		all = append(all, policyOf(fmt.Sprintf("p%03d", i), false, &snapshot.AuthorizationRule{When: []string{fmt.Sprintf("'x-%d' in request.headers", i)}}))
	}
	rules := rulesOf(t, all...)
	for i := range len(all) + 1 {
		q := &Request{Caller: name("shop/cart"), Port: 80, Method: "GET", Path: "/", Fields: exchange.Fields{{Name: fmt.Sprintf("X-%d", i), Value: "y"}}}
		if d := rules.Decide(q); d.Denied != (i == len(all)) {
			t.Errorf("header %d: %+v", i, d)
		}
	}
}

// TestUntoldConditionsOfSeveralRules: one that cannot be told refuses by each rule that has it, though another had it before.
func TestUntoldConditionsOfSeveralRules(t *testing.T) {
	const untoldHere = `user.claims.level > 3`
	by := func(path string) *snapshot.AuthorizationRule {
		return &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{NotPaths: exact(path)}), When: []string{untoldHere}}
	}
	rules := rulesOf(t, policyOf("a", true, &snapshot.AuthorizationRule{When: []string{untoldHere, `request.port == 81`}}), policyOf("b", true, by("/c")))
	q := &Request{Caller: name("shop/cart"), Port: 80, Method: "GET", Path: "/b"}
	if d := rules.Decide(q); !d.Denied || d.Policy != "b" {
		t.Errorf("%+v", d)
	}
	q.Path = "/c"
	if d := rules.Decide(q); d.Denied {
		t.Errorf("another path: %+v", d)
	}
}
