package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

// memory is a log in memory, for tests that need no bus.
type memory struct {
	mu      sync.Mutex
	entries []bus.Entry
	last    map[string]uint64
	more    chan struct{}
	refuse  func(subject string) error
}

func newMemory() *memory { return &memory{last: map[string]uint64{}, more: make(chan struct{})} }

func (m *memory) Append(_ context.Context, subject string, data []byte, expect uint64) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse != nil {
		if err := m.refuse(subject); err != nil {
			return 0, err
		}
	}
	if m.last[subject] != expect {
		return 0, fmt.Errorf("store %s: %w", subject, bus.ErrConflict)
	}
	seq := uint64(len(m.entries) + 1)
	m.entries = append(m.entries, bus.Entry{Subject: subject, Data: bytes.Clone(data), Sequence: seq})
	m.last[subject] = seq
	close(m.more)
	m.more = make(chan struct{})
	return seq, nil
}

func (m *memory) Follow(ctx context.Context, from uint64, fn func(bus.Entry) error) error {
	for at := max(from, 1) - 1; ; {
		m.mu.Lock()
		rest, more := m.entries[min(at, uint64(len(m.entries))):], m.more
		m.mu.Unlock()
		for _, e := range rest {
			if err := fn(e); err != nil {
				return err
			}
			at++
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		}
	}
}

func (m *memory) Last(context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(len(m.entries)), nil
}

// world is a running server, and how a test talks to it.
type world struct {
	*testing.T
	server *Server
	url    string
	client *http.Client
}

// start runs a server over logs in memory, changed by edit before it starts.
func start(t *testing.T, edit func(*Config)) *world {
	return startOn(t, newMemory(), newMemory(), edit)
}

// startOnBus runs a server over the embedded bus.
func startOnBus(t *testing.T, edit func(*Config)) *world {
	b := bustest.Start(t)
	return startOn(t, b.Controller.Records(bus.StreamResource), b.Controller.Records(bus.StreamStatus), edit)
}

func startOn(t *testing.T, resources, statuses Records, edit func(*Config)) *world {
	t.Helper()
	cfg := Config{
		Resources: resources, Status: statuses, Version: "test", Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Authenticate: func(_ context.Context, token string) (Identity, error) {
			if token != "good" {
				return Identity{}, errors.New("unknown")
			}
			return Identity{User: "alice", Groups: []string{rbac.Masters}}, nil
		},
	}
	if edit != nil {
		edit(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	bustest.Run(t, s.Run)
	web := httptest.NewTLSServer(s.Handler())
	t.Cleanup(web.CloseClientConnections)
	<-s.ready
	w := &world{T: t, server: s, url: web.URL, client: web.Client()}
	t.Cleanup(web.Close)
	return w
}

type object = map[string]any

// do sends a request and returns status, body and header.
func (w *world) do(method, path, contentType, body string, header ...string) (int, object, http.Header) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer good")
	req.Header.Set("User-Agent", "tester/1")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := w.client.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		w.Fatal(err)
	}
	var o object
	if len(data) > 0 && data[0] == '{' {
		if err := json.Unmarshal(data, &o); err != nil {
			w.Fatalf("%s %s: %v in %s", method, path, err, data)
		}
	} else {
		o = object{"text": string(data)}
	}
	return res.StatusCode, o, res.Header
}

// must is do for what has to succeed with a code.
func (w *world) must(code int, method, path, contentType, body string, header ...string) object {
	w.Helper()
	got, o, _ := w.do(method, path, contentType, body, header...)
	if got != code {
		w.Fatalf("%s %s: %d instead of %d: %v", method, path, got, code, o["message"])
	}
	return o
}

// at reads a value by its path; numbers are list indices.
func at(v any, path ...any) any {
	for _, step := range path {
		switch s := step.(type) {
		case string:
			m, _ := v.(object)
			v = m[s]
		case int:
			l, _ := v.([]any)
			if s >= len(l) {
				return nil
			}
			v = l[s]
		}
	}
	return v
}

const (
	jsonType  = "application/json"
	mergeType = "application/merge-patch+json"
	services  = "/api/v1/namespaces/default/services"
	routes    = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes"
)

