package routing

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A Question is a request that nobody sends. Limits of its size are whoever's who takes it in.
type Question struct {
	From      exchange.ServiceName `json:"from"`    // the caller; of a gateway: the gateway, as which those outside call
	To        exchange.ServiceName `json:"to"`      // the callee, or the gateway
	Gateway   bool                 `json:"gateway"` // it comes to the gateway To from outside
	Port      uint16               `json:"port"`
	Method    string               `json:"method"`
	Scheme    string               `json:"scheme"`
	Authority string               `json:"authority"`
	Path      string               `json:"path"` // with its query
	Fields    exchange.Fields      `json:"fields,omitempty"`
}

// An Explanation is what Pick does with a question, and why. Status 0 means that an instance gets the request.
type Explanation struct {
	Status   int              `json:"status,omitempty"` // of the answer that nobody is asked for
	Reason   exchange.Reason  `json:"reason,omitempty"`
	Detail   string           `json:"detail,omitempty"`
	Rule     string           `json:"rule,omitempty"` // that decides; empty: none matches
	Rules    []RuleVerdict    `json:"rules"`          // in the order in which they are tried
	Policies []PolicyVerdict  `json:"policies"`       // of the rule that decides, and who admits the caller
	Backends []BackendVerdict `json:"backends"`       // of the rule that decides, by its weights

	Timeout        time.Duration `json:"timeout,omitempty"`        // for the whole exchange; 0: none
	BackendTimeout time.Duration `json:"backendTimeout,omitempty"` // for one attempt; 0: none
}

// A RuleVerdict says whether a rule matches, and decides.
type RuleVerdict struct {
	Rule     string `json:"rule"`
	Hostname string `json:"hostname,omitempty"` // of a gateway's
	Matches  bool   `json:"matches"`
	Decides  bool   `json:"decides"`
	Why      string `json:"why,omitempty"` // it does not match, or decide
}

// A PolicyVerdict is a policy of the rule that decides.
type PolicyVerdict struct {
	Kind   string `json:"kind"`   // QuotaPolicy, ResiliencePolicy, FaultPolicy or LoadBalancingPolicy; "access" of a controller's answer
	Name   string `json:"name"`   // namespace/name, and /limit of a quota or /fault; of access namespace/name:port of a backend
	Detail string `json:"detail"` // what it counts, does, does to the request, or says of which backend
}

// A BackendVerdict is a backend and what becomes of its share.
type BackendVerdict struct {
	Service   exchange.ServiceName `json:"service"`
	Port      uint16               `json:"port"`
	Share     float64              `json:"share"`            // of the rule's requests, by weight
	Status    int                  `json:"status,omitempty"` // not 0: its share is answered with that
	Detail    string               `json:"detail,omitempty"`
	Balance   string               `json:"balance"`   // how its instances share requests
	Instances []InstanceVerdict    `json:"instances"` // that may get it
}

// An InstanceVerdict is an instance that may get the request.
type InstanceVerdict struct {
	Instance string            `json:"instance"`
	Node     string            `json:"node"`
	Labels   map[string]string `json:"labels,omitempty"`
	Share    float64           `json:"share"` // of the rule's requests, as measured by draws
}

// draws is how often the choice of an instance is made to measure the shares: those of few instances are right to two
// hundredths. What an instance has in flight, or that it was found unreachable, counts as it does for requests.
const draws = 4096

// Explain answers what Pick, or PickIngress, does with a question now, by calling it and what it calls. It costs
// thousands of picks: their turns of round robin pass, and each is in flight at its instance for as long as it takes.
// It is safe for concurrent use with everything.
func (t *Table) Explain(q *Question, now time.Time) *Explanation {
	e := &Explanation{Rules: []RuleVerdict{}, Policies: []PolicyVerdict{}, Backends: []BackendVerdict{}}
	call := &Call{Caller: q.From, Callee: q.To, Port: q.Port, Now: now, Random: rand.NewPCG(1, 2)}
	req := &exchange.Request{Method: q.Method, Scheme: q.Scheme, Authority: q.Authority, Path: q.Path, Fields: q.Fields}
	var d Decision
	var tried []explainedPort
	if q.Gateway {
		if call.Secure = q.Scheme == "https"; call.Secure {
			call.ServerName = strings.ToLower(req.Host()) // as a client asks that was not led here otherwise
		}
		if l, found := t.IngressListener(q.To, q.Port, req.Host()); found && l.TCP {
			if call.Secure = t.IngressSecure(q.To, q.Port); call.Secure {
				call.ServerName = strings.ToLower(req.Host())
			}
			req = nil
		}
		t.PickIngress(call, req, &d)
		tried = t.ingressPorts(call, req)
	} else {
		if protocol, known := t.Protocol(q.From.Namespace, q.To, q.Port); known && protocol == snapshot.Protocol_PROTOCOL_TCP {
			req = nil // a connection whose bytes nobody looks at
		}
		t.Pick(call, req, &d)
		if rules := t.rules(q.From.Namespace, q.To); rules != nil && rules.ports[uint32(q.Port)] != nil {
			tried = []explainedPort{{port: rules.ports[uint32(q.Port)]}}
		}
	}
	t.Proceed(call, &d) // what faults do is told apart
	d.Done()            // in flight, it would keep the draws away from its instance
	e.Status, e.Reason, e.Detail, e.Rule = d.Status, d.Reason, d.Detail, d.Rule
	e.Timeout, e.BackendTimeout = d.Timeout, d.BackendTimeout
	for _, l := range d.Limits {
		e.Policies = append(e.Policies, limited(l))
	}
	decides := t.verdicts(e, tried, req, d.Rule != "")
	if decides != nil {
		e.Policies = append(e.Policies, faulted(decides, call, req)...)
	}
	if decides == nil || d.backend == nil { // no rule, or one that answers by itself
		return e
	}
	var resumed *backend
	if d.Instance != nil && d.Instance == d.resumed.instance {
		resumed = d.backend
		e.Policies = append(e.Policies, PolicyVerdict{
			Kind: "sessionPersistence", Name: d.Rule, Detail: fmt.Sprintf("the request's session is at instance %s of node %s", d.Instance.ID, d.Instance.Node),
		})
	}
	e.backends(t, decides, resumed, call, req)
	if len(e.Backends) > 1 { // which of them Pick took says nothing of the others
		e.Status, e.Reason, e.Detail = 0, "", ""
	}
	return e
}

