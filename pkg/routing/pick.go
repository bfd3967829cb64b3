package routing

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// maxTries bounds how many instances one exchange can be tried at.
const maxTries = 4

// A Call says who asks for whom, when, and with what luck.
type Call struct {
	Caller, Callee exchange.ServiceName
	Port           uint16 // of the callee
	UDP            bool   // that is a port of UDP
	Now            time.Time
	// Secure and ServerName are of a connection from outside: whether it came by TLS, and whom it asked for, in lower case.
	Secure     bool
	ServerName string
	Source     netip.Addr  // of that connection; not valid: it is of an application of this host
	Random     rand.Source // of one goroutine, or safe for several
}

func (c *Call) portID() uint32 { return snapshot.PortID(c.Port, c.UDP) }

// A Decision is where an exchange goes, or what it is answered with. It belongs to one exchange at a time
// and is used again for the next: Pick overwrites it and keeps its memory. A Decision whose Instance is not
// nil counts as one exchange in flight there until Done.
type Decision struct {
	Status int             // not 0: answer with it, and ask nobody
	Reason exchange.Reason // why, where Status is not 0; Completed where a filter of the rule answers
	Detail string          // the same in words, for the log and the caller; may be empty

	Rule           string // the origin of the rule that matched; empty where none did
	Service        exchange.ServiceName
	Port           uint16           // of Service, the backend that the weights gave
	Instance       *Instance        // nil where Status is not 0
	Target         exchange.Target  // what to ask of the instance's node
	Carrier        snapshot.Carrier // of lanes to Service
	Timeout        time.Duration    // for the whole exchange; 0: none
	BackendTimeout time.Duration    // for one attempt; 0: none
	Hedge          time.Duration    // after which an attempt may get a second beside it; 0: never
	Retry          *Retry           // nil: neither the rule nor a policy has one

	// Faults are those that hit the request. Where there are some, and Status is 0, no instance was chosen: what they do
	// comes first, and then Proceed. It is to be read only.
	Faults []*Fault
	Limits []*snapshot.Limit // that the exchange must be within; to be read only
	Users  *authn.Policy     // that proves who the end user is; nil: nobody asks
	Fields exchange.Fields   // that the rule adds to the answer, whoever gives it; often none

	counted *Instance // in whose load the exchange counts
	rule    *filters
	backend *backend
	budget  *budget  // of retries; nil: it was not counted
	raw     bool     // of a connection whose bytes are not looked at
	session *session // of the rule; nil: it has none
	resumed member   // where the request's session is; none: it belongs to none
	secure  bool     // the connection that it came by
	hash    uint64   // of the request, where hashed
	hashed  bool
	taken   int64 // when the instance was chosen, in Unix nanoseconds
	timed   bool  // since then it has answered

	held  *atomic.Int64 // in which the exchange counts until Done; nil: in none
	waits *atomic.Int64 // in which it counts until Waited; nil: in none

	tries [maxTries]*load
	tried int

	path, reading, value []byte
}

// Done gives back what Pick counted; a second call does nothing. It is called when the exchange or the
// attempt has ended, before the Decision is used again.
func (d *Decision) Done() {
	d.Leave()
	d.release()
}

// Leave is Done for an attempt after which another may come: nothing is in flight at the instance, but the exchange
// goes on.
func (d *Decision) Leave() {
	if d.counted != nil {
		d.counted.load.inFlight.Add(-1)
		d.counted = nil
	}
}

// release gives back what the exchange holds of a circuit breaker.
func (d *Decision) release() {
	if d.held != nil {
		d.held.Add(-1)
		d.held = nil
	}
}

// Refuse turns a decision for an instance into an answer, and counts the exchange there no more.
func (d *Decision) Refuse(status int, reason exchange.Reason, detail string) {
	d.Done()
	d.answer(status, reason, detail)
}

func (d *Decision) reset() {
	d.Done()
	*d = Decision{Fields: d.Fields[:0], Faults: d.Faults[:0], path: d.path, reading: d.reading, value: d.value}
}

