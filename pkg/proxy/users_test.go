package proxy

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sennit-mesh/sennit/internal/tokentest"
	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/authz"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// An issuer signs tokens.
type issuer struct {
	key    *ecdsa.PrivateKey
	policy *snapshot.Authentication // that takes them
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key := tokentest.NewKey(t)
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{key, &snapshot.Authentication{
		Origin: "shop/users", Issuers: []*snapshot.Issuer{{Issuer: "https://id.example", Audiences: []string{"shop"}, Keys: keys}},
		Headers: []*snapshot.ClaimHeader{{Name: "X-User", Claim: []string{"sub"}}},
		Sources: []*snapshot.TokenSource{{Name: "Authorization", Prefix: "Bearer "}, {Kind: snapshot.TokenSource_QUERY, Name: "t"}},
	}}
}

// token is one of alice's, that is good for an hour.
func (i *issuer) token(t testing.TB) string {
	t.Helper()
	return i.sign(t, map[string]any{"iss": "https://id.example", "sub": "alice", "aud": "shop", "exp": time.Now().Add(time.Hour).Unix()})
}

func (i *issuer) sign(t testing.TB, claims map[string]any) string {
	return tokentest.Sign(t, i.key, "a", claims)
}

// oneUsers is a Users with one policy for every service.
type oneUsers struct {
	policy  atomic.Pointer[authn.Policy]
	unknown atomic.Bool

	mu   sync.Mutex
	seen []Observation
}

func (u *oneUsers) Policy(context.Context, exchange.ServiceName) (*authn.Policy, bool) {
	return u.policy.Load(), !u.unknown.Load()
}

func (u *oneUsers) Refused(seen *Observation, _ string, _ *authn.Refusal) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen = append(u.seen, kept(seen))
}

// startUsers is a pair whose service's node goes by a policy. What it decides on goes to asked.
func startUsers(t *testing.T, protocol snapshot.Protocol, body *snapshot.Authentication, places Places, asked *atomic.Pointer[authz.Request]) (*pair, *oneUsers) {
	t.Helper()
	policy, err := authn.Compile(body, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	u := new(oneUsers)
	u.policy.Store(policy)
	inbound := NewInbound(places, pairLimits, slog.New(slog.DiscardHandler))
	inbound.Users, inbound.Access = u, asking{asked}
	run(t, inbound.Run)
	return startCaller(t, protocol, nil, inbound.Serve), u
}

type asking struct {
	last *atomic.Pointer[authz.Request]
}

func (a asking) Decide(_ context.Context, _ exchange.ServiceName, q *authz.Request) (authz.Decision, bool) {
	a.last.Store(new(*q))
	return authz.Decision{}, true
}

func (a asking) Asks(exchange.ServiceName, string) bool { return false }

func (a asking) Denied(*Observation, *authz.Decision) {}

// heard is what a process heard of the user: the fields and trailers, in which claims are told, and the query.
func heard(r *http.Request) string {
	_, _ = io.Copy(io.Discard, r.Body)
	return fmt.Sprintf("%v %v %v %s", r.Header["X-User"], r.Header["X_user"], r.Trailer["X-User"], r.URL.RawQuery)
}

// TestWhoProvesNothingNeverReachesTheProcess has the service's node ask for tokens, over both versions of HTTP on both sides.
func TestWhoProvesNothingNeverReachesTheProcess(t *testing.T) {
	t.Parallel()
	var reached atomic.Int64
	process := serveBoth(t, func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		io.WriteString(w, heard(r))
	})
	one := newIssuer(t)
	good := one.token(t)
	for to, places := range map[string]Places{"HTTP/1.1": oneProcess(process), "HTTP/2": http2Process(process)} {
		var asked atomic.Pointer[authz.Request]
		p, users := startUsers(t, snapshot.Protocol_PROTOCOL_HTTP2, one.policy, places, &asked)
		for from, client := range map[string]*http.Client{"HTTP/1.1": p.client(), "HTTP/2": p.client2()} {
			for _, tt := range []struct {
				name, path, token string
				status            int
				challenge, heard  string
			}{
				{"a good token", "/", good, 200, "", "[alice] [] [] "},
				{"a good token in the query", "/?a=b&t=" + good, "", 200, "", "[alice] [] [] a=b"},
				{"no token", "/", "", 401, "Bearer", ""},
				{"a bad token", "/", good[:len(good)-8] + "AAAAAAAA", 401, `Bearer error="invalid_token", error_description="the token's signature is wrong"`, ""},
				{"two tokens", "/?t=" + good, good, 400, `Bearer error="invalid_request", error_description="the request has more than one token"`, ""},
			} {
				t.Run(fmt.Sprintf("%s from %s to %s", tt.name, from, to), func(t *testing.T) {
					reached.Store(0)
					asked.Store(nil)
					for _, size := range []int{0, 5, 10_000, 1 << 20} {
						response, body := pretend(t, client, "http://orders"+tt.path, tt.token, size)
						if response.StatusCode != tt.status || response.Header.Get("WWW-Authenticate") != tt.challenge {
							t.Fatalf("%s, challenge %q, %s", response.Status, response.Header.Get("WWW-Authenticate"), body)
						}
						if tt.status == 200 {
							if body != tt.heard {
								t.Errorf("the process heard %s, want %s", body, tt.heard)
							}
							continue
						}
						if response.Header.Get("Sennit-Reason") != "unauthenticated" || strings.Contains(body, "shop/users") {
							t.Errorf("%q: %s", response.Header.Get("Sennit-Reason"), body)
						}
					}
					if tt.status == 200 {
						if q := asked.Load(); q == nil || q.User.Subject() != "alice" {
							t.Errorf("decided on %+v", q)
						}
						return
					}
					if n := reached.Load(); n > 0 || asked.Load() != nil {
						t.Errorf("the process got %d requests, decided on %+v", n, asked.Load())
					}
				})
			}
		}
		users.mu.Lock()
		if len(users.seen) != 24 || users.seen[0].Outcome.Reason != exchange.Unauthenticated || users.seen[0].Caller != cart {
			t.Errorf("%d were refused: %+v", len(users.seen), users.seen)
		}
		for _, seen := range users.seen {
			if strings.Contains(seen.Path, good) {
				t.Errorf("a token is told: %s", seen.Path)
			}
		}
		users.mu.Unlock()
	}
}

