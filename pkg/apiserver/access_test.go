package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
)

const bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/rolebindings"

// people are operators whose token is their name; "good" is a master.
type people struct {
	mu      sync.Mutex
	ends    map[string]context.CancelFunc
	refused []string
}

func (p *people) configure(cfg *Config) {
	p.ends = map[string]context.CancelFunc{}
	cfg.Authenticate = func(_ context.Context, token string) (Identity, error) {
		switch {
		case token == "good":
			return Identity{User: "alice", Groups: []string{rbac.Masters}}, nil
		case strings.HasPrefix(token, "unknown"):
			return Identity{}, errors.New("unknown")
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		lives, end := context.WithCancel(context.Background())
		p.ends[token] = end
		return Identity{User: token, Lives: lives}, nil
	}
	cfg.Refused = func(c Caller, method, path string, _ error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.refused = append(p.refused, c.User+" "+method+" "+path)
	}
}

func (w *world) bind(namespace, user, role string) {
	w.Helper()
	w.must(201, "POST", fmt.Sprintf(bindings, namespace), jsonType, fmt.Sprintf(`{"metadata":{"name":"%s-%s"},"subjects":[{"kind":"User","name":%q}],
		"roleRef":{"kind":"ClusterRole","name":%q}}`, user, role, user, role))
}

func as(user string) []string { return []string{"Authorization", "Bearer " + user} }

func TestRoles(t *testing.T) {
	t.Parallel()
	var p people
	w := start(t, func(c *Config) {
		p.configure(c)
		c.Sealer = testSealer(t, "a")
	})
	w.must(201, "POST", services, jsonType, serviceDoc("orders", 80))
	w.must(201, "POST", "/api/v1/namespaces/default/secrets", jsonType, `{"metadata":{"name":"s"},"stringData":{"a":"b"}}`)
	w.bind("default", "vera", "view")
	w.bind("default", "otto", "edit")
	w.bind("default", "adam", "admin")
	const secrets, other = "/api/v1/namespaces/default/secrets", "/api/v1/namespaces/other/services"
	for _, tt := range []struct {
		user, method, path, body string
		code                     int
	}{
		{"nina", "GET", services, "", 403},
		{"nina", "GET", "/api", "", 200}, // clients cannot begin without
		{"vera", "GET", services, "", 200},
		{"vera", "GET", services + "/orders", "", 200},
		{"vera", "GET", "/api/v1/services", "", 403},
		{"vera", "GET", other, "", 403},
		{"vera", "GET", secrets, "", 403},
		{"vera", "GET", secrets + "/s", "", 403},
		{"vera", "GET", secrets + "?watch=1&timeoutSeconds=1", "", 403},
		{"vera", "GET", secrets + "?resourceVersionMatch=Exact&resourceVersion=3", "", 403},
		{"vera", "PUT", services + "/orders", serviceDoc("orders", 81), 403},
		{"vera", "POST", services, serviceDoc("vera", 81), 403},
		{"vera", "DELETE", services + "/orders", "", 403},
		{"vera", "DELETE", services, "", 403},
		{"otto", "GET", secrets + "/s", "", 200},
		{"otto", "PUT", services + "/orders", serviceDoc("orders", 82), 200},
		{"otto", "PUT", services + "/orders/status", `{"metadata":{"name":"orders"}}`, 403},
		{"otto", "POST", other, serviceDoc("x", 82), 403},
		{"otto", "POST", fmt.Sprintf(bindings, "default"), `{"metadata":{"name":"x"},"subjects":[],"roleRef":{"kind":"ClusterRole","name":"view"}}`, 403},
		{"adam", "POST", fmt.Sprintf(bindings, "default"), `{"metadata":{"name":"y"},"subjects":[{"kind":"User","name":"yan"}],"roleRef":{"kind":"ClusterRole","name":"edit"}}`, 201},
		{"yan", "PUT", services + "/orders", serviceDoc("orders", 83), 200},
		{"adam", "POST", fmt.Sprintf(bindings, "other"), `{"metadata":{"name":"z"},"subjects":[],"roleRef":{"kind":"ClusterRole","name":"view"}}`, 403},
	} {
		code, o, _ := w.do(tt.method, tt.path, jsonType, tt.body, as(tt.user)...)
		if code != tt.code {
			t.Errorf("%s %s %s: %d instead of %d: %v", tt.user, tt.method, tt.path, code, tt.code, o["message"])
		}
		if code == 403 && (o["kind"] != "Status" || o["reason"] != "Forbidden") {
			t.Errorf("%s %s %s: %v", tt.user, tt.method, tt.path, o)
		}
	}
	o := w.must(403, "GET", "/api/v1/namespaces/default/secrets/s", "", "", as("vera")...)
	if want := `secrets "s" is forbidden: operator "vera" cannot get resource "secrets" in API group "" in the namespace "default"`; o["message"] != want {
		t.Errorf("%v, want %s", o["message"], want)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !strings.Contains(strings.Join(p.refused, "\n"), "vera GET /api/v1/namespaces/default/secrets/s") {
		t.Errorf("refused and not told: %q", p.refused)
	}
}

// Server-side apply is a patch that may create, and a rollback an update that may: both need the right to create.
func TestPatchesDoNotCreate(t *testing.T) {
	t.Parallel()
	var p people
	w := start(t, p.configure)
	w.must(201, "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", jsonType,
		`{"metadata":{"name":"patcher"},"rules":[{"verbs":["patch","update","get"],"apiGroups":[""],"resources":["services"]}]}`)
	w.must(201, "POST", fmt.Sprintf(bindings, "default"), jsonType, `{"metadata":{"name":"p"},"subjects":[{"kind":"User","name":"pat"}],"roleRef":{"kind":"Role","name":"patcher"}}`)
	made := w.must(201, "POST", services, jsonType, serviceDoc("orders", 80))
	at := at(made, "metadata", "resourceVersion").(string)
	w.must(200, "PATCH", services+"/orders", "application/merge-patch+json", `{"metadata":{"labels":{"a":"b"}}}`, as("pat")...)
	w.must(403, "PATCH", services+"/new?fieldManager=x", "application/apply-patch+yaml", serviceDoc("new", 80), as("pat")...)
	w.must(200, "DELETE", services+"/orders", "", "")
	w.must(403, "PUT", services+"/orders?rollbackTo="+at, "", "", as("pat")...)
	w.must(201, "PUT", services+"/orders?rollbackTo="+at, "", "")
}

func TestNobodyGivesHimselfMore(t *testing.T) {
	t.Parallel()
	var p people
	w := start(t, p.configure)
	w.must(201, "POST", services, jsonType, serviceDoc("orders", 80))
	w.bind("default", "adam", "admin")
	const roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles"
	deny := func(method, path, body string) {
		t.Helper()
		if o := w.must(403, method, path, jsonType, body, as("adam")...); !strings.Contains(o["message"].(string), "would give") && !strings.Contains(o["message"].(string), "may bind") {
			t.Errorf("%s %s: %v", method, path, o["message"])
		}
	}
	bind := func(name, kind, role string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q},"subjects":[{"kind":"User","name":"adam"}],"roleRef":{"kind":%q,"name":%q}}`, name, kind, role)
	}
	deny("POST", fmt.Sprintf(bindings, "default"), bind("more", "ClusterRole", "cluster-admin"))
	deny("POST", fmt.Sprintf(bindings, "default"), bind("later", "Role", "not-there-yet"))
	deny("POST", roles, `{"metadata":{"name":"r"},"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`)
	deny("POST", roles, `{"metadata":{"name":"r"},"rules":[{"verbs":["delete"],"apiGroups":[""],"resources":["namespaces"]}]}`)
	w.must(201, "POST", roles, jsonType, `{"metadata":{"name":"r"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["secrets"]}]}`, as("adam")...)
	deny("PUT", roles+"/r", `{"metadata":{"name":"r"},"rules":[{"verbs":["escalate"],"apiGroups":["rbac.authorization.k8s.io"],"resources":["roles"]}]}`)
	w.must(201, "POST", fmt.Sprintf(bindings, "default"), jsonType, bind("same", "Role", "r"), as("adam")...)
	w.must(422, "PUT", fmt.Sprintf(bindings, "default")+"/same", jsonType, bind("same", "ClusterRole", "cluster-admin"), as("adam")...)
	// What somebody else may do who is bound to more stays as it was written, and can be labelled.
	w.must(201, "POST", roles, jsonType, `{"metadata":{"name":"big"},"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`)
	w.must(200, "PATCH", roles+"/big", "application/merge-patch+json", `{"metadata":{"labels":{"a":"b"}}}`, as("adam")...)
	deny("POST", fmt.Sprintf(bindings, "default"), bind("big", "Role", "big"))
}

// The documents of RBAC are checked as strictly as others.
func TestRolesThatMeanNothing(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	const cluster = "/apis/rbac.authorization.k8s.io/v1/cluster"
	for body, want := range map[string]string{
		`{"metadata":{"name":"a"},"subjects":[{"kind":"ServiceAccount","name":"x"}],"roleRef":{"kind":"ClusterRole","name":"view"}}`: "no service accounts",
		`{"metadata":{"name":"a"},"subjects":[{"kind":"User","name":""}],"roleRef":{"kind":"ClusterRole","name":"view"}}`:            "subjects[0].name",
		`{"metadata":{"name":"a"},"subjects":[],"roleRef":{"kind":"Role","name":"view"}}`:                                            "roleRef.kind: must be ClusterRole",
		`{"metadata":{"name":"a"},"subjects":[]}`: "roleRef",
	} {
		if o := w.must(422, "POST", cluster+"rolebindings", jsonType, body); !strings.Contains(o["message"].(string), want) {
			t.Errorf("%s: %v", body, o["message"])
		}
	}
	for body, want := range map[string]string{
		`{"metadata":{"name":"a"},"rules":[{"verbs":[],"apiGroups":[""],"resources":["services"]}]}`:                  "rules[0].verbs",
		`{"metadata":{"name":"a"},"rules":[{"verbs":["get"],"resources":["services"]}]}`:                              "must name apiGroups",
		`{"metadata":{"name":"a"},"rules":[{"verbs":["get"],"nonResourceURLs":["sennit"]}]}`:                          "must begin with /",
		`{"metadata":{"name":"a"},"rules":[],"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"a":"b"}}]}}`: "not supported",
	} {
		if o := w.must(422, "POST", cluster+"roles", jsonType, body); !strings.Contains(o["message"].(string), want) {
			t.Errorf("%s: %v", body, o["message"])
		}
	}
}

func TestQuestionsWhoMay(t *testing.T) {
	t.Parallel()
	var p people
	w := start(t, p.configure)
	w.bind("default", "vera", "view")
	ask := func(user, kind, spec string) object {
		t.Helper()
		return w.must(201, "POST", "/apis/authorization.k8s.io/v1/"+kind, jsonType, `{"spec":`+spec+`}`, as(user)...)
	}
	const list = `{"resourceAttributes":{"verb":"list","resource":%q,"namespace":"default"}}`
	for resource, may := range map[string]bool{"services": true, "secrets": false} {
		if o := ask("vera", "selfsubjectaccessreviews", fmt.Sprintf(list, resource)); at(o, "status", "allowed") != may {
			t.Errorf("%s: %v", resource, o["status"])
		}
	}
	if o := ask("vera", "selfsubjectaccessreviews", `{"nonResourceAttributes":{"verb":"get","path":"/sennit/v1/audit"}}`); at(o, "status", "allowed") != false {
		t.Errorf("%v", o["status"])
	}
	if o := ask("good", "subjectaccessreviews", `{"user":"vera","resourceAttributes":{"verb":"list","resource":"services","namespace":"default"}}`); at(o, "status", "allowed") != true {
		t.Errorf("%v", o["status"])
	}
	w.must(403, "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", jsonType, `{"spec":{"user":"good","resourceAttributes":{"verb":"list"}}}`, as("vera")...)
	w.must(400, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", jsonType, `{"spec":{}}`, as("vera")...)
	if o := ask("vera", "selfsubjectrulesreviews", `{"namespace":"default"}`); len(at(o, "status", "resourceRules").([]any)) == 0 {
		t.Errorf("%v", o["status"])
	}
	o := w.must(201, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", jsonType, `{}`, as("vera")...)
	if at(o, "status", "userInfo", "username") != "vera" {
		t.Errorf("%v", o["status"])
	}
	w.must(405, "GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "", "")
	if w.must(403, "GET", services, "", "", append(as("good"), "Impersonate-User", "vera")...)["message"] != "impersonation is not supported" {
		t.Error("who wants to be taken for another is taken for himself")
	}
}

// A watch ends when the right to it does, and when the token does.
func TestWatchesEndWithTheRight(t *testing.T) {
	t.Parallel()
	var p people
	w := start(t, p.configure)
	w.bind("default", "vera", "view")
	w.bind("default", "otto", "edit")
	taken := w.watch(services+"?watch=1", as("vera")...)
	ended := w.watch(services+"?watch=1", as("otto")...)
	kept := w.watch(services + "?watch=1")
	w.must(201, "POST", services, jsonType, serviceDoc("orders", 80))
	for _, s := range []*stream{taken, ended, kept} {
		s.expect("ADDED orders")
	}
	w.must(200, "DELETE", fmt.Sprintf(bindings, "default")+"/vera-view", "", "")
	taken.over()
	p.mu.Lock()
	p.ends["otto"]()
	p.mu.Unlock()
	ended.over()
	w.must(403, "GET", services, "", "", as("vera")...)
	w.must(201, "POST", services, jsonType, serviceDoc("more", 80))
	kept.expect("ADDED more")
}

// Nor does one outlive the token that it came with.
func TestWatchesEndWithTheToken(t *testing.T) {
	t.Parallel()
	w := start(t, func(c *Config) {
		c.Authenticate = func(_ context.Context, token string) (Identity, error) {
			id := Identity{User: "alice", Groups: []string{rbac.Masters}}
			if token == "short" {
				id.Expires = time.Now().Add(3 * time.Second)
			}
			return id, nil
		}
	})
	ends := w.watch(services+"?watch=1", as("short")...)
	kept := w.watch(services + "?watch=1")
	ends.over()
	w.must(201, "POST", services, jsonType, serviceDoc("orders", 80))
	kept.expect("ADDED orders")
}

// over waits until the watch ends, which it does without an error.
func (s *stream) over() {
	s.Helper()
	if s.lines.Scan() || s.lines.Err() != nil {
		s.Fatalf("the watch goes on: %s %v", s.lines.Text(), s.lines.Err())
	}
}

// The roles that are always there are what this version says of them, unless somebody wants them otherwise.
func TestRolesThatAreAlwaysThere(t *testing.T) {
	t.Parallel()
	resources, statuses := newMemory(), newMemory()
	w := startOn(t, resources, statuses, nil)
	const view = "/apis/rbac.authorization.k8s.io/v1/clusterroles/view"
	const edit = "/apis/rbac.authorization.k8s.io/v1/clusterroles/edit"
	w.must(200, "PATCH", view, "application/merge-patch+json", `{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`)
	w.must(200, "PATCH", edit, "application/merge-patch+json", `{"metadata":{"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"false"}},"rules":[]}`)
	w.must(200, "DELETE", "/apis/rbac.authorization.k8s.io/v1/clusterroles/admin", "", "")
	again := startOn(t, resources, statuses, nil)
	if o := again.must(200, "GET", view, "", ""); len(o["rules"].([]any)) < 5 {
		t.Errorf("view after a start: %v", o["rules"])
	}
	if o := again.must(200, "GET", edit, "", ""); len(o["rules"].([]any)) != 0 {
		t.Errorf("edit after a start: %v", o["rules"])
	}
	again.must(200, "GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/admin", "", "")
}

func TestNobodyIsServedUnseen(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	if err := w.server.allow(Caller{}, rbac.Request{Verb: "get", Resource: api.Service.Plural}); err == nil {
		t.Error("a caller without a name may read")
	}
	code, _, _ := w.do(http.MethodGet, services, "", "", "Authorization", "Bearer unknown")
	if code != http.StatusUnauthorized {
		t.Errorf("an unknown token: %d", code)
	}
}
