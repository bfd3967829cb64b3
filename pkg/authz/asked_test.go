package authz

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// fieldsOf reads "a: b | c: d".
func fieldsOf(s string) (all exchange.Fields) {
	for line := range strings.SplitSeq(s, " | ") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			all = append(all, exchange.Field{Name: name, Value: value})
		}
	}
	return all
}

// TestHeadersThatServersReadDifferently has the ways around rules about headers: which of several fields counts, and what
// is one name. A rule that refuses goes by every reading, and one that lets in by the only one.
func TestHeadersThatServersReadDifferently(t *testing.T) {
	admin := []*snapshot.AuthorizationHeader{{Name: "x-role", Value: "admin"}}
	deny := rulesOf(t, policyOf("p", true, &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{Headers: admin})}))
	allow := rulesOf(t, policyOf("p", false, &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{Headers: admin})}))
	allBut := rulesOf(t, policyOf("p", false, &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{NotHeaders: admin})}))
	for _, tt := range []struct {
		name, fields                string
		denied, allowed, allowedBut bool
	}{
		{"none", "", false, false, true},
		{"the one", "x-role: admin", true, true, false},
		{"case of the name", "X-ROLE: admin", true, true, false},
		{"case of the value", "x-role: Admin", false, false, true},
		{"another value", "x-role: user", false, false, true},
		{"the second of two (CVE-2020-25017)", "x-role: user | x-role: admin", true, false, false},
		{"the first of two", "x-role: admin | x-role: user", true, false, false},
		{"the same twice", "x-role: admin | x-role: admin", true, false, false},
		{"in a list", "x-role: user, admin", true, false, false},
		{"in a list without spaces", "x-role: user,admin,x", true, false, false},
		{"in a list whose first item is none", "x-role: ,admin", true, false, false},
		{"underscores", "x_role: admin", true, false, false},
		{"underscores beside the one", "x-role: admin | X_Role: user", true, false, false},
		{"part of a value", "x-role: administrator", false, false, true},
	} {
		q := &Request{Caller: name("shop/cart"), Port: 80, Method: "GET", Path: "/", Fields: fieldsOf(tt.fields)}
		for _, c := range []struct {
			policy string
			rules  *Rules
			passes bool
		}{{"Deny", deny, !tt.denied}, {"Allow", allow, tt.allowed}, {"Allow all but", allBut, tt.allowedBut}} {
			if got := !c.rules.Decide(q).Denied; got != c.passes {
				t.Errorf("%s: %s: passes %t, want %t", tt.name, c.policy, got, c.passes)
			}
		}
	}
}

// TestPoliciesThatReadAHeaderDifferently: one that lets in by a header does not make another read it strictly.
func TestPoliciesThatReadAHeaderDifferently(t *testing.T) {
	present := to(&snapshot.AuthorizationOperation{Headers: []*snapshot.AuthorizationHeader{{Name: "x-role", Kind: snapshot.AuthorizationHeader_PRESENT}}})
	admin := to(&snapshot.AuthorizationOperation{Headers: []*snapshot.AuthorizationHeader{{Name: "x-role", Value: "admin"}}})
	rules := rulesOf(t, policyOf("lets", false, &snapshot.AuthorizationRule{To: present}), policyOf("refuses", true, &snapshot.AuthorizationRule{To: admin}))
	for fields, want := range map[string]string{"x-role: user": "", "x-role: user, admin": "refuses", "x-role: user | x-role: admin": "refuses", "": "lets"} {
		if d := rules.Decide(&Request{Method: "GET", Path: "/", Fields: fieldsOf(fields)}); d.Policy != want {
			t.Errorf("%q: %+v, want %q", fields, d, want)
		}
	}
}

func TestHowHeadersAreCompared(t *testing.T) {
	for _, tt := range []struct {
		kind          snapshot.AuthorizationHeader_Kind
		value, fields string
		want          bool
	}{
		{snapshot.AuthorizationHeader_PREFIX, "Bearer ", "x: Bearer abc", true},
		{snapshot.AuthorizationHeader_PREFIX, "Bearer ", "x: bearer abc", false},
		{snapshot.AuthorizationHeader_SUFFIX, "@example.com", "x: me@example.com", true},
		{snapshot.AuthorizationHeader_SUFFIX, "@example.com", "x: me@example.com.evil.org", false},
		{snapshot.AuthorizationHeader_PRESENT, "", "x: ", true},
		{snapshot.AuthorizationHeader_PRESENT, "", "y: ", false},
	} {
		o := &snapshot.AuthorizationOperation{Headers: []*snapshot.AuthorizationHeader{{Name: "x", Kind: tt.kind, Value: tt.value}}}
		rules := rulesOf(t, policyOf("p", false, &snapshot.AuthorizationRule{To: to(o)}))
		if got := !rules.Decide(&Request{Method: "GET", Path: "/", Fields: fieldsOf(tt.fields)}).Denied; got != tt.want {
			t.Errorf("%s %q, %q: %t", tt.kind, tt.value, tt.fields, got)
		}
	}
}

