package routing

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func sessionOf(change func(*snapshot.Session)) *snapshot.Session {
	s := &snapshot.Session{Name: "sid", Key: bytes.Repeat([]byte{7}, sessionKey)}
	if change != nil {
		change(s)
	}
	return s
}

// versions is a node's table with two backends, each with three instances, between which a rule's sessions go.
func versions(t testing.TB, node string, v1, v2 uint32, session *snapshot.Session) *Table {
	table := New()
	table.Node = node
	for _, name := range []string{"v1", "v2"} {
		apply(t, table, epSubject(name, 0), 1, instances(name+"-a", name+"-b", name+"-c"))
	}
	weigh(t, table, 1, v1, v2, session)
	return table
}

func weigh(t testing.TB, table *Table, revision uint64, v1, v2 uint32, session *snapshot.Session) {
	t.Helper()
	apply(t, table, outSubject("orders"), revision, outboundOf(&snapshot.Rule{Origin: "r", Session: session, Backends: []*snapshot.Backend{to("v1", v1), to("v2", v2)}}))
}

// An asker is a client that keeps what it is told.
type asker struct {
	t      testing.TB
	call   *Call
	cookie string // as it sends it back; empty: none
	told   int    // how often
}

func (a *asker) ask(table *Table) *Instance {
	a.t.Helper()
	var d Decision
	req := get("/cart")
	if a.cookie != "" {
		req.Fields = append(req.Fields, exchange.Field{Name: "Cookie", Value: "x=y; " + a.cookie})
	}
	table.Pick(a.call, req, &d)
	if d.Instance == nil {
		a.t.Fatalf("answered with %d %s", d.Status, d.Detail)
	}
	response := exchange.Response{Status: 200}
	d.RewriteResponse(&response)
	if set, has := response.Fields.Get("Set-Cookie"); has {
		c, err := http.ParseSetCookie(set)
		if err != nil {
			a.t.Fatal(err)
		}
		a.cookie, a.told = c.Name+"="+c.Value, a.told+1
	}
	d.Done()
	return d.Instance
}

func newAsker(t testing.TB) *asker { return &asker{t: t, call: callOf(random(t))} }

// TestSessionsStay wants each session to stay at its instance: at other nodes, when weights change, when its backend has
// no weight any more, and while instances come; and who comes anew to go by the weights.
func TestSessionsStay(t *testing.T) {
	one, other := versions(t, "host-1", 50, 50, sessionOf(nil)), versions(t, "host-2", 50, 50, sessionOf(nil))
	var askers []*asker
	at := map[*asker]instanceKey{}
	for range 60 {
		a := newAsker(t)
		at[a] = a.ask(one).key
		askers = append(askers, a)
	}
	same := func(what string, table *Table) {
		t.Helper()
		for _, a := range askers {
			if got := a.ask(table).key; got != at[a] || a.told != 1 {
				t.Fatalf("%s: a session went from %v to %v, and was told %d times", what, at[a], got, a.told)
			}
		}
	}
	same("again", one)
	same("at another node", other)
	weigh(t, one, 2, 1, 1000, sessionOf(nil))
	same("after the weights changed", one)
	weigh(t, one, 3, 0, 100, sessionOf(nil))
	same("at a backend without weight", one)
	for range 50 {
		if got := newAsker(t).ask(one); !strings.HasPrefix(got.ID, "v2") {
			t.Fatalf("a new session is at %s, which has no weight", got.ID)
		}
	}
	apply(t, one, epSubject("v1", 0), 4, instances("v1-0", "v1-a", "v1-aa", "v1-b", "v1-c", "v1-d"))
	same("after instances came", one)
	weigh(t, one, 5, 0, 0, sessionOf(nil))
	same("when nobody has weight", one)
	var d Decision
	if one.Pick(callOf(random(t)), get("/"), &d); d.Status != 500 {
		t.Errorf("a new session is answered with %d where nobody has weight", d.Status)
	}
}

// TestNewSessionsGoByWeight is GEP-1619's: the first requests are shared out as the weights say.
func TestNewSessionsGoByWeight(t *testing.T) {
	table := versions(t, "host", 70, 30, sessionOf(nil))
	counts := map[string]int{}
	call := callOf(rand.NewPCG(20261125, 1))
	const n = 20_000
	for range n {
		counts[(&asker{t: t, call: call}).ask(table).ID]++
	}
	expected := map[string]float64{}
	for _, i := range []string{"a", "b", "c"} {
		expected["v1-"+i], expected["v2-"+i] = n*.7/3, n*.3/3
	}
	if x := chiSquare(counts, expected); x > 20.5 { // p = 0.001 at 5 degrees
		t.Errorf("chi-square %.1f of %v", x, counts)
	}
}

