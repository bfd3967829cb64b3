package controller

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

var (
	everywhere = rbac.Scope{Everywhere: true}
	ofShop     = rbac.Scope{Namespaces: []string{"shop"}}
	onShop     = func(node string) bool { return node == "cellar1" }
)

func TestEdgesOfANamespace(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		edge, seen telemetry.GraphEdge // seen without a callee: it is not
	}{
		{"within it", telemetry.GraphEdge{Caller: "shop/web", Callee: "shop/cart", Backend: "shop/cart", Version: "v1", Node: "n"}, telemetry.GraphEdge{Caller: "shop/web", Callee: "shop/cart", Backend: "shop/cart", Version: "v1", Node: "n"}},
		{"from another", telemetry.GraphEdge{Caller: "bank/a", Callee: "shop/cart", Backend: "shop/cart", Version: "v1", Node: "n"}, telemetry.GraphEdge{Caller: "bank/a", Callee: "shop/cart", Backend: "shop/cart", Version: "v1", Node: "n"}},
		{"to another", telemetry.GraphEdge{Caller: "shop/web", Callee: "bank/a", Backend: "bank/a2", Version: "v1", Node: "n"}, telemetry.GraphEdge{Caller: "shop/web", Callee: "bank/a"}},
		{"by its route to another", telemetry.GraphEdge{Caller: "shop/web", Callee: "shop/cart", Backend: "bank/a", Version: "v1", Node: "n"}, telemetry.GraphEdge{Caller: "shop/web", Callee: "shop/cart"}},
		{"by a route of another", telemetry.GraphEdge{Caller: "bank/a", Callee: "bank/b", Backend: "shop/cart", Version: "v1", Node: "n"}, telemetry.GraphEdge{Caller: "bank/a", Callee: "bank/b", Backend: "shop/cart", Version: "v1", Node: "n"}},
		{"of others", telemetry.GraphEdge{Caller: "bank/a", Callee: "bank/b", Backend: "bank/b"}, telemetry.GraphEdge{}},
		{"of what overflowed, of a namespace that is named as it", telemetry.GraphEdge{Callee: "shop/overflow"}, telemetry.GraphEdge{}},
		{"of a namespace that begins alike", telemetry.GraphEdge{Caller: "shop2/a", Callee: "shop2/b", Backend: "shop2/b"}, telemetry.GraphEdge{}},
	} {
		graph := func(fold telemetry.Fold) []telemetry.GraphEdge {
			if fold != nil {
				return []telemetry.GraphEdge{fold(tt.edge)}
			}
			return []telemetry.GraphEdge{tt.edge}
		}
		want := []telemetry.GraphEdge{tt.seen}
		if tt.seen.Callee == "" {
			want = []telemetry.GraphEdge{}
		}
		if got := edgesSeen(graph, nil, ofShop); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v", tt.name, got)
		}
		if got := edgesSeen(graph, telemetry.ByService, ofShop); len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got[0], telemetry.ByService(tt.seen)) {
			t.Errorf("%s, by service: %+v", tt.name, got)
		}
		if got := edgesSeen(graph, nil, everywhere); !reflect.DeepEqual(got, []telemetry.GraphEdge{tt.edge}) {
			t.Errorf("%s, everywhere: %+v", tt.name, got)
		}
	}
}