// An explainedPort is a list of rules that Pick looks at, and for which hosts they are.
type explainedPort struct {
	*port
	hostname string
}

// ingressPorts are the lists of rules that PickIngress looks at, in its order.
func (t *Table) ingressPorts(call *Call, req *exchange.Request) []explainedPort {
	in := (*t.ingresses.Load())[call.Callee]
	if in == nil || in.ports[call.portID()] == nil {
		return nil
	}
	var all []explainedPort
	host := hostOf(call, req)
	of := in.closest(call.portID(), host)
	if of == nil || !in.takes(of, call, req) {
		return nil
	}
	of.each(host, func(p *port) bool {
		all = append(all, explainedPort{p, of.hostnameOf(func(other *port) bool { return other == p })})
		return true
	})
	return all
}

// hostnameOf is the hostname of what is asked for.
func (h *hosts[T]) hostnameOf(is func(T) bool) string {
	for name, v := range h.exact {
		if is(v) {
			return name
		}
	}
	for suffix, v := range h.below {
		if is(v) {
			return "*" + suffix
		}
	}
	return "*"
}

// verdicts says of each rule whether it matches, and returns the one that decides.
func (t *Table) verdicts(e *Explanation, tried []explainedPort, req *exchange.Request, decided bool) (decides *rule) {
	var d Decision
	for _, p := range tried {
		at, oneWay := p.match(req, &d)
		for i := range p.rules {
			r := &p.rules[i]
			v := RuleVerdict{Rule: r.origin, Hostname: p.hostname}
			if v.Why = whyNot(&r.match, req, &d); v.Why == "" {
				v.Matches = true
				switch {
				case decided && decides == nil && oneWay && i == at:
					v.Decides, decides = true, r
				case decided:
					v.Why = "a rule before it matches and decides"
				default:
					v.Why = "the path can be read in several ways, and not all of them lead here"
				}
			}
			e.Rules = append(e.Rules, v)
		}
	}
	return decides
}

// matchesAlone asks the index whether a match takes a request: with readings of the path that differ, all must agree.
func matchesAlone(m match, req *exchange.Request, d *Decision) (matches, oneWay bool) {
	alone := port{rules: []rule{{match: m}}}
	alone.index = newIndex(alone.rules)
	at, oneWay := alone.match(req, d)
	return at == 0, oneWay
}

// whyNot says what of a match a request does not have, first things first; empty where it has all.
func whyNot(m *match, req *exchange.Request, d *Decision) string {
	matches, oneWay := matchesAlone(*m, req, d)
	switch {
	case matches:
		return ""
	case req == nil:
		return "of a connection that is not HTTP nothing is known, and the rule asks for something"
	case !oneWay:
		return "the path can be read in several ways, and the rule takes some of them"
	}
	if m.path != nil {
		if ok, _ := matchesAlone(match{path: m.path}, req, d); !ok {
			path, _, _ := strings.Cut(req.Path, "?")
			return fmt.Sprintf("the path %s %s", path, m.path.unmet())
		}
	}
	if m.method == "" && req.Method == "CONNECT" {
		return "CONNECT is for rules that match the method CONNECT"
	}
	if m.method != "" {
		if ok, _ := matchesAlone(match{method: m.method}, req, d); !ok {
			return fmt.Sprintf("the method is %s, not %s", req.Method, m.method)
		}
	}
	for i := range m.headers {
		if ok, _ := matchesAlone(match{headers: m.headers[i : i+1]}, req, d); !ok {
			return fmt.Sprintf("the header %s %s", m.headers[i].name, absentOr(m.headers[i].matcher, hasField(req, m.headers[i].name)))
		}
	}
	for i := range m.query {
		if ok, _ := matchesAlone(match{query: m.query[i : i+1]}, req, d); !ok {
			return fmt.Sprintf("the query parameter %s %s", m.query[i].name, m.query[i].unmet())
		}
	}
	return "it does not match"
}

