package node

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/authz"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/proxy"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// access decides who may call what runs here (proxy.Access). Readers take no lock; one writer at a time.
type access struct {
	rules atomic.Pointer[map[exchange.ServiceName]ruled]
	log   *telemetry.AccessLog // nil: none is written
	spans *telemetry.Spans

	recent telemetry.Denials // that no controller was told of
	denied tally

	mu      sync.Mutex
	changed chan struct{} // closed and replaced with each change
}

// ruled is what is said of who may call a service.
type ruled struct {
	rules      *authz.Rules // nil: no policy is for it
	permissive bool         // callers without an identity are taken
	closed     bool         // a newer node is needed to know who may call: nobody
}

// strictly is in the place of a policy where a service takes no callers without an identity.
const strictly = "(strict)"

// set takes what is said of a service into force; nil: its configuration is gone, and it is not known who may call.
func (a *access) set(service exchange.ServiceName, in *snapshot.Inbound) error {
	all := map[exchange.ServiceName]ruled{}
	if old := a.rules.Load(); old != nil {
		all = maps.Clone(*old)
	}
	delete(all, service)
	if in != nil {
		rules, err := authz.Compile(in.Authorization)
		if err != nil {
			return err
		}
		all[service] = ruled{rules: rules, permissive: in.Permissive}
	}
	a.denied.keep(service, func(policy string) bool {
		return policy == strictly || slices.Contains(all[service].rules.Origins(), policy)
	})
	a.swap(all)
	return nil
}

// close lets nobody in until set.
func (a *access) close(service exchange.ServiceName) {
	all := map[exchange.ServiceName]ruled{}
	if old := a.rules.Load(); old != nil {
		all = maps.Clone(*old)
	}
	all[service] = ruled{closed: true}
	a.swap(all)
}

// swap puts into force what is said of all services, and wakes who waits for it.
func (a *access) swap(all map[exchange.ServiceName]ruled) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rules.Store(&all)
	if a.changed != nil {
		close(a.changed)
	}
	a.changed = make(chan struct{})
}

// drop forgets what a subject said that is not followed any more.
func (a *access) drop(subject string) {
	if names, err := snapshot.ParseSubject(subject); err == nil && names.Kind == snapshot.KindIn {
		_ = a.set(exchange.ServiceName{Namespace: names.Namespace, Name: names.Service}, nil) // nothing is compiled that could fail
	}
}

// Decide decides on a request. Of a service that has just come to this host it waits to hear who may call it.
func (a *access) Decide(ctx context.Context, service exchange.ServiceName, q *authz.Request) (authz.Decision, bool) {
	of, known := a.find(service)
	if !known {
		if of, known = a.await(ctx, service); !known {
			return authz.Decision{}, false
		}
	}
	if of.closed {
		return authz.Decision{}, false
	}
	if q.Plaintext && !of.permissive {
		return authz.Decision{Denied: true, Policy: strictly}, true
	}
	return of.rules.Decide(q), true
}

// Asks is proxy.Access's.
func (a *access) Asks(service exchange.ServiceName, field string) bool {
	of, _ := a.find(service)
	return of.rules.Asks(field)
}

func (a *access) find(service exchange.ServiceName) (ruled, bool) {
	if all := a.rules.Load(); all != nil {
		of, known := (*all)[service]
		return of, known
	}
	return ruled{}, false
}

func (a *access) await(ctx context.Context, service exchange.ServiceName) (ruled, bool) {
	ctx, cancel := context.WithTimeout(ctx, firstCall)
	defer cancel()
	for {
		a.mu.Lock()
		if a.changed == nil {
			a.changed = make(chan struct{})
		}
		changed := a.changed
		a.mu.Unlock()
		if of, known := a.find(service); known {
			return of, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ruled{}, false
		}
	}
}

// Denied counts a request that was refused, or would be, and tells the access log and the trace by which policy.
func (a *access) Denied(seen *proxy.Observation, d *authz.Decision) {
	of := denial{seen.Callee, cmp.Or(d.Policy, d.WouldPolicy), d.WouldBeDenied}
	a.denied.add(of)
	a.recent.Add(telemetry.Denial{
		Service: seen.Callee.String(), Caller: nameOf(seen.Caller), Node: seen.CallerNode, Method: seen.Method, Path: seen.Path,
		Policy: of.policy, DryRun: of.dryRun,
	}, 1, time.Now())
	if !d.Denied {
		return // the exchange goes on, and has a line and a span of its own
	}
	var span telemetry.Span
	fill(&span, seen)
	span.Rule = deniedBy(of.policy)
	if a.log != nil {
		a.log.Log(&span.Access)
	}
	if seen.Trace.Sampled && a.spans != nil {
		a.spans.Record(&span)
	}
}

// shut tells the access log of a connection that a service takes from nobody without an identity. Of what it would have
// brought nothing is known, a trace neither.
func (a *access) shut(service exchange.ServiceName, from string) {
	if a.log == nil {
		return
	}
	a.log.Log(&telemetry.Access{
		Start: time.Now(), Inbound: true, Edge: telemetry.Edge{Callee: service, Protocol: exchange.TCP}, Peer: from,
		Sample: telemetry.Sample{Outcome: exchange.Outcome{Reason: exchange.Denied}}, Rule: deniedBy(strictly),
	})
}

// deniedBy is a policy as the rule of what it refuses.
func deniedBy(policy string) string { return "authorizationpolicy/" + policy }

// nameOf is a service's name; "" of none.
func nameOf(s exchange.ServiceName) string {
	if s.IsZero() {
		return ""
	}
	return s.String()
}