func serviceDoc(name string, port int) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":%q,"labels":{"app":%q}},"spec":{"ports":[{"port":%d}]}}`, name, name, port)
}

func routeDoc(name string, weight int) string {
	return fmt.Sprintf(`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":%q},"spec":{
		"parentRefs":[{"group":"","kind":"Service","name":"a"}],
		"rules":[{"backendRefs":[{"name":"a-v1","port":80,"weight":%d}]}]}}`, name, weight)
}

func TestWriteAndReadOnTheBus(t *testing.T) {
	t.Parallel()
	w := startOnBus(t, nil)
	made := w.must(201, "POST", services, jsonType, serviceDoc("orders", 80))
	if at(made, "metadata", "uid") == nil || at(made, "metadata", "creationTimestamp") == nil || at(made, "metadata", "generation") != 1.0 {
		t.Errorf("metadata: %v", made["metadata"])
	}
	if at(made, "spec", "ports", 0, "protocol") != "TCP" || at(made, "spec", "ports", 0, "targetPort") != 80.0 {
		t.Errorf("defaults: %v", made["spec"])
	}
	if at(made, "metadata", "managedFields", 0, "manager") != "tester" {
		t.Errorf("managedFields: %v", at(made, "metadata", "managedFields"))
	}
	w.must(409, "POST", services, jsonType, serviceDoc("orders", 80))

	got := w.must(200, "GET", services+"/orders", "", "")
	if at(got, "metadata", "resourceVersion") != at(made, "metadata", "resourceVersion") {
		t.Error("a read shows another version than the write")
	}
	list := w.must(200, "GET", services, "", "")
	if list["kind"] != "ServiceList" || at(list, "items", 0, "metadata", "name") != "orders" {
		t.Errorf("list: %v", list)
	}

	old := at(got, "metadata", "resourceVersion")
	next := w.must(200, "PATCH", services+"/orders", mergeType, `{"spec":{"ports":[{"port":81}]}}`)
	if at(next, "metadata", "generation") != 2.0 || at(next, "metadata", "resourceVersion") == old {
		t.Errorf("after a change: %v", next["metadata"])
	}
	labelled := w.must(200, "PATCH", services+"/orders", mergeType, `{"metadata":{"labels":{"x":"y"}}}`)
	if at(labelled, "metadata", "generation") != 2.0 {
		t.Error("a label has changed the generation")
	}
	same := w.must(200, "PATCH", services+"/orders", mergeType, `{"metadata":{"labels":{"x":"y"}}}`)
	if at(same, "metadata", "resourceVersion") != at(labelled, "metadata", "resourceVersion") {
		t.Error("a patch that changes nothing has made a revision")
	}

	body, _ := json.Marshal(got) // has the old resourceVersion
	w.must(409, "PUT", services+"/orders", jsonType, string(body))
	at(got, "metadata").(object)["resourceVersion"] = at(same, "metadata", "resourceVersion")
	body, _ = json.Marshal(got)
	w.must(200, "PUT", services+"/orders", jsonType, string(body))

	gone := w.must(200, "DELETE", services+"/orders", "", "")
	if gone["status"] != "Success" || at(gone, "details", "uid") != at(made, "metadata", "uid") {
		t.Errorf("deletion: %v", gone)
	}
	w.must(404, "GET", services+"/orders", "", "")
	w.must(404, "DELETE", services+"/orders", "", "")
	again := w.must(201, "POST", services, jsonType, serviceDoc("orders", 80))
	if at(again, "metadata", "uid") == at(made, "metadata", "uid") || at(again, "metadata", "generation") != 1.0 {
		t.Error("a document made again is the old one")
	}
}

