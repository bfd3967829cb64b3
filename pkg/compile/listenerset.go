package compile

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// maxListeners is how many listeners a Gateway has, with those of its ListenerSets; further ones are not accepted.
const maxListeners = 1000

// A listenerSet is one ListenerSet (GEP-1713): listeners for a Gateway that somebody else may own.
type listenerSet struct {
	document  *gatewayv1.ListenerSet
	name      exchange.ServiceName
	parent    exchange.ServiceName // the Gateway that it names
	gateway   *gateway             // nil: it is not there, or not Sennit's to run
	refused   string               // why it is not attached, and the reasons of Accepted and Programmed; may be empty
	reason    gatewayv1.ListenerSetConditionReason
	programs  gatewayv1.ListenerSetConditionReason
	listeners []*listener
}

// The reasons that Gateway API names for Programmed and has no constant for.
const listenerSetParentNotProgrammed gatewayv1.ListenerSetConditionReason = "ParentNotProgrammed"

// addSets gives Gateways the listeners of their ListenerSets, behind their own: those of the oldest first. Of two that cannot
// both be in effect the first is.
func (gs *gateways) addSets(documents []*gatewayv1.ListenerSet) {
	for _, document := range oldestFirst(documents) {
		s := newListenerSet(document, gs)
		gs.sets[s.name] = s
		if s.refused != "" {
			continue
		}
		s.gateway.sets = append(s.gateway.sets, s)
		for i := range document.Spec.Listeners {
			l := newListener(listenerOf(&document.Spec.Listeners[i]), reference{gatewayv1.GroupName, "ListenerSet", document.Namespace}, gs)
			l.set = s
			l.askClients(s.gateway.document.Spec.TLS, s.gateway.name.Namespace, gs)
			s.listeners = append(s.listeners, l)
			s.gateway.add(l)
		}
	}
}

// add puts a listener of a ListenerSet behind those that are there. Those of the Gateway itself hold their places even where
// they are not in effect, so that nobody else gets what its owner meant to have.
func (g *gateway) add(l *listener) {
	if len(g.listeners) >= maxListeners {
		l.reason = gatewayv1.ListenerConditionReason(gatewayv1.ListenerEntryReasonTooManyListeners)
		l.refused = fmt.Sprintf("the Gateway has %d listeners, and no more", maxListeners)
		return
	}
	for _, before := range g.listeners {
		if before.set != nil && !before.valid() {
			continue
		}
		if conflict := l.conflictWith(before); conflict != "" {
			l.conflict = conflict
			break
		}
	}
	g.listeners = append(g.listeners, l)
}

// own are the listeners of the Gateway's document.
func (g *gateway) own() []*listener { return g.listeners[:len(g.document.Spec.Listeners)] }

// name is the listener's among all of a gateway's.
func (l *listener) name() string {
	if l.set != nil {
		return l.set.name.String() + "/" + string(l.document.Name)
	}
	return string(l.document.Name)
}

// listenerOf is an entry of a ListenerSet in the words of a Gateway.
func listenerOf(e *gatewayv1.ListenerEntry) *gatewayv1.Listener {
	return &gatewayv1.Listener{Name: e.Name, Hostname: e.Hostname, Port: e.Port, Protocol: e.Protocol, TLS: e.TLS, AllowedRoutes: e.AllowedRoutes}
}