// pretend asks in the name of root in every way but by a token, with a body of so many bytes whose length is not said.
func pretend(t *testing.T, client *http.Client, url, token string, size int) (response *http.Response, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", url, struct{ io.Reader }{strings.NewReader(strings.Repeat("b", size))})
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-User", "root")
	r.Header["x_user"] = []string{"root"}
	r.Trailer = http.Header{"X-User": {"root"}}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if response, err = client.Do(r); err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(response.Body)
	response.Body.Close()
	return response, string(text)
}

func TestCallsOfGRPCThatProveNothing(t *testing.T) {
	t.Parallel()
	var asked atomic.Pointer[authz.Request]
	process := serveBoth(t, func(http.ResponseWriter, *http.Request) { t.Error("the process was reached") })
	p, _ := startUsers(t, snapshot.Protocol_PROTOCOL_HTTP2, newIssuer(t).policy, http2Process(process), &asked)
	r, _ := http.NewRequestWithContext(t.Context(), "POST", "http://orders/a.B/C", strings.NewReader("\x00\x00\x00\x00\x00"))
	r.Header.Set("Content-Type", "application/grpc")
	response, err := p.client2().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 200 || response.Header.Get("Grpc-Status") != "16" || response.Header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("%s, %v", response.Status, response.Header)
	}
}

// TestConnectionsHaveNoToken: where one is asked for, a connection that nobody looks into is reset.
func TestConnectionsHaveNoToken(t *testing.T) {
	t.Parallel()
	place := oneProcess(netip.MustParseAddrPort(rawProcess(t, func(conn *net.TCPConn, _ *bufio.Reader) { io.WriteString(conn, "in") })))
	for optional, want := range map[bool]string{false: "", true: "in"} {
		body := newIssuer(t).policy
		body.Optional = optional
		var asked atomic.Pointer[authz.Request]
		p, _ := startUsers(t, snapshot.Protocol_PROTOCOL_TCP, body, place, &asked)
		conn, err := net.Dial("tcp", p.address)
		got := []byte{}
		if err == nil { // else the reset came before the dial had returned
			got, err = io.ReadAll(conn)
			conn.Close()
		}
		if string(got) != want || (want == "") != errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("optional %t: %q, %v", optional, got, err)
		}
	}
}

