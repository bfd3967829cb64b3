package compile

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A parentOutside is what has listeners: a Gateway, or a ListenerSet.
type parentOutside struct {
	kind gatewayv1.Kind
	name exchange.ServiceName
}

func (p parentOutside) String() string { return fmt.Sprintf("%s %s", p.kind, p.name) }

// parentListeners is the Gateway or ListenerSet that a parentRef names, where it names one.
func parentListeners(namespace string, ref gatewayv1.ParentReference) (parentOutside, bool) {
	parent := parentOutside{kind: "Gateway", name: exchange.ServiceName{Namespace: namespace, Name: string(ref.Name)}}
	if ref.Kind != nil {
		parent.kind = *ref.Kind
	}
	if ref.Group != nil && *ref.Group != gatewayv1.GroupName || parent.kind != "Gateway" && parent.kind != "ListenerSet" {
		return parentOutside{}, false
	}
	if ref.Namespace != nil && *ref.Namespace != "" {
		parent.name.Namespace = string(*ref.Namespace)
	}
	return parent, true
}

// attach adds a route to the listeners that a parentRef of it selects, and returns its status there; nil where that
// is somebody else's to write.
func (gs *gateways) attach(route *compiledRoute, index int, ref gatewayv1.ParentReference, parent parentOutside) *gatewayv1.RouteParentStatus {
	if gs.others(parent) {
		return nil
	}
	from := routeAtGateway{
		kind: gatewayv1.Kind(route.kind.Name), name: types.NamespacedName{Namespace: route.Namespace, Name: route.Name},
		hostnames: route.Spec.Hostnames, refused: route.refusal != "",
	}
	reason, problem := gs.attachTo(from, ref, parent, func(l *listener, hostname string) {
		l.hosts[hostname] = append(l.hosts[hostname], route.rules()...)
	})
	status := route.parentStatus(ref, GatewayControllerName, route.accepted(index, reason, problem))
	return &status
}

// A routeAtGateway is what listeners look at of a route, whatever its kind.
type routeAtGateway struct {
	kind      gatewayv1.Kind
	name      types.NamespacedName
	hostnames []gatewayv1.Hostname // none: all of a listener's
	refused   bool                 // it counts as attached, and none of its rules is in effect
}

// attachTo gives a route to listeners of its parent by add, once for each hostname that both have, or says why none takes
// it.
func (gs *gateways) attachTo(route routeAtGateway, ref gatewayv1.ParentReference, parent parentOutside, add func(l *listener, hostname string)) (gatewayv1.RouteConditionReason, string) {
	listeners, problem := gs.listenersOf(parent)
	if problem != "" {
		return gatewayv1.RouteReasonNoMatchingParent, problem
	}
	selected, allowed, attached, taken := false, false, false, ""
	for _, l := range listeners {
		if ref.SectionName != nil && *ref.SectionName != "" && *ref.SectionName != l.document.Name || ref.Port != nil && *ref.Port != l.document.Port {
			continue
		}
		selected = true
		if !l.takes(route.kind) || !l.allowed(route.name.Namespace) {
			continue
		}
		allowed = true
		common := commonHostnames(route.hostnames, l.hostname)
		if len(common) == 0 {
			continue
		}
		if other := l.conflicting(route.kind, common); other != nil && !route.refused {
			taken = fmt.Sprintf("%s has these hostnames at listener %s, and came first", other.id(), l.document.Name)
			continue
		}
		attached = true
		at := routeID{string(route.kind), route.name.Namespace, route.name.Name}
		if l.attached[at] || route.refused {
			l.attached[at] = true
			continue // by another of its parentRefs
		}
		l.attached[at] = true
		for _, h := range common {
			add(l, h)
		}
	}
	switch {
	case !selected:
		return gatewayv1.RouteReasonNoMatchingParent, fmt.Sprintf("%s has no listener that sectionName and port select", parent)
	case !allowed:
		return gatewayv1.RouteReasonNotAllowedByListeners, fmt.Sprintf("no listener of %s takes %ss of namespace %s (see its allowedRoutes)", parent, route.kind, route.name.Namespace)
	case !attached && taken != "":
		return routeReasonConflicted, taken
	case !attached:
		return gatewayv1.RouteReasonNoMatchingListenerHostname, fmt.Sprintf("spec.hostnames has none in common with the listeners of %s", parent)
	}
	return "", ""
}