func TestListsOfANamespace(t *testing.T) {
	t.Parallel()
	quotas := func() []report.Quota {
		return []report.Quota{
			{Limit: "shop/a/b", Caller: "bank/a", Holders: []report.QuotaHolder{{Node: "vault1", Tokens: 1}, {Node: "cellar1", Tokens: 2}, {Node: "vault2", Tokens: 4}}},
			{Limit: "bank/a/b", Caller: "shop/a", Holders: []report.QuotaHolder{{Node: "cellar1", Tokens: 1}}},
		}
	}
	want := []report.Quota{{Limit: "shop/a/b", Caller: "bank/a", Holders: []report.QuotaHolder{{Node: "cellar1", Tokens: 2}, {Tokens: 5}}}}
	if got := quotasSeen(quotas(), ofShop, onShop); !reflect.DeepEqual(got, want) {
		t.Errorf("quotas: %+v", got)
	}
	denial := func(service, caller, node string) telemetry.SeenDenial {
		return telemetry.SeenDenial{Denial: telemetry.Denial{Service: service, Caller: caller, Node: node}}
	}
	denials := []telemetry.SeenDenial{denial("shop/a", "bank/a", "vault1"), denial("shop/a", "shop/b", "cellar1"), denial("bank/a", "shop/a", "cellar1")}
	wanted := []telemetry.SeenDenial{denial("shop/a", "bank/a", ""), denial("shop/a", "shop/b", "cellar1")}
	if got := denialsSeen(denials, ofShop, onShop); !reflect.DeepEqual(got, wanted) {
		t.Errorf("denials: %+v", got)
	}
	pending := []bus.Pending{
		{Node: "cellar1", Subject: snapshot.InSubject("shop", "a"), Problem: "p"}, {Node: "cellar1", Subject: snapshot.InSubject("shop", "b")},
		{Node: "cellar1", Subject: snapshot.InSubject("bank", "a"), Problem: "p"}, {Node: "vault1", Subject: snapshot.OutSubject("shop", "a", ""), Problem: "p"},
		{Node: "cellar1", Subject: "sennit.config.roster", Problem: "p"},
	}
	if got := problemsSeen(pending, ofShop, onShop); len(got) != 1 || got[0] != "cellar1: sennit.config.in.shop.a: p" {
		t.Errorf("problems: %q", got)
	}
	if got := problemsSeen(pending, everywhere, nil); len(got) != 4 {
		t.Errorf("all problems: %q", got)
	}
}

func TestExplanationsHideOthers(t *testing.T) {
	t.Parallel()
	explained := func(rule string, backends ...string) *routing.Explanation {
		e := &routing.Explanation{Rule: rule, Detail: "d", Rules: []routing.RuleVerdict{{Rule: "httproute/bank/r#0/0", Why: "secret"}, {Rule: "httproute/shop/r#0/0", Why: "plain"}}}
		for _, kind := range []string{"access", "QuotaPolicy"} {
			for _, name := range []string{"bank/a", "shop/a"} {
				e.Policies = append(e.Policies, routing.PolicyVerdict{Kind: kind, Name: name})
			}
		}
		e.Policies = append(e.Policies, routing.PolicyVerdict{Kind: "sessionPersistence", Name: rule})
		for _, b := range backends {
			name, _ := exchange.ParseServiceName(b)
			e.Backends = append(e.Backends, routing.BackendVerdict{Service: name, Detail: "d", Balance: "b", Instances: []routing.InstanceVerdict{{Node: "n"}}})
		}
		return e
	}
	short := func(e *routing.Explanation) string {
		said := e.Rule + " " + e.Detail
		for _, r := range e.Rules {
			said += " " + r.Why
		}
		for _, p := range e.Policies {
			said += " " + p.Kind + "=" + p.Name
		}
		for _, b := range e.Backends {
			said += fmt.Sprintf(" %s:%s%s%d", b.Service, b.Detail, b.Balance, len(b.Instances))
		}
		return said
	}
	for _, tt := range []struct{ rule, backend, want string }{
		{"httproute/shop/r#0/0", "shop/a", "httproute/shop/r#0/0 d plain access=shop/a QuotaPolicy=shop/a sessionPersistence=httproute/shop/r#0/0 shop/a:db1"},
		{"httproute/shop/r#0/0", "bank/a", "httproute/shop/r#0/0  plain access=shop/a QuotaPolicy=shop/a bank/a:0"},
		{"httproute/bank/r#0/0", "shop/a", "(of another namespace)  plain access=shop/a QuotaPolicy=shop/a shop/a:db1"},
		{"", "shop/a", " d plain access=shop/a QuotaPolicy=shop/a sessionPersistence= shop/a:db1"},
	} {
		e := explained(tt.rule, tt.backend)
		if hide(e, ofShop); short(e) != tt.want {
			t.Errorf("%s to %s: %s", tt.rule, tt.backend, short(e))
		}
		e = explained(tt.rule, tt.backend)
		if hide(e, everywhere); !reflect.DeepEqual(e, explained(tt.rule, tt.backend)) {
			t.Errorf("everywhere: %s", short(e))
		}
	}
}

