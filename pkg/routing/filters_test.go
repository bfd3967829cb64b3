package routing

import (
	"fmt"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// filtered picks for a request under one rule and returns what became of both.
func filtered(t *testing.T, rule *snapshot.Rule, req *exchange.Request) *Decision {
	t.Helper()
	rule.Backends = []*snapshot.Backend{to("orders", 1)}
	table := tableOf(t, instances("one"), rule)
	var d Decision
	table.Pick(callOf(random(t)), req, &d)
	if d.Status == 0 && d.Rewrites() {
		d.Rewrite(req)
	}
	d.Done()
	return &d
}

// TestPrefixIsReplaced holds the table of Gateway API's HTTPPathModifier, and what it leaves open.
func TestPrefixIsReplaced(t *testing.T) {
	for _, tt := range []struct{ prefix, replacement, path, want string }{
		{"/foo", "/xyz", "/foo/bar", "/xyz/bar"},
		{"/foo", "/xyz/", "/foo/bar", "/xyz/bar"},
		{"/foo/", "/xyz", "/foo/bar", "/xyz/bar"},
		{"/foo/", "/xyz/", "/foo/bar", "/xyz/bar"},
		{"/foo", "/xyz", "/foo", "/xyz"},
		{"/foo", "/xyz", "/foo/", "/xyz/"},
		{"/foo", "", "/foo/bar", "/bar"},
		{"/foo", "", "/foo/", "/"},
		{"/foo", "", "/foo", "/"},
		{"/foo", "/", "/foo/", "/"},
		{"/foo", "/", "/foo", "/"},
		{"/foo/baz", "/x/y", "/foo/baz/1?q=/foo", "/x/y/1?q=/foo"},
		{"/", "/all", "/foo", "/all/foo"},
		{"/foo", "", "/foo?q", "/?q"},
		{"/foo", "/xyz", "/%66oo/b%61r", "/xyz/b%61r"}, // what is not replaced goes on as it was sent
	} {
		req := get(tt.path)
		d := filtered(t, &snapshot.Rule{
			Match:   &snapshot.Match{Path: prefix(tt.prefix)},
			Filters: &snapshot.Filters{Path: &snapshot.PathChange{Prefix: true, Value: tt.replacement}},
		}, req)
		if d.Status != 0 || req.Path != tt.want {
			t.Errorf("%s in %s becomes %s: %d, %s; want %s", tt.prefix, tt.path, tt.replacement, d.Status, req.Path, tt.want)
		}
	}
}

// TestNoPartOfAnUncertainPathIsReplaced: what stays of it could leave the place that the rule gives.
func TestNoPartOfAnUncertainPathIsReplaced(t *testing.T) {
	for _, path := range []string{"/tenant/../admin", "/tenant//x", "/tenant/%2e%2e/admin", `/tenant/a\b`, "/tenant/a%2Fb"} {
		for _, at := range []string{"/", "/tenant"} {
			d := filtered(t, &snapshot.Rule{
				Match:   &snapshot.Match{Path: prefix(at)},
				Filters: &snapshot.Filters{Path: &snapshot.PathChange{Prefix: true, Value: "/v2"}},
			}, get(path))
			if d.Status != 400 && d.Status != 404 {
				t.Errorf("%s under %s: %d %s; want a refusal", path, at, d.Status, d.Detail)
			}
		}
	}
}

func TestRewrites(t *testing.T) {
	req := get("/a?b", exchange.Field{Name: "X-Set", Value: "old"}, exchange.Field{Name: "x-gone", Value: "1"})
	rule := &snapshot.Rule{Filters: &snapshot.Filters{
		Request: &snapshot.FieldChanges{
			Set:    []*snapshot.Field{{Name: "x-set", Value: "new"}},
			Add:    []*snapshot.Field{{Name: "X-Set", Value: "more"}, {Name: "X-Added", Value: "2"}},
			Remove: []string{"X-Gone"},
		},
		Authority: "inner.example",
		Path:      &snapshot.PathChange{Value: "/whole"},
	}}
	filtered(t, rule, req)
	if got := fmt.Sprint(req.Authority, req.Path, req.Fields); got != "inner.example/whole?b[{x-set new} {X-Set more} {X-Added 2}]" {
		t.Error(got)
	}
}

// TestBackendsFilterAfterTheRule: for a request the rule's filters come first, for a response last.
func TestBackendsFilterAfterTheRule(t *testing.T) {
	change := func(value string) *snapshot.Filters {
		set := &snapshot.FieldChanges{Set: []*snapshot.Field{{Name: "By", Value: value}}}
		return &snapshot.Filters{Request: set, Response: set}
	}
	backend := to("orders", 1)
	backend.Filters = change("backend")
	table := tableOf(t, instances("one"), &snapshot.Rule{Filters: change("rule"), Backends: []*snapshot.Backend{backend}})
	var d Decision
	req, response := get("/"), &exchange.Response{}
	table.Pick(callOf(random(t)), req, &d)
	d.Rewrite(req)
	d.RewriteResponse(response)
	if got := fmt.Sprint(req.Fields, response.Fields); got != "[{By backend}] [{By rule}]" {
		t.Error(got)
	}
}

func TestRedirects(t *testing.T) {
	for _, tt := range []struct {
		authority, path string
		redirect        *snapshot.Redirect
		want            string
	}{
		{"orders:8080", "/a?b=c", &snapshot.Redirect{Hostname: "example.org", Status: 302}, "302 http://example.org/a?b=c"}, // port 80 was called
		{"orders", "/a", &snapshot.Redirect{Scheme: "https", Status: 301}, "301 https://orders/a"},
		{"orders:8080", "/a", &snapshot.Redirect{Scheme: "https", Port: 8443, Status: 301}, "301 https://orders:8443/a"},
		{"orders:8080", "/a", &snapshot.Redirect{Port: 80, Status: 302}, "302 http://orders/a"},
		{"127.0.0.1:15001", "/a", &snapshot.Redirect{Path: &snapshot.PathChange{Value: "/b"}, Status: 303}, "303 http://127.0.0.1:15001/b"},
		{"orders", "/a/x", &snapshot.Redirect{Path: &snapshot.PathChange{Prefix: true, Value: "/b"}, Status: 307}, "307 http://orders/b/x"},
		{"[::1]:8080", "/a", &snapshot.Redirect{Scheme: "https", Status: 308}, "308 https://[::1]/a"},
	} {
		req := get(tt.path)
		req.Scheme, req.Authority = "http", tt.authority
		d := filtered(t, &snapshot.Rule{Match: &snapshot.Match{Path: prefix("/a")}, Filters: &snapshot.Filters{Redirect: tt.redirect}}, req)
		location, _ := d.Fields.Get("Location")
		if got := fmt.Sprint(d.Status, " ", location); got != tt.want || d.Reason != exchange.Completed || d.Instance != nil {
			t.Errorf("%s, %v: %s, reason %q; want %s", tt.authority, tt.redirect, got, d.Reason, tt.want)
		}
	}
}

// TestFiltersThatCannotBeUsed change nothing.
func TestFiltersThatCannotBeUsed(t *testing.T) {
	for _, rule := range []*snapshot.Rule{
		{Filters: &snapshot.Filters{Redirect: &snapshot.Redirect{Status: 200}}},
		{Match: &snapshot.Match{Path: exact("/a")}, Filters: &snapshot.Filters{Path: &snapshot.PathChange{Prefix: true}}},
	} {
		_, err := New().Apply(outSubject("orders"), snapshot.Version{Revision: 1}, outboundOf(rule))
		if err == nil {
			t.Errorf("%v is taken", rule)
		}
	}
}

// TestRewritingAllocatesNothing: the memory of a Decision and of the request's fields is used again.
func TestRewritingAllocatesNothing(t *testing.T) {
	set := &snapshot.FieldChanges{Set: []*snapshot.Field{{Name: "By", Value: "rule"}}, Remove: []string{"X-Gone"}}
	table := tableOf(t, instances("one"), &snapshot.Rule{
		Match:    &snapshot.Match{Path: prefix("/a")},
		Filters:  &snapshot.Filters{Request: set, Path: &snapshot.PathChange{Prefix: true, Value: "/b"}},
		Backends: []*snapshot.Backend{to("orders", 1)},
	})
	var d Decision
	call, req := callOf(random(t)), get("/a/b")
	once := func() {
		req.Path, req.Fields = "/a/b", append(req.Fields[:0], exchange.Field{Name: "X-Gone", Value: "1"})
		table.Pick(call, req, &d)
		d.Rewrite(req)
		d.Done()
	}
	once()
	if n := testing.AllocsPerRun(100, once); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
