package authz

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func name(s string) exchange.ServiceName {
	n, err := exchange.ParseServiceName(s)
	if err != nil {
		panic(err)
	}
	return n
}

func exact(paths ...string) (all []*snapshot.StringMatch) {
	for _, p := range paths {
		all = append(all, &snapshot.StringMatch{Kind: snapshot.StringMatch_EXACT, Value: p})
	}
	return all
}

func prefix(paths ...string) (all []*snapshot.StringMatch) {
	for _, p := range paths {
		all = append(all, &snapshot.StringMatch{Kind: snapshot.StringMatch_PREFIX, Value: p})
	}
	return all
}

func from(services ...string) []*snapshot.AuthorizationSource {
	return []*snapshot.AuthorizationSource{{Services: services}}
}

func to(o *snapshot.AuthorizationOperation) []*snapshot.AuthorizationOperation {
	return []*snapshot.AuthorizationOperation{o}
}

func policyOf(origin string, deny bool, rules ...*snapshot.AuthorizationRule) *snapshot.AuthorizationPolicy {
	return &snapshot.AuthorizationPolicy{Origin: origin, Deny: deny, Rules: rules}
}

func dry(p *snapshot.AuthorizationPolicy) *snapshot.AuthorizationPolicy {
	p.DryRun = true
	return p
}

