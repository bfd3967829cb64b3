package apiserver

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
	"github.com/sennit-mesh/sennit/pkg/bus"
)

// A stream is an open watch.
type stream struct {
	*testing.T
	lines  *bufio.Scanner
	cancel func()
}

func (w *world) watch(path string, header ...string) *stream {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 60*time.Second)
	w.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", w.url+path, nil)
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer good")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := w.client.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = res.Body.Close() })
	if res.StatusCode != 200 {
		w.Fatalf("watch: %s", res.Status)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	return &stream{T: w.T, lines: lines, cancel: cancel}
}

// next returns the next event as "TYPE name", and its object.
func (s *stream) next() (string, object) {
	s.Helper()
	if !s.lines.Scan() {
		s.Fatalf("the watch ended: %v", s.lines.Err())
	}
	var e struct {
		Type   string
		Object object
	}
	if err := json.Unmarshal(s.lines.Bytes(), &e); err != nil {
		s.Fatal(err)
	}
	name, _ := at(e.Object, "metadata", "name").(string)
	return strings.TrimSpace(e.Type + " " + name), e.Object
}

func (s *stream) expect(want ...string) (last object) {
	s.Helper()
	for _, text := range want {
		got, o := s.next()
		if got != text {
			s.Fatalf("got %q, want %q: %v", got, text, o)
		}
		last = o
	}
	return last
}

func revision(o object) string { return at(o, "metadata", "resourceVersion").(string) }

func TestWatch(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	w.must(201, "POST", services, jsonType, serviceDoc("a", 1))
	list := w.must(200, "GET", services, "", "")
	w.must(201, "POST", services, jsonType, serviceDoc("b", 1))
	w.must(200, "PATCH", services+"/a", mergeType, `{"metadata":{"labels":{"app":"z"}}}`)

	fromList := w.watch(services + "?watch=1&resourceVersion=" + revision(list))
	fromList.expect("ADDED b", "MODIFIED a")
	all := w.watch(services + "?watch=1")
	all.expect("ADDED a", "ADDED b")
	one := w.watch(services + "?watch=true&fieldSelector=metadata.name%3Da")
	one.expect("ADDED a")
	selected := w.watch(services + "?watch=true&labelSelector=app%3Db")
	selected.expect("ADDED b")
	initial := w.watch(services + "?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan")
	mark := initial.expect("ADDED a", "ADDED b", "BOOKMARK")
	if at(mark, "metadata", "annotations", "k8s.io/initial-events-end") != "true" || revision(mark) == "" {
		t.Errorf("bookmark: %v", mark)
	}
	w.must(200, "PATCH", services+"/a", mergeType, `{"metadata":{"labels":{"app":"b"}}}`)
	selected.expect("ADDED a") // what comes into view is new
	w.must(200, "PATCH", services+"/a", mergeType, `{"metadata":{"labels":{"app":"c"}}}`)
	selected.expect("DELETED a") // what leaves it is gone
	w.must(200, "DELETE", services+"/a", "", "")
	for _, s := range []*stream{fromList, all, one, initial} {
		last := s.expect("MODIFIED a", "MODIFIED a", "DELETED a")
		if at(last, "spec", "ports", 0, "port") != 1.0 {
			t.Error("a deletion does not carry the last document")
		}
		if v, _ := strconv.Atoi(revision(last)); v <= 3 {
			t.Errorf("deletion has version %d", v)
		}
	}
	short := w.watch(services + "?watch=1&timeoutSeconds=1&resourceVersion=" + revision(list))
	for short.lines.Scan() {
	}
	if short.lines.Err() != nil {
		t.Errorf("a watch that is over ends with %v", short.lines.Err())
	}
}

func TestWatchOfStatusSurvivesReconnecting(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	made := w.must(201, "POST", routes, jsonType, routeDoc("r", 1))
	w.must(201, "POST", routes, jsonType, routeDoc("other", 1))
	list := w.must(200, "GET", routes, "", "")
	w.must(200, "PATCH", routes+"/r/status", mergeType, `{"status":{"parents":[]}}`)
	s := w.watch(routes + "?watch=1&resourceVersion=" + revision(list))
	o := s.expect("MODIFIED r")
	if at(o, "status", "parents") == nil || revision(o) == revision(made) {
		t.Errorf("status event: %v", o)
	}
	// A version that a status event showed is as good for a write as the document's own.
	body, _ := json.Marshal(o)
	w.must(200, "PUT", routes+"/r", jsonType, strings.Replace(string(body), `"weight":1`, `"weight":2`, 1))
	// One of before the other's change is refused.
	w.must(409, "PUT", routes+"/r", jsonType, string(body))
}

