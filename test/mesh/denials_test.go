package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// TestDenialsAreWritten has requests and connections refused by every kind of rule, and looks for each in the access log of
// the service's node, and in the trace: who asked, from where, for what, and by which policy it was refused. Neither has a
// query or a token in it.
func TestDenialsAreWritten(t *testing.T) {
	t.Parallel()
	issuer := startIDP(t)
	r := &receiver{spans: map[string][]*tracepb.Span{}}
	collector := httptest.NewServer(r)
	t.Cleanup(collector.Close)
	m := Start(t, Config{
		Nodes: []string{"one", "two"}, Services: []string{"shop/web", "shop/cart", "shop/orders", "shop/stock", "shop/lines"}, Waits: true,
		Flags: []string{"--trace-share", "1"}, ControllerFlags: []string{"--otlp-endpoint", collector.URL},
	})
	plain := fmt.Sprintf("127.0.0.1:%d", m.port())
	m.Serve("two", Service{Name: "shop/orders", Version: "v1", Plaintext: plain})
	open := fmt.Sprintf("127.0.0.1:%d", m.port())
	m.Serve("two", Service{Name: "shop/stock", Version: "v1", Plaintext: open})
	m.Serve("two", Service{Name: "shop/lines", Version: "lines", Port: 5432, Protocol: "tcp"})
	at := map[string]string{}
	for _, as := range []string{"web", "cart"} {
		for _, to := range []string{"orders:80", "stock:80", "lines:5432"} {
			at[as+" "+to] = m.Listen("one", "shop/"+as, "shop/"+to)
		}
		m.AwaitAnswer("one", at[as+" orders:80"], "v1")
		m.AwaitAnswer("one", at[as+" stock:80"], "v1")
	}
	m.MustApply(issuer.policy("users", "shop", `{"kind":"Service","name":"stock"}`) + "---\n" +
		`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: stock, annotations: {sennit.dev/plaintext: permissive}}, spec: {ports: [{port: 80, appProtocol: http}]}}` + "\n---\n" +
		`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: lines}, spec: {ports: [{port: 5432, appProtocol: tcp}]}}` + "\n---\n" +
		`{apiVersion: sennit.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: only}, ` +
		`spec: {targetRefs: [{kind: Service, name: orders}, {kind: Service, name: lines}], rules: [{from: [{services: [shop/cart]}]}]}}` + "\n---\n" +
		`{apiVersion: sennit.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: admin}, ` +
		`spec: {targetRefs: [{kind: Service, name: orders}], action: Deny, rules: [{to: [{paths: [{value: /admin}]}]}]}}`)

	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	http2 := m.Client("one")
	http2.Transport.(*http.Transport).Protocols = &protocols
	clients := map[string]*http.Client{"HTTP/1.1": m.Client("one"), "HTTP/2": http2, "gRPC": http2}
	const secret = "a-secret-of-the-query"
	token := issuer.token(t, "alice")
	bad := token[:len(token)-8] + "AAAAAAAA"
	type line map[string]any
	var all []line // of requests
	ask := func(protocol, as, to, path, bearer string, want line) {
		t.Helper()
		method := http.MethodGet
		if protocol == "gRPC" {
			method = http.MethodPost
		}
		path += "/" + strings.ReplaceAll(strings.ToLower(protocol), "/", "-")
		request, err := http.NewRequestWithContext(t.Context(), method, "http://"+at[as+" "+to]+path+"?q="+secret, nil)
		if err != nil {
			t.Fatal(err)
		}
		if protocol == "gRPC" {
			request.Header.Set("Content-Type", "application/grpc")
		}
		if bearer != "" {
			request.Header.Set("Authorization", "Bearer "+bearer)
		}
		response, err := clients[protocol].Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode == http.StatusOK && response.Header.Get("Grpc-Status") != "7" && response.Header.Get("Grpc-Status") != "16" {
			t.Fatalf("%s %s of %s: %s", protocol, path, as, response.Status)
		}
		service, _, _ := strings.Cut(to, ":")
		maps.Copy(want, line{
			"sennit.direction": "inbound", "sennit.node": "two", "sennit.caller": "shop/" + as, "sennit.callee": "shop/" + service, "sennit.peer.node": "one",
			"http.request.method": method, "url.path": path,
		})
		all = append(all, want)
	}
	for protocol := range clients {
		ask(protocol, "web", "orders:80", "/things", "", line{"sennit.rule": "authorizationpolicy/shop/only", "error.type": "denied", "http.response.status_code": 403.0})
		ask(protocol, "cart", "orders:80", "/admin", "", line{"sennit.rule": "authorizationpolicy/shop/admin", "error.type": "denied", "http.response.status_code": 403.0})
		ask(protocol, "cart", "stock:80", "/none", "", line{"sennit.rule": "authenticationpolicy/shop/users", "error.type": "unauthenticated", "http.response.status_code": 401.0})
		ask(protocol, "cart", "stock:80", "/bad", bad, line{"sennit.rule": "authenticationpolicy/shop/users", "error.type": "unauthenticated", "http.response.status_code": 401.0})
	}
	if response, _, err := m.Get(t.Context(), "two", open, "/nobody?q="+secret); err != nil || response.StatusCode != http.StatusUnauthorized {
		t.Errorf("nobody without a token: %v %v", response, err)
	}
	all = append(all, line{
		"sennit.direction": "inbound", "sennit.node": "two", "sennit.callee": "shop/stock", "sennit.caller": nil, "sennit.peer.node": nil,
		"url.path": "/nobody", "sennit.rule": "authenticationpolicy/shop/users", "error.type": "unauthenticated",
	})
	for _, dial := range []struct{ node, address string }{{"one", at["web lines:5432"]}, {"two", plain}} {
		if conn, err := m.Dial(t.Context(), dial.node, dial.address); err == nil {
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s on %s lets somebody in", dial.address, dial.node)
			}
			conn.Close()
		}
	}
	connections := []line{{
		"sennit.direction": "inbound", "sennit.node": "two", "sennit.caller": "shop/web", "sennit.callee": "shop/lines", "sennit.peer.node": "one",
		"network.protocol.name": "tcp", "sennit.rule": "authorizationpolicy/shop/only", "error.type": "denied",
	}, {
		"sennit.direction": "inbound", "sennit.node": "two", "sennit.callee": "shop/orders", "sennit.caller": nil, "network.peer.address": "127.0.0.1",
		"network.protocol.name": "tcp", "sennit.rule": "authorizationpolicy/(strict)", "error.type": "denied",
	}}
	has := func(in map[string]any, want line) bool {
		for name, value := range want {
			if in[name] != value {
				return false
			}
		}
		return true
	}
	m.Eventually("a line in the access log for each", func(context.Context) error {
		lines, err := m.AccessLog("two")
		if err != nil {
			return err
		}
		for _, want := range slices.Concat(all, connections) {
			n := 0
			for _, l := range lines {
				if has(l, want) {
					n++
				}
			}
			if n != 1 {
				return fmt.Errorf("%d lines of %v", n, want)
			}
		}
		return nil
	})
	m.Eventually("a span for each request", func(context.Context) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, want := range all {
			attributes := maps.Clone(want)
			for _, ofResource := range []string{"sennit.direction", "sennit.node"} {
				delete(attributes, ofResource)
			}
			n := 0
			for from, spans := range r.spans {
				for _, span := range spans {
					said := map[string]any{}
					for _, a := range span.GetAttributes() {
						if said[a.GetKey()] = a.GetValue().GetStringValue(); a.GetKey() == "http.response.status_code" {
							said[a.GetKey()] = float64(a.GetValue().GetIntValue())
						}
						if strings.Contains(a.GetValue().GetStringValue(), secret) || strings.Contains(a.GetValue().GetStringValue(), bad[:20]) {
							t.Errorf("a span has %s %q", a.GetKey(), a.GetValue())
						}
					}
					if strings.HasSuffix(from, " on two") && span.GetKind() == tracepb.Span_SPAN_KIND_SERVER && has(said, attributes) {
						n++
					}
				}
			}
			if n != 1 {
				return fmt.Errorf("%d spans with %v; %s", n, attributes, r)
			}
		}
		return nil
	})
	for _, node := range []string{"one", "two"} {
		text, err := os.ReadFile(filepath.Join(m.Dir, node, "access.log"))
		if err != nil || strings.Contains(string(text), secret) || strings.Contains(string(text), bad[:20]) {
			t.Errorf("the access log of %s has a query or a token in it, or is not there: %v", node, err)
		}
	}

	// Who is revoked gets no lane, so that the service's node sees no request: the caller's node writes why there is no answer.
	m.revoke(report.Revoke{Service: "shop/web"})
	m.Eventually("a line of who was revoked", func(ctx context.Context) error {
		if _, _, err := m.Get(ctx, "one", at["web stock:80"], "/revoked?q="+secret); err != nil {
			return err
		}
		lines, err := m.AccessLog("one")
		if err != nil {
			return err
		}
		for _, l := range lines {
			if reason, _ := l["error.type"].(string); reason != "" && has(l, line{
				"sennit.direction": "outbound", "url.path": "/revoked", "sennit.caller": "shop/web", "sennit.callee": "shop/stock", "http.response.status_code": 503.0,
			}) {
				return nil
			}
		}
		return errors.New("there is none")
	})
}