func rulesOf(tb testing.TB, policies ...*snapshot.AuthorizationPolicy) *Rules {
	tb.Helper()
	r, err := Compile(&snapshot.Authorization{Policies: policies})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestDecisions(t *testing.T) {
	everything := &snapshot.AuthorizationRule{}
	admin := &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{Paths: prefix("/admin")})}
	get := &snapshot.AuthorizationRule{From: from("shop/cart"), To: to(&snapshot.AuthorizationOperation{Methods: []string{"GET"}})}
	for _, tt := range []struct {
		name     string
		policies []*snapshot.AuthorizationPolicy
		request  string // caller method path port, or caller tcp port
		want     string
	}{
		{"nothing is said", nil, "shop/cart GET / 80", "passes"},
		{"an empty Allow denies", []*snapshot.AuthorizationPolicy{policyOf("a", false)}, "shop/cart GET / 80", "denied by a"},
		{"an empty Deny denies nothing", []*snapshot.AuthorizationPolicy{policyOf("a", true)}, "shop/cart GET / 80", "passes"},
		{"Allow everything", []*snapshot.AuthorizationPolicy{policyOf("a", false, everything)}, "shop/cart GET / 80", "passes"},
		{"one Allow of several is enough", []*snapshot.AuthorizationPolicy{policyOf("a", false), policyOf("b", false, get)}, "shop/cart GET / 80", "passes"},
		{"another caller", []*snapshot.AuthorizationPolicy{policyOf("a", false), policyOf("b", false, get)}, "shop/web GET / 80", "denied by a"},
		{"another method", []*snapshot.AuthorizationPolicy{policyOf("b", false, get)}, "shop/cart POST / 80", "denied by b"},
		{"Deny is before Allow", []*snapshot.AuthorizationPolicy{policyOf("a", false, everything), policyOf("b", true, admin)}, "shop/cart GET /admin/x 80", "denied by b"},
		{"a prefix is of whole segments", []*snapshot.AuthorizationPolicy{policyOf("b", true, admin)}, "shop/cart GET /administer 80", "passes"},
		{"a prefix is its own", []*snapshot.AuthorizationPolicy{policyOf("b", true, admin)}, "shop/cart GET /admin?q 80", "denied by b"},
		{"namespaces", []*snapshot.AuthorizationPolicy{policyOf("b", false, &snapshot.AuthorizationRule{From: []*snapshot.AuthorizationSource{{Namespaces: []string{"shop"}}}})}, "shop/x GET / 80", "passes"},
		{"not namespaces", []*snapshot.AuthorizationPolicy{policyOf("b", true, &snapshot.AuthorizationRule{From: []*snapshot.AuthorizationSource{{NotNamespaces: []string{"shop"}}}})}, "other/x GET / 80", "denied by b"},
		{"all but one of a namespace", []*snapshot.AuthorizationPolicy{policyOf("b", false, &snapshot.AuthorizationRule{
			From: []*snapshot.AuthorizationSource{{Namespaces: []string{"shop"}, NotServices: []string{"shop/cart"}}}})}, "shop/cart GET / 80", "denied by b"},
		{"ports", []*snapshot.AuthorizationPolicy{policyOf("b", true, &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{Ports: []uint32{81}})})}, "shop/cart GET / 81", "denied by b"},
		{"a connection that is allowed", []*snapshot.AuthorizationPolicy{policyOf("b", false, &snapshot.AuthorizationRule{From: from("shop/cart")})}, "shop/cart tcp 80", "passes"},
		{"a connection of somebody else", []*snapshot.AuthorizationPolicy{policyOf("b", false, &snapshot.AuthorizationRule{From: from("shop/cart")})}, "shop/web tcp 80", "denied by b"},
		{"Allow by method is for no connection", []*snapshot.AuthorizationPolicy{policyOf("b", false, get)}, "shop/cart tcp 80", "denied by b"},
		{"Deny by path is for every connection", []*snapshot.AuthorizationPolicy{policyOf("b", true, admin)}, "shop/cart tcp 80", "denied by b"},
		{"dry Deny", []*snapshot.AuthorizationPolicy{dry(policyOf("b", true, admin))}, "shop/cart GET /admin 80", "passes, would be denied by b"},
		{"dry default deny", []*snapshot.AuthorizationPolicy{dry(policyOf("a", false))}, "shop/cart GET / 80", "passes, would be denied by a"},
		{"dry Allow besides one that allows", []*snapshot.AuthorizationPolicy{dry(policyOf("a", false)), policyOf("b", false, everything)}, "shop/cart GET / 80", "passes"},
		{"dry Allow opens nothing", []*snapshot.AuthorizationPolicy{dry(policyOf("a", false, everything)), policyOf("b", false)}, "shop/cart GET / 80", "denied by b"},
		{"a method in small letters", []*snapshot.AuthorizationPolicy{policyOf("b", true, &snapshot.AuthorizationRule{
			To: to(&snapshot.AuthorizationOperation{Methods: []string{"DELETE"}})})}, "shop/cart delete / 80", "denied by b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := said(rulesOf(t, tt.policies...).Decide(requestOf(t, tt.request))); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

func requestOf(t *testing.T, s string) *Request {
	t.Helper()
	var q Request
	words := strings.Fields(s)
	q.Caller = name(words[0])
	if words[1] == "tcp" {
		q.TCP = true
	} else {
		q.Method, q.Path = words[1], words[2]
	}
	if _, err := fmt.Sscan(words[len(words)-1], &q.Port); err != nil {
		t.Fatal(err)
	}
	return &q
}

func said(d Decision) string {
	switch {
	case d.Denied:
		return "denied by " + d.Policy
	case d.WouldBeDenied:
		return "passes, would be denied by " + d.WouldPolicy
	}
	return "passes"
}

// TestPathsThatServersReadDifferently has each way that is known around rules about paths. The service may take each
// for /admin; a rule that denies /admin must not let it pass, and neither must one that allows /public alone.
func TestPathsThatServersReadDifferently(t *testing.T) {
	deny := rulesOf(t, policyOf("p", true, &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{Paths: append(exact("/admin"), prefix("/admin/")...)})}))
	exactly := rulesOf(t, policyOf("p", true, &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{Paths: exact("/admin")})}))
	except := rulesOf(t, policyOf("p", false, &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{NotPaths: exact("/admin")})}))
	allow := rulesOf(t, policyOf("p", false, &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{Paths: prefix("/public")})}))
	for _, tt := range []struct{ name, path string }{
		{"encoded letter", "/%61dmin"},
		{"all encoded", "/%61%64%6D%69%6e"},
		{"duplicate slashes (CVE-2021-31920)", "//admin"},
		{"duplicate slashes inside", "/public//../admin"},
		{"encoded slash (CVE-2021-31920, CVE-2021-29492)", "/public%2F..%2fadmin"},
		{"encoded backslash (CVE-2021-29492)", "/public%5c..%5Cadmin"},
		{"backslash", `/public\..\admin`},
		{"dot segments (CVE-2019-9901)", "/public/../admin"},
		{"a single dot", "/./admin"},
		{"a dot at the end", "/admin/."},
		{"two dots at the end", "/admin/x/.."},
		{"encoded dots (CVE-2019-9901)", "/public/%2e%2E/admin"},
		{"half-encoded dots", "/public/.%2e/admin"},
		{"fragment (CVE-2021-39156)", "/admin#x"},
		{"encoded fragment", "/admin%23x"},
		{"encoded query", "/admin%3Fx"},
		{"trailing slash", "/admin/"},
		{"trailing encoded slash", "/admin%2F"},
		{"parameters", "/admin;x=1"},
		{"parameters before dots", "/public/..;/admin"},
		{"encoded parameters", "/admin%3bx"},
		{"NUL", "/admin%00"},
		{"NUL before an extension", "/admin%00.html"},
		{"control byte", "/admin%0d%0a"},
		{"encoded twice", "/%2561dmin"},
		{"dots encoded twice", "/public/%252e%252e/admin"},
		{"slash encoded twice", "/public%252f..%252fadmin"},
		{"overlong slash", "/public/..%c0%afadmin"},
		{"overlong dot", "/public/%c0%ae%c0%ae/admin"},
		{"no UTF-8", "/admin%ff"},
		{"a percent sign that encodes nothing", "/admin%zz"},
		{"a percent sign at the end", "/admin%"},
		{"no slash in front", "admin"},
		{"absolute form", "http://orders/admin"},
		{"empty", ""},
		{"query", "/admin?/public"},
		{"query with dots", "/admin?/../public"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for policy, rules := range map[string]*Rules{"Deny": deny, "Deny exactly": exactly, "Allow all others": except, "Allow /public": allow} {
				d := rules.Decide(&Request{Caller: name("shop/cart"), Port: 80, Method: "GET", Path: tt.path})
				if strings.HasPrefix(tt.path, "/admin/x") && policy == "Deny exactly" {
					continue
				}
				if !d.Denied {
					t.Errorf("%s lets %q pass", policy, tt.path)
				}
			}
		})
	}
	for _, path := range []string{"/public", "/public/", "/public/a%20b", "/public/caf%C3%A9", "/public/a.b/..c/...", "/public/x?y=/../admin;%2F", "/public/~a!$&'()*+,=:@"} {
		for policy, rules := range map[string]*Rules{"Deny": deny, "Allow all others": except, "Allow /public": allow} {
			if d := rules.Decide(&Request{Caller: name("shop/cart"), Port: 80, Method: "GET", Path: path}); d.Denied {
				t.Errorf("%s refuses %q, which is read in one way", policy, path)
			}
		}
	}
}