func TestNobodyIsLetInBeforeItIsKnownWhoAsks(t *testing.T) {
	t.Parallel()
	var asked atomic.Pointer[authz.Request]
	process := startProcess(t, func(http.ResponseWriter, *http.Request) { t.Error("the process was reached") })
	p, users := startUsers(t, http11, nil, oneProcess(netip.MustParseAddrPort(process)), &asked)
	users.unknown.Store(true)
	response, err := p.client().Get("http://orders/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 503 {
		t.Errorf("%s", response.Status)
	}
}

// TestUsersFromOutside has a gateway's rule ask for tokens, and another that asks nobody.
func TestUsersFromOutside(t *testing.T) {
	t.Parallel()
	var reached atomic.Int64
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		io.WriteString(w, heard(r))
	})
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, process)
	address := p.gateway(t)
	one := newIssuer(t)
	good := one.token(t)
	backend := []*snapshot.Backend{{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1}}
	prefix := func(path string) *snapshot.Match {
		return &snapshot.Match{Path: &snapshot.StringMatch{Kind: snapshot.StringMatch_PREFIX, Value: path}}
	}
	apply := func(revision uint64, rules ...*snapshot.Rule) error {
		at := make([]uint32, len(rules))
		for i := range rules {
			at[i] = uint32(i)
		}
		_, err := p.table.Apply(snapshot.InSubject("shop", "cart"), snapshot.Version{Revision: revision}, &snapshot.Inbound{Ingress: &snapshot.Ingress{
			Listeners:       []*snapshot.IngressListener{{Name: "http", Port: 80, Hosts: []*snapshot.IngressHost{{Hostname: "shop.example", Rules: at}}}},
			Authentications: []*snapshot.Authentication{one.policy}, Rules: rules,
		}})
		return err
	}
	if err := apply(2, &snapshot.Rule{Origin: "httproute/shop/r#0/0", Backends: backend, Match: prefix("/in"), Authentication: 2}); err == nil {
		t.Error("a policy that is not there was taken for none")
	}
	if err := apply(3,
		&snapshot.Rule{Origin: "httproute/shop/r#0/0", Backends: backend, Match: prefix("/in"), Authentication: 1},
		&snapshot.Rule{Origin: "httproute/shop/r#1/0", Filters: &snapshot.Filters{Redirect: &snapshot.Redirect{Status: 302, Hostname: "b.example"}}, Match: prefix("/away"), Authentication: 1},
		&snapshot.Rule{Origin: "httproute/shop/r#2/0", Backends: backend, Match: prefix("/")},
	); err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	for version, transport := range map[string]*http.Transport{"HTTP/1.1": {}, "HTTP/2": {Protocols: &protocols}} {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
		t.Cleanup(transport.CloseIdleConnections)
		client := &http.Client{Transport: transport, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		for _, tt := range []struct {
			name, path, token string
			status            int
			challenge, heard  string
		}{
			{"a good token", "/in", good, 200, "", "[alice] [] [] "},
			{"a good token in the query", "/in?t=" + good + "&a=b", "", 200, "", "[alice] [] [] a=b"},
			{"no token", "/in/x", "", 401, "Bearer", ""},
			{"a bad token", "/in?t=" + good + "x", "", 401, `Bearer error="invalid_token", error_description="the token is malformed"`, ""},
			{"two tokens", "/in?t=" + good, good, 400, `Bearer error="invalid_request", error_description="the request has more than one token"`, ""},
			{"a rule that answers by itself", "/away", "", 302, "", ""},
			{"a rule that asks nobody", "/", "", 200, "", "[root] [root] [root] "},
		} {
			reached.Store(0)
			response, body := pretend(t, client, "http://shop.example"+tt.path, tt.token, 10_000)
			if response.StatusCode != tt.status || response.Header.Get("WWW-Authenticate") != tt.challenge || tt.heard != "" && body != tt.heard {
				t.Errorf("%s by %s: %s, challenge %q, %s", tt.name, version, response.Status, response.Header.Get("WWW-Authenticate"), body)
			}
			if got := reached.Load() > 0; got != (tt.status == 200) {
				t.Errorf("%s by %s: the process was reached: %t", tt.name, version, got)
			}
		}
	}
	for _, seen := range p.observed(14) {
		if strings.Contains(seen.Path, good) {
			t.Errorf("a token is told: %s", seen.Path)
		}
		if slices.Contains([]int{400, 401}, seen.Outcome.Status) && seen.Outcome.Reason != exchange.Unauthenticated {
			t.Errorf("%+v", seen.Outcome)
		}
	}
}
