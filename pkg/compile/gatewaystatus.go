package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// maxAddresses is how many addresses a Gateway's status may have.
const maxAddresses = 16

// status is what became of a gateway, once all routes are attached.
func (g *gateway) status() gatewayv1.GatewayStatus {
	generation := g.document.Generation
	status := gatewayv1.GatewayStatus{Addresses: g.addresses()}
	valid, waiting := 0, ""
	var invalid []string
	for _, l := range g.own() {
		programmed := g.programmed(l)
		switch {
		case !l.valid():
			invalid = append(invalid, string(l.document.Name))
		default:
			valid++
			if programmed.Status != v1.ConditionTrue && waiting == "" {
				waiting = fmt.Sprintf("listener %s: %s", l.document.Name, programmed.Message)
			}
		}
		status.Listeners = append(status.Listeners, gatewayv1.ListenerStatus{
			Name: l.document.Name, SupportedKinds: append([]gatewayv1.RouteGroupKind{}, l.kinds...), AttachedRoutes: int32(len(l.attached)),
			Conditions: observed(generation, l.conditions(programmed)...),
		})
	}
	if g.document.Spec.AllowedListeners != nil {
		attached := int32(0)
		for _, s := range g.sets {
			if s.accepted().Status == v1.ConditionTrue {
				attached++
			}
		}
		status.AttachedListenerSets = &attached
	}
	accepted := g.refused
	if accepted.Type == "" {
		accepted = v1.Condition{
			Type: string(gatewayv1.GatewayConditionAccepted), Status: v1.ConditionTrue, Reason: string(gatewayv1.GatewayReasonAccepted),
			Message: "nodes may run the gateway",
		}
		if len(invalid) > 0 {
			accepted.Reason = string(gatewayv1.GatewayReasonListenersNotValid)
			accepted.Message = "not in effect: listeners " + strings.Join(invalid, ", ")
		}
		if valid == 0 {
			accepted.Status = v1.ConditionFalse
		}
	}
	conditions := []v1.Condition{accepted, g.programmedWhole(accepted, waiting)}
	if i := slices.IndexFunc(g.listeners, func(l *listener) bool { return l.clients.GetAnybody() }); i >= 0 {
		conditions = append(conditions, v1.Condition{
			Type: string(gatewayv1.GatewayConditionInsecureFrontendValidationMode), Status: v1.ConditionTrue,
			Reason:  string(gatewayv1.GatewayReasonConfigurationChanged),
			Message: fmt.Sprintf("listener %s lets in clients that show no certificate, or a wrong one", g.listeners[i].name()),
		})
	}
	status.Conditions = observed(generation, conditions...)
	return status
}

// conditions are what became of a listener, wherever it was written.
func (l *listener) conditions(programmed v1.Condition) []v1.Condition {
	all := []v1.Condition{l.accepted(), l.resolved(), programmed}
	if l.conflict != "" {
		all = append(all, v1.Condition{
			Type: string(gatewayv1.ListenerConditionConflicted), Status: v1.ConditionTrue, Reason: string(l.conflict), Message: l.conflictMessage(),
		})
	}
	return all
}

func (g *gateway) programmedWhole(accepted v1.Condition, waiting string) v1.Condition {
	c := v1.Condition{Type: string(gatewayv1.GatewayConditionProgrammed), Status: v1.ConditionFalse}
	switch {
	case accepted.Status != v1.ConditionTrue:
		c.Reason, c.Message = string(gatewayv1.GatewayReasonInvalid), "the Gateway is not accepted"
	case len(g.nodes) == 0:
		c.Reason, c.Message = string(gatewayv1.GatewayReasonNoResources), g.nobody()
	case len(g.missing()) > 0:
		c.Reason = string(gatewayv1.GatewayReasonAddressNotUsable)
		c.Message = fmt.Sprintf("no living node that runs the gateway has %s (write it as gateway.address in services.d of the host that has it)", strings.Join(g.missing(), ", "))
	case waiting != "":
		c.Reason, c.Message = string(gatewayv1.GatewayReasonPending), waiting
	default:
		c.Status, c.Reason, c.Message = v1.ConditionTrue, string(gatewayv1.GatewayReasonProgrammed), "in effect on nodes "+nodeNames(g.nodes)
	}
	return cut(c)
}

// missing are the addresses that the document asks for, and where no node lets requests in.
func (g *gateway) missing() []string {
	var missing []string
	for _, wanted := range g.document.Spec.Addresses {
		has := func(n *snapshot.Instance) bool {
			at, known := letsInAt(n)
			return known && at.String() == canonical(wanted.Value)
		}
		if wanted.Value != "" && !slices.ContainsFunc(g.nodes, has) {
			missing = append(missing, wanted.Value)
		}
	}
	return missing
}

// canonical is the one way to write an IP address. What is none stays as it is.
func canonical(address string) string {
	at, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	return at.String()
}

func (g *gateway) nobody() string {
	return fmt.Sprintf("no living node runs the gateway: declare service %s with gateway: in services.d of a host that may run it (`sennit node allow NODE %s`)", g.name, g.name)
}

func nodeNames(nodes []*snapshot.Instance) string {
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.Node
	}
	return strings.Join(names, ", ")
}

