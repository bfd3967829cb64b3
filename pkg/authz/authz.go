// Package authz decides who may call a service, and for what, as AuthorizationPolicies say.
//
// Compile makes the rules of one service ready for reading; Decide answers for one request. It is pure, takes no lock and
// allocates nothing, but where a condition needs CEL for a text of the request. The caller is who its certificate says, and
// what is called is what the service will see: paths are read by routing.PlainPath, and one that servers read differently is
// refused wherever a policy asks for paths. Who enforces what is decided here is the inbound side of pkg/proxy.
//
// Start reading at Decide; index.go finds the rules that a request may match, match.go says whether it does. Conditions are
// in when.go, and those that need no CEL in plain.go.
package authz

import (
	"fmt"
	"slices"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Rules are all that policies say of one service. They never change. nil Rules let everything pass.
type Rules struct {
	policies []policy
	index    index

	// The first policies that allow, and those that ask for paths or methods; none: nothing of that kind is there.
	allows, dryAllows   uint32
	paths, dryPaths     uint32
	methods, dryMethods uint32

	names  []string          // of the headers that clauses ask for
	frames map[string]*frame // by what they ask for
	whens  []*when
}

// none is no policy.
const none = ^uint32(0)

type policy struct {
	origin string
	deny   bool
	dryRun bool
}

// A Request is what is decided on. What is empty is not known, and counts against the caller.
type Request struct {
	Caller exchange.ServiceName // as its certificate says
	// Plaintext says that the caller shows no identity: it has no name, trust domain or node.
	Plaintext   bool
	TrustDomain string      // as the caller's certificate says
	Node        string      // that the certificate was issued to
	User        *authn.User // the end user, as far as it is proven; nil: nobody
	Port        uint16      // of the service
	TCP         bool        // a connection, or flow of datagrams, that nobody looks into; it has nothing of what follows
	Method      string
	Path        string // as the service will get it, with or without its query
	Host        string // likewise, with or without a port
	Fields      exchange.Fields
}

// A Decision says whether a request passes, and by which policy it does not. Policies are named by "<ns>/<name>".
type Decision struct {
	Denied bool
	Policy string // that denies, or the first of those that allow, of which none is for the request; empty: not denied
	// WouldBeDenied says that the request passes, and would not if every dry run were over; WouldPolicy is as Policy.
	WouldBeDenied bool
	WouldPolicy   string
}

// Compile makes policies ready for reading. A nil body has no policies.
func Compile(body *snapshot.Authorization) (*Rules, error) {
	if len(body.GetPolicies()) == 0 {
		return nil, nil
	}
	r := &Rules{allows: none, dryAllows: none, paths: none, dryPaths: none, methods: none, dryMethods: none}
	for i, p := range body.Policies {
		at := uint32(i)
		r.policies = append(r.policies, policy{p.Origin, p.Deny, p.DryRun})
		if !p.Deny {
			first(at, p.DryRun, &r.allows, &r.dryAllows)
		}
		for n, rule := range p.Rules {
			clauses, err := r.clausesOf(at, p.Deny, rule)
			if err != nil {
				return nil, fmt.Errorf("policy %s: rule %d: %w", p.Origin, n, err)
			}
			for _, c := range clauses {
				if len(c.paths)+len(c.notPaths) > 0 {
					first(at, p.DryRun, &r.paths, &r.dryPaths)
				}
				if len(c.methods)+len(c.notMethods) > 0 {
					first(at, p.DryRun, &r.methods, &r.dryMethods)
				}
				r.index.add(c)
			}
			path, method := r.asks(rule)
			if path {
				first(at, p.DryRun, &r.paths, &r.dryPaths)
			}
			if method {
				first(at, p.DryRun, &r.methods, &r.dryMethods)
			}
		}
	}
	return r, nil
}

func first(at uint32, dryRun bool, enforced, dry *uint32) {
	if dryRun {
		enforced = dry
	}
	*enforced = min(*enforced, at)
}

// Origins lists the policies, in order.
func (r *Rules) Origins() []string {
	if r == nil {
		return nil
	}
	all := make([]string, 0, len(r.policies))
	for _, p := range r.policies {
		all = append(all, p.origin)
	}
	return all
}

// Asks reports whether a rule may go by a field of a request's head, to the loosest reader.
func (r *Rules) Asks(field string) bool {
	return r != nil && (slices.ContainsFunc(r.names, func(name string) bool { return grammar.SameName(name, field) }) ||
		slices.ContainsFunc(r.whens, func(w *when) bool { return w.is.Headers })) // which ones only the evaluation tells
}

// A verdict is what was found out about one request. Each is the first policy that is so, or none.
type verdict struct {
	deny, dryDeny   uint32
	allow, dryAllow uint32
}

// Decide decides on a request.
func (r *Rules) Decide(q *Request) Decision {
	if r == nil {
		return Decision{}
	}
	v := verdict{none, none, none, none}
	path := ""
	var seen heads
	if !q.TCP {
		var room [256]byte
		var plain bool
		if path, plain = routing.PlainPath(room[:0], q.Path); !plain {
			v.deny, v.dryDeny = r.paths, r.dryPaths
		}
		seen.path = path
		if !upper(q.Method) {
			v.deny, v.dryDeny = min(v.deny, r.methods), min(v.dryDeny, r.dryMethods)
		}
	}
	r.index.find(q, path, &seen, func(c *clause) {
		p := &r.policies[c.policy]
		to := &v.allow
		switch {
		case p.deny && p.dryRun:
			to = &v.dryDeny
		case p.deny:
			to = &v.deny
		case p.dryRun:
			to = &v.dryAllow
		}
		if c.policy < *to && (c.deny || *to == none) && c.matches(q, path, &seen) {
			*to = c.policy
		}
	})
	return r.decision(v)
}

func (r *Rules) decision(v verdict) Decision {
	switch {
	case v.deny != none:
		return Decision{Denied: true, Policy: r.policies[v.deny].origin}
	case r.allows != none && v.allow == none:
		return Decision{Denied: true, Policy: r.policies[r.allows].origin}
	case v.dryDeny != none:
		return Decision{WouldBeDenied: true, WouldPolicy: r.policies[v.dryDeny].origin}
	case r.dryAllows != none && v.allow == none && v.dryAllow == none:
		return Decision{WouldBeDenied: true, WouldPolicy: r.policies[r.dryAllows].origin}
	}
	return Decision{}
}

// upper reports whether a method has no letters that some servers take for their capitals.
func upper(method string) bool {
	for i := 0; i < len(method); i++ {
		if 'a' <= method[i] && method[i] <= 'z' {
			return false
		}
	}
	return true
}