// newListenerSet finds the Gateway of a ListenerSet, and whether that lets it attach: by default none may.
func newListenerSet(document *gatewayv1.ListenerSet, gs *gateways) *listenerSet {
	ref := document.Spec.ParentRef
	s := &listenerSet{document: document, name: exchange.ServiceName{Namespace: document.Namespace, Name: document.Name}}
	s.parent = exchange.ServiceName{Namespace: document.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil && *ref.Namespace != "" {
		s.parent.Namespace = string(*ref.Namespace)
	}
	if ref.Group != nil && *ref.Group != gatewayv1.GroupName || ref.Kind != nil && *ref.Kind != "Gateway" {
		s.reason, s.programs = gatewayv1.ListenerSetReasonInvalid, gatewayv1.ListenerSetReasonInvalid
		s.refused = "spec.parentRef: a ListenerSet is for a Gateway of group gateway.networking.k8s.io"
		return s
	}
	if s.gateway = gs.byName[s.parent]; s.gateway == nil {
		s.reason, s.programs = gatewayv1.ListenerSetReasonParentNotAccepted, listenerSetParentNotProgrammed
		_, s.refused = gs.listenersOf(parentOutside{"Gateway", s.parent})
		return s
	}
	from, selector := gatewayv1.NamespacesFromNone, (*v1.LabelSelector)(nil)
	if a := s.gateway.document.Spec.AllowedListeners; a != nil && a.Namespaces != nil && a.Namespaces.From != nil {
		from, selector = *a.Namespaces.From, a.Namespaces.Selector
	}
	if allowed, _ := gs.allows(from, selector, s.parent.Namespace); !allowed(document.Namespace) { // a selector that cannot be read allows nobody
		s.reason, s.programs = gatewayv1.ListenerSetReasonNotAllowed, gatewayv1.ListenerSetReasonNotAllowed
		s.refused = fmt.Sprintf("Gateway %s takes no ListenerSets of namespace %s (see its spec.allowedListeners)", s.parent, document.Namespace)
	}
	return s
}

// accepted tells whether the set, or a part of it, is in effect.
func (s *listenerSet) accepted() v1.Condition {
	c := v1.Condition{Type: string(gatewayv1.ListenerSetConditionAccepted), Status: v1.ConditionFalse}
	usable := 0
	for _, l := range s.listeners {
		if l.usable() {
			usable++
		}
	}
	switch {
	case s.refused != "":
		c.Reason, c.Message = string(s.reason), s.refused
	case s.gateway.refused.Type != "":
		c.Reason, c.Message = string(gatewayv1.ListenerSetReasonParentNotAccepted), fmt.Sprintf("Gateway %s is not accepted", s.parent)
	case usable == 0:
		c.Reason, c.Message = string(gatewayv1.ListenerSetReasonListenersNotValid), "none of the listeners can be in effect"
	case usable < len(s.listeners):
		c.Status, c.Reason = v1.ConditionTrue, string(gatewayv1.ListenerSetReasonListenersNotValid)
		c.Message = fmt.Sprintf("%d of %d listeners cannot be in effect", len(s.listeners)-usable, len(s.listeners))
	default:
		c.Status, c.Reason, c.Message = v1.ConditionTrue, string(gatewayv1.ListenerSetReasonAccepted), "the listeners are in effect where nodes run the Gateway"
	}
	return cut(c)
}

// status is what became of a set, once all routes are attached.
func (s *listenerSet) status() gatewayv1.ListenerSetStatus {
	var status gatewayv1.ListenerSetStatus
	accepted := s.accepted()
	programmed := v1.Condition{
		Type: string(gatewayv1.ListenerSetConditionProgrammed), Status: v1.ConditionTrue, Reason: string(gatewayv1.ListenerSetReasonProgrammed),
		Message: "the listeners that are accepted are open",
	}
	if accepted.Status != v1.ConditionTrue {
		programmed.Status, programmed.Reason, programmed.Message = v1.ConditionFalse, accepted.Reason, accepted.Message
		switch {
		case s.refused != "":
			programmed.Reason = string(s.programs)
		case s.gateway.refused.Type != "":
			programmed.Reason = string(listenerSetParentNotProgrammed)
		}
	}
	for _, l := range s.listeners {
		open := s.gateway.programmed(l)
		if l.conflict != "" {
			open.Reason, open.Message = string(l.conflict), l.conflictMessage()
		}
		if l.usable() && open.Status != v1.ConditionTrue && programmed.Status == v1.ConditionTrue {
			programmed.Status, programmed.Reason = v1.ConditionFalse, open.Reason
			programmed.Message = fmt.Sprintf("listener %s: %s", l.document.Name, open.Message)
		}
		status.Listeners = append(status.Listeners, gatewayv1.ListenerEntryStatus{
			Name: l.document.Name, SupportedKinds: append([]gatewayv1.RouteGroupKind{}, l.kinds...), AttachedRoutes: int32(len(l.attached)),
			Conditions: observed(s.document.Generation, l.conditions(open)...),
		})
	}
	status.Conditions = observed(s.document.Generation, accepted, cut(programmed))
	return status
}

// setStatuses says of each set what became of it, but for those of Gateways that somebody else runs.
func (gs *gateways) setStatuses() map[types.NamespacedName]gatewayv1.ListenerSetStatus {
	all := make(map[types.NamespacedName]gatewayv1.ListenerSetStatus, len(gs.sets))
	for name, s := range gs.sets {
		if !gs.foreign[s.parent] {
			all[types.NamespacedName{Namespace: name.Namespace, Name: name.Name}] = s.status()
		}
	}
	return all
}

// MergeListenerSetStatus makes the status to store from the one that is stored and the one just compiled, as
// MergeGatewayStatus does.
func MergeListenerSetStatus(stored, compiled gatewayv1.ListenerSetStatus, now v1.Time) (gatewayv1.ListenerSetStatus, bool) {
	merged := compiled
	merged.Conditions, _ = MergeConditions(stored.Conditions, compiled.Conditions, now)
	merged.Listeners = nil
	for _, l := range compiled.Listeners {
		var before []v1.Condition
		for _, s := range stored.Listeners {
			if s.Name == l.Name {
				before = s.Conditions
			}
		}
		l.Conditions, _ = MergeConditions(before, l.Conditions, now)
		merged.Listeners = append(merged.Listeners, l)
	}
	return merged, !equality.Semantic.DeepEqual(stored, merged)
}