// TestAnswerNamesItsOwnRevision: a status that comes while a write is answered shows a later version, which is another
// document's change.
func TestAnswerNamesItsOwnRevision(t *testing.T) {
	t.Parallel()
	var w *world
	w = start(t, func(c *Config) {
		c.Hook = func(_ context.Context, change Change) error {
			if change.Verb == "update" && change.Sequence != 0 && change.Name == "r" {
				w.must(201, "POST", routes, jsonType, routeDoc("other", 1))
				w.must(200, "PATCH", routes+"/r/status", mergeType, `{"status":{"parents":[]}}`)
				if shown := revision(w.must(200, "GET", routes+"/r", "", "")); shown == fmt.Sprint(change.Sequence) {
					t.Errorf("the status shows no later version than %s", shown)
				}
			}
			return nil
		}
	})
	w.must(201, "POST", routes, jsonType, routeDoc("r", 1))
	changed := w.must(200, "PUT", routes+"/r", jsonType, routeDoc("r", 2))
	if other := w.must(200, "GET", routes+"/other", "", ""); revision(changed) == revision(other) {
		t.Errorf("the write is answered with the revision of another, %s", revision(changed))
	}
}

func TestVersionsThatAreNotThere(t *testing.T) {
	t.Parallel()
	w := start(t, func(c *Config) { c.Epoch = 1_700_000_000 })
	made := w.must(201, "POST", services, jsonType, serviceDoc("a", 1))
	if v := revision(made); !strings.HasPrefix(v, "17000000000000000") {
		t.Errorf("version %s does not begin with the epoch", v)
	}
	code, o, h := w.do("GET", services+"?watch=1&resourceVersion=1700000000000009999", "", "")
	if code != 504 || at(o, "details", "causes", 0, "reason") != "ResourceVersionTooLarge" || h.Get("Retry-After") == "" {
		t.Errorf("from the future: %d %v", code, o)
	}
	w.must(504, "GET", services+"?resourceVersion=1700000000000009999", "", "")
	if o := w.must(410, "GET", services+"?watch=1&resourceVersion=5", "", ""); o["reason"] != "Expired" {
		t.Errorf("of before the restore: %v", o)
	}
	w.must(400, "GET", services+"?watch=1&resourceVersion=x", "", "")
	for i := range maxEvents + 1 {
		w.must(200, "PATCH", services+"/a", mergeType, fmt.Sprintf(`{"metadata":{"labels":{"n":"%d"}}}`, i))
	}
	w.must(410, "GET", services+"?watch=1&resourceVersion="+revision(made), "", "")
}

func TestPatches(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	w.must(201, "POST", services, jsonType, `{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"ports":[{"port":80,"name":"http"},{"port":81,"name":"admin"}]}}`)
	o := w.must(200, "PATCH", services+"/a", "application/json-patch+json", `[{"op":"test","path":"/spec/ports/0/name","value":"http"},{"op":"replace","path":"/spec/ports/0/targetPort","value":8080}]`)
	if at(o, "spec", "ports", 0, "targetPort") != 8080.0 {
		t.Errorf("JSON patch: %v", o["spec"])
	}
	w.must(422, "PATCH", services+"/a", "application/json-patch+json", `[{"op":"test","path":"/spec/ports/0/name","value":"x"}]`)
	o = w.must(200, "PATCH", services+"/a", "application/strategic-merge-patch+json", `{"spec":{"ports":[{"port":81,"targetPort":9}]}}`)
	if len(at(o, "spec", "ports").([]any)) != 2 || at(o, "spec", "ports", 1, "name") != "admin" {
		t.Errorf("strategic merge patch: %v", o["spec"])
	}
	w.must(201, "POST", routes, jsonType, routeDoc("r", 1))
	w.must(415, "PATCH", routes+"/r", "application/strategic-merge-patch+json", `{}`)
	w.must(415, "PATCH", routes+"/r", "text/plain", `{}`)
	w.must(422, "PATCH", routes+"/r", mergeType, `{"spec":{"rules":[{"backendRefs":[{"name":"a"}]}]}}`)
	w.must(400, "PATCH", routes+"/r?fieldValidation=Strict", mergeType, `{"spec":{"rulez":[]}}`)
	w.must(404, "PATCH", routes+"/none", mergeType, `{}`)
	w.must(409, "PATCH", routes+"/r", mergeType, `{"metadata":{"resourceVersion":"1","labels":{"a":"b"}}}`)
}