// TestPathsAreNotLookedAtWithoutNeed has a service that uses paths of any form, and policies that ask for none.
func TestPathsAreNotLookedAtWithoutNeed(t *testing.T) {
	rules := rulesOf(t, policyOf("p", false, &snapshot.AuthorizationRule{From: from("shop/cart")}))
	if d := rules.Decide(&Request{Caller: name("shop/cart"), Method: "get", Path: "/files/a%2Fb//c;v=1"}); d.Denied {
		t.Error("refused")
	}
}

func TestCompileRefusesWhatItCannotDecide(t *testing.T) {
	for _, o := range []*snapshot.AuthorizationOperation{
		{Paths: []*snapshot.StringMatch{{Kind: snapshot.StringMatch_REGEX, Value: "/a"}}},
		{Paths: exact("/a/../b")}, {Paths: prefix("a")}, {NotPaths: exact("/a?b")}, {Paths: exact("")},
		{Headers: []*snapshot.AuthorizationHeader{{Name: "x-role", Kind: 99}}}, {NotHeaders: []*snapshot.AuthorizationHeader{{Name: "x-role", Kind: 99}}},
		{Headers: []*snapshot.AuthorizationHeader{{Value: "of no name"}}},
	} {
		if _, err := Compile(&snapshot.Authorization{Policies: []*snapshot.AuthorizationPolicy{policyOf("p", true, &snapshot.AuthorizationRule{To: to(o)})}}); err == nil {
			t.Errorf("%v is compiled", o)
		}
	}
	for _, s := range []*snapshot.AuthorizationSource{{Services: []string{"Shop/_"}}, {NotServices: []string{"Shop/_"}}} {
		if _, err := Compile(&snapshot.Authorization{Policies: []*snapshot.AuthorizationPolicy{policyOf("p", true, &snapshot.AuthorizationRule{From: []*snapshot.AuthorizationSource{s}})}}); err == nil {
			t.Errorf("what is no service's name is compiled: %v", s)
		}
	}
}

