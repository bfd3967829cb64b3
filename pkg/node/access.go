package node

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sennit-mesh/sennit/pkg/authz"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/proxy"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// access decides who may call what runs here (proxy.Access). Readers take no lock; one writer at a time.
type access struct {
	rules atomic.Pointer[map[exchange.ServiceName]*authz.Rules] // nil Rules: no policy is for it
	log   *telemetry.AccessLog                                  // nil: none is written
	spans *telemetry.Spans

	mu      sync.Mutex
	changed chan struct{} // closed and replaced with each change
	denied  map[denial]*atomic.Uint64
}

// A denial is what is counted.
type denial struct {
	service exchange.ServiceName
	policy  string
	dryRun  bool
}

// set takes what is said of a service into force; nil: its configuration is gone, and it is not known who may call.
func (a *access) set(service exchange.ServiceName, in *snapshot.Inbound) error {
	all := map[exchange.ServiceName]*authz.Rules{}
	if old := a.rules.Load(); old != nil {
		all = maps.Clone(*old)
	}
	delete(all, service)
	if in != nil {
		rules, err := authz.Compile(in.Authorization)
		if err != nil {
			return err
		}
		all[service] = rules
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for counted := range a.denied {
		if counted.service == service && !slices.Contains(all[service].Origins(), counted.policy) {
			delete(a.denied, counted)
		}
	}
	a.rules.Store(&all)
	if a.changed != nil {
		close(a.changed)
	}
	a.changed = make(chan struct{})
	return nil
}

// drop forgets what a subject said that is not followed any more.
func (a *access) drop(subject string) {
	if names, err := snapshot.ParseSubject(subject); err == nil && names.Kind == snapshot.KindIn {
		_ = a.set(exchange.ServiceName{Namespace: names.Namespace, Name: names.Service}, nil) // nothing is compiled that could fail
	}
}

// Decide decides on a request. Of a service that has just come to this host it waits to hear who may call it.
func (a *access) Decide(ctx context.Context, service exchange.ServiceName, q *authz.Request) (authz.Decision, bool) {
	rules, known := a.find(service)
	if !known {
		if rules, known = a.await(ctx, service); !known {
			return authz.Decision{}, false
		}
	}
	return rules.Decide(q), true
}

func (a *access) find(service exchange.ServiceName) (*authz.Rules, bool) {
	if all := a.rules.Load(); all != nil {
		rules, known := (*all)[service]
		return rules, known
	}
	return nil, false
}

func (a *access) await(ctx context.Context, service exchange.ServiceName) (*authz.Rules, bool) {
	ctx, cancel := context.WithTimeout(ctx, firstCall)
	defer cancel()
	for {
		a.mu.Lock()
		if a.changed == nil {
			a.changed = make(chan struct{})
		}
		changed := a.changed
		a.mu.Unlock()
		if rules, known := a.find(service); known {
			return rules, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// Denied counts a request that was refused, or would be, and tells the access log and the trace by which policy.
func (a *access) Denied(seen *proxy.Observation, d *authz.Decision) {
	of := denial{seen.Callee, cmp.Or(d.Policy, d.WouldPolicy), d.WouldBeDenied}
	a.mu.Lock()
	n := a.denied[of]
	if n == nil {
		if a.denied == nil {
			a.denied = map[denial]*atomic.Uint64{}
		}
		n = new(atomic.Uint64)
		a.denied[of] = n
	}
	a.mu.Unlock()
	n.Add(1)
	if !d.Denied {
		return // the exchange goes on, and has a line and a span of its own
	}
	var span telemetry.Span
	fill(&span, seen)
	span.Rule = "authorizationpolicy/" + of.policy
	if a.log != nil {
		a.log.Log(&span.Access)
	}
	if seen.Trace.Sampled && a.spans != nil {
		a.spans.Record(&span)
	}
}

// denials are what was counted, in order.
func (a *access) denials() (all []denial, counts []uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all = slices.SortedFunc(maps.Keys(a.denied), func(x, y denial) int {
		return cmp.Or(strings.Compare(x.service.String(), y.service.String()), strings.Compare(x.policy, y.policy))
	})
	for _, d := range all {
		counts = append(counts, a.denied[d].Load())
	}
	return all, counts
}
