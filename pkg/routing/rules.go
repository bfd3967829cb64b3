package routing

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// rules are one Outbound, made ready for reading. They never change but for the counters of round robin.
type rules struct {
	ports  map[uint32]*port // by snapshot.PortID
	refers map[*pool]uint32 // and how many shards the rules were compiled for

	ingress *ingress // of a gateway, which has no ports
}

type port struct {
	protocol snapshot.Protocol
	rules    []rule
	index    index
}

type rule struct {
	origin         string
	match          match
	backends       []*backend
	total          uint64 // of all weights
	timeout        time.Duration
	backendTimeout time.Duration
	answer         int // not 0: the status to answer with
	detail         string
	limits         []*snapshot.Limit
	filters        *filters
	retry          *Retry
	hedge          time.Duration
	faults         []*Fault      // of the whole rule
	session        *session      // nil: each request is one by itself
	users          *authn.Policy // of a gateway's rule; nil: nobody asks for the end user
}

type backend struct {
	service exchange.ServiceName
	port    uint32 // as snapshot.PortID has it
	upTo    uint64 // its weight and those before it
	answer  int
	detail  string
	balance snapshot.Balance
	policy  string // that balance is of; empty: none
	carrier snapshot.Carrier
	called  string // that instances' nodes are told; empty: nothing
	filters *filters
	faults  []*Fault  // of its rule and, behind them, its own
	id      uint64    // among those of a rule
	keys    *hashKeys // nil: nothing of a request is hashed
	pool    *pool

	resilience *resilience // nil: no policy is for the service

	next      [tiers]atomic.Uint32 // of round robin
	slowStart int64                // nanoseconds; 0: none
	locality  snapshot.Locality
}

// held reports whether every shard that the rules refer to is held. Absent rules refer to nothing.
func (r *rules) held() bool {
	if r == nil {
		return true
	}
	for p, shards := range r.refers {
		if !p.holds(shards) {
			return false
		}
	}
	return true
}

func (r *rules) refersTo(p *pool) bool {
	if r == nil {
		return false
	}
	_, ok := r.refers[p]
	return ok
}

func (t *Table) compile(body *snapshot.Outbound) (*rules, error) {
	r := &rules{ports: make(map[uint32]*port, len(body.Ports)), refers: make(map[*pool]uint32)}
	faults, err := compileFaults(body.Faults)
	if err != nil {
		return nil, err
	}
	for _, source := range body.Ports {
		compiled, err := t.compileRules(source.Rules, body.Limits, faults, r.refers)
		if err != nil {
			return nil, err
		}
		r.ports[source.Number] = &port{protocol: source.Protocol, rules: compiled, index: newIndex(compiled)}
	}
	return r, nil
}

// compileRules makes rules that name some of a body's limits and faults, and notes the shards that they refer to.
func (t *Table) compileRules(sources []*snapshot.Rule, limits []*snapshot.Limit, faults []*Fault, refers map[*pool]uint32) ([]rule, error) {
	all := make([]rule, len(sources))
	for i, s := range sources {
		compiled, err := t.compileRule(s, refers)
		if err == nil {
			compiled.limits, err = limitsOf(s, limits)
		}
		if err == nil {
			err = compiled.name(s, faults)
		}
		if err != nil {
			return nil, fmt.Errorf("rule %s: %w", s.Origin, err)
		}
		all[i] = compiled
	}
	return all, nil
}

func (t *Table) compileRule(s *snapshot.Rule, refers map[*pool]uint32) (rule, error) {
	m, err := compileMatch(s.Match)
	if err != nil {
		return rule{}, err
	}
	r := rule{
		origin:         s.Origin,
		match:          m,
		timeout:        time.Duration(s.TimeoutMs) * time.Millisecond,
		backendTimeout: time.Duration(s.BackendTimeoutMs) * time.Millisecond,
		answer:         int(s.Answer),
		detail:         s.AnswerReason,
		hedge:          bounded(s.HedgeDelayMs, mostPerTry),
	}
	if r.retry, err = compileRetry(s.Retry); err != nil {
		return rule{}, err
	}
	if r.session, err = compileSession(s.Session, &m); err != nil {
		return rule{}, err
	}
	if r.filters, err = compileFilters(s.Filters, &m); err != nil {
		return rule{}, err
	}
	for _, source := range s.Filters.GetMirrors() {
		mirrored := mirror{numerator: uint64(source.Numerator), denominator: uint64(max(source.Denominator, 1))}
		if mirrored.backend, err = t.compileBackend(source.Backend, &m, refers); err != nil {
			return rule{}, fmt.Errorf("mirror: %w", err)
		}
		r.filters.mirrors = append(r.filters.mirrors, mirrored)
	}
	for _, b := range s.Backends {
		if b.Weight == 0 && r.session == nil {
			continue
		}
		compiled, err := t.compileBackend(b, &m, refers)
		if err != nil {
			return rule{}, err
		}
		if r.session != nil {
			r.session.backends = append(r.session.backends, compiled)
			t.ask(compiled, knownOf)
		}
		if b.Weight == 0 {
			continue
		}
		r.total += uint64(b.Weight)
		compiled.upTo = r.total
		r.backends = append(r.backends, compiled)
	}
	if r.total == 0 && r.answer == 0 && (r.filters == nil || r.filters.redirect == nil) {
		r.answer, r.detail = 500, "no backend of the rule has a weight"
	}
	return r, nil
}