// TestHostsThatServersTakeForOne has the ways around rules about hosts (CVE-2021-39155: case).
func TestHostsThatServersTakeForOne(t *testing.T) {
	o := &snapshot.AuthorizationOperation{Hosts: []string{"admin.example.com", "*.internal.example.com"}}
	deny := rulesOf(t, policyOf("p", true, &snapshot.AuthorizationRule{To: to(o)}))
	allow := rulesOf(t, policyOf("p", false, &snapshot.AuthorizationRule{To: to(o)}))
	for _, tt := range []struct {
		host   string
		is     bool
		nobody bool // nobody knows
	}{
		{"admin.example.com", true, false}, {"ADMIN.Example.com", true, false}, {"admin.example.com:8080", true, false}, {"admin.example.com.", true, false},
		{"admin.example.com.:80", true, false}, {"a.internal.example.com", true, false}, {"a.B.INTERNAL.example.com", true, false},
		{"internal.example.com", false, false}, {"xinternal.example.com", false, false}, {"admin.example.com.evil.org", false, false}, {"www.example.com", false, false},
		{"", false, true}, {"admin.example.com..", false, true}, {"www.example.com..:80", false, true}, {".internal.example.com", false, false},
	} {
		q := &Request{Caller: name("shop/cart"), Port: 80, Method: "GET", Path: "/", Host: tt.host}
		if denied := deny.Decide(q).Denied; denied != (tt.is || tt.nobody) {
			t.Errorf("%q: denied %t", tt.host, denied)
		}
		if passes := !allow.Decide(q).Denied; passes != tt.is {
			t.Errorf("%q: allowed %t", tt.host, passes)
		}
	}
}

// TestBeginningsAndEnds of values: a whole value has both.
func TestBeginningsAndEnds(t *testing.T) {
	for kind, passes := range map[snapshot.AuthorizationHeader_Kind][]string{
		snapshot.AuthorizationHeader_PREFIX: {"adm", "admin"}, snapshot.AuthorizationHeader_SUFFIX: {"adm", "xadm"}, snapshot.AuthorizationHeader_PRESENT: {"adm", "admin", "xadm", "ad", ""},
	} {
		rules := rulesOf(t, policyOf("p", false, &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{
			Headers: []*snapshot.AuthorizationHeader{{Name: "x-role", Kind: kind, Value: "adm"}},
		})}))
		for _, value := range []string{"adm", "admin", "xadm", "ad", ""} {
			q := &Request{Caller: name("shop/cart"), Port: 80, Method: "GET", Path: "/", Fields: exchange.Fields{{Name: "X-Role", Value: value}}}
			if got := !rules.Decide(q).Denied; got != slices.Contains(passes, value) {
				t.Errorf("%s: %q passes: %v", kind, value, got)
			}
		}
	}
}

// TestManyHostsAndHeaders: what is found out once for all rules, and what is beyond that, decide alike.
func TestManyHostsAndHeaders(t *testing.T) {
	var all []*snapshot.AuthorizationPolicy
	for i := range max(maxFrames, maxHeads) + 8 {
		all = append(all, policyOf(fmt.Sprintf("p%02d", i), false, &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{
			Hosts: []string{fmt.Sprintf("h%d.example.com", i)}, Headers: []*snapshot.AuthorizationHeader{{Name: fmt.Sprintf("x-%d", i), Value: "y"}},
		})}))
	}
	rules := rulesOf(t, all...)
	for i := range all {
		for j := range all {
			q := &Request{
				Caller: name("shop/cart"), Port: 80, Method: "GET", Path: "/", Host: fmt.Sprintf("h%d.example.com", i),
				Fields: exchange.Fields{{Name: fmt.Sprintf("X-%d", j), Value: "y"}},
			}
			if d := rules.Decide(q); d.Denied != (i != j) {
				t.Fatalf("host %d, header %d: %+v", i, j, d)
			}
		}
	}
}