func TestServerSideApply(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	const applyType = "application/apply-patch+yaml"
	doc := "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - {port: 80, name: http}\n"
	made := w.must(201, "PATCH", services+"/a?fieldManager=one", applyType, doc)
	again := w.must(200, "PATCH", services+"/a?fieldManager=one", applyType, doc)
	if revision(made) != revision(again) {
		t.Error("the same apply again has made a revision")
	}
	both := w.must(200, "PATCH", services+"/a?fieldManager=two", applyType, strings.Replace(doc, "port: 80, name: http", "port: 81, name: admin", 1))
	if len(at(both, "spec", "ports").([]any)) != 2 {
		t.Errorf("two managers' ports: %v", both["spec"])
	}
	clash := strings.Replace(doc, "name: http", "name: web", 1)
	code, o, _ := w.do("PATCH", services+"/a?fieldManager=two", applyType, clash)
	if code != 409 || at(o, "details", "causes", 0, "field") == nil {
		t.Errorf("what another manages: %d %v", code, o)
	}
	forced := w.must(200, "PATCH", services+"/a?fieldManager=two&force=true", applyType, clash)
	if at(forced, "spec", "ports", 0, "name") != "web" {
		t.Errorf("forced: %v", forced["spec"])
	}
	w.must(400, "PATCH", services+"/a", applyType, doc) // no manager
	w.must(400, "PATCH", services+"/a?fieldManager=one&fieldValidation=Strict", applyType, strings.Replace(doc, "ports", "prots", 1))
	w.must(409, "PATCH", services+"/none?fieldManager=one", applyType, strings.Replace(doc, "name: a", "name: none, uid: x", 1))
	route := "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  rules:\n  - backendRefs: [{name: a, port: 80}]\n"
	w.must(201, "PATCH", routes+"/r?fieldManager=one", applyType, route)
	same := w.must(200, "PATCH", routes+"/r?fieldManager=two", applyType, route) // no conflict: it is what is there
	if at(same, "metadata", "generation") != 1.0 {
		t.Errorf("the same rules by another manager: %v", same)
	}
	w.must(409, "PATCH", routes+"/r?fieldManager=two", applyType, strings.Replace(route, "port: 80", "port: 82", 1))
	next := w.must(200, "PATCH", routes+"/r?fieldManager=one&force=true", applyType, strings.Replace(route, "port: 80", "port: 81", 1))
	if at(next, "spec", "rules", 0, "backendRefs", 0, "port") != 81.0 || at(next, "metadata", "generation") != 2.0 {
		t.Errorf("route: %v", next)
	}
}

