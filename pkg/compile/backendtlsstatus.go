package compile

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// maxAncestors is how many ancestors a policy's status may have.
const maxAncestors = 16

// A calledPort is a port of a service, as rules lead to it.
type calledPort struct {
	service exchange.ServiceName
	number  uint32
}

// backendTLSStatuses says of each policy what became of it, once all routes are attached: at every Gateway that leads to one
// of its targets, and at the targets themselves, which callers in the mesh call without a Gateway.
func backendTLSStatuses(all []*backendTLS, gateways *gateways) map[types.NamespacedName]gatewayv1.PolicyStatus {
	statuses := make(map[types.NamespacedName]gatewayv1.PolicyStatus, len(all))
	if len(all) == 0 {
		return statuses
	}
	leads := map[*gateway]map[calledPort]bool{}
	for _, g := range gateways.byName {
		leads[g] = g.leadsTo()
	}
	for _, p := range all {
		var status gatewayv1.PolicyStatus
		for _, g := range gateways.sorted() {
			targets := slices.DeleteFunc(slices.Clone(p.targets), func(t *backendTLSTarget) bool { return !t.within(leads[g]) })
			if len(targets) > 0 {
				status.Ancestors = append(status.Ancestors, p.ancestor(GatewayControllerName, gatewayv1.GroupName, "Gateway", g.name, targets))
			}
		}
		var done []gatewayv1.LocalPolicyTargetReference
		for _, t := range p.targets {
			if slices.Contains(done, t.ref.LocalPolicyTargetReference) {
				continue // by another of its ports
			}
			done = append(done, t.ref.LocalPolicyTargetReference)
			targets := slices.DeleteFunc(slices.Clone(p.targets), func(other *backendTLSTarget) bool {
				return other.ref.LocalPolicyTargetReference != t.ref.LocalPolicyTargetReference
			})
			name := exchange.ServiceName{Namespace: p.document.Namespace, Name: string(t.ref.Name)}
			status.Ancestors = append(status.Ancestors, p.ancestor(ControllerName, t.ref.Group, t.ref.Kind, name, targets))
		}
		status.Ancestors = status.Ancestors[:min(len(status.Ancestors), maxAncestors)]
		statuses[types.NamespacedName{Namespace: p.document.Namespace, Name: p.document.Name}] = status
	}
	return statuses
}

// leadsTo is where the rules of a gateway's listeners send requests, mirrors among them.
func (g *gateway) leadsTo() map[calledPort]bool {
	found := map[calledPort]bool{}
	for _, l := range g.listeners {
		for _, entries := range l.hosts {
			for _, e := range entries {
				for _, b := range e.rule.Backends {
					found[calledPort{exchange.ServiceName{Namespace: b.Namespace, Name: b.Service}, b.Port}] = true
				}
				for _, m := range e.rule.GetFilters().GetMirrors() {
					found[calledPort{exchange.ServiceName{Namespace: m.Backend.GetNamespace(), Name: m.Backend.GetService()}, m.Backend.GetPort()}] = true
				}
			}
		}
	}
	return found
}

// within reports whether one of the target's ports is among those called.
func (t *backendTLSTarget) within(called map[calledPort]bool) bool {
	return t.service != nil && slices.ContainsFunc(t.service.ports, func(p servicePort) bool {
		return (t.section == "" || t.section == p.name) && called[calledPort{t.service.name, p.number}]
	})
}

// ancestor is what became of the policy at some of its targets.
func (p *backendTLS) ancestor(controller gatewayv1.GatewayController, group gatewayv1.Group, kind gatewayv1.Kind, name exchange.ServiceName, targets []*backendTLSTarget) gatewayv1.PolicyAncestorStatus {
	namespace := gatewayv1.Namespace(name.Namespace)
	var reason gatewayv1.PolicyConditionReason
	var problems []string
	for _, t := range targets {
		if t.problem == "" {
			continue
		}
		if len(problems) == 0 {
			reason = t.reason
		}
		problems = append(problems, t.problem)
	}
	accepted := policyCondition(len(targets), reason, problems)
	if p.invalid != "" {
		accepted.Status, accepted.Reason, accepted.Message = v1.ConditionFalse, string(p.reason), p.invalid
	}
	return gatewayv1.PolicyAncestorStatus{
		AncestorRef:    gatewayv1.ParentReference{Group: &group, Kind: &kind, Namespace: &namespace, Name: gatewayv1.ObjectName(name.Name)},
		ControllerName: controller,
		Conditions:     observed(p.document.Generation, accepted, p.refs),
	}
}

// MergePolicyStatus makes the status to store from the one that is stored and the one just compiled, as MergeStatus does.
func MergePolicyStatus(stored, compiled gatewayv1.PolicyStatus, now v1.Time) (gatewayv1.PolicyStatus, bool) {
	var merged gatewayv1.PolicyStatus
	for _, a := range compiled.Ancestors {
		var before []v1.Condition
		if at := slices.IndexFunc(stored.Ancestors, func(s gatewayv1.PolicyAncestorStatus) bool {
			return s.ControllerName == a.ControllerName && equality.Semantic.DeepEqual(s.AncestorRef, a.AncestorRef)
		}); at >= 0 {
			before = stored.Ancestors[at].Conditions
		}
		a.Conditions, _ = MergeConditions(before, a.Conditions, now)
		merged.Ancestors = append(merged.Ancestors, a)
	}
	for _, a := range stored.Ancestors {
		if a.ControllerName != ControllerName && a.ControllerName != GatewayControllerName && len(merged.Ancestors) < maxAncestors {
			merged.Ancestors = append(merged.Ancestors, a)
		}
	}
	return merged, !equality.Semantic.DeepEqual(stored, merged)
}