func (d *Decision) answer(status int, reason exchange.Reason, detail string) {
	d.release()
	d.Status, d.Reason, d.Detail = status, reason, detail
	d.Instance, d.Target = nil, exchange.Target{}
}

// Pick routes one exchange: of the callee's rules for this caller the first that matches decides; one of
// its backends is chosen by weight, and one of that backend's instances by its load, unless faults hit the request
// before. req is nil for a connection whose bytes are not looked at, and which no fault hits. Pick writes only to out; it allocates nothing once out has seen
// a path as long, and takes no lock.
func (t *Table) Pick(call *Call, req *exchange.Request, out *Decision) {
	out.reset()
	out.raw = req == nil
	rules := t.rules(call.Caller.Namespace, call.Callee)
	if rules == nil {
		out.answer(503, exchange.NoService, "the service is not known on this node")
		return
	}
	p := rules.ports[call.portID()]
	if p == nil {
		out.answer(503, exchange.NoService, "the service has no such port")
		return
	}
	i, oneWay := p.match(req, out)
	switch {
	case !oneWay:
		out.answer(400, exchange.Malformed, "the path can be read in several ways that different rules match")
		return
	case i == none:
		out.answer(404, exchange.NoRoute, "no rule of the service matches")
		return
	}
	out.follow(&p.rules[i], call, req)
}

// follow decides as the rule that matched says.
func (d *Decision) follow(r *rule, call *Call, req *exchange.Request) {
	d.Rule, d.Timeout, d.BackendTimeout, d.Limits, d.rule = r.origin, r.timeout, r.backendTimeout, r.limits, r.filters
	d.Retry, d.Hedge, d.Users = r.retry, r.hedge, r.users
	var b *backend
	if r.session != nil {
		d.secure = call.Secure
		b = d.resume(r.session, call, req)
	}
	if r.answer != 0 && b == nil {
		d.answer(r.answer, exchange.NoBackend, r.detail)
		return
	}
	if r.filters != nil && !d.admits(r.filters, req) {
		return
	}
	if r.filters != nil && d.answered(r.filters, call.Port, req) {
		return
	}
	if b == nil {
		b = r.choose(call.Random.Uint64())
	}
	d.Service, d.backend = b.service, b
	d.Port, _ = snapshot.Port(b.port)
	if b.resilience != nil {
		if d.Retry == nil {
			d.Retry = b.resilience.retry
		}
		if d.Hedge == 0 {
			d.Hedge = b.resilience.hedge
		}
	}
	if d.Retry != nil && d.Retry.perTry > 0 && (d.BackendTimeout == 0 || d.Retry.perTry < d.BackendTimeout) {
		d.BackendTimeout = d.Retry.perTry
	}
	if b.filters != nil && !d.admits(b.filters, req) {
		return
	}
	d.key(call, req)
	if b.faults != nil && d.strike(b.faults, call, req) {
		return
	}
	d.arrive(call)
}

// arrive has the backend that was chosen answer, or one of its instances.
func (d *Decision) arrive(call *Call) {
	if b := d.backend; b.answer != 0 {
		d.answer(b.answer, exchange.NoBackend, b.detail)
		return
	}
	d.take(call)
}

// key hashes what the decision's backend says of a request.
func (d *Decision) key(call *Call, req *exchange.Request) {
	if d.backend.keys != nil {
		d.hash, d.hashed = d.backend.keys.hash(call, req)
	}
}

// PickAgain gives the exchange to another instance of the same backend, after an attempt at the one in out
// failed and before anything of its answer was passed on. It reports false, and answers 503, where every
// instance was tried, or maxTries of them were. The instance that failed counts no more.
func (t *Table) PickAgain(call *Call, out *Decision) bool {
	out.Leave()
	if out.backend == nil || out.Instance == nil {
		return false
	}
	out.tries[out.tried] = out.Instance.load
	out.tried++
	if out.tried == maxTries {
		out.answer(503, exchange.NoInstance, "too many instances were tried")
		return false
	}
	out.take(call)
	return out.Instance != nil
}

