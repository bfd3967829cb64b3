package routing

import (
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func exact(v string) *snapshot.StringMatch {
	return &snapshot.StringMatch{Kind: snapshot.StringMatch_EXACT, Value: v}
}

func prefix(v string) *snapshot.StringMatch {
	return &snapshot.StringMatch{Kind: snapshot.StringMatch_PREFIX, Value: v}
}

func pattern(v string) *snapshot.StringMatch {
	return &snapshot.StringMatch{Kind: snapshot.StringMatch_REGEX, Value: v}
}

func TestMatches(t *testing.T) {
	header := func(name string, v *snapshot.StringMatch) *snapshot.Match {
		return &snapshot.Match{Headers: []*snapshot.FieldMatch{{Name: name, Value: v}}}
	}
	query := func(name string, v *snapshot.StringMatch) *snapshot.Match {
		return &snapshot.Match{Query: []*snapshot.FieldMatch{{Name: name, Value: v}}}
	}
	path := func(v *snapshot.StringMatch) *snapshot.Match { return &snapshot.Match{Path: v} }
	for _, tt := range []struct {
		name  string
		match *snapshot.Match
		req   *exchange.Request
		want  bool
	}{
		{"an exact path is exact", path(exact("/a")), get("/a"), true},
		{"an exact path has no slash more", path(exact("/a")), get("/a/"), false},
		{"the query is no part of the path", path(exact("/a")), get("/a?b=c"), true},
		{"case matters in a path", path(exact("/a")), get("/A"), false},
		{"a prefix matches itself", path(prefix("/a")), get("/a"), true},
		{"a prefix matches below", path(prefix("/a")), get("/a/b"), true},
		{"a prefix matches whole segments", path(prefix("/a")), get("/ab"), false},
		{"a trailing slash of a prefix is ignored", path(prefix("/a/")), get("/a"), true},
		{"the prefix / matches everything", path(prefix("/")), &exchange.Request{Method: "OPTIONS", Path: "*"}, true},
		{"a regular expression matches the whole path", path(pattern("/a.")), get("/abc"), false},
		{"a regular expression", path(pattern("/a.|/c")), get("/ab"), true},
		{"an encoded letter is that letter", path(exact("/admin")), get("/%61dmin"), true},
		{"an encoded letter in a rule, too", path(prefix("/%61")), get("/a/b"), true},
		{"an encoded slash separates nothing", path(prefix("/a%20b")), get("/a b/c"), true},

		{"the name of a field has no case", header("X-User", exact("beta")), get("/", exchange.Field{Name: "x-USER", Value: "beta"}), true},
		{"the value of a field has", header("x-user", exact("beta")), get("/", exchange.Field{Name: "x-user", Value: "Beta"}), false},
		{"a field that is not there", header("x-user", pattern(".*")), get("/"), false},
		{"a repeated field is joined", header("x-user", exact("a, b")), get("/", exchange.Field{Name: "x-user", Value: "a"}, exchange.Field{Name: "X-User", Value: "b"}), true},
		{"one value of a repeated field is not enough", header("x-user", exact("a")), get("/", exchange.Field{Name: "x-user", Value: "a"}, exchange.Field{Name: "X-User", Value: "b"}), false},
		{"a regular expression of a field is whole", header("x-user", pattern("be")), get("/", exchange.Field{Name: "x-user", Value: "beta"}), false},
		{"Host is the authority", header("Host", exact("ORDERS")), get("/"), true},

		{"a parameter", query("a", exact("b")), get("/?x=y&a=b"), true},
		{"a parameter that is not there", query("a", pattern(".*")), get("/?aa=b"), false},
		{"the name of a parameter has case", query("a", exact("b")), get("/?A=b"), false},
		{"the first of its name counts", query("a", exact("b")), get("/?a=c&a=b"), false},
		{"a parameter is decoded", query("a b", exact("c&d/é")), get("/?a+b=c%26d%2f%C3%A9"), true},
		{"a parameter is decoded once", query("a", exact("%62")), get("/?a=%2562"), true},
		{"what is no encoding stands for itself", query("a", exact("%zz")), get("/?a=%zz"), true},
		{"a regular expression sees the decoded value", query("a", pattern("x y+")), get("/?a=x+yy"), true},
		{"a parameter without a value", query("a", exact("")), get("/?a"), true},
		{"an empty query", query("", exact("")), get("/?&"), false},

		{"a method", &snapshot.Match{Method: "GET"}, get("/"), true},
		{"case matters in a method", &snapshot.Match{Method: "get"}, get("/"), false},
		{"all must match", &snapshot.Match{Path: prefix("/a"), Method: "POST"}, get("/a"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := tableOf(t, instances("a"), &snapshot.Rule{Origin: "r", Match: tt.match, Backends: []*snapshot.Backend{to("orders", 1)}})
			var d Decision
			table.Pick(callOf(random(t)), tt.req, &d)
			if got := d.Rule == "r"; got != tt.want {
				t.Errorf("matches: %v, want %v", got, tt.want)
			}
			if !tt.want && (d.Status != 404 || d.Reason != exchange.NoRoute) {
				t.Errorf("answered %d %s", d.Status, d.Reason)
			}
		})
	}
}

// A path that servers read differently goes through where every reading leads to the same rule, and is
// refused where it could get around one.
func TestPathsCannotBypassARule(t *testing.T) {
	table := tableOf(t, instances("a"),
		&snapshot.Rule{Origin: "admin", Match: &snapshot.Match{Path: prefix("/admin")}, Backends: []*snapshot.Backend{to("orders", 1)}},
		&snapshot.Rule{Origin: "files", Match: &snapshot.Match{Path: prefix("/files")}, Backends: []*snapshot.Backend{to("orders", 1)}},
		&snapshot.Rule{Origin: "rest", Backends: []*snapshot.Backend{to("orders", 1)}})
	for path, want := range map[string]string{
		"/admin/x":                  "admin",
		"/%61dmin":                  "admin",
		"/files/a%2Fb":              "files", // however it is read
		"/files/./b":                "files",
		"/files//b":                 "files",
		"/files/a/../b":             "files",
		"/x//y":                     "rest",
		"/files/..hidden":           "files",
		"/files/.well-known":        "files",
		"/files/..%2Fadmin":         "",
		"/files/../admin":           "",
		"/files/%2e%2e/admin":       "",
		"/files/%2E./admin":         "",
		"//admin":                   "",
		"/./admin":                  "",
		"/x/..//admin":              "",
		"/files/x/..%2f..%2fadmin":  "",
		`/files\..\..\admin`:        "",
		"/files/%5c..%5c..%5cadmin": "",
		"/x//../admin":              "",
		"/admin/..":                 "",
		"/admin%2fx":                "",
		"/%2fadmin":                 "",
		"/%%32fadmin":               "rest", // "%" and "2f" once decoded, and nobody may decode twice
		"/files/a;v=1/b":            "files",
		"/files;v=1":                "", // the rest's, or that of files
		"/admin;v=1":                "",
		"/x;/admin":                 "rest",
		"/x/..;/admin":              "",
		"/files/..;a=b/admin":       "",
		"/files/.;/..;/admin":       "",
		"/files/..%3B/admin":        "",
		"/files/..;%2Fadmin":        "",
		"/files;%2F..%2Fadmin":      "",
		"/admin%3Fx":                "",
		"/admin%23x":                "",
		"/admin%00.html":            "",
		"/admin;%00/../x":           "",
		"/x;%2F..;%2Fadmin":         "", // where slashes are decoded before parameters are taken away
		"/files/a%3Fb":              "files",
		"/files/a%00b":              "files",
	} {
		var d Decision
		table.Pick(callOf(random(t)), get(path), &d)
		if d.Rule != want || want == "" && (d.Status != 400 || d.Reason != exchange.Malformed) {
			t.Errorf("%s: rule %q, status %d %s; want rule %q", path, d.Rule, d.Status, d.Reason, want)
		}
	}
}

func TestPathsCannotBypassAnExactRule(t *testing.T) {
	table := tableOf(t, instances("a"),
		&snapshot.Rule{Origin: "list", Match: &snapshot.Match{Path: exact("/list")}, Backends: []*snapshot.Backend{to("orders", 1)}},
		&snapshot.Rule{Origin: "rest", Backends: []*snapshot.Backend{to("orders", 1)}})
	for path, want := range map[string]string{"/list": "list", "/list/": "rest", "/list//": "rest", "/list/..%2Flist": "", "/list;a": "", "/x/../list": "", "/list/x//y": "rest"} {
		var d Decision
		table.Pick(callOf(random(t)), get(path), &d)
		if d.Rule != want || want == "" && d.Status != 400 {
			t.Errorf("%s: rule %q, status %d %s; want rule %q", path, d.Rule, d.Status, d.Reason, want)
		}
	}
}

func TestPathsOfServiceWithoutPathRulesAreNotLookedAt(t *testing.T) {
	table := tableOf(t, instances("a"), &snapshot.Rule{Origin: "all", Backends: []*snapshot.Backend{to("orders", 1)}})
	for _, path := range []string{"/a/../b", "//", "/%2F", "*", "", `\`} {
		var d Decision
		table.Pick(callOf(random(t)), get(path), &d)
		if d.Rule != "all" {
			t.Errorf("%q: %d %s", path, d.Status, d.Detail)
		}
	}
}

func TestTCP(t *testing.T) {
	table := tableOf(t, instances("a"), &snapshot.Rule{Origin: "tcp", Backends: []*snapshot.Backend{to("orders", 1)}})
	var d Decision
	table.Pick(callOf(random(t)), nil, &d)
	if d.Rule != "tcp" || d.Instance == nil {
		t.Errorf("%+v", d)
	}
	if p, ok := table.Protocol("shop", orders, 80); !ok || p != snapshot.Protocol_PROTOCOL_HTTP {
		t.Errorf("protocol %v, %v", p, ok)
	}
	call := callOf(random(t))
	call.Port = 81
	table.Pick(call, get("/"), &d)
	if d.Status != 503 || d.Reason != exchange.NoService {
		t.Errorf("a port that is not there: %d %s", d.Status, d.Reason)
	}
}