func TestFieldErrors(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	bad := routeDoc("r", -1)
	code, o, _ := w.do("POST", routes, jsonType, bad)
	if code != 422 || o["reason"] != "Invalid" || at(o, "details", "causes", 0, "field") != "spec.rules[0].backendRefs[0].weight" {
		t.Errorf("%d %v", code, o)
	}
	if want := `HTTPRoute.gateway.networking.k8s.io "r" is invalid: spec.rules[0].backendRefs[0].weight: must be from 0 to 1000000, is -1`; o["message"] != want {
		t.Errorf("got %v", o["message"])
	}
	w.must(404, "GET", routes+"/r", "", "")
	unknown := strings.Replace(routeDoc("r", 1), `"parentRefs"`, `"weight":1,"parentRefs"`, 1)
	o = w.must(400, "POST", routes+"?fieldValidation=Strict", jsonType, unknown)
	if o["message"] != "strict decoding error: spec.weight: unknown field" {
		t.Errorf("got %v", o["message"])
	}
	code, o, h := w.do("POST", routes+"?dryRun=All", jsonType, unknown)
	if code != 201 || h.Get("Warning") != `299 - "spec.weight: unknown field"` || at(o, "spec", "weight") != nil {
		t.Errorf("%d %q", code, h.Get("Warning"))
	}
	if _, _, h = w.do("POST", routes+"?dryRun=All&fieldValidation=Ignore", jsonType, unknown); h.Get("Warning") != "" {
		t.Errorf("ignored: %q", h.Get("Warning"))
	}
	w.must(400, "POST", routes+"?fieldValidation=Maybe", jsonType, unknown)
	twice := strings.Replace(routeDoc("r", 1), `"spec":`, `"spec":{},"spec":`, 1)
	if o = w.must(400, "POST", routes+"?fieldValidation=Strict", jsonType, twice); !strings.Contains(fmt.Sprint(o["message"]), "spec: is given twice") {
		t.Errorf("got %v", o["message"])
	}
	w.must(400, "POST", routes, jsonType, `{`)
	w.must(400, "POST", routes, jsonType, ``)
	w.must(400, "POST", routes, jsonType, `[]`)
	w.must(400, "POST", routes, jsonType, serviceDoc("a", 1))
	w.must(400, "POST", "/apis/gateway.networking.k8s.io/v1/namespaces/other/httproutes", jsonType, strings.Replace(routeDoc("r", 1), `"name":"r"`, `"name":"r","namespace":"default"`, 1))
	w.must(415, "POST", routes, "text/xml", `<a/>`)
	w.must(413, "POST", routes, jsonType, `{"a":"`+strings.Repeat("x", maxBody)+`"}`)
	w.must(404, "GET", "/api/v1/namespaces/default/pods", "", "")
	w.must(404, "GET", "/apis/apps/v1/namespaces/default/deployments", "", "")
	w.must(405, "PUT", services, jsonType, serviceDoc("a", 1))
	w.must(400, "POST", "/api/v1/services", jsonType, serviceDoc("a", 1))
	w.must(405, "DELETE", "/api/v1/services", "", "")
	w.must(405, "POST", "/apis/sennit.dev/v1alpha1/nodes", jsonType, `{"metadata":{"name":"a"}}`)
}

func TestDryRunStoresNothing(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	before, _ := w.server.cfg.Resources.Last(t.Context())
	w.must(201, "POST", services+"?dryRun=All", jsonType, serviceDoc("a", 1))
	w.must(404, "GET", services+"/a", "", "")
	w.must(201, "POST", "/api/v1/namespaces/elsewhere/services?dryRun=All", jsonType, serviceDoc("a", 1))
	w.must(404, "GET", "/api/v1/namespaces/elsewhere", "", "")
	if after, _ := w.server.cfg.Resources.Last(t.Context()); after != before {
		t.Errorf("%d records were stored", after-before)
	}
	w.must(201, "POST", services, jsonType, serviceDoc("a", 1))
	if o := w.must(200, "PATCH", services+"/a?dryRun=All", mergeType, `{"spec":{"ports":[{"port":5}]}}`); at(o, "spec", "ports", 0, "port") != 5.0 {
		t.Errorf("%v", o["spec"])
	}
	w.must(200, "DELETE", services+"/a?dryRun=All", "", "")
	w.must(200, "DELETE", services+"/a", jsonType, `{"dryRun":["All"]}`)
	if o := w.must(200, "GET", services+"/a", "", ""); at(o, "spec", "ports", 0, "port") != 1.0 {
		t.Error("a dry run has changed the document")
	}
	w.must(400, "POST", services+"?dryRun=Some", jsonType, serviceDoc("b", 1))
}