// bigRules are 100 policies for one service.
func bigRules(tb testing.TB, paths bool) *Rules {
	var all []*snapshot.AuthorizationPolicy
	for i := range 100 {
		o := &snapshot.AuthorizationOperation{Methods: []string{"GET", "POST"}}
		if paths {
			o.Paths = prefix(fmt.Sprintf("/api/v1/things%d", i))
		}
		source := []*snapshot.AuthorizationSource{{Services: []string{"shop/cart", fmt.Sprintf("shop/caller%d", i)}}}
		if i%3 == 1 {
			source = []*snapshot.AuthorizationSource{{Namespaces: []string{"shop", fmt.Sprintf("ns%d", i)}}}
		}
		if i%3 == 2 {
			source = nil
		}
		all = append(all, policyOf(fmt.Sprintf("shop/p%03d", i), i%10 == 0 && paths, &snapshot.AuthorizationRule{From: source, To: to(o)}))
	}
	return rulesOf(tb, all...)
}

func BenchmarkDecide(b *testing.B) {
	for _, bb := range []struct {
		name  string
		paths bool
		path  string
	}{
		{"by path", true, "/api/v1/things77/items/4711?expand=all"},
		{"by path that is encoded", true, "/api/v1/things77/items/%7Eabc?expand=all"},
		{"by caller alone, all 100 for this one", false, "/api/v1/things77/items/4711"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			rules := bigRules(b, bb.paths)
			q := &Request{Caller: name("shop/cart"), Port: 80, Method: "GET", Path: bb.path}
			b.ReportAllocs()
			for b.Loop() {
				if rules.Decide(q).Denied {
					b.Fatal("denied")
				}
			}
		})
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	rules := bigRules(t, true)
	for _, path := range []string{"/api/v1/things77/items/4711?a", "/api/v1/things77/%41", "/none//x"} {
		q := &Request{Caller: name("shop/cart"), Port: 80, Method: "GET", Path: path}
		if n := testing.AllocsPerRun(100, func() { rules.Decide(q) }); n > 0 {
			t.Errorf("%s: %v allocations", path, n)
		}
	}
}

// TestRulesDecideAsTheReference compares with an implementation that reads the policies one after the other.
func TestRulesDecideAsTheReference(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	for range 3000 {
		compare(t, random, fmt.Sprintf("seed %d", seed))
	}
}

func FuzzDecide(f *testing.F) {
	f.Add(uint64(1), "/admin", "GET")
	f.Add(uint64(2), "/a/%2e%2e/b", "get")
	f.Fuzz(func(t *testing.T, seed uint64, path, method string) {
		random := rand.New(rand.NewPCG(seed, 1))
		body := randomBody(random)
		rules, err := Compile(body)
		if err != nil {
			t.Fatal(err)
		}
		q := randomRequest(random)
		if !q.TCP {
			q.Path, q.Method = path, method
		}
		if got, want := rules.Decide(q), reference(body, q); got != want {
			t.Fatalf("%+v\n%v\n%+v, want %+v", q, body, got, want)
		}
	})
}

func compare(t *testing.T, random *rand.Rand, note string) {
	t.Helper()
	body := randomBody(random)
	rules, err := Compile(body)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		q := randomRequest(random)
		if got, want := rules.Decide(q), reference(body, q); got != want {
			t.Fatalf("%s: %+v\n%v\n%+v, want %+v", note, q, body, got, want)
		}
	}
}