// programmed tells whether each node that runs the gateway has opened the listener's port.
func (g *gateway) programmed(l *listener) v1.Condition {
	c := v1.Condition{Type: string(gatewayv1.ListenerConditionProgrammed), Status: v1.ConditionFalse}
	if !l.valid() || g.refused.Type != "" {
		c.Reason, c.Message = string(gatewayv1.ListenerReasonInvalid), "the listener, or its Gateway, is not accepted"
		return c
	}
	if !l.usable() {
		c.Reason, c.Message = string(gatewayv1.ListenerReasonInvalid), "the listener has no certificate: "+l.badRefs
		return cut(c)
	}
	if len(g.nodes) == 0 {
		c.Reason, c.Message = string(gatewayv1.ListenerReasonPending), g.nobody()
		return c
	}
	var failed []string
	var waiting []*snapshot.Instance
	for _, n := range g.nodes {
		at := slices.IndexFunc(n.Gateway.Ports, func(p *snapshot.GatewayPort) bool { return p.Number == l.port() })
		switch {
		case at < 0:
			waiting = append(waiting, n)
		case n.Gateway.Ports[at].Problem != "":
			failed = append(failed, fmt.Sprintf("node %s: %s", n.Node, n.Gateway.Ports[at].Problem))
		}
	}
	switch {
	case len(failed) > 0:
		c.Reason, c.Message = string(gatewayv1.ListenerReasonPortUnavailable), strings.Join(failed, "; ")
	case len(waiting) > 0:
		c.Reason, c.Message = string(gatewayv1.ListenerReasonPending), "not open yet on nodes "+nodeNames(waiting)
	default:
		c.Status, c.Reason, c.Message = v1.ConditionTrue, string(gatewayv1.ListenerReasonProgrammed), "open on nodes "+nodeNames(g.nodes)
	}
	return cut(c)
}

func (l *listener) conflictMessage() string {
	if l.conflict == gatewayv1.ListenerReasonProtocolConflict {
		return fmt.Sprintf("another listener has port %d with another protocol", l.document.Port)
	}
	return fmt.Sprintf("another listener has port %d and the same hostname", l.document.Port)
}

func (l *listener) accepted() v1.Condition {
	c := v1.Condition{Type: string(gatewayv1.ListenerConditionAccepted), Status: v1.ConditionFalse}
	switch {
	case l.refused != "":
		c.Reason, c.Message = string(l.reason), l.refused
	case l.conflict != "":
		c.Reason, c.Message = string(l.conflict), l.conflictMessage()
	default:
		c.Status, c.Reason, c.Message = v1.ConditionTrue, string(gatewayv1.ListenerReasonAccepted), "the listener is in effect where nodes run the gateway"
	}
	return c
}

func (l *listener) resolved() v1.Condition {
	c := v1.Condition{
		Type: string(gatewayv1.ListenerConditionResolvedRefs), Status: v1.ConditionTrue, Reason: string(gatewayv1.ListenerReasonResolvedRefs),
		Message: "all references are resolved",
	}
	if l.badKinds != "" {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, string(gatewayv1.ListenerReasonInvalidRouteKinds), l.badKinds
	} else if l.badRefs != "" {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, string(l.badRefsWhy), l.badRefs
	}
	return cut(c)
}

// letsInAt is where a node says that it lets requests in; where that is on each of its addresses, it is the one that other
// nodes dial.
func letsInAt(n *snapshot.Instance) (netip.Addr, bool) {
	at, err := netip.ParseAddr(n.Gateway.Address)
	if err == nil && !at.IsUnspecified() {
		return at, true
	}
	lane, err := netip.ParseAddrPort(n.LaneAddress)
	return lane.Addr(), err == nil
}

// addresses are where nodes let requests in.
func (g *gateway) addresses() []gatewayv1.GatewayStatusAddress {
	kind := gatewayv1.IPAddressType
	var all []gatewayv1.GatewayStatusAddress
	for _, n := range g.nodes {
		at, known := letsInAt(n)
		if !known {
			continue
		}
		one := gatewayv1.GatewayStatusAddress{Type: &kind, Value: at.String()}
		if len(all) < maxAddresses && !slices.ContainsFunc(all, func(a gatewayv1.GatewayStatusAddress) bool { return a.Value == one.Value }) {
			all = append(all, one)
		}
	}
	return all
}

// MergeGatewayStatus makes the status to store from the one that is stored and the one just compiled, as
// MergeConditions does, and reports whether anything is different.
func MergeGatewayStatus(stored, compiled gatewayv1.GatewayStatus, now v1.Time) (gatewayv1.GatewayStatus, bool) {
	merged := compiled
	merged.Conditions, _ = MergeConditions(stored.Conditions, compiled.Conditions, now)
	merged.Listeners = slices.Clone(compiled.Listeners)
	for i, l := range merged.Listeners {
		var before []v1.Condition
		if at := slices.IndexFunc(stored.Listeners, func(s gatewayv1.ListenerStatus) bool { return s.Name == l.Name }); at >= 0 {
			before = stored.Listeners[at].Conditions
		}
		merged.Listeners[i].Conditions, _ = MergeConditions(before, l.Conditions, now)
	}
	return merged, !equality.Semantic.DeepEqual(stored, merged)
}