// Viewers of a namespace see what is of it: everything here that is of shop alone is named after a cellar, and what is of bank
// alone after a vault.
func TestViewersOfANamespaceSeeWhatIsTheirs(t *testing.T) {
	t.Parallel()
	c, _ := start(t, t.TempDir())
	r := reach(t, c)
	_, admin := token(t, c, "root", rbac.Masters)
	tokens := map[string]string{}
	for _, who := range []string{"shop", "bank", "both", "viewer"} {
		_, tokens[who] = token(t, c, who)
	}
	r.bind(admin, "shop", "shop", rbac.View)
	r.bind(admin, "bank", "bank", rbac.View)
	r.bind(admin, "shop", "both", rbac.View)
	r.bind(admin, "bank", "both", rbac.Edit)
	r.bind(admin, "", "viewer", rbac.View)
	put := func(path, document string) {
		t.Helper()
		if code, text := r.ask(admin, "POST", path, document); code != http.StatusCreated {
			t.Fatalf("%s: %d %s", path, code, text)
		}
	}
	names := map[string]string{"shop": "cellar", "bank": "vault"}
	others := map[string]string{"shop": "bank", "bank": "shop"}
	var nodes []ca.Node
	for ns, own := range names {
		service := func(name string) exchange.ServiceName { return exchange.ServiceName{Namespace: ns, Name: name} }
		other := others[ns]
		put("/api/v1/namespaces/"+ns+"/services", `{"metadata":{"name":"front"},"spec":{"ports":[{"port":80,"appProtocol":"http"}]}}`)
		put("/apis/sennit.dev/v1alpha1/namespaces/"+ns+"/quotapolicies", fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"targetRefs":[{"kind":"Service","name":"front"}],"limits":[{"name":"x","requests":5,"per":"Day"}]}}`, own))
		put("/apis/gateway.networking.k8s.io/v1/namespaces/"+ns+"/gateways", fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"gatewayClassName":"sennit","listeners":[{"name":"web","port":80,"protocol":"HTTP"}]}}`, own))
		// The front of each has some of its requests answered by that of the other, and has rules of its own for its calls to it.
		put("/apis/gateway.networking.k8s.io/v1/namespaces/"+ns+"/httproutes", fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"parentRefs":[{"group":"","kind":"Service","name":"front"}],"rules":[{"backendRefs":[{"name":"front","port":80},{"name":"front","namespace":%q,"port":80}]}]}}`, own, other))
		put("/apis/gateway.networking.k8s.io/v1/namespaces/"+ns+"/httproutes", fmt.Sprintf(`{"metadata":{"name":"%s-calls"},"spec":{"parentRefs":[{"group":"","kind":"Service","name":"front","namespace":%q}],"rules":[{"backendRefs":[{"name":"front","namespace":%[2]q,"port":80}]}]}}`, own, other))
		record(t, c, ns+"/front", own+"1")
		nodes = append(nodes, ca.Node{Name: own + "1", State: "frozen", Why: "of " + own, Services: []exchange.ServiceName{service("front"), service(own)}})
		c.denials.Add(telemetry.Denial{Service: ns + "/front", Caller: other + "/front", Node: names[other] + "1", Path: "/" + own}, 1, time.Now())
		c.plaintext.Add(telemetry.Denial{Service: ns + "/" + own, Source: "192.0.2.1"}, 1, time.Now())
	}
	nodes = append(nodes, ca.Node{Name: "cellarvault", Services: []exchange.ServiceName{{Namespace: "shop", Name: "cellar"}, {Namespace: "bank", Name: "vault"}}})
	c.members.take(nodes)
	reportEdges := func() {
		t.Helper()
		for ns, own := range names {
			other := others[ns]
			err := c.graph.Add(own+"1", &telemetry.EdgeReport{Edges: []*telemetry.EdgeSummary{
				{Caller: ns + "/front", Callee: ns + "/front", Backend: ns + "/front", Version: own, Node: own + "1", Count: 1},
				{Caller: ns + "/front", Callee: other + "/front", Backend: other + "/" + names[other], Version: names[other], Node: names[other] + "1", Count: 1},
				{Caller: ns + "/" + own, Callee: ns + "/" + own, Count: 1},
			}}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
		}
	}

	question := func(from, to string) string {
		return fmt.Sprintf(`{"from":"%s/front","to":"%s/front","port":80,"method":"GET","path":"/","authority":"front"}`, from, to)
	}
	awaitThat(t, "everything is compiled", func() bool {
		_, quotas := r.ask(tokens["viewer"], "GET", report.PathQuota, "")
		_, explained := r.ask(tokens["viewer"], "POST", report.PathExplain, question("shop", "shop"))
		return strings.Contains(quotas, "cellar") && strings.Contains(quotas, "vault") && strings.Contains(explained, "cellar1") && strings.Contains(explained, "vault1")
	})
	for _, tt := range []struct{ method, path, body string }{
		{"GET", report.PathStatus, ""}, {"GET", report.PathEdges, ""}, {"GET", report.PathEdges + "?by=node", ""}, {"GET", report.PathEdges + "?by=service", ""},
		{"GET", report.PathQuota, ""}, {"GET", report.PathAuthzDenials, ""}, {"GET", report.PathPlaintext, ""},
		{"POST", report.PathExplain, question("shop", "shop")}, {"POST", report.PathExplain, question("bank", "bank")},
		{"POST", report.PathExplain, question("shop", "bank")}, {"POST", report.PathExplain, question("bank", "shop")},
	} {
		reportEdges() // anew for each question, as nodes do: on a slow machine the graph's window passes between them
		said := map[string]string{}
		for who, token := range tokens {
			code, text := r.ask(token, tt.method, tt.path, tt.body)
			if said[who] = text; tt.body == "" && code != http.StatusOK {
				t.Errorf("%s %s: %d %s", who, tt.path, code, text)
			}
			if code == http.StatusForbidden {
				said[who] = ""
			}
		}
		about := fmt.Sprint(tt.path, " ", tt.body)
		for who, own := range names {
			hidden := names[others[who]]
			text := strings.ReplaceAll(said[who], "cellarvault", own) // the host that they share
			if strings.Contains(text, hidden) {
				t.Errorf("a viewer of %s sees a %s: %s: %s", who, hidden, about, text)
			}
			if tt.body == "" && !strings.Contains(text, own) {
				t.Errorf("a viewer of %s does not see his: %s: %s", who, about, text)
			}
			if !strings.Contains(said["both"], own) && strings.Contains(said["viewer"], own) {
				t.Errorf("a viewer of both does not see %s: %s: %s", own, about, said["both"])
			}
		}
	}
	// Of a host that both use, each sees his own services.
	var status report.Cluster
	_, text := r.ask(tokens["shop"], "GET", report.PathStatus, "")
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		t.Fatal(err)
	}
	shown := ""
	for _, n := range status.Nodes {
		shown += n.Name + strings.Join(n.Services, "+") + " "
	}
	if shown != "cellar1shop/front+shop/cellar cellarvaultshop/cellar " || fmt.Sprint(status.Namespaces) != "[shop]" || len(status.Warnings) != 1 || len(status.Gateways) != 1 {
		t.Errorf("%s, %s", shown, text)
	}
	// Who may ask about one service alone is told of it, and what is wrong with the cluster is for who sees all of it.
	put("/apis/rbac.authorization.k8s.io/v1/clusterroles", `{"metadata":{"name":"one"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["services/explain"],"resourceNames":["front"]}]}`)
	_, named := token(t, c, "named")
	r.bind(admin, "shop", "named", "one")
	if code, text := r.ask(named, "POST", report.PathExplain, question("shop", "shop")); code != http.StatusOK || !strings.Contains(text, "cellar1") || strings.Contains(text, "vault") {
		t.Errorf("asked about one service: %d %s", code, text)
	}
	if code, _ := r.ask(named, "GET", report.PathStatus, ""); code != http.StatusForbidden {
		t.Errorf("the status, of who may ask about one service: %d", code)
	}
	c.gathering.Store(true)
	if of, all := c.Status(ofShop).Warnings, c.Status(everywhere).Warnings; len(of)+2 != len(all) { // of the controller, and of the vault's host
		t.Errorf("warnings %q of %q", of, all)
	}
	for from, code := range map[string]int{"shop": http.StatusOK, "bank": http.StatusForbidden, "elsewhere": http.StatusOK} {
		if got, text := r.ask(tokens["shop"], "POST", report.PathExplain, question(from, "shop")); got != code {
			t.Errorf("asked from %s: %d %s", from, got, text)
		}
	}
}