// gatewayOf is the Gateway that a parent is, or has its listeners at.
func (gs *gateways) gatewayOf(parent parentOutside) exchange.ServiceName {
	if parent.kind != "ListenerSet" {
		return parent.name
	}
	if s := gs.sets[parent.name]; s != nil && s.refused == "" {
		return s.parent
	}
	return exchange.ServiceName{}
}

// others reports whether somebody else runs the Gateway, and writes what became of routes there.
func (gs *gateways) others(parent parentOutside) bool {
	if parent.kind == "ListenerSet" {
		s := gs.sets[parent.name]
		return s != nil && gs.foreign[s.parent]
	}
	return gs.foreign[parent.name]
}

// listenersOf are those that a route can attach to by a parent, or says why there are none. By a Gateway these are not those
// of its ListenerSets.
func (gs *gateways) listenersOf(parent parentOutside) ([]*listener, string) {
	if parent.kind == "ListenerSet" {
		s := gs.sets[parent.name]
		switch {
		case s == nil:
			return nil, fmt.Sprintf("there is no %s", parent)
		case s.refused != "":
			return nil, fmt.Sprintf("%s is not in effect: %s", parent, s.refused)
		}
		return s.listeners, ""
	}
	if g := gs.byName[parent.name]; g != nil {
		return g.own(), ""
	}
	if class, ok := gs.classless[parent.name]; ok {
		return nil, fmt.Sprintf("%s is of class %s, which is not there (write gatewayClassName: sennit)", parent, class)
	}
	return nil, fmt.Sprintf("there is no %s", parent)
}

// ingress is what the nodes that run a gateway need; nil where it has no listener that can be opened.
func (g *gateway) ingress(limits *quotas, faults *faults, users *authentications, seal sealer) *snapshot.Ingress {
	if g.refused.Type != "" {
		return nil
	}
	body := &snapshot.Ingress{}
	type rulePosition struct {
		rule        *snapshot.Rule
		passthrough bool
	}
	positions := map[rulePosition]uint32{}
	for _, l := range g.listeners {
		if !l.usable() {
			continue
		}
		listener := &snapshot.IngressListener{Name: l.name(), Port: l.port(), Hostname: l.hostname, Tcp: l.tcp}
		for _, hostname := range slices.Sorted(maps.Keys(l.hosts)) {
			host := &snapshot.IngressHost{Hostname: hostname}
			entries := l.hosts[hostname]
			routes := make(map[*snapshot.Rule]*routeDocument, len(entries))
			for _, e := range entries {
				routes[e.rule] = e.route
			}
			for _, rule := range inPrecedence(entries) {
				at, known := positions[rulePosition{rule, l.passthrough}]
				if !known {
					at = uint32(len(body.Rules))
					positions[rulePosition{rule, l.passthrough}] = at
					route := routes[rule]
					if l.passthrough {
						rule = asTheyCome(rule)
					}
					asking := users.ask(body, g, limits.limitIngress(body, rule, route), route, seal)
					body.Rules = append(body.Rules, faults.spoilRule(asking, exchange.ServiceName{}, &body.Faults))
				}
				host.Rules = append(host.Rules, at)
			}
			listener.Hosts = append(listener.Hosts, host)
		}
		if l.passthrough {
			listener.Tls = &snapshot.IngressTLS{Passthrough: true}
		} else if l.secure {
			listener.Tls = g.addCertificates(body, l, seal)
		}
		body.Listeners = append(body.Listeners, listener)
	}
	if len(body.Listeners) == 0 {
		return nil
	}
	return body
}

// limitIngress has a rule name the limits of its route, and of every service that it sends requests to: each of them
// counts all requests of the rule, so that none lets more pass than it allows.
func (q *quotas) limitIngress(body *snapshot.Ingress, rule *snapshot.Rule, route *routeDocument) *snapshot.Rule {
	if ofConnections(route.kind) {
		return rule // limits count requests
	}
	limits := slices.Clone(q.routes[route.id()])
	for _, b := range rule.Backends {
		limits = append(limits, q.services[exchange.ServiceName{Namespace: b.Namespace, Name: b.Service}]...)
	}
	if len(limits) == 0 {
		return rule
	}
	return nameLimits(rule, limits, &body.Limits)
}