// TestSessionsMoveOn wants a session whose instance is gone, ill or unreachable to go on elsewhere, and to stay there.
func TestSessionsMoveOn(t *testing.T) {
	for _, tt := range []struct {
		name string
		harm func(table *Table, at *Instance)
	}{
		{"gone", func(table *Table, at *Instance) {
			left := slices.DeleteFunc([]string{"v1-a", "v1-b", "v1-c"}, func(name string) bool { return name == at.ID })
			apply(t, table, epSubject("v1", 0), 2, instances(left...))
		}},
		{"ill", func(table *Table, at *Instance) {
			all := instances("v1-a", "v1-b", "v1-c")
			for _, e := range all.Endpoints {
				e.Unhealthy = e.Instance == at.ID
			}
			apply(t, table, epSubject("v1", 0), 2, all)
		}},
		{"unreachable", func(table *Table, at *Instance) { table.MarkUnreachable(at, start) }},
	} {
		table := versions(t, "host", 1, 0, sessionOf(nil))
		a := newAsker(t)
		at := a.ask(table)
		tt.harm(table, at)
		next := a.ask(table)
		if next.key == at.key || a.told != 2 {
			t.Errorf("%s: the session is at %s, and was told %d times", tt.name, next.ID, a.told)
		}
		for range 20 {
			if got := a.ask(table); got.key != next.key || a.told != 2 {
				t.Errorf("%s: the session moved again", tt.name)
			}
		}
	}
	// All ill is none ill.
	table := versions(t, "host", 1, 0, sessionOf(nil))
	a := newAsker(t)
	at := a.ask(table)
	all := instances("v1-a", "v1-b", "v1-c")
	for _, e := range all.Endpoints {
		e.Unhealthy = true
	}
	apply(t, table, epSubject("v1", 0), 2, all)
	for range 20 {
		if a.ask(table).key != at.key {
			t.Fatal("with all instances ill the session moved")
		}
	}
}

// TestTokensThatAreMadeUp wants nobody without the rule's key to choose an instance.
func TestTokensThatAreMadeUp(t *testing.T) {
	s, err := compileSession(sessionOf(nil), &match{})
	if err != nil {
		t.Fatal(err)
	}
	other, _ := compileSession(sessionOf(func(s *snapshot.Session) { s.Key = bytes.Repeat([]byte{8}, sessionKey) }), &match{})
	const place = 0x1234567890abcdef
	token := s.token(place, start.UnixNano())
	if got, ok := s.read(token, start.UnixNano()); got != place || !ok || len(token) != tokenLength {
		t.Fatalf("token %s: %#x %v", token, got, ok)
	}
	if _, ok := other.read(token, start.UnixNano()); ok {
		t.Error("another rule takes the token")
	}
	for i := range token {
		for _, c := range "Az0_!" {
			if made := token[:i] + string(c) + token[i+1:]; made != token {
				if _, ok := s.read(made, start.UnixNano()); ok {
					t.Fatalf("%s is taken, which nobody gave", made)
				}
			}
		}
	}
	for _, made := range []string{"", "x", token + "A", token[:len(token)-1], strings.Repeat("A", tokenLength), strings.Repeat("=", tokenLength), strings.Repeat("\n", tokenLength)} {
		if _, ok := s.read(made, start.UnixNano()); ok {
			t.Errorf("%q is taken, which nobody gave", made)
		}
	}
	if again := s.token(place, start.Add(time.Second).UnixNano()); again[6:16] == token[6:16] {
		t.Error("two tokens show that they are of one instance")
	}
}

func TestSessionsEnd(t *testing.T) {
	table := versions(t, "host", 1, 1, sessionOf(func(s *snapshot.Session) { s.TimeoutMs = 60_000 }))
	a := newAsker(t)
	a.ask(table)
	a.call.Now = start.Add(59 * time.Second)
	if a.ask(table); a.told != 1 {
		t.Error("the session ended early")
	}
	a.call.Now = start.Add(60 * time.Second)
	if a.ask(table); a.told != 2 {
		t.Error("the session did not end")
	}
	a.call.Now = start.Add(119 * time.Second)
	if a.ask(table); a.told != 2 {
		t.Error("the session that began then ended early")
	}
}

