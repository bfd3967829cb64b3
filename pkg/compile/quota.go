package compile

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/quota"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// quotas are the limits of an input, by what they are attached to.
type quotas struct {
	services map[exchange.ServiceName][]*snapshot.Limit
	routes   map[routeID][]*snapshot.Limit
}

// attachQuotas resolves the policies, in the order of their names, and puts into out what they allow and what became
// of them. A policy is in effect at the targets that are there.
func attachQuotas(in Input, services *catalog, out *Output) *quotas {
	q := &quotas{services: map[exchange.ServiceName][]*snapshot.Limit{}, routes: map[routeID][]*snapshot.Limit{}}
	routes := map[routeID]bool{}
	for _, r := range routesOf(in) {
		routes[r.id()] = true
	}
	for _, p := range byName(in.Quotas) {
		var limits []*snapshot.Limit
		for i := range p.Spec.Limits {
			l := &p.Spec.Limits[i]
			id := p.Namespace + "/" + p.Name + "/" + l.Name
			byCaller, header := l.Counts()
			limits = append(limits, &snapshot.Limit{Id: id, ByCaller: byCaller, ByHeader: header})
			out.Limits[id] = quota.Limit{Requests: l.Requests, Per: l.Period(), Burst: l.Burst}
		}
		var missing []string
		for _, t := range p.Spec.TargetRefs {
			if why := q.attach(p.Namespace, t, limits, services, routes); why != "" {
				missing = append(missing, why)
			}
		}
		name := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
		out.Quotas[name] = observed(p.Generation, policyCondition(len(p.Spec.TargetRefs), gatewayv1.PolicyReasonTargetNotFound, missing))
	}
	return q
}

// attach adds limits to a target, or says why they mean nothing there.
func (q *quotas) attach(namespace string, t api.QuotaTarget, limits []*snapshot.Limit, services *catalog, routes map[routeID]bool) string {
	if t.Kind == api.HTTPRoute.Name || t.Kind == api.GRPCRoute.Name {
		name := routeID{t.Kind, namespace, t.Name}
		if !routes[name] {
			return fmt.Sprintf("there is no %s", name)
		}
		q.routes[name] = append(q.routes[name], limits...)
		return ""
	}
	name := exchange.ServiceName{Namespace: namespace, Name: t.Name}
	s, problem := services.find(t.Kind, name)
	if problem != "" {
		return problem
	}
	q.services[name] = append(q.services[name], limits...)
	return s.needsHTTP(t.Kind, "connections are not counted")
}

// needsHTTP says that no port of a policy's target is HTTP, and what becomes of the others; empty where one is.
func (s *service) needsHTTP(kind, otherwise string) string {
	for _, p := range s.ports {
		if isHTTP(p.protocol) {
			return ""
		}
	}
	return fmt.Sprintf("%s %s has no port that is known to be HTTP (set %s), and %s", kind, s.name, s.saysHTTP(), otherwise)
}

// limit has the rules of a port name the limits of their service and of their route.
func (q *quotas) limit(body *snapshot.Outbound, port *snapshot.OutboundPort, service exchange.ServiceName, entries []*entry) {
	if !isHTTP(port.Protocol) {
		return
	}
	routes := make(map[*snapshot.Rule]routeID, len(entries))
	for _, e := range entries {
		routes[e.rule] = e.route.id()
	}
	for i, rule := range port.Rules {
		limits := slices.Concat(q.services[service], q.routes[routes[rule]])
		if len(limits) == 0 {
			continue
		}
		port.Rules[i] = nameLimits(rule, limits, &body.Limits)
	}
}

// nameLimits has a rule name limits by their positions among all of a body's, and adds those that are new there. The
// same rule is at other services, ports and gateways: it is cloned.
func nameLimits(rule *snapshot.Rule, limits []*snapshot.Limit, all *[]*snapshot.Limit) *snapshot.Rule {
	rule = proto.Clone(rule).(*snapshot.Rule)
	for _, l := range limits {
		at := slices.Index(*all, l)
		if at < 0 {
			at = len(*all)
			*all = append(*all, l)
		}
		if !slices.Contains(rule.Limits, uint32(at)) {
			rule.Limits = append(rule.Limits, uint32(at))
		}
	}
	return rule
}

// Requires lists the features that a node must know to use a body: one that knew no limits would let everything
// pass.
func Requires(body proto.Message) []string {
	var rules []*snapshot.Rule
	var limits []*snapshot.Limit
	switch body := body.(type) {
	case *snapshot.Outbound:
		limits = body.Limits
		for _, p := range body.Ports {
			rules = append(rules, p.Rules...)
		}
	case *snapshot.Inbound:
		limits, rules = body.GetIngress().GetLimits(), body.GetIngress().GetRules()
	}
	var features []string
	if hasUDP(body) {
		features = append(features, snapshot.FeatureUDP)
	}
	if in, ok := body.(*snapshot.Inbound); ok && hasTLS(in.GetIngress()) {
		features = append(features, snapshot.FeatureIngressTLS)
		if hasClients(in.GetIngress()) {
			features = append(features, snapshot.FeatureIngressClients)
		}
	}
	if in, ok := body.(*snapshot.Inbound); ok && hasTCP(in.GetIngress()) {
		features = append(features, snapshot.FeatureIngressTCP)
	}
	if in, _ := body.(*snapshot.Inbound); originates(in, rules) {
		features = append(features, snapshot.FeatureOrigination)
	}
	if in, ok := body.(*snapshot.Inbound); ok && in.Authorization != nil {
		features = append(features, snapshot.FeatureAuthorization)
		if hasConditions(in.Authorization) {
			features = append(features, snapshot.FeatureAuthorizationConditions)
		}
	}
	if in, ok := body.(*snapshot.Inbound); ok && (in.Authentication != nil || len(in.GetIngress().GetAuthentications()) > 0) {
		features = append(features, snapshot.FeatureAuthentication)
	}
	if len(limits) > 0 {
		features = append(features, quota.Feature)
	}
	if hasFilters(rules) {
		features = append(features, snapshot.FeatureFilters)
	}
	return features
}