func hasField(req *exchange.Request, name string) bool {
	if exchange.EqualName(name, "host") {
		return req.Authority != ""
	}
	_, has := req.Fields.Get(name)
	return has
}

func absentOr(m matcher, has bool) string {
	if !has {
		return "is not there; it " + strings.Replace(m.unmet(), "is not", "must be", 1)
	}
	return m.unmet()
}

// unmet says what a value that the matcher does not take is not.
func (m *matcher) unmet() string {
	switch m.kind {
	case snapshot.StringMatch_PREFIX:
		return "is not " + m.value + " or below it"
	case snapshot.StringMatch_REGEX:
		return fmt.Sprintf("is not as the expression %q", m.value)
	default:
		return fmt.Sprintf("is not %q", m.value)
	}
}

func limited(l *snapshot.Limit) PolicyVerdict {
	v := PolicyVerdict{Kind: "QuotaPolicy", Name: l.Id, Detail: "counts all requests"}
	var by []string
	if l.ByCaller {
		by = append(by, "calling service")
	}
	if l.ByHeader != "" {
		by = append(by, "value of header "+l.ByHeader)
	}
	if len(by) > 0 {
		v.Detail = "counts by " + strings.Join(by, " and ")
	}
	return v
}

// backends asks each backend of the rule that decides which instances it chooses.
// Where the request is of a session, it is one of them alone.
func (e *Explanation) backends(t *Table, r *rule, resumed *backend, call *Call, req *exchange.Request) {
	var before uint64
	all := r.backends
	if resumed != nil {
		all = []*backend{resumed}
	}
	for _, b := range all {
		number, _ := snapshot.Port(b.port)
		v := BackendVerdict{Service: b.service, Port: number, Share: 1, Balance: b.balanced(), Instances: []InstanceVerdict{}}
		if resumed == nil {
			v.Share = rounded(float64(b.upTo-before) / float64(r.total))
			before = b.upTo
		}
		if b.resilience != nil {
			if verdict := b.resilience.verdict(); !slices.Contains(e.Policies, verdict) {
				e.Policies = append(e.Policies, verdict)
			}
		}
		if b.policy != "" {
			e.Policies = append(e.Policies, PolicyVerdict{Kind: "LoadBalancingPolicy", Name: b.policy, Detail: fmt.Sprintf("says of %s: %s", b.service, v.Balance)})
		}
		only := *r // the rule, if all of its weight were this backend's
		only.backends = []*backend{b}
		if resumed != nil {
			only.answer = 0
		}
		hits := map[*Instance]int{}
		var d Decision
		for range draws {
			d.reset()
			d.follow(&only, call, req)
			t.Proceed(call, &d)
			if d.Instance == nil {
				v.Status, v.Detail = d.Status, d.Detail
				break
			}
			hits[d.Instance]++
		}
		d.Done()
		for i, n := range hits {
			v.Instances = append(v.Instances, InstanceVerdict{
				Instance: i.ID, Node: i.Node, Labels: i.Labels, Share: rounded(v.Share * float64(n) / draws),
			})
		}
		slices.SortFunc(v.Instances, func(a, b InstanceVerdict) int {
			return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Instance, b.Instance))
		})
		e.Backends = append(e.Backends, v)
	}
}

// balanced says how the instances of a backend are chosen.
func (b *backend) balanced() string {
	how := b.algorithm()
	switch b.locality {
	case snapshot.Locality_LOCALITY_ZONE:
		how += ", in the node's zone first"
	case snapshot.Locality_LOCALITY_REGION:
		how += ", in the node's region first"
	}
	return how
}

func (b *backend) algorithm() string {
	switch b.balance {
	case snapshot.Balance_BALANCE_ROUND_ROBIN:
		return "round robin"
	case snapshot.Balance_BALANCE_RANDOM:
		return "random"
	case snapshot.Balance_BALANCE_PEAK_EWMA:
		return "peak EWMA"
	case snapshot.Balance_BALANCE_RING_HASH:
		return "ring hash of " + b.keys.said()
	case snapshot.Balance_BALANCE_MAGLEV:
		return "Maglev hash of " + b.keys.said()
	}
	return "least request"
}

// said names what is hashed.
func (k *hashKeys) said() string {
	if k == nil {
		return "nothing"
	}
	var all []string
	for _, key := range k.keys {
		said := strings.ToLower(key.Type.String())
		if key.Name != "" {
			said += " " + key.Name
		}
		all = append(all, said)
	}
	return strings.Join(all, ", else of ")
}

// rounded has as many digits as draws can tell.
func rounded(share float64) float64 { return float64(int(share*1e4+0.5)) / 1e4 }