// take chooses an instance of the decision's backend and counts the exchange there.
func (d *Decision) take(call *Call) {
	if !d.admit() {
		return
	}
	g := d.backend.pool.set.Load().group(d.backend.port)
	m, ok := d.choose(g, call)
	if !ok {
		d.answer(503, exchange.NoInstance, "no instance of the backend is left to ask")
		return
	}
	m.instance.load.inFlight.Add(1)
	d.counted, d.Instance, d.Carrier = m.instance, m.instance, d.backend.carrier
	d.taken, d.timed = call.Now.UnixNano(), false
	at := m.target
	if at == 0 {
		at = d.backend.port
	}
	d.Target.Instance, d.Target.Called = m.instance.ID, d.backend.called
	d.Target.Port, d.Target.UDP = snapshot.Port(at)
}

// choose takes a member of the group as the backend's algorithm says.
func (d *Decision) choose(g *group, call *Call) (member, bool) {
	tried, now := d.tries[:d.tried], call.Now.UnixNano()
	if m, ok := d.sessionMember(g, tried, now); ok {
		return m, true
	}
	if d.hashed {
		if m, ok := hashedMember(g, d.backend, d.hash, tried, now); ok {
			return m, true
		}
	}
	return selectMember(g, d.backend, tried, now, call.Random)
}

// match finds the first rule that matches. It reports false where the path has readings that different
// rules match.
func (p *port) match(req *exchange.Request, d *Decision) (int, bool) {
	if req == nil {
		return p.index.first(p.rules, "", nil, d), true
	}
	path, _, _ := strings.Cut(req.Path, "?")
	if p.index.anyPath() || plain(path) {
		return p.index.first(p.rules, path, req, d), true
	}
	d.path = appendNormal(d.path[:0], path)
	normal := text(d.path)
	if !ambiguous(normal) {
		return p.index.first(p.rules, normal, req, d), true
	}
	// All readings begin alike. Where no rule tells apart what comes behind that, all of them lead to the same one.
	end := stableEnd(normal)
	at, rest := p.index.root.descend(normal[:end])
	if len(p.index.regexps) == 0 && (rest != "" || !at.tellsApart(normal[end:])) {
		return p.index.climb(at, none, p.rules, normal, req, d), true
	}
	return p.matchAll(at, normal, end-len(rest), req, d)
}

// matchAll finds the rule that all readings of a path lead to; false where there are several. All begin with the first end
// bytes, of which at is the node.
func (p *port) matchAll(at *node, normal string, end int, req *exchange.Request, d *Decision) (int, bool) {
	found := p.index.firstAt(at, normal[end:], p.rules, normal, req, d)
	path := normal[end:] // what differs
	if len(p.index.regexps) > 0 {
		path = normal // of which expressions see all
	}
	behind := end - (len(normal) - len(path))
	all := forms
	if !p.index.parameters && prunedAt(path) < len(path) {
		all = formsPruned
	}
	to, left := at.descend(normal[end:])
	leads := func(reading string) bool {
		if n, rest := at.descend(reading[behind:]); n == to && (rest == "") == (left == "") && len(p.index.regexps) == 0 {
			return true // there the same rules stand
		}
		return p.index.firstAt(at, reading[behind:], p.rules, reading, req, d) == found
	}
	d.reading = d.reading[:0]
	before := path
	for i := range all {
		start := len(d.reading)
		d.reading = appendForm(d.reading, path, i)
		form := text(d.reading[start:])
		if i > 0 && (form == path || form == before) {
			continue
		}
		if before = form; i > 0 && !leads(form) {
			return none, false
		}
		if !winding(form) {
			continue
		}
		last := form
		for way := 1; way < readings; way++ {
			start = len(d.reading)
			d.reading = appendReading(d.reading, form, way)
			reading := text(d.reading[start:])
			if reading == form || reading == last {
				continue
			}
			if last = reading; !leads(reading) {
				return none, false
			}
		}
	}
	return found, true
}
