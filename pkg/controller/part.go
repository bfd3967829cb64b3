package controller

import (
	"slices"
	"strings"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// What an operator of some namespaces is shown of reports: what is of them, and of the rest that it is there, where his own has
// to do with it. Nodes are named to him that may run a service of his.

// namespaceOf is that of a name "namespace/name", or of more behind it.
func namespaceOf(name string) string {
	namespace, _, _ := strings.Cut(name, "/")
	return namespace
}

// servicesSeen are those of a node's services that somebody sees.
func servicesSeen(services []exchange.ServiceName, sees rbac.Scope) []string {
	seen := []string{}
	for _, service := range services {
		if sees.Has(service.Namespace) {
			seen = append(seen, service.String())
		}
	}
	return seen
}

// nodesSeen tells of a node by name whether somebody sees it.
func (c *Controller) nodesSeen(sees rbac.Scope) func(node string) bool {
	nodes := c.members.list()
	return func(node string) bool { return sees.Everywhere || len(servicesSeen(nodes[node].Services, sees)) > 0 }
}

// edgesSeen are the edges whose caller, callee or backend somebody sees. Of a backend that he does not see he is told nothing
// but that it was called.
func edgesSeen(graph func(telemetry.Fold) []telemetry.GraphEdge, fold telemetry.Fold, sees rbac.Scope) []telemetry.GraphEdge {
	if sees.Everywhere {
		return graph(fold)
	}
	edges := graph(func(e telemetry.GraphEdge) telemetry.GraphEdge {
		if e.Caller == "" { // what overflowed is of everybody's calls
			return telemetry.GraphEdge{}
		}
		if !sees.Has(namespaceOf(e.Caller)) && !sees.Has(namespaceOf(e.Callee)) && !sees.Has(namespaceOf(e.Backend)) {
			return telemetry.GraphEdge{} // all of them as one, which is left out
		}
		if !sees.Has(namespaceOf(e.Backend)) {
			e = telemetry.ByService(e)
		}
		if fold != nil {
			e = fold(e)
		}
		return e
	})
	return slices.DeleteFunc(edges, func(e telemetry.GraphEdge) bool { return e.Callee == "" })
}

// quotasSeen are the limits of namespaces that somebody sees; nodes that he does not see hold what they hold together.
func quotasSeen(all []report.Quota, sees rbac.Scope, node func(string) bool) []report.Quota {
	all = slices.DeleteFunc(all, func(q report.Quota) bool { return !sees.Has(namespaceOf(q.Limit)) })
	for i := range all {
		var seen []report.QuotaHolder
		others := report.QuotaHolder{}
		for _, h := range all[i].Holders {
			if node(h.Node) {
				seen = append(seen, h)
			} else {
				others.Tokens += h.Tokens
			}
		}
		if others.Tokens > 0 {
			seen = append(seen, others)
		}
		all[i].Holders = seen
	}
	return all
}

// denialsSeen are those of services that somebody sees.
func denialsSeen(all []telemetry.SeenDenial, sees rbac.Scope, node func(string) bool) []telemetry.SeenDenial {
	all = slices.DeleteFunc(all, func(d telemetry.SeenDenial) bool { return !sees.Has(namespaceOf(d.Service)) })
	for i := range all {
		if !node(all[i].Node) {
			all[i].Node = ""
		}
	}
	return all
}

// hide takes out of an explanation what somebody does not see: rules and policies of other namespaces, and which instances
// their services have.
func hide(e *routing.Explanation, sees rbac.Scope) {
	if sees.Everywhere {
		return
	}
	ofRule := func(rule string) string { // "httproute/namespace/name#0/0"
		_, name, _ := strings.Cut(rule, "/")
		return namespaceOf(name)
	}
	const hidden = "(of another namespace)"
	if e.Rule != "" && !sees.Has(ofRule(e.Rule)) {
		e.Rule, e.Detail = hidden, ""
	}
	e.Rules = slices.DeleteFunc(e.Rules, func(r routing.RuleVerdict) bool { return !sees.Has(ofRule(r.Rule)) })
	foreign := false
	for i := range e.Backends {
		if b := &e.Backends[i]; !sees.Has(b.Service.Namespace) {
			b.Detail, b.Balance, b.Instances, foreign = "", "", []routing.InstanceVerdict{}, true
		}
	}
	if foreign {
		e.Detail = ""
	}
	e.Policies = slices.DeleteFunc(e.Policies, func(p routing.PolicyVerdict) bool {
		if p.Kind == "sessionPersistence" { // it names an instance
			return foreign || e.Rule == hidden
		}
		return !sees.Has(namespaceOf(p.Name))
	})
}

// problemsSeen are those that nodes which somebody sees have with snapshots of what he sees.
func problemsSeen(pending []bus.Pending, sees rbac.Scope, node func(string) bool) (problems []string) {
	for _, p := range pending {
		names, err := snapshot.ParseSubject(p.Subject)
		if p.Problem != "" && (sees.Everywhere || err == nil && sees.Has(names.Namespace) && node(p.Node)) {
			problems = append(problems, p.Node+": "+p.Subject+": "+p.Problem)
		}
	}
	return problems
}