// A second server over the same logs shows what the first has stored: at once, and after a restart.
func TestServersAgree(t *testing.T) {
	t.Parallel()
	resources, statuses := newMemory(), newMemory()
	a := startOn(t, resources, statuses, nil)
	b := startOn(t, resources, statuses, nil)
	for i := range 20 {
		name := fmt.Sprintf("s%d", i)
		made := a.must(201, "POST", routes, jsonType, routeDoc(name, i))
		got := b.must(200, "GET", routes+"/"+name, "", "")
		if at(got, "metadata", "resourceVersion") != at(made, "metadata", "resourceVersion") {
			t.Fatal("versions differ")
		}
		put := b.must(200, "PATCH", routes+"/"+name+"/status", mergeType, `{"status":{"parents":[]}}`)
		if at(put, "status", "parents") == nil {
			t.Fatalf("status: %v", put)
		}
		if got := a.must(200, "GET", routes+"/"+name, "", ""); at(got, "status", "parents") == nil {
			t.Fatal("status is not shown by the other")
		}
	}
	a.must(200, "DELETE", routes+"/s3", "", "")
	want := a.must(200, "GET", routes, "", "")
	c := startOn(t, resources, statuses, nil)
	for _, w := range []*world{b, c} {
		got := w.must(200, "GET", routes, "", "")
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("lists differ:\n%v\n%v", got, want)
		}
	}
}

// Many writers of one document lose no change.
func TestConcurrentWritesAllCount(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	w.must(201, "POST", routes, jsonType, routeDoc("r", 1))
	const writers = 6
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for {
				code, o, _ := w.do("PATCH", routes+"/r", mergeType, fmt.Sprintf(`{"metadata":{"annotations":{"w%d":"x"}}}`, i))
				if code == 200 {
					return
				}
				if code != 409 {
					t.Errorf("%d: %v", code, o)
					return
				}
			}
		})
	}
	wg.Wait()
	got := w.must(200, "GET", routes+"/r", "", "")
	if n := len(at(got, "metadata", "annotations").(object)); n != writers {
		t.Errorf("%d annotations of %d", n, writers)
	}
}

func TestStatusIsApart(t *testing.T) {
	t.Parallel()
	w := startOnBus(t, nil)
	body := strings.Replace(routeDoc("r", 1), `"spec"`, `"status":{"parents":[]},"spec"`, 1)
	made := w.must(201, "POST", routes, jsonType, body)
	if made["status"] != nil {
		t.Error("a create has set the status")
	}
	uid := at(made, "metadata", "uid").(string)
	status := object{"parents": []any{object{
		"parentRef": object{"name": "a"}, "controllerName": "sennit.dev/controller",
		"conditions": []any{object{"type": "Accepted", "status": "False", "reason": "UnsupportedValue", "message": "no", "lastTransitionTime": "2026-01-01T00:00:00Z"}},
	}}}
	if err := w.server.WriteStatus(t.Context(), api.HTTPRoute, "default", "r", uid, status); err != nil {
		t.Fatal(err)
	}
	if err := w.server.WriteStatus(t.Context(), api.HTTPRoute, "default", "r", "another", object{}); err != nil {
		t.Fatal(err)
	}
	got := w.must(200, "GET", routes+"/r", "", "")
	if at(got, "status", "parents", 0, "conditions", 0, "reason") != "UnsupportedValue" {
		t.Errorf("status: %v", got["status"])
	}
	next := w.must(200, "PATCH", routes+"/r", mergeType, `{"spec":{"hostnames":["a.example"]},"status":null}`)
	if at(next, "status", "parents", 0) == nil {
		t.Error("a write of the document has changed its status")
	}
	put := w.must(200, "PATCH", routes+"/r/status", mergeType, `{"spec":{"hostnames":["b.example"]},"status":{"parents":[]}}`)
	if at(put, "spec", "hostnames", 0) != "a.example" || at(put, "metadata", "generation") != at(next, "metadata", "generation") {
		t.Error("a write of the status has changed the document")
	}
	w.must(422, "PATCH", routes+"/r/status", mergeType, `{"status":{"parents":[{"parentRef":{"name":"x"}}]}}`)
	w.must(200, "DELETE", routes+"/r", "", "")
	again := w.must(201, "POST", routes, jsonType, routeDoc("r", 1))
	if again["status"] != nil {
		t.Error("a document made again has the old one's status")
	}
	if err := w.server.WriteStatus(t.Context(), api.HTTPRoute, "default", "r", at(again, "metadata", "uid").(string), status); err != nil {
		t.Fatal(err)
	}
	if got := w.must(200, "GET", routes+"/r", "", ""); got["status"] == nil {
		t.Error("no status on the new document")
	}
}