func TestNamespaces(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	if o := w.must(200, "GET", "/api/v1/namespaces/default", "", ""); at(o, "status", "phase") != "Active" ||
		at(o, "metadata", "labels", "kubernetes.io/metadata.name") != "default" {
		t.Errorf("default: %v", o)
	}
	w.must(403, "DELETE", "/api/v1/namespaces/default", "", "")
	code, _, h := w.do("POST", "/api/v1/namespaces/shop/services", jsonType, serviceDoc("a", 1))
	if code != 201 || h.Get("Warning") != `299 - "namespace \"shop\" was not there and has been made"` {
		t.Errorf("%d %q", code, h.Get("Warning"))
	}
	w.must(201, "POST", "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes", jsonType, routeDoc("r", 1))
	w.must(200, "GET", "/api/v1/namespaces/shop", "", "")
	w.must(200, "DELETE", "/api/v1/namespaces/shop", "", "")
	for _, path := range []string{"/api/v1/namespaces/shop", "/api/v1/namespaces/shop/services/a", "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r"} {
		w.must(404, "GET", path, "", "")
	}
	w.must(422, "POST", "/api/v1/namespaces/No_Name/services", jsonType, serviceDoc("a", 1))
}

func TestListsInPages(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for i := range 5 {
		w.must(201, "POST", services, jsonType, serviceDoc(fmt.Sprintf("s%d", i), 1))
	}
	first := w.must(200, "GET", services+"?limit=2", "", "")
	if at(first, "metadata", "remainingItemCount") != 3.0 {
		t.Errorf("%v", first["metadata"])
	}
	w.must(201, "POST", services, jsonType, serviceDoc("s9", 1))
	var names []string
	for page := first; ; {
		for _, o := range page["items"].([]any) {
			names = append(names, at(o, "metadata", "name").(string))
		}
		next, _ := at(page, "metadata", "continue").(string)
		if next == "" {
			// The list's version is the first page's, so that a watch from there shows what came meanwhile.
			if revision(page) != revision(first) {
				t.Error("pages differ in version")
			}
			w.watch(services + "?watch=1&resourceVersion=" + revision(page)).expect("ADDED s9")
			break
		}
		page = w.must(200, "GET", services+"?limit=2&continue="+next, "", "")
	}
	if got := strings.Join(names, " "); got != "s0 s1 s2 s3 s4 s9" {
		t.Error(got)
	}
	w.must(400, "GET", services+"?continue=x", "", "")
	w.must(400, "GET", services+"?limit=-1", "", "")
	if o := w.must(200, "GET", "/api/v1/services?labelSelector=app+in+(s1,s2)", "", ""); len(o["items"].([]any)) != 2 {
		t.Errorf("selected: %v", o["items"])
	}
	w.must(400, "GET", services+"?labelSelector=%21%21", "", "")
	w.must(400, "GET", services+"?fieldSelector=spec.type%3Da", "", "")
	gone := w.must(200, "DELETE", services+"?labelSelector=app+in+(s1,s2)", "", "")
	if len(gone["items"].([]any)) != 2 || len(w.must(200, "GET", services, "", "")["items"].([]any)) != 4 {
		t.Error("a selector has removed others")
	}
}

func TestForms(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	w.must(201, "POST", routes, jsonType, routeDoc("r", 7))
	const asTable = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
	o := w.must(200, "GET", routes, "", "", "Accept", asTable)
	if o["kind"] != "Table" || at(o, "rows", 0, "cells", 0) != "r" || at(o, "rows", 0, "cells", 2) != "service/a" ||
		at(o, "rows", 0, "object", "kind") != "PartialObjectMetadata" {
		t.Errorf("table: %v", o)
	}
	o = w.must(200, "GET", routes+"/r?includeObject=Object", "", "", "Accept", asTable)
	if at(o, "rows", 0, "object", "spec") == nil {
		t.Errorf("table of whole documents: %v", o)
	}
	s := w.watch(routes+"?watch=1", "Accept", asTable)
	if _, o := s.next(); len(at(o, "columnDefinitions").([]any)) == 0 {
		t.Error("the first table has no columns")
	}
	o = w.must(200, "GET", routes, "", "", "Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")
	if o["kind"] != "PartialObjectMetadataList" || at(o, "items", 0, "spec") != nil || at(o, "items", 0, "metadata", "name") != "r" {
		t.Errorf("metadata: %v", o)
	}
	if o := w.must(200, "GET", routes+"/r", "", "", "Accept", "application/yaml"); !strings.Contains(o["text"].(string), "weight: 7") {
		t.Errorf("YAML: %v", o)
	}
	w.must(406, "GET", routes, "", "", "Accept", "text/html")
	made := w.must(201, "POST", services, "application/yaml", "apiVersion: v1\nkind: Service\nmetadata: {generateName: web-}\nspec: {ports: [{port: 1}]}\n")
	if name := at(made, "metadata", "name").(string); !strings.HasPrefix(name, "web-") || len(name) != 9 {
		t.Errorf("generated: %s", name)
	}
}

