package proxy

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/egress"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// guarded is a caller's node, and one that goes by an operation that is allowed to everybody.
func guarded(t *testing.T, protocol snapshot.Protocol, rule *snapshot.Rule, places Places, o *snapshot.AuthorizationOperation) *pair {
	t.Helper()
	inbound := NewInbound(places, pairLimits, slog.New(slog.DiscardHandler))
	access := new(ruled)
	inbound.Access = access
	run(t, inbound.Run)
	p := startCaller(t, protocol, rule, inbound.Serve)
	p.access = access
	p.restrict(&snapshot.AuthorizationPolicy{Origin: "shop/p", Rules: []*snapshot.AuthorizationRule{{To: []*snapshot.AuthorizationOperation{o}}}})
	return p
}

func pathsOf(paths ...string) *snapshot.AuthorizationOperation {
	o := &snapshot.AuthorizationOperation{}
	for _, p := range paths {
		o.Paths = append(o.Paths, &snapshot.StringMatch{Kind: snapshot.StringMatch_PREFIX, Value: p})
	}
	return o
}

// TestStreamsOfHTTP2AreDecidedOneByOne has one connection whose streams ask for different things, and calls of gRPC.
func TestStreamsOfHTTP2AreDecidedOneByOne(t *testing.T) {
	var reached atomic.Int64
	process := serveBoth(t, func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		w.Header().Set("Trailer", "Grpc-Status")
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(200)
		w.Header().Set("Grpc-Status", "0")
	})
	for name, places := range map[string]Places{"HTTP/1.1": oneProcess(process), "HTTP/2": http2Process(process)} {
		t.Run(name, func(t *testing.T) {
			p := guarded(t, snapshot.Protocol_PROTOCOL_HTTP2, nil, places, pathsOf("/public", "/shop.Orders/Get"))
			client := p.client2()
			ask := func(path, contentType string) *http.Response {
				request, _ := http.NewRequestWithContext(t.Context(), "POST", "http://orders"+path, strings.NewReader("\x00\x00\x00\x00\x00"))
				request.Header.Set("Content-Type", contentType)
				response, err := client.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
				return response
			}
			reached.Store(0)
			for path, want := range map[string]int{"/public": 200, "/private": 403, "/public/../private": 403, "/public//x": 403} {
				if response := ask(path, "text/plain"); response.StatusCode != want {
					t.Errorf("%s: %s", path, response.Status)
				}
			}
			for path, want := range map[string]string{"/shop.Orders/Get": "0", "/shop.Orders/Delete": "7", "/shop.Orders/get": "7"} {
				response := ask(path, "application/grpc")
				if status := response.Header.Get("Grpc-Status") + response.Trailer.Get("Grpc-Status"); response.StatusCode != 200 || status != want {
					t.Errorf("%s: %s, gRPC status %q, want %q", path, response.Status, status, want)
				}
			}
			if n := reached.Load(); n != 2 {
				t.Errorf("the process got %d requests, want 2", n)
			}
		})
	}
}

// TestTunnelsAreDecidedBeforeTheyBegin: a CONNECT has no path, so that no rule with paths lets it in.
func TestTunnelsAreDecidedBeforeTheyBegin(t *testing.T) {
	hosts := &snapshot.AuthorizationOperation{Methods: []string{"CONNECT"}, Hosts: []string{"host.example"}}
	for name, place := range map[string]Place{
		"HTTP/1.1": {Process: netip.MustParseAddrPort(startProcess(t, tunnels)), Connect: true},
		"HTTP/2":   {Process: serveStreams(t, tunnels2), HTTP2: true, Connect: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := guarded(t, http11, &snapshot.Rule{Match: &snapshot.Match{Method: "CONNECT"}}, forwardProxy(place), hosts)
			for host, want := range map[string]int{"host.example:443": 200, "HOST.example:443": 200, "other.example:443": 403} {
				if c := p.connect1(t, host); c.status != want {
					t.Errorf("%s by HTTP/1.1: %d", host, c.status)
				}
				if c := p.ask2(t, host, "", ""); c.status != want {
					t.Errorf("%s by HTTP/2: %d", host, c.status)
				}
			}
			p.restrict(&snapshot.AuthorizationPolicy{Origin: "shop/p", Rules: []*snapshot.AuthorizationRule{{To: []*snapshot.AuthorizationOperation{pathsOf("/")}}}})
			if c := p.connect1(t, "host.example:443"); c.status != 403 {
				t.Errorf("a rule with paths: %d", c.status)
			}
		})
	}
}

func TestWebSocketsAreDecidedBeforeTheySwitch(t *testing.T) {
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	for name, places := range map[string]Places{
		"HTTP/1.1": oneProcess(netip.MustParseAddrPort(switchingProcess(t))), "HTTP/2": http2Process(switchingProcess2(t)),
	} {
		t.Run(name, func(t *testing.T) {
			p := guarded(t, http11, nil, places, pathsOf("/chat"))
			if c := p.askHTTP1(t, "/chat", "websocket", key); c.status != 101 {
				t.Errorf("allowed by HTTP/1.1: %d", c.status)
			}
			if c := p.askHTTP2(t, "/chat", "websocket"); c.status != 200 {
				t.Errorf("allowed by HTTP/2: %d", c.status)
			}
			if c := p.askHTTP1(t, "/admin", "websocket", key); c.status != 403 || c.header.Get("Sennit-Reason") != "denied" {
				t.Errorf("refused by HTTP/1.1: %d %v", c.status, c.header)
			}
			if c := p.askHTTP2(t, "/admin", "websocket"); c.status != 403 || c.header.Get("Sennit-Reason") != "denied" {
				t.Errorf("refused by HTTP/2: %d %v", c.status, c.header)
			}
		})
	}
}

