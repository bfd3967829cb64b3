package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/authz"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// ruled is an Access that goes by one service's rules; nil: everybody may call.
type ruled struct {
	rules atomic.Pointer[authz.Rules]

	mu   sync.Mutex
	seen []Observation
	last authz.Decision
}

func (r *ruled) Decide(_ context.Context, _ exchange.ServiceName, q *authz.Request) (authz.Decision, bool) {
	return r.rules.Load().Decide(q), true
}

func (r *ruled) Asks(_ exchange.ServiceName, field string) bool { return r.rules.Load().Asks(field) }

func (r *ruled) Denied(seen *Observation, d *authz.Decision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen, r.last = append(r.seen, kept(seen)), *d
}

// denied is what was denied so far, and the last decision.
func (r *ruled) denied() ([]Observation, authz.Decision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen), r.last
}

// restrict makes the nodes of a pair go by policies.
func (p *pair) restrict(policies ...*snapshot.AuthorizationPolicy) *ruled {
	p.tb.Helper()
	rules, err := authz.Compile(&snapshot.Authorization{Policies: policies})
	if err != nil {
		p.tb.Fatal(err)
	}
	p.access.rules.Store(rules)
	return p.access
}

func allowing(service string, deny bool, o *snapshot.AuthorizationOperation) *snapshot.AuthorizationPolicy {
	rule := &snapshot.AuthorizationRule{From: []*snapshot.AuthorizationSource{{Services: []string{service}}}}
	if o != nil {
		rule.To = []*snapshot.AuthorizationOperation{o}
	}
	return &snapshot.AuthorizationPolicy{Origin: "shop/p", Deny: deny, Rules: []*snapshot.AuthorizationRule{rule}}
}

// TestWhoIsNotAllowedNeverReachesTheProcess has two instances, an idempotent request and a retry of everything: what is
// denied is sent once.
func TestWhoIsNotAllowedNeverReachesTheProcess(t *testing.T) {
	var reached atomic.Int64
	process := startProcess(t, func(w http.ResponseWriter, _ *http.Request) { reached.Add(1) })
	for _, tt := range []struct {
		name   string
		policy *snapshot.AuthorizationPolicy
		path   string
		status int
	}{
		{"allowed", allowing("shop/cart", false, nil), "/", 200},
		{"somebody else is", allowing("shop/web", false, nil), "/", 403},
		{"refused by path", allowing("shop/cart", true, &snapshot.AuthorizationOperation{Paths: []*snapshot.StringMatch{{Kind: snapshot.StringMatch_PREFIX, Value: "/admin"}}}), "/x/..%2fadmin", 403},
		{"another path", allowing("shop/cart", true, &snapshot.AuthorizationOperation{Paths: []*snapshot.StringMatch{{Kind: snapshot.StringMatch_PREFIX, Value: "/admin"}}}), "/x", 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reached.Store(0)
			p := startPair(t, http11, retryOf(3, 403), process, process)
			access := p.restrict(tt.policy)
			for _, method := range []string{"GET", "POST"} {
				request, _ := http.NewRequestWithContext(t.Context(), method, "http://orders"+tt.path, strings.NewReader(strings.Repeat("b", 10_000)))
				response, err := p.client().Do(request)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(response.Body)
				response.Body.Close()
				if response.StatusCode != tt.status {
					t.Errorf("%s: %s", method, response.Status)
				}
				if tt.status == 200 {
					continue
				}
				if response.Header.Get("sennit-reason") != "denied" || strings.Contains(string(body), "shop/p") {
					t.Errorf("%s: %q, %s", method, response.Header.Get("sennit-reason"), body)
				}
				if o := p.ended(); o.Attempts != 1 || o.Outcome.Reason != exchange.Denied {
					t.Errorf("%s: %d attempts, %+v", method, o.Attempts, o.Outcome)
				}
			}
			if tt.status == 200 {
				return
			}
			if n := reached.Load(); n > 0 {
				t.Errorf("the process got %d requests", n)
			}
			if seen, last := access.denied(); len(seen) != 2 || last.Policy != "shop/p" || seen[0].Caller != cart || seen[0].Outcome.Status != 403 {
				t.Errorf("the service's node saw %+v, %+v", seen, last)
			}
		})
	}
}

func TestADryRunRefusesNothing(t *testing.T) {
	p := startPair(t, http11, nil, startProcess(t, func(http.ResponseWriter, *http.Request) {}))
	policy := allowing("shop/web", false, nil)
	policy.DryRun = true
	access := p.restrict(policy)
	response, err := p.client().Get("http://orders/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if seen, last := access.denied(); response.StatusCode != 200 || len(seen) != 1 || last.WouldPolicy != "shop/p" {
		t.Errorf("%s, %+v", response.Status, last)
	}
}

func TestAConnectionThatIsNotAllowedIsReset(t *testing.T) {
	var reached atomic.Int64
	p := startPair(t, snapshot.Protocol_PROTOCOL_TCP, nil, rawProcess(t, func(*net.TCPConn, *bufio.Reader) { reached.Add(1) }))
	p.restrict(allowing("shop/web", false, nil))
	conn, err := net.Dial("tcp", p.address)
	if err == nil { // else the reset came before the dial had returned
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the caller hears: %v", err)
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("the process got %d connections", n)
	}
}