func TestHowSessionsAreTold(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*snapshot.Session)
		match  *snapshot.Match
		path   string
		secure bool
		want   string // behind the token
	}{
		{"a cookie", nil, nil, "/", false, "; Path=/; HttpOnly; SameSite=Lax"},
		{"over TLS", nil, nil, "/", true, "; Path=/; HttpOnly; SameSite=Lax; Secure"},
		{"of a prefix", nil, &snapshot.Match{Path: prefix("/cart")}, "/cart/7", false, "; Path=/cart; HttpOnly; SameSite=Lax"},
		{"of a path", nil, &snapshot.Match{Path: exact("/cart/all")}, "/cart/all", false, "; Path=/cart/all; HttpOnly; SameSite=Lax"},
		{"of an expression", nil, &snapshot.Match{Path: &snapshot.StringMatch{Kind: snapshot.StringMatch_REGEX, Value: "/cart/v[0-9]/.*"}}, "/cart/v1/x", false, "; Path=/cart/; HttpOnly; SameSite=Lax"},
		{"of a path that would end the attribute", nil, &snapshot.Match{Path: prefix("/a;b")}, "/a;b", false, "; Path=/; HttpOnly; SameSite=Lax"},
		{"that lasts", func(s *snapshot.Session) { s.Permanent, s.TimeoutMs = true, 300_000 }, nil, "/", false, "; Path=/; HttpOnly; SameSite=Lax; Max-Age=300"},
		{"that ends, unseen", func(s *snapshot.Session) { s.TimeoutMs = 300_000 }, nil, "/", false, "; Path=/; HttpOnly; SameSite=Lax"},
		{"a field", func(s *snapshot.Session) { s.Header = true }, nil, "/", true, ""},
	} {
		table := tableOf(t, instances("a", "b", "c", "d"), &snapshot.Rule{Match: tt.match, Session: sessionOf(tt.change), Backends: []*snapshot.Backend{to("orders", 1)}})
		call, field := callOf(random(t)), "Set-Cookie"
		call.Secure = tt.secure
		var d Decision
		table.Pick(call, get(tt.path), &d)
		if d.Instance == nil {
			t.Fatalf("%s: %d %s", tt.name, d.Status, d.Detail)
		}
		at := d.Instance
		response := exchange.Response{Fields: exchange.Fields{{Name: "Set-Cookie", Value: "the=service's"}}}
		d.RewriteResponse(&response)
		said := response.Fields[len(response.Fields)-1]
		token := strings.TrimPrefix(said.Value, "sid=")
		sent := exchange.Field{Name: "Cookie", Value: "sid=" + token[:tokenLength]}
		if tt.name == "a field" {
			field, sent = "sid", exchange.Field{Name: "SID", Value: token}
		}
		if said.Name != field || token[tokenLength:] != tt.want || response.Fields[0].Value != "the=service's" {
			t.Errorf("%s: %v, want %q behind the token", tt.name, response.Fields, tt.want)
		}
		for range 20 {
			table.Pick(call, get(tt.path, sent), &d)
			if d.Instance == nil || d.Instance.key != at.key {
				t.Fatalf("%s: the session is not resumed", tt.name)
			}
		}
	}
}

// TestRetriesLeaveTheSession wants an attempt that failed at the session's instance to go elsewhere, and the caller to
// hear where its session is now.
func TestRetriesLeaveTheSession(t *testing.T) {
	table := versions(t, "host", 1, 0, sessionOf(nil))
	a := newAsker(t)
	at := a.ask(table)
	var d Decision
	table.Pick(a.call, get("/", exchange.Field{Name: "Cookie", Value: a.cookie}), &d)
	if d.Instance.key != at.key || !table.PickAgain(a.call, &d) || d.Instance.key == at.key {
		t.Fatal("the second attempt is at the same instance")
	}
	var response exchange.Response
	d.RewriteResponse(&response)
	if len(response.Fields) != 1 || strings.HasPrefix(response.Fields[0].Value, a.cookie) {
		t.Errorf("told %v", response.Fields)
	}
}

func TestSessionsAreExplained(t *testing.T) {
	table := versions(t, "host", 0, 1, sessionOf(nil))
	weigh(t, table, 2, 1, 0, sessionOf(nil))
	a := newAsker(t)
	at := a.ask(table)
	weigh(t, table, 3, 0, 1, sessionOf(nil))
	e := table.Explain(&Question{From: web, To: orders, Port: 80, Method: "GET", Path: "/", Fields: exchange.Fields{{Name: "Cookie", Value: a.cookie}}}, start)
	if len(e.Backends) != 1 || len(e.Backends[0].Instances) != 1 || e.Backends[0].Instances[0].Instance != at.ID || e.Backends[0].Share != 1 ||
		len(e.Policies) != 1 || e.Policies[0].Kind != "sessionPersistence" {
		t.Errorf("%+v", e)
	}
	e = table.Explain(&Question{From: web, To: orders, Port: 80, Method: "GET", Path: "/"}, start)
	if len(e.Backends) != 1 || len(e.Backends[0].Instances) != 3 || len(e.Policies) != 0 {
		t.Errorf("without a session: %+v", e)
	}
}

func TestSessionsThatAreNoneAreRefused(t *testing.T) {
	for _, s := range []*snapshot.Session{sessionOf(func(s *snapshot.Session) { s.Name = "" }), sessionOf(func(s *snapshot.Session) { s.Key = nil })} {
		if _, err := compileSession(s, &match{}); err == nil {
			t.Errorf("%v is taken", s)
		}
	}
}

func TestResumingAllocatesNothing(t *testing.T) {
	table := versions(t, "host", 1, 1, sessionOf(nil))
	a := newAsker(t)
	a.ask(table)
	req := get("/", exchange.Field{Name: "Cookie", Value: "x=y; " + a.cookie})
	var d Decision
	if n := testing.AllocsPerRun(100, func() { table.Pick(a.call, req, &d); d.Done() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkResume(b *testing.B) {
	table := versions(b, "host", 1, 1, sessionOf(nil))
	a := newAsker(b)
	a.ask(table)
	req := get("/cart", fieldsOf("Cookie", fmt.Sprint("x=y; ", a.cookie))...)
	var d Decision
	b.ReportAllocs()
	for b.Loop() {
		table.Pick(a.call, req, &d)
		d.Done()
	}
}