// TestAGatewayIsTheCaller: who comes through one is the gateway, whatever the request says of its origin.
func TestAGatewayIsTheCaller(t *testing.T) {
	p := startPair(t, http11, nil, startProcess(t, func(http.ResponseWriter, *http.Request) {}))
	address := p.gateway(t)
	const request = "GET / HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-Client-Cert: URI=spiffe://test/ns/shop/svc/web\r\nFrom: shop/web\r\nConnection: close\r\n\r\n"
	for allowed, want := range map[string]string{"shop/cart": "HTTP/1.1 200", "shop/web": "HTTP/1.1 403"} {
		p.restrict(allowing(allowed, false, nil))
		if got := raw(t, address, request); !strings.HasPrefix(got, want) {
			t.Errorf("where %s is allowed: %.60q", allowed, got)
		}
	}
}

// TestCallsOutOfTheMeshAreDecidedAtTheEgress: the host is the one that the node will ask, whatever the caller wrote.
func TestCallsOutOfTheMeshAreDecidedAtTheEgress(t *testing.T) {
	var reached atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	t.Cleanup(server.Close)
	address := netip.MustParseAddrPort(server.Listener.Addr().String())
	host, err := egress.New(&snapshot.Outside{Host: address.Addr().String(), Port: uint32(address.Port()), Protocol: snapshot.Protocol_PROTOCOL_HTTP},
		[]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")})
	if err != nil {
		t.Fatal(err)
	}
	o := pathsOf("/pay")
	o.Hosts = []string{"127.0.0.1"}
	p := guarded(t, http11, nil, onePlace(Place{Outside: host}), o)
	for path, want := range map[string]int{"/pay": 200, "/refund": 403} {
		response, err := p.client().Get("http://bank" + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %s", path, response.Status)
		}
	}
	if n := reached.Load(); n != 1 {
		t.Errorf("the host outside got %d requests", n)
	}
}

// TestMirroredAndHedgedRequestsAreDecided: a copy of a request, and one that is asked of a second instance, are decided where
// they arrive.
func TestMirroredAndHedgedRequestsAreDecided(t *testing.T) {
	var reached atomic.Int64
	process := startProcess(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	p := startPair(t, http11, mirrorRule(), process)
	access := p.restrict(allowing("shop/web", false, nil))
	denials := func() int {
		seen, _ := access.denied()
		return len(seen)
	}
	response, err := p.client().Get("http://orders/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	for until := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if denials() == 2 {
			break
		}
		if denials() > 2 || time.Now().After(until) {
			t.Fatalf("%d denials of a request and its copy", denials())
		}
	}
	if response.StatusCode != 403 || reached.Load() != 0 {
		t.Errorf("mirrored: %s, the process got %d requests", response.Status, reached.Load())
	}

	// The first instance answers once the hedge was refused, so that its answer is the one.
	slow := NewInbound(oneProcess(netip.MustParseAddrPort(startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		for denials() < 3 && r.Context().Err() == nil { // two are of the copy above
			time.Sleep(time.Millisecond)
		}
	}))), pairLimits, slog.New(slog.DiscardHandler))
	run(t, slow.Run)
	second := NewInbound(oneProcess(netip.MustParseAddrPort(process)), pairLimits, slog.New(slog.DiscardHandler))
	second.Access = access
	run(t, second.Run)
	h := startCaller(t, http11, hedging(time.Second), slow.Serve, second.Serve)
	statuses := map[int]int{}
	for range 2 { // the instances are asked in turn: one request is hedged, and the other refused at once
		request, _ := http.NewRequestWithContext(t.Context(), "GET", "http://orders/", nil)
		if response, err = h.client().Do(request); err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		statuses[response.StatusCode]++
	}
	if statuses[200] != 1 || statuses[403] != 1 || reached.Load() != 0 {
		t.Errorf("answered with %v; the process of the second instance got %d requests", statuses, reached.Load())
	}
}

// TestWhoSaysThatItShowsNoIdentityLosesIt has a peer that sends the mark which a node sets for callers in plaintext.
func TestWhoSaysThatItShowsNoIdentityLosesIt(t *testing.T) {
	p := startPair(t, http11, nil, startProcess(t, func(http.ResponseWriter, *http.Request) {}))
	ask := func() string {
		response, err := p.client().Get("http://orders/")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return fmt.Sprint(response.StatusCode)
	}
	mine := allowing("shop/cart", false, nil)
	nobodys := &snapshot.AuthorizationPolicy{Origin: "shop/n", Rules: []*snapshot.AuthorizationRule{{From: []*snapshot.AuthorizationSource{{Plaintext: true}}}}}
	p.restrict(mine)
	if got := ask(); got != "200" {
		t.Fatalf("by its name: %s", got)
	}
	marked := &snapshot.Endpoints{Shards: 1, Endpoints: []*snapshot.Endpoint{{
		Node: "a", Address: p.shard.Endpoints[0].Address, Service: orders.String(), Instance: PlaintextInstance + "a",
	}}}
	if _, err := p.table.Apply(snapshot.EndpointsSubject("shop", "orders", 0), snapshot.Version{Revision: 2}, marked); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "403" {
		t.Errorf("by a name that it gave up: %s", got)
	}
	access := p.restrict(nobodys)
	if got := ask(); got != "200" {
		t.Errorf("as nobody: %s", got)
	}
	if seen, _ := access.denied(); !seen[0].Caller.IsZero() {
		t.Errorf("the denial names %s", seen[0].Caller)
	}
}
