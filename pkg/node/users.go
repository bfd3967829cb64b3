package node

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/proxy"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// users say how the end users of what runs here are known (proxy.Users). Readers take no lock; one writer at a time.
type users struct {
	policies  atomic.Pointer[map[exchange.ServiceName]*authn.Policy] // nil Policy: nobody asks
	admission *access                                                // what is known of a service is known to both, here first

	refused tally

	mu    sync.Mutex
	stale map[string]bool // URLs of key sets that lack a key, which controllers are still to be told
}

// maxStale bounds the key sets of which controllers are told at a time that they lack a key.
const maxStale = 16

// unknown hears that a key set lacks a key.
func (u *users) unknown(url string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stale == nil {
		u.stale = map[string]bool{}
	}
	if len(u.stale) < maxStale {
		u.stale[url] = true
	}
}

// staleKeys are registry.RegistrarConfig's: what is told is forgotten, for the next token says it again.
func (u *users) staleKeys() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	urls := slices.Sorted(maps.Keys(u.stale))
	u.stale = nil
	return urls
}

// set takes what is said of a service into force; nil: its configuration is gone, and it is not known who asks.
func (u *users) set(service exchange.ServiceName, in *snapshot.Inbound) error {
	all := map[exchange.ServiceName]*authn.Policy{}
	if old := u.policies.Load(); old != nil {
		all = maps.Clone(*old)
	}
	before := all[service]
	delete(all, service)
	if in != nil {
		policy, err := authn.Compile(in.Authentication, before, u.unknown)
		if err != nil {
			return err
		}
		all[service] = policy
	}
	u.policies.Store(&all)
	u.refused.keep(service, func(policy string) bool { return all[service] != nil && all[service].Origin() == policy })
	return nil
}

// drop forgets what a subject said that is not followed any more.
func (u *users) drop(subject string) {
	if names, err := snapshot.ParseSubject(subject); err == nil && names.Kind == snapshot.KindIn {
		_ = u.set(exchange.ServiceName{Namespace: names.Namespace, Name: names.Service}, nil) // nothing is compiled that could fail
	}
}

// Policy is proxy.Users'. Of a service that has just come to this host it waits to hear.
func (u *users) Policy(ctx context.Context, service exchange.ServiceName) (*authn.Policy, bool) {
	if policy, known := u.find(service); known {
		return policy, true
	}
	if _, known := u.admission.await(ctx, service); !known {
		return nil, false
	}
	return u.find(service)
}

func (u *users) find(service exchange.ServiceName) (*authn.Policy, bool) {
	if all := u.policies.Load(); all != nil {
		policy, known := (*all)[service]
		return policy, known
	}
	return nil, false
}

// Refused counts a request that was refused, and tells the access log and the trace by which policy.
func (u *users) Refused(seen *proxy.Observation, policy string, _ *authn.Refusal) {
	u.refused.add(denial{service: seen.Callee, policy: policy})
	var span telemetry.Span
	fill(&span, seen)
	span.Rule = "authenticationpolicy/" + policy
	if u.admission.log != nil {
		u.admission.log.Log(&span.Access)
	}
	if seen.Trace.Sampled && u.admission.spans != nil {
		u.admission.spans.Record(&span)
	}
}