// TestWhereCallersAreFrom says what is decided by node and trust domain: what is not known counts against the caller.
func TestWhereCallersAreFrom(t *testing.T) {
	for _, tt := range []struct {
		source        *snapshot.AuthorizationSource
		node, domain  string
		denied, allow bool
	}{
		{&snapshot.AuthorizationSource{Nodes: []string{"a"}}, "a", "td", true, true},
		{&snapshot.AuthorizationSource{Nodes: []string{"a"}}, "b", "td", false, false},
		{&snapshot.AuthorizationSource{Nodes: []string{"a"}}, "", "td", true, false},
		{&snapshot.AuthorizationSource{NotNodes: []string{"a"}}, "a", "td", false, false},
		{&snapshot.AuthorizationSource{NotNodes: []string{"a"}}, "b", "td", true, true},
		{&snapshot.AuthorizationSource{NotNodes: []string{"a"}}, "", "td", true, false},
		{&snapshot.AuthorizationSource{TrustDomains: []string{"td"}}, "a", "td", true, true},
		{&snapshot.AuthorizationSource{NotTrustDomains: []string{"td"}}, "a", "other", true, true},
		{&snapshot.AuthorizationSource{TrustDomains: []string{"td"}, Nodes: []string{"a"}}, "a", "other", false, false},
	} {
		rule := &snapshot.AuthorizationRule{From: []*snapshot.AuthorizationSource{tt.source}}
		for _, tcp := range []bool{false, true} {
			q := &Request{Caller: name("shop/cart"), Node: tt.node, TrustDomain: tt.domain, TCP: tcp, Method: "GET", Path: "/"}
			if got := rulesOf(t, policyOf("p", true, rule)).Decide(q).Denied; got != tt.denied {
				t.Errorf("%v from %q: denied %t", tt.source, tt.node, got)
			}
			if got := !rulesOf(t, policyOf("p", false, rule)).Decide(q).Denied; got != tt.allow {
				t.Errorf("%v from %q: allowed %t", tt.source, tt.node, got)
			}
		}
	}
}

// TestWhoShowsNoIdentity has a caller of a permissive service. A rule that allows somebody is not for it, and one that denies
// somebody is, for it may be that one.
func TestWhoShowsNoIdentity(t *testing.T) {
	for _, tt := range []struct {
		source        *snapshot.AuthorizationSource
		denied, allow bool
	}{
		{&snapshot.AuthorizationSource{Services: []string{"shop/cart"}}, true, false},
		{&snapshot.AuthorizationSource{NotServices: []string{"shop/cart"}}, true, false},
		{&snapshot.AuthorizationSource{Namespaces: []string{"shop"}}, true, false},
		{&snapshot.AuthorizationSource{NotNamespaces: []string{"shop"}}, true, false},
		{&snapshot.AuthorizationSource{Nodes: []string{"a"}}, true, false},
		{&snapshot.AuthorizationSource{TrustDomains: []string{"td"}}, true, false},
		{&snapshot.AuthorizationSource{Plaintext: true}, true, true},
	} {
		rule := &snapshot.AuthorizationRule{From: []*snapshot.AuthorizationSource{tt.source}, To: to(&snapshot.AuthorizationOperation{Paths: exact("/a")})}
		q := &Request{Plaintext: true, Method: "GET", Path: "/a"}
		if got := rulesOf(t, policyOf("p", true, rule)).Decide(q).Denied; got != tt.denied {
			t.Errorf("%v: denied %t", tt.source, got)
		}
		if got := !rulesOf(t, policyOf("p", false, rule)).Decide(q).Denied; got != tt.allow {
			t.Errorf("%v: allowed %t", tt.source, got)
		}
		if rulesOf(t, policyOf("p", true, rule)).Decide(&Request{Plaintext: true, Method: "GET", Path: "/b"}).Denied {
			t.Errorf("%v: refused at another path", tt.source)
		}
	}
	known := &Request{Caller: name("shop/cart"), Node: "a", TrustDomain: "td", Method: "GET", Path: "/"}
	rule := &snapshot.AuthorizationRule{From: []*snapshot.AuthorizationSource{{Plaintext: true}}}
	if rulesOf(t, policyOf("p", true, rule)).Decide(known).Denied || !rulesOf(t, policyOf("p", false, rule)).Decide(known).Denied {
		t.Error("a caller with an identity is taken for one without")
	}
	if !rulesOf(t, policyOf("p", true, whenOf(`source.service == 'shop/x'`))).Decide(&Request{Plaintext: true, Method: "GET", Path: "/"}).Denied {
		t.Error("a condition on who calls passes")
	}
}

// TestAConnectionHasNoHeaders has rules that nobody can tell of a TCP connection whether they are for it.
func TestAConnectionHasNoHeaders(t *testing.T) {
	for _, o := range []*snapshot.AuthorizationOperation{
		{Headers: []*snapshot.AuthorizationHeader{{Name: "x", Kind: snapshot.AuthorizationHeader_PRESENT}}},
		{NotHeaders: []*snapshot.AuthorizationHeader{{Name: "x", Kind: snapshot.AuthorizationHeader_PRESENT}}},
		{Hosts: []string{"a"}}, {NotHosts: []string{"a"}},
	} {
		for _, deny := range []bool{true, false} {
			if !rulesOf(t, policyOf("p", deny, &snapshot.AuthorizationRule{To: to(o)})).Decide(&Request{TCP: true}).Denied {
				t.Errorf("a connection passes by %v", o)
			}
		}
	}
}

