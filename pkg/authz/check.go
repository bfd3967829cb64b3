package authz

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A Question asks whether a service may call another, and for what.
type Question struct {
	From   exchange.ServiceName `json:"from"`
	To     exchange.ServiceName `json:"to"`
	Port   uint16               `json:"port"` // of the service
	TCP    bool                 `json:"tcp,omitempty"`
	Method string               `json:"method,omitempty"`
	Path   string               `json:"path,omitempty"` // as the service gets it
	Host   string               `json:"host,omitempty"` // likewise
	Fields exchange.Fields      `json:"fields,omitempty"`
	// Claims are those of the end user, as a token has them: an object. They are believed. Empty: nobody was proven.
	Claims json.RawMessage `json:"claims,omitempty"`
	// Token is the end user's, which Unproven verifies; empty: only Claims are known.
	Token string `json:"token,omitempty"`
	// Where the caller is; empty: not known.
	TrustDomain string `json:"trustDomain,omitempty"`
	Node        string `json:"node,omitempty"`
	// Plaintext asks for a caller without an identity; From is then not looked at.
	Plaintext bool `json:"plaintext,omitempty"`
}

func (q *Question) request() (*Request, error) {
	var user *authn.User
	if len(q.Claims) > 0 {
		var err error
		if user, err = authn.ParseUser(q.Claims); err != nil {
			return nil, err
		}
	}
	if q.Plaintext {
		q.From, q.TrustDomain, q.Node = exchange.ServiceName{}, "", ""
	}
	return &Request{User: user, Plaintext: q.Plaintext,
		Caller: q.From, TrustDomain: q.TrustDomain, Node: q.Node, Port: q.Port, TCP: q.TCP,
		Method: q.Method, Path: q.Path, Host: q.Host, Fields: q.Fields,
	}, nil
}

// An Answer is a Decision, for people. Policies are named by "<ns>/<name>".
type Answer struct {
	Allowed bool   `json:"allowed"`
	Policy  string `json:"policy,omitempty"` // that refuses, or the first of those that allow, of which none does here
	Why     string `json:"why"`
	// WouldBeDenied says that it is allowed, and would not be if every dry run were over; WouldPolicy is as Policy.
	WouldBeDenied bool     `json:"wouldBeDenied,omitempty"`
	WouldPolicy   string   `json:"wouldPolicy,omitempty"`
	Policies      []string `json:"policies,omitempty"` // all that are for the service
}

// Check answers a question about the service of which body is said, as its nodes decide.
func Check(q *Question, body *snapshot.Authorization) (*Answer, error) {
	rules, err := Compile(body)
	if err != nil {
		return nil, err
	}
	request, err := q.request()
	if err != nil {
		return nil, err
	}
	d := rules.Decide(request)
	return &Answer{
		Allowed: !d.Denied, Policy: d.Policy, WouldBeDenied: d.WouldBeDenied, WouldPolicy: d.WouldPolicy,
		Policies: rules.Origins(), Why: why(q, body, d),
	}, nil
}

// why says in words what a decision comes from.
func why(q *Question, body *snapshot.Authorization, d Decision) string {
	if !d.Denied && !d.WouldBeDenied {
		if !slices.ContainsFunc(body.GetPolicies(), func(p *snapshot.AuthorizationPolicy) bool { return !p.Deny && !p.DryRun }) {
			return "no policy that is enforced allows only some, and none denies it"
		}
		return "a policy allows it, and none denies it"
	}
	origin := d.Policy + d.WouldPolicy // one of them
	if !q.TCP {
		if _, plain := routing.PlainPath(nil, q.Path); !plain {
			return fmt.Sprintf("AuthorizationPolicy %s asks for paths, and servers read this one differently", origin)
		}
	}
	i := slices.IndexFunc(body.GetPolicies(), func(p *snapshot.AuthorizationPolicy) bool { return p.Origin == origin })
	if i >= 0 && body.Policies[i].Deny {
		return fmt.Sprintf("a rule of AuthorizationPolicy %s denies it", origin)
	}
	return fmt.Sprintf("no policy that allows has a rule for it (the first is AuthorizationPolicy %s)", origin)
}