func TestWhoMay(t *testing.T) {
	t.Parallel()
	var seen []string
	w := start(t, func(c *Config) {
		c.Hook = func(_ context.Context, c Change) error {
			if c.User != "alice" {
				return nil
			}
			seen = append(seen, fmt.Sprintf("%s %s %s %t %t %t", c.User, c.Verb, c.Name, c.Before != nil, c.After != nil, c.Sequence > 0)+map[bool]string{true: " dry"}[c.DryRun])
			if c.Name == "forbidden" {
				return errors.New("not on a Friday")
			}
			return nil
		}
	})
	if code, o, h := w.do("GET", services, "", "", "Authorization", ""); code != 401 || h.Get("WWW-Authenticate") == "" || o["reason"] != "Unauthorized" {
		t.Errorf("no token: %d %v", code, o)
	}
	w.must(401, "GET", services, "", "", "Authorization", "Bearer bad")
	w.must(401, "GET", "/apis", "", "", "Authorization", "Bearer bad")
	w.must(200, "GET", "/healthz", "", "", "Authorization", "")
	o := w.must(403, "POST", services, jsonType, serviceDoc("forbidden", 1))
	if !strings.Contains(o["message"].(string), "not on a Friday") {
		t.Errorf("%v", o["message"])
	}
	w.must(404, "GET", services+"/forbidden", "", "")
	w.must(201, "POST", services+"?dryRun=All", jsonType, serviceDoc("a", 1))
	w.must(201, "POST", services, jsonType, serviceDoc("a", 1))
	w.must(200, "DELETE", services+"/a", "", "")
	want := "alice create forbidden false true false|alice create a false true false dry|alice create a false true false|alice create a false true true|" +
		"alice delete a true false false|alice delete a true false true"
	if got := strings.Join(seen, "|"); got != want {
		t.Errorf("got %s", got)
	}
}

func TestDeletePreconditions(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	made := w.must(201, "POST", services, jsonType, serviceDoc("a", 1))
	w.must(409, "DELETE", services+"/a", jsonType, `{"preconditions":{"uid":"x"}}`)
	w.must(200, "PATCH", services+"/a", mergeType, `{"metadata":{"labels":{"n":"1"}}}`)
	w.must(409, "DELETE", services+"/a", jsonType, fmt.Sprintf(`{"preconditions":{"resourceVersion":%q}}`, revision(made)))
	w.must(200, "DELETE", services+"/a", jsonType, fmt.Sprintf(`{"preconditions":{"uid":%q}}`, at(made, "metadata", "uid")))
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for path, kind := range map[string]string{
		"/api": "APIVersions", "/apis": "APIGroupList", "/api/v1": "APIResourceList",
		"/apis/gateway.networking.k8s.io": "APIGroup", "/apis/gateway.networking.k8s.io/v1": "APIResourceList",
	} {
		if o := w.must(200, "GET", path, "", ""); o["kind"] != kind {
			t.Errorf("%s: %v", path, o)
		}
	}
	o := w.must(200, "GET", "/apis", "", "", "Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json")
	if o["kind"] != "APIGroupDiscoveryList" || len(o["items"].([]any)) != 6 {
		t.Errorf("%v", o)
	}
	index := w.must(200, "GET", "/openapi/v3", "", "")
	for _, k := range api.Kinds() {
		p := at(index, "paths", strings.TrimPrefix(root(k), "/"), "serverRelativeURL")
		doc := w.must(200, "GET", p.(string), "", "")
		if at(doc, "components", "schemas", k.Model(), "properties", "metadata") == nil {
			t.Errorf("%s: no schema", k.Name)
		}
	}
	if o := w.must(200, "GET", "/openapi/v2", "", ""); at(o, "definitions", api.HTTPRoute.Model()) == nil {
		t.Error("v2 has no HTTPRoute")
	}
	if w.server.openAPI().v2pb == nil {
		t.Error("v2 cannot be had in protobuf")
	}
	if o := w.must(200, "GET", "/version", "", ""); !strings.Contains(o["gitVersion"].(string), "sennit") {
		t.Errorf("%v", o)
	}
	w.must(404, "GET", "/apis/none", "", "")
	w.must(404, "GET", "/openapi/v3/none", "", "")
}

