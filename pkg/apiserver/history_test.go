package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// Lists of the past hold what was there then, whatever has happened since.
func TestExactListsOfThePast(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	a := revision(w.must(201, "POST", services, jsonType, serviceDoc("a", 80)))
	b := revision(w.must(201, "POST", services, jsonType, serviceDoc("b", 80)))
	w.must(201, "POST", routes, jsonType, routeDoc("a", 1))
	changed := revision(w.must(200, "PATCH", services+"/a", mergeType, `{"spec":{"ports":[{"port":81}]}}`))
	w.must(200, "DELETE", services+"/b", "", "")
	list := func(version, more string) string {
		t.Helper()
		o := w.must(200, "GET", services+"?resourceVersionMatch=Exact&resourceVersion="+version+more, "", "")
		var all []string
		for _, i := range o["items"].([]any) {
			all = append(all, fmt.Sprint(at(i, "metadata", "name"), at(i, "spec", "ports", 0, "port"), "@", at(i, "metadata", "resourceVersion")))
		}
		if at(o, "metadata", "resourceVersion") != version {
			t.Errorf("the list says that it is of %v", at(o, "metadata", "resourceVersion"))
		}
		return strings.Join(all, " ")
	}
	for _, tt := range []struct{ name, version, more, want string }{
		{"the first", a, "", "a80@" + a},
		{"a second", b, "", "a80@" + a + " b80@" + b},
		{"changed", changed, "", "a81@" + changed + " b80@" + b},
		{"by name", changed, "&fieldSelector=metadata.name%3Db", "b80@" + b},
		{"by label", changed, "&labelSelector=app%3Da", "a81@" + changed},
		{"before it was there", "1", "", ""},
	} {
		if got := list(tt.version, tt.more); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	if code, _, _ := w.do("GET", services+"?resourceVersionMatch=Exact&resourceVersion=99", "", ""); code != 504 {
		t.Errorf("of the future: %d", code)
	}
	table := w.must(200, "GET", services+"?resourceVersionMatch=Exact&resourceVersion="+b, "", "", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	if rows := table["rows"].([]any); len(rows) != 2 {
		t.Errorf("as a table: %v", table)
	}
}

// A rollback stores what was: content, labels and who manages which field, as a new revision of the same document.
func TestRollback(t *testing.T) {
	t.Parallel()
	var verbs []string
	w := start(t, func(c *Config) {
		c.Hook = func(_ context.Context, c Change) error {
			if c.Name == "a" && c.Sequence > 0 {
				verbs = append(verbs, c.Verb)
			}
			return nil
		}
	})
	const doc = `{"apiVersion":"v1","kind":"Service","metadata":{"name":"a","labels":{"step":"1"}},"spec":{"ports":[{"port":80}]}}`
	first := w.must(201, "PATCH", services+"/a?fieldManager=first", "application/apply-patch+yaml", doc)
	second := w.must(200, "PATCH", services+"/a?fieldManager=second", mergeType, `{"metadata":{"labels":{"step":"2","more":"x"}},"spec":{"ports":[{"port":81}]}}`)
	rollback := services + "/a?rollbackTo=" + revision(first)

	dry := w.must(200, "PUT", rollback+"&dryRun=All", "", "")
	if at(dry, "metadata", "labels", "step") != "1" || revision(w.must(200, "GET", services+"/a", "", "")) != revision(second) {
		t.Errorf("dry run: %v", dry)
	}
	w.must(409, "PUT", rollback+"&resourceVersion="+revision(first), "", "") // it was changed since
	back := w.must(200, "PUT", rollback+"&resourceVersion="+revision(second), "", "")
	if at(back, "metadata", "labels", "step") != "1" || at(back, "metadata", "labels", "more") != nil || at(back, "spec", "ports", 0, "port") != 80.0 {
		t.Errorf("rolled back: %v", back)
	}
	if at(back, "metadata", "uid") != at(first, "metadata", "uid") || at(back, "metadata", "generation") != 3.0 {
		t.Errorf("metadata: %v", back["metadata"])
	}
	// The first manager has its fields again, and goes on without a conflict.
	w.must(200, "PATCH", services+"/a?fieldManager=first", "application/apply-patch+yaml", strings.ReplaceAll(doc, "80", "82"))

	// What was deleted since is made again, what was not there cannot be.
	w.must(200, "DELETE", services+"/a", "", "")
	if again := w.must(201, "PUT", rollback, "", ""); at(again, "spec", "ports", 0, "port") != 80.0 || at(again, "metadata", "uid") == at(first, "metadata", "uid") {
		t.Errorf("made again: %v", again)
	}
	w.must(400, "PUT", services+"/a?rollbackTo=1", "", "")
	if got := strings.Join(verbs, " "); got != "apply patch rollback apply delete rollback" {
		t.Errorf("recorded as %s", got)
	}
}

// The log and the hook know who asked and from where, and who is refused is told.
func TestCallers(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var changed, refused []string
	w := start(t, func(c *Config) {
		c.Hook = func(_ context.Context, c Change) error {
			mu.Lock()
			defer mu.Unlock()
			if c.Name == "a" {
				changed = append(changed, c.User+" from "+c.From)
			}
			return nil
		}
		c.Refused = func(c Caller, method, path string, err error) {
			mu.Lock()
			defer mu.Unlock()
			refused = append(refused, fmt.Sprintf("%q from %s %s %s: %v", c.User, c.From, method, path, err))
		}
	})
	w.must(201, "POST", services, jsonType, serviceDoc("a", 80))
	w.must(401, http.MethodGet, services, "", "", "Authorization", "Bearer bad")
	w.must(403, http.MethodDelete, "/api/v1/namespaces/default", "", "")
	mu.Lock()
	defer mu.Unlock()
	if len(changed) != 2 || !strings.HasPrefix(changed[0], "alice from 127.0.0.1:") || !strings.HasSuffix(changed[0], ", token "+TokenID("good")) {
		t.Errorf("changed: %q", changed)
	}
	if len(refused) != 2 || !strings.HasPrefix(refused[0], `"" from 127.0.0.1:`) || strings.Contains(refused[0], "bad") || !strings.HasPrefix(refused[1], `"alice" from 127.0.0.1:`) {
		t.Errorf("refused: %q", refused)
	}
}
