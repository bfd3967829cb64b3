package compile

import (
	"bytes"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// sessionsOf compiles the rules of a route and returns the sessions of each.
func sessionsOf(t *testing.T, uid, rules string) (all []*snapshot.Session) {
	t.Helper()
	in := InputOf(t, route(rules))
	in.Routes[0].UID = types.UID(uid)
	for _, r := range out(t, Compile(in), "shop", "payments", "").Ports[0].Rules {
		all = append(all, r.Session)
	}
	return all
}

func TestSessionOfARule(t *testing.T) {
	const to = `backendRefs: [{name: payments-v2, port: 80}]`
	for _, tt := range []struct {
		name, rule string
		want       *snapshot.Session
	}{
		{"defaults", `{sessionPersistence: {}, ` + to + `}`, &snapshot.Session{Name: "session-"}},
		{"a header", `{sessionPersistence: {type: Header, sessionName: X-Session, absoluteTimeout: 1m}, ` + to + `}`, &snapshot.Session{Name: "X-Session", Header: true, TimeoutMs: 60_000}},
		{"a cookie that lasts", `{sessionPersistence: {type: Cookie, sessionName: sid, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}, ` + to + `}`, &snapshot.Session{Name: "sid", Permanent: true, TimeoutMs: 3_600_000}},
		{"a cookie that does not", `{sessionPersistence: {absoluteTimeout: 1h, cookieConfig: {lifetimeType: Session}}, ` + to + `}`, &snapshot.Session{Name: "session-", TimeoutMs: 3_600_000}},
	} {
		got := sessionsOf(t, "u", "["+tt.rule+"]")[0]
		if !strings.HasPrefix(got.GetName(), tt.want.Name) || got.Header != tt.want.Header || got.TimeoutMs != tt.want.TimeoutMs || got.Permanent != tt.want.Permanent || len(got.Key) != 32 {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	if got := sessionsOf(t, "u", "[{"+to+"}]")[0]; got != nil {
		t.Errorf("a rule without has %v", got)
	}
}

// TestSessionsAreOfOneRule wants rules not to share sessions (GEP-1619), their matches to, keys to stay while others
// come and go, and nobody to know them without the document's UID.
func TestSessionsAreOfOneRule(t *testing.T) {
	const s = `sessionPersistence: {sessionName: sid}, backendRefs: [{name: payments-v2, port: 80}]`
	all := sessionsOf(t, "u", `[{matches: [{path: {value: /a}}, {path: {value: /b}}], `+s+`}, {name: named, matches: [{path: {value: /c}}], `+s+`}]`)
	if len(all) != 3 || !bytes.Equal(all[0].Key, all[1].Key) || bytes.Equal(all[0].Key, all[2].Key) {
		t.Fatalf("%v", all)
	}
	moved := sessionsOf(t, "u", `[{matches: [{path: {value: /x}}], `+s+`}, {matches: [{path: {value: /a}}], `+s+`}, {name: named, matches: [{path: {value: /c}}], `+s+`}]`)
	if !bytes.Equal(moved[2].Key, all[2].Key) {
		t.Error("the sessions of a rule that has a name ended when another came")
	}
	if other := sessionsOf(t, "v", `[{`+s+`}]`); bytes.Equal(other[0].Key, all[0].Key) {
		t.Error("another document of the name has the same key")
	}
	names := sessionsOf(t, "u", `[{matches: [{path: {value: /a}}], sessionPersistence: {}, backendRefs: [{name: payments-v2, port: 80}]}, {matches: [{path: {value: /b}}], sessionPersistence: {}, backendRefs: [{name: payments-v2, port: 80}]}]`)
	if names[0].Name == names[1].Name {
		t.Error("two rules have a cookie of one name")
	}
}

// TestBackendsOfSessionsNeedNoWeight wants sessions to go on where no new ones begin.
func TestBackendsOfSessionsNeedNoWeight(t *testing.T) {
	const refs = `backendRefs: [{name: payments-v2, port: 80, weight: 0}, {name: payments, port: 80, weight: `
	for _, tt := range []struct {
		rule     string
		backends int
		answer   uint32
	}{
		{`{sessionPersistence: {}, ` + refs + `1}]}`, 2, 0},
		{`{sessionPersistence: {}, ` + refs + `0}]}`, 2, 500},
		{`{` + refs + `1}]}`, 1, 0},
		{`{` + refs + `0}]}`, 0, 500},
	} {
		r := out(t, Compile(InputOf(t, route("["+tt.rule+"]"))), "shop", "payments", "").Ports[0].Rules[0]
		if len(r.Backends) != tt.backends || r.Answer != tt.answer {
			t.Errorf("%s: %d backends, answer %d", tt.rule, len(r.Backends), r.Answer)
		}
	}
}