func TestLimitsAndFailures(t *testing.T) {
	t.Parallel()
	resources := newMemory()
	if _, err := resources.Append(t.Context(), "sennit.resource.x.y.z.a", []byte("not a record"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := resources.Append(t.Context(), "sennit.resource.x.y.z.b", []byte(`{"object":{"apiVersion":"v9","kind":"Other"}}`), 0); err != nil {
		t.Fatal(err)
	}
	w := startOn(t, resources, newMemory(), nil) // what cannot be read hides nothing else
	w.must(201, "POST", services, jsonType, serviceDoc("a", 1))

	resources.mu.Lock()
	resources.refuse = func(string) error { return fmt.Errorf("store: %w", bus.ErrFull) }
	resources.mu.Unlock()
	if o := w.must(507, "POST", services, jsonType, serviceDoc("b", 1)); !strings.Contains(o["message"].(string), "no room") {
		t.Errorf("full: %v", o)
	}
	resources.mu.Lock()
	resources.refuse = nil
	resources.mu.Unlock()
	w.must(404, "GET", services+"/b", "", "")

	w.server.watchers.Store(maxWatchers)
	code, _, h := w.do("GET", services+"?watch=1", "", "")
	if code != 429 || h.Get("Retry-After") == "" {
		t.Errorf("one watch too many: %d", code)
	}
}

// A server that ends, ends its watches.
func TestWatchesEndWithTheServer(t *testing.T) {
	t.Parallel()
	resources, statuses := newMemory(), newMemory()
	s, err := New(Config{Resources: resources, Status: statuses, Authenticate: func(context.Context, string) (Identity, error) {
		return Identity{User: "a", Groups: []string{rbac.Masters}}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-s.ready
	rec := httptest.NewRecorder()
	req := httptest.NewRequest("GET", services+"?watch=1", nil)
	over := make(chan struct{})
	go func() {
		s.LocalHandler(func(*http.Request) Caller { return Caller{User: "root"} }).ServeHTTP(rec, req)
		close(over)
	}()
	for s.watchers.Load() == 0 {
		runtime.Gosched()
	}
	cancel()
	<-over
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A deadlines is a response whose deadline for writing can be looked at while nothing is written.
type deadlines struct {
	*httptest.ResponseRecorder
	deadline time.Time
	flushed  int
	idle     func(flushed int)
}

func (d *deadlines) SetWriteDeadline(at time.Time) error {
	if d.deadline = at; at.IsZero() {
		d.idle(d.flushed)
	}
	return nil
}

func (d *deadlines) FlushError() error {
	if d.deadline.IsZero() {
		return errors.New("without a deadline a client can hold this up")
	}
	d.flushed++
	return nil
}

// Over HTTP/2 a deadline ends a stream when it comes: a watch on which nothing happens must have none.
func TestIdleWatchesStayOpen(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	w.must(201, "POST", services, jsonType, serviceDoc("a", 1))
	ctx, cancel := context.WithCancel(t.Context())
	rec := &deadlines{ResponseRecorder: httptest.NewRecorder(), idle: func(flushed int) {
		if flushed == 2 { // what there is, and the end of it
			cancel()
		}
	}}
	stop := context.AfterFunc(w.Context(), cancel)
	defer stop()
	req := httptest.NewRequestWithContext(ctx, "GET", services+"?watch=1&timeoutSeconds=5", nil)
	w.server.LocalHandler(func(*http.Request) Caller { return Caller{User: "root"} }).ServeHTTP(rec, req)
	if rec.flushed != 2 || !rec.deadline.IsZero() {
		t.Errorf("%d flushes, deadline %s", rec.flushed, rec.deadline)
	}
}