// manyHeads are 100 policies that are all for the caller and all ask for headers and hosts.
func manyHeads(tb testing.TB) (*Rules, *Request) {
	var all []*snapshot.AuthorizationPolicy
	for i := range 100 {
		o := &snapshot.AuthorizationOperation{
			Headers: []*snapshot.AuthorizationHeader{{Name: "x-tenant", Value: fmt.Sprint("t", i)}},
			Hosts:   []string{"orders.example.com"},
		}
		source := &snapshot.AuthorizationSource{Services: []string{"shop/cart"}, TrustDomains: []string{"mesh.example.com"}, NotNodes: []string{"bad"}}
		all = append(all, policyOf(fmt.Sprintf("shop/p%03d", i), false, &snapshot.AuthorizationRule{From: []*snapshot.AuthorizationSource{source}, To: to(o)}))
	}
	q := &Request{
		Caller: name("shop/cart"), TrustDomain: "mesh.example.com", Node: "n1", Port: 80, Method: "GET", Path: "/api", Host: "orders.example.com",
		Fields: fieldsOf("accept: */* | user-agent: x | x-request-id: 1 | cookie: y | x-tenant: t99 | traceparent: z | accept-encoding: gzip | x-b: 1"),
	}
	return rulesOf(tb, all...), q
}

// manyKinds are 100 policies that all ask for a header in one way, of which one lets the request in, or none refuses it.
func manyKinds(tb testing.TB, kind snapshot.AuthorizationHeader_Kind, deny bool) (*Rules, *Request) {
	var all []*snapshot.AuthorizationPolicy
	for i := range 100 {
		value := fmt.Sprintf("t%02d", i)
		if kind == snapshot.AuthorizationHeader_PREFIX {
			value += "-"
		}
		if deny {
			value = "x" + value + "x"
		}
		o := &snapshot.AuthorizationOperation{Headers: []*snapshot.AuthorizationHeader{{Name: "x-tenant", Kind: kind, Value: value}}}
		all = append(all, policyOf(fmt.Sprintf("shop/p%03d", i), deny, &snapshot.AuthorizationRule{To: to(o)}))
	}
	_, q := manyHeads(tb)
	q.Fields = fieldsOf("accept: */* | user-agent: x | x-request-id: 1 | cookie: y | x-tenant: t99-t99 | traceparent: z | accept-encoding: gzip | x-b: 1")
	return rulesOf(tb, all...), q
}

// headerCases are what 100 policies ask of headers.
func headerCases(tb testing.TB, visit func(name string, rules *Rules, q *Request)) {
	rules, q := manyHeads(tb)
	visit("whole values and hosts", rules, q)
	for _, kind := range []snapshot.AuthorizationHeader_Kind{snapshot.AuthorizationHeader_PREFIX, snapshot.AuthorizationHeader_SUFFIX} {
		for _, deny := range []bool{false, true} {
			rules, q := manyKinds(tb, kind, deny)
			visit(fmt.Sprintf("%s, denies %t", kind, deny), rules, q)
		}
	}
}

func BenchmarkDecideByHeaders(b *testing.B) {
	headerCases(b, func(name string, rules *Rules, q *Request) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if rules.Decide(q).Denied {
					b.Fatal("denied")
				}
			}
		})
	})
}

func TestDecidingByHeadersAllocatesNothing(t *testing.T) {
	headerCases(t, func(name string, rules *Rules, q *Request) {
		if rules.Decide(q).Denied {
			t.Errorf("%s: denied", name)
		}
		if n := testing.AllocsPerRun(100, func() { rules.Decide(q) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	})
}

// TestPoliciesThatRefuseByHeadersRefuseConnections: of a connection nobody knows its headers.
func TestPoliciesThatRefuseByHeadersRefuseConnections(t *testing.T) {
	for _, kind := range []snapshot.AuthorizationHeader_Kind{snapshot.AuthorizationHeader_EXACT, snapshot.AuthorizationHeader_PREFIX, snapshot.AuthorizationHeader_SUFFIX, snapshot.AuthorizationHeader_PRESENT} {
		for _, deny := range []bool{true, false} {
			rules, _ := manyKinds(t, kind, deny)
			if !rules.Decide(&Request{TCP: true, Port: 80}).Denied {
				t.Errorf("%s, denies %t: a connection passes", kind, deny)
			}
		}
	}
}
