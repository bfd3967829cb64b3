package controller

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
	"github.com/sennit-mesh/sennit/pkg/authz"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// accessDenials answers what was refused of late, and what would have been.
func (c *Controller) accessDenials(w http.ResponseWriter, _ *http.Request, sees rbac.Scope) {
	socket.WriteJSON(w, denialsSeen(c.denials.List(), sees, c.nodesSeen(sees)))
}

// plaintextCallers answers for each service with callers without an identity, or that takes them, who they are.
func (c *Controller) plaintextCallers(w http.ResponseWriter, _ *http.Request, sees rbac.Scope) {
	all := []report.Plaintext{}
	at := map[string]int{}
	add := func(service string) int {
		i, known := at[service]
		if !known {
			i = len(all)
			at[service], all = i, append(all, report.Plaintext{Service: service, Sources: []report.PlaintextSource{}})
		}
		return i
	}
	if last := c.last.Load(); last != nil {
		for subject, body := range last.out.Bodies {
			names, err := snapshot.ParseSubject(subject)
			if in, ok := body.(*snapshot.Inbound); ok && err == nil && in.GetPermissive() {
				all[add(names.Namespace+"/"+names.Service)].Permissive = true
			}
		}
	}
	for _, s := range c.plaintext.List() {
		i := add(s.Service)
		all[i].Sources = append(all[i].Sources, report.PlaintextSource{Source: s.Source, Taken: s.DryRun, Connections: s.Count, First: s.First, Last: s.Last})
	}
	all = slices.DeleteFunc(all, func(p report.Plaintext) bool { return !sees.Has(namespaceOf(p.Service)) })
	slices.SortFunc(all, func(a, b report.Plaintext) int { return strings.Compare(a.Service, b.Service) })
	socket.WriteJSON(w, all)
}

// checkAccess answers who may call what, by the code that nodes decide with, from what was compiled last.
func (c *Controller) checkAccess(w http.ResponseWriter, r *http.Request) {
	var q authz.Question
	last, done, ok := c.question(w, r, &q, "access", &q.To)
	if !ok {
		return
	}
	defer done()
	in, found := last.out.Bodies[snapshot.InSubject(q.To.Namespace, q.To.Name)].(*snapshot.Inbound)
	if !found {
		socket.WriteFailure(w, http.StatusNotFound, fmt.Errorf("there is no service %s (see: sennit get services -A)", q.To))
		return
	}
	answer, err := c.decide(&q, in)
	if err != nil {
		socket.WriteFailure(w, http.StatusInternalServerError, err)
		return
	}
	socket.WriteJSON(w, answer)
}

// decide answers a question as a node of the service of which in is compiled does.
func (c *Controller) decide(q *authz.Question, in *snapshot.Inbound) (*authz.Answer, error) {
	if q.TrustDomain == "" {
		q.TrustDomain = c.cfg.TrustDomain
	}
	answer, err := authz.Unproven(q, in.Authentication, c.cfg.Now())
	if err == nil && answer == nil {
		answer, err = authz.Check(q, in.Authorization)
	}
	if err == nil && q.Plaintext && !in.Permissive {
		answer.Allowed, answer.Policy, answer.Why = false, "", "the service is strict: it takes nobody without an identity"
	}
	return answer, err
}

// admission says of each backend of an explanation whether its service lets the caller have the request, where it has
// policies about that, and by which not. The path is the one that was asked for: a rule may change it.
func (c *Controller) admission(q *routing.Question, e *routing.Explanation, bodies map[string]proto.Message) ([]routing.PolicyVerdict, error) {
	var verdicts []routing.PolicyVerdict
	for _, b := range e.Backends {
		in, found := bodies[snapshot.InSubject(b.Service.Namespace, b.Service.Name)].(*snapshot.Inbound)
		if !found || in.Authorization == nil && in.Authentication == nil {
			continue
		}
		asks := &authz.Question{
			From: q.From, To: b.Service, Port: b.Port, TCP: q.Scheme == "tcp", Method: q.Method, Path: q.Path, Host: q.Authority, Fields: q.Fields,
		}
		if asks.TCP {
			asks.Method, asks.Path, asks.Host = "", "", ""
		}
		answer, err := c.decide(asks, in)
		if err != nil {
			return nil, fmt.Errorf("ask who may call %s: %w", b.Service, err)
		}
		verb := "admits"
		if !answer.Allowed {
			verb = "refuses"
		}
		verdicts = append(verdicts, routing.PolicyVerdict{
			Kind: "access", Name: fmt.Sprintf("%s:%d", b.Service, b.Port), Detail: fmt.Sprintf("%s %s: %s", verb, q.From, answer.Why),
		})
	}
	return verdicts, nil
}