// compileBackend makes a backend of a rule that matches m, and notes the shards that it refers to.
func (t *Table) compileBackend(b *snapshot.Backend, m *match, refers map[*pool]uint32) (*backend, error) {
	compiled := &backend{
		id:      backendID(exchange.ServiceName{Namespace: b.GetNamespace(), Name: b.GetService()}, b.GetPort()),
		service: exchange.ServiceName{Namespace: b.GetNamespace(), Name: b.GetService()},
		port:    b.GetPort(),
		answer:  int(b.GetAnswer()),
		detail:  b.GetAnswerReason(),
		balance: b.GetBalance(),
		policy:  b.GetBalancingPolicy(),
		carrier: b.GetCarrier(),
		called:  b.GetCalled(),
	}
	if len(b.GetHashKeys()) > 0 {
		compiled.keys = &hashKeys{t.Node, b.GetHashKeys()}
	}
	if compiled.locality = b.GetLocality(); compiled.locality >= localities {
		compiled.locality = snapshot.Locality_LOCALITY_NONE
	}
	compiled.slowStart = int64(min(b.GetSlowStartMs(), uint64(mostSlowStart.Milliseconds()))) * int64(time.Millisecond)
	var err error
	if compiled.filters, err = compileFilters(b.GetFilters(), m); err != nil {
		return nil, fmt.Errorf("backend %s: %w", compiled.service, err)
	}
	if b.GetShards() > maxShards {
		return nil, fmt.Errorf("backend %s has %d shards; at most %d are possible", compiled.service, b.Shards, maxShards)
	}
	// Nodes that begin alike would all be at the first instance together.
	for i := range compiled.next {
		compiled.next[i].Store(uint32(score(t.Node, compiled.service.String())))
	}
	if compiled.answer == 0 {
		compiled.pool = t.pool(compiled.service)
		t.want(compiled)
		refers[compiled.pool] = max(refers[compiled.pool], b.GetShards())
		if compiled.resilience, err = t.resilient(compiled.pool, b.GetResilience()); err != nil {
			return nil, fmt.Errorf("backend %s: %w", compiled.service, err)
		}
	}
	return compiled, nil
}

// name finds the faults that a rule and its backends name.
func (r *rule) name(s *snapshot.Rule, all []*Fault) error {
	var err error
	if r.faults, err = faultsOf(s.Faults, all); err != nil {
		return err
	}
	i := 0
	for _, b := range s.Backends {
		if b.Weight == 0 { // as compileRule has it
			continue
		}
		own, err := faultsOf(b.Faults, all)
		if err != nil {
			return err
		}
		r.backends[i].faults = append(r.faults[:len(r.faults):len(r.faults)], own...)
		i++
	}
	return nil
}

// limitsOf finds the limits that a rule names. One that is not there must not let everything pass.
func limitsOf(s *snapshot.Rule, all []*snapshot.Limit) ([]*snapshot.Limit, error) {
	var limits []*snapshot.Limit
	for _, at := range s.Limits {
		if int(at) >= len(all) {
			return nil, fmt.Errorf("limit %d of %d is named", at, len(all))
		}
		limits = append(limits, all[at])
	}
	return limits, nil
}

// choose gives a request to one backend by weight; r.total is not 0.
func (r *rule) choose(random uint64) *backend {
	if len(r.backends) == 1 {
		return r.backends[0]
	}
	at := below(random, r.total)
	for _, b := range r.backends {
		if at < b.upTo {
			return b
		}
	}
	return r.backends[len(r.backends)-1]
}
