// Package routing decides where a request goes: which rule it matches, which backend the rule's weights
// give it, and which instance of that backend takes it.
//
// A Table is fed decoded snapshots by one goroutine and read by all. A service's rules change as a whole,
// and only when everything that they refer to is held, so that no route arrives before its endpoints;
// until then the rules before them stay. Reading takes no lock and allocates nothing. The package is pure:
// it does no I/O, and time and randomness come from the caller. It does not dial, wait or retry; it says
// whom to ask, and whom to ask next.
//
// Start reading at Pick (pick.go), and PickIngress (ingress.go) for what comes from outside; then index.go and
// match.go (which rule), path.go (what a path is), session.go (where a session is), balance.go (which instance) with
// weight.go, locality.go, few.go, consistent.go and peak.go, policy.go, outlier.go and breaker.go (what is done about
// failures and overload), and here for how rules come in.
package routing

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A Table holds the rules and instances of the services that a node calls. Pick, PickIngress, PickAgain, PickRetry, Ready,
// Protocol, IngressPorts, Guarded, MarkUnreachable and MarkReachable are safe for concurrent use with everything; Apply, Drop and
// Needs belong to one goroutine.
type Table struct {
	// Node is the name of the node whose table this is: it decides which nodes of a callee with many are called.
	// It is set before the first Apply.
	Node string
	// UnknownKey hears of URLs of key sets that lack a key which a token names (authn.Compile). It is set before the first
	// Apply; nil: nobody does.
	UnknownKey func(url string)
	// Zone and Region are where the node is; empty: nobody said so. They are set before the first Apply.
	Zone, Region string

	services  atomic.Pointer[map[exchange.ServiceName]*service]                // replaced where a service comes or goes
	ingresses atomic.Pointer[map[exchange.ServiceName]*ingress]                // by gateway; replaced whenever one changes
	served    atomic.Pointer[map[exchange.ServiceName][]*snapshot.InboundPort] // what the processes of this host are to be spoken to in

	guarded atomic.Pointer[[]*pool] // that a policy is for; replaced whenever one comes or goes

	// Of the writer alone:
	outbounds map[outboundKey]*outbound
	pools     map[exchange.ServiceName]*pool
	loads     map[instanceKey]*load
	needed    map[*pool]uint32 // shards, as the rules held refer to them when Needs was called last
	needs     []string         // the subjects of those
}

// A service is what Pick reads of one callee.
type service struct{ view atomic.Pointer[view] }

// A view never changes once it is published.
type view struct {
	everyone *rules            // nil: none are in effect
	own      map[string]*rules // by the caller's namespace; nil rules: it has none of its own
}

// of returns the rules for callers of a namespace. Before it is known whether that namespace has rules of
// its own there are none: nobody gets others' rules for a moment.
func (v *view) of(caller, callee string) *rules {
	if caller != callee {
		own, known := v.own[caller]
		if !known {
			return nil
		}
		if own != nil {
			return own
		}
	}
	return v.everyone
}

type outboundKey struct {
	callee  exchange.ServiceName
	callers string // empty: everyone
	ingress bool   // of the gateway callee, for those outside
}

// An outbound is one subject of rules: the newest that came, and what is in effect.
type outbound struct {
	subject string
	version snapshot.Version
	next    *rules // nil: gone
	waits   bool   // next is not in effect yet

	known   bool // something is in effect, if only that it is gone
	current *rules
}

// Applied says that a version of a subject is now in effect.
type Applied struct {
	Subject string
	Version snapshot.Version
}

// New returns a table that knows no service.
func New() *Table {
	t := &Table{
		outbounds: make(map[outboundKey]*outbound),
		pools:     make(map[exchange.ServiceName]*pool),
		loads:     make(map[instanceKey]*load),
	}
	t.services.Store(&map[exchange.ServiceName]*service{})
	t.ingresses.Store(&map[exchange.ServiceName]*ingress{})
	t.guarded.Store(new([]*pool))
	t.served.Store(&map[exchange.ServiceName][]*snapshot.InboundPort{})
	return t
}

// Apply takes a verified *snapshot.Outbound, *snapshot.Endpoints or *snapshot.Inbound of a subject. A nil body says that the
// subject is gone or, with the zero version, that a controller has none. It returns what came into effect
// by it, which is often nothing, and often subjects that came before. A version that is not newer than
// what is held changes nothing, and neither does a body that cannot be used, which is an error. The table
// keeps the body.
func (t *Table) Apply(subject string, version snapshot.Version, body proto.Message) ([]Applied, error) {
	names, err := snapshot.ParseSubject(subject)
	if err != nil {
		return nil, err
	}
	name := exchange.ServiceName{Namespace: names.Namespace, Name: names.Service}
	switch {
	case names.Kind == snapshot.KindOut:
		out, ok := body.(*snapshot.Outbound)
		if !ok && body != nil {
			return nil, fmt.Errorf("apply %s: its body is not an Outbound", subject)
		}
		return t.applyOutbound(outboundKey{callee: name, callers: names.Callers}, subject, version, out)
	case names.Kind == snapshot.KindIn:
		in, ok := body.(*snapshot.Inbound)
		if !ok && body != nil {
			return nil, fmt.Errorf("apply %s: its body is not an Inbound", subject)
		}
		return t.applyInbound(name, subject, version, in)
	case names.Kind == snapshot.KindEndpoints:
		endpoints, ok := body.(*snapshot.Endpoints)
		if !ok && body != nil {
			return nil, fmt.Errorf("apply %s: its body is not Endpoints", subject)
		}
		return t.applyEndpoints(name, names.Shard, subject, version, endpoints)
	}
	return nil, fmt.Errorf("apply %s: nothing that routing uses", subject)
}

