package compile

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// attachAuthorization gives each service the policies that are for it, in order of their names, and returns what became of
// every policy. They add up: none takes another's place.
func attachAuthorization(in Input, services *catalog) map[types.NamespacedName][]v1.Condition {
	all := make(map[types.NamespacedName][]v1.Condition, len(in.Authorization))
	who := callersOf(in)
	for _, p := range byName(in.Authorization) {
		compiled := compileAuthorization(p, who)
		var problems []string
		for _, t := range p.Spec.TargetRefs {
			if t.Kind == api.Namespace.Name {
				if t.Name != p.Namespace {
					problems = append(problems, fmt.Sprintf("Namespace %s is not that of the policy: write a policy into it", t.Name))
					continue
				}
				for _, s := range services.byName {
					if s.name.Namespace == p.Namespace {
						s.authorize(compiled)
					}
				}
				continue
			}
			s, problem := services.find(t.Kind, exchange.ServiceName{Namespace: p.Namespace, Name: t.Name})
			if problem == "" {
				s.authorize(compiled)
				problem = s.selectsOthers()
			}
			if problem != "" {
				problems = append(problems, problem)
			}
		}
		name := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
		all[name] = observed(p.Generation, policyCondition(len(p.Spec.TargetRefs), gatewayv1.PolicyReasonTargetNotFound, problems))
	}
	return all
}

func (s *service) authorize(p *snapshot.AuthorizationPolicy) {
	if !slices.Contains(s.authorization, p) { // named beside its namespace
		s.authorization = append(s.authorization, p)
	}
}

// selectsOthers says that a Service leads to instances of other services. They are called by their own names, and what is
// for this one does not reach them.
func (s *service) selectsOthers() string {
	others := map[string]bool{}
	for _, shard := range s.shards {
		for _, e := range shard.Endpoints {
			if e.Service != s.name.String() {
				others[e.Service] = true
			}
		}
	}
	if len(others) == 0 {
		return ""
	}
	names := make([]string, 0, len(others))
	for name := range others {
		names = append(names, name)
	}
	slices.Sort(names)
	return fmt.Sprintf("Service %s leads to instances of %s, for which the policy is not: name these services", s.name, strings.Join(names, ", "))
}

func compileAuthorization(p *api.AuthorizationPolicy, who callers) *snapshot.AuthorizationPolicy {
	compiled := &snapshot.AuthorizationPolicy{
		Origin: p.Namespace + "/" + p.Name, Deny: p.Spec.Action == api.AuthorizationDeny, DryRun: p.Spec.Mode == api.AuthorizationDryRun,
	}
	for _, r := range p.Spec.Rules {
		rule := &snapshot.AuthorizationRule{When: r.When}
		for i := range r.From {
			if source, somebody := who.source(&r.From[i]); somebody {
				rule.From = append(rule.From, source)
			}
		}
		if len(r.From) > 0 && len(rule.From) == 0 {
			continue // it is for nobody, and without a source it would be for everybody
		}
		for _, t := range r.To {
			o := &snapshot.AuthorizationOperation{
				Methods: t.Methods, NotMethods: t.NotMethods, Paths: authorizationPaths(t.Paths), NotPaths: authorizationPaths(t.NotPaths),
				Headers: authorizationHeaders(t.Headers), NotHeaders: authorizationHeaders(t.NotHeaders), Hosts: t.Hosts, NotHosts: t.NotHosts,
			}
			for _, m := range t.GRPCMethods { // a path is all that such a call is known by
				match := &snapshot.StringMatch{Kind: snapshot.StringMatch_EXACT, Value: "/" + m}
				if service, all := strings.CutSuffix(m, "/*"); all {
					match = &snapshot.StringMatch{Kind: snapshot.StringMatch_PREFIX, Value: "/" + service}
				}
				o.Paths = append(o.Paths, match)
			}
			for _, port := range t.Ports {
				o.Ports = append(o.Ports, uint32(max(port, 0)))
			}
			for _, port := range t.NotPorts {
				o.NotPorts = append(o.NotPorts, uint32(max(port, 0)))
			}
			rule.To = append(rule.To, o)
		}
		compiled.Rules = append(compiled.Rules, rule)
	}
	return compiled
}

func authorizationPaths(paths []api.AuthorizationPath) []*snapshot.StringMatch {
	var all []*snapshot.StringMatch
	for _, p := range paths {
		m := &snapshot.StringMatch{Kind: snapshot.StringMatch_EXACT, Value: p.Value}
		if p.Type != api.AuthorizationExact {
			m.Kind = snapshot.StringMatch_PREFIX
		}
		all = append(all, m)
	}
	return all
}