func (t *Table) applyOutbound(key outboundKey, subject string, version snapshot.Version, body *snapshot.Outbound) ([]Applied, error) {
	return t.accept(key, subject, version, func() (*rules, error) {
		if body == nil {
			return nil, nil
		}
		return t.compile(body)
	})
}

// accept takes the rules that compile makes of a body where they are newer, and puts them into effect where they can
// be.
func (t *Table) accept(key outboundKey, subject string, version snapshot.Version, compile func() (*rules, error)) ([]Applied, error) {
	o := t.outbounds[key]
	if o != nil && version.Compare(o.version) <= 0 {
		return nil, nil
	}
	next, err := compile()
	if err != nil {
		return nil, fmt.Errorf("apply %s: %w", subject, err)
	}
	if o == nil {
		o = &outbound{subject: subject}
		t.outbounds[key] = o
	}
	o.version, o.next, o.waits = version, next, true
	return t.settle(key, o, nil), nil
}

// settle puts the newest rules of a subject into effect where all that they refer to is held.
func (t *Table) settle(key outboundKey, o *outbound, applied []Applied) []Applied {
	if !o.waits || !o.next.held() {
		return applied
	}
	o.current, o.next, o.waits, o.known = o.next, nil, false, true
	if key.ingress {
		t.publishIngress(key.callee)
	} else {
		t.publish(key.callee)
	}
	return append(applied, Applied{o.subject, o.version})
}

// publish swaps what readers see of one service.
func (t *Table) publish(callee exchange.ServiceName) {
	next := &view{own: make(map[string]*rules)}
	any := false
	if o := t.outbounds[outboundKey{callee: callee}]; o != nil && o.known {
		next.everyone, any = o.current, true
	}
	for key, o := range t.outbounds {
		if key.callee == callee && key.callers != "" && o.known {
			next.own[key.callers], any = o.current, true
		}
	}
	services := *t.services.Load()
	s := services[callee]
	switch {
	case s != nil && any:
		s.view.Store(next)
	case any:
		s = &service{}
		s.view.Store(next)
		services = maps.Clone(services)
		services[callee] = s
		t.services.Store(&services)
	case s != nil:
		services = maps.Clone(services)
		delete(services, callee)
		t.services.Store(&services)
	}
}

// Drop forgets a subject that the node no longer follows. Rules that refer to dropped endpoints keep the
// instances that they have.
func (t *Table) Drop(subject string) {
	names, err := snapshot.ParseSubject(subject)
	if err != nil {
		return
	}
	name := exchange.ServiceName{Namespace: names.Namespace, Name: names.Service}
	switch names.Kind {
	case snapshot.KindOut:
		delete(t.outbounds, outboundKey{callee: name, callers: names.Callers})
		t.publish(name)
	case snapshot.KindIn:
		delete(t.outbounds, outboundKey{callee: name, ingress: true})
		t.publishIngress(name)
	case snapshot.KindEndpoints:
		if p := t.pools[name]; p != nil {
			delete(p.shards, names.Shard)
		}
	}
	for name, p := range t.pools {
		if len(p.shards) == 0 && !t.referred(p) {
			t.release(p.set.Load())
			t.unguard(p)
			delete(t.pools, name)
		}
	}
}

func (t *Table) referred(p *pool) bool {
	for _, o := range t.outbounds {
		if o.current.refersTo(p) || o.next.refersTo(p) {
			return true
		}
	}
	return false
}

// Needs lists the subjects of endpoints that the rules held here refer to, those that wait among them, in
// order and each once. Whoever feeds the table follows them; they change only with Apply and Drop, and rarely, so
// that it may be asked after each. The caller changes nothing in the result.
func (t *Table) Needs() []string {
	shards := make(map[*pool]uint32, len(t.needed))
	for _, o := range t.outbounds {
		for _, r := range []*rules{o.current, o.next} {
			if r != nil {
				for p, count := range r.refers {
					shards[p] = max(shards[p], count, p.stated())
				}
			}
		}
	}
	if t.needed != nil && maps.Equal(shards, t.needed) {
		return t.needs
	}
	var subjects []string
	for p, count := range shards {
		for i := range count {
			subjects = append(subjects, snapshot.EndpointsSubject(p.name.Namespace, p.name.Name, i))
		}
	}
	slices.Sort(subjects)
	t.needed, t.needs = shards, subjects
	return subjects
}

// Ready reports whether requests of callers in a namespace to a service can be routed: what everyone gets
// is in effect, and it is known whether that namespace has rules of its own.
func (t *Table) Ready(callerNamespace string, callee exchange.ServiceName) bool {
	return t.rules(callerNamespace, callee) != nil
}

// Protocol tells what a port of TCP of a service speaks to its callers; false where the service or port is not
// known.
func (t *Table) Protocol(callerNamespace string, callee exchange.ServiceName, port uint16) (snapshot.Protocol, bool) {
	r := t.rules(callerNamespace, callee)
	if r == nil || r.ports[uint32(port)] == nil {
		return 0, false
	}
	return r.ports[uint32(port)].protocol, true
}

func (t *Table) rules(callerNamespace string, callee exchange.ServiceName) *rules {
	s := (*t.services.Load())[callee]
	if s == nil {
		return nil
	}
	return s.view.Load().of(callerNamespace, callee.Namespace)
}
