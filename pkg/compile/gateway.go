package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// GatewayControllerName is what a GatewayClass names whose Gateways Sennit runs, and what says in the status of a route
// that Sennit wrote about a Gateway.
const GatewayControllerName gatewayv1.GatewayController = "sennit.dev/gateway-controller"

// Gateways are the Gateways of an input whose class is Sennit's.
type gateways struct {
	byName     map[exchange.ServiceName]*gateway
	foreign    map[exchange.ServiceName]bool   // of a class that somebody else runs
	classless  map[exchange.ServiceName]string // the class of others, which is not there
	namespaces map[string]labels.Set
	sets       map[exchange.ServiceName]*listenerSet
	services   *catalog // as those outside may reach it
	secrets    *secrets
	roots      map[types.NamespacedName]*corev1.ConfigMap
}

// A gateway is one Gateway, with what its routes say.
type gateway struct {
	document  *gatewayv1.Gateway
	name      exchange.ServiceName
	listeners []*listener          // its own, then those of its ListenerSets
	sets      []*listenerSet       // that are attached, in their order
	nodes     []*snapshot.Instance // that run it and live, ordered by node
	refused   v1.Condition         // Accepted, where it is False
}

type listener struct {
	document *gatewayv1.Listener
	set      *listenerSet // nil: it is the Gateway's own
	hostname string       // in lower case
	kinds    []gatewayv1.RouteGroupKind
	badKinds string // why some of allowedRoutes.kinds mean nothing; may be empty
	refused  string // why it is not Accepted, and the reason; may be empty
	reason   gatewayv1.ListenerConditionReason
	conflict gatewayv1.ListenerConditionReason // with another listener; may be empty
	allowed  func(namespace string) bool

	tcp          bool                  // routes of connections, or flows, attach, and bytes are not looked at
	udp          bool                  // its port is one of UDP
	secure       bool                  // connections are encrypted
	passthrough  bool                  // TLS does not end here
	certificates []*gatewayCertificate // of it, as far as they are there
	badRefs      string                // why some of certificateRefs cannot be used, and the reason; may be empty
	badRefsWhy   gatewayv1.ListenerConditionReason

	clients *snapshot.IngressClients // who may connect; nil: anybody

	attached map[routeID]bool    // that the listener took
	hosts    map[string][]*entry // by the hostnames that routes and listener have in common
}

// port is the listener's as snapshot.PortID has it: one of UDP may have the number of another.
func (l *listener) port() uint32 { return snapshot.PortID(uint16(l.document.Port), l.udp) }

func (l *listener) valid() bool { return l.refused == "" && l.conflict == "" }

// usable reports whether the listener can be opened.
func (l *listener) usable() bool {
	return l.valid() && (!l.secure || l.passthrough || len(l.certificates) > 0)
}

// newGateways finds out which Gateways are Sennit's to run, and puts into out what became of the classes.
func newGateways(in Input, services *catalog, out *Output) *gateways {
	outside := *services
	outside.outside = true
	gs := &gateways{
		byName: map[exchange.ServiceName]*gateway{}, foreign: map[exchange.ServiceName]bool{}, classless: map[exchange.ServiceName]string{},
		namespaces: map[string]labels.Set{}, services: &outside, secrets: newSecrets(in, services.grants),
		roots: map[types.NamespacedName]*corev1.ConfigMap{}, sets: map[exchange.ServiceName]*listenerSet{},
	}
	for _, document := range in.ConfigMaps {
		gs.roots[types.NamespacedName{Namespace: document.Namespace, Name: document.Name}] = document
	}
	for _, n := range in.Namespaces {
		gs.namespaces[n.Name] = n.Labels
	}
	classes := map[string]*gatewayv1.GatewayClass{}
	for _, c := range in.Classes {
		classes[c.Name] = c
		if c.Spec.ControllerName == GatewayControllerName {
			out.Classes[c.Name] = observed(c.Generation, classCondition(c))
		}
	}
	for _, document := range in.Gateways {
		name := exchange.ServiceName{Namespace: document.Namespace, Name: document.Name}
		class := classes[string(document.Spec.GatewayClassName)]
		switch {
		case class == nil:
			gs.classless[name] = string(document.Spec.GatewayClassName)
		case class.Spec.ControllerName != GatewayControllerName:
			gs.foreign[name] = true
		default:
			gs.byName[name] = newGateway(document, class, gs)
		}
	}
	gs.addSets(in.ListenerSets)
	for _, instance := range in.Instances {
		name, err := exchange.ParseServiceName(instance.Service)
		if g := gs.byName[name]; err == nil && g != nil && instance.Gateway != nil && !instance.Unhealthy && !in.Lost[instance.Node] {
			g.nodes = append(g.nodes, instance)
		}
	}
	for _, g := range gs.byName {
		slices.SortStableFunc(g.nodes, func(a, b *snapshot.Instance) int {
			return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Instance, b.Instance))
		})
		g.nodes = slices.CompactFunc(g.nodes, func(a, b *snapshot.Instance) bool { return a.Node == b.Node })
	}
	return gs
}

func classCondition(c *gatewayv1.GatewayClass) v1.Condition {
	accepted := v1.Condition{
		Type: string(gatewayv1.GatewayClassConditionStatusAccepted), Status: v1.ConditionTrue,
		Reason: string(gatewayv1.GatewayClassReasonAccepted), Message: "nodes run the Gateways of this class",
	}
	if c.Spec.ParametersRef != nil {
		accepted.Status, accepted.Reason = v1.ConditionFalse, string(gatewayv1.GatewayClassReasonInvalidParameters)
		accepted.Message = "spec.parametersRef: this class has no parameters"
	}
	return accepted
}

func newGateway(document *gatewayv1.Gateway, class *gatewayv1.GatewayClass, gs *gateways) *gateway {
	g := &gateway{document: document, name: exchange.ServiceName{Namespace: document.Namespace, Name: document.Name}}
	reason, problem := refusedGateway(document)
	if class.Spec.ParametersRef != nil {
		reason, problem = gatewayv1.GatewayReasonPending, fmt.Sprintf("class %s is not accepted", class.Name)
	}
	if problem != "" {
		g.refused = v1.Condition{Type: string(gatewayv1.GatewayConditionAccepted), Status: v1.ConditionFalse, Reason: string(reason), Message: problem}
	}
	for i := range document.Spec.Listeners {
		l := newListener(&document.Spec.Listeners[i], reference{gatewayv1.GroupName, "Gateway", document.Namespace}, gs)
		l.askClients(document.Spec.TLS, document.Namespace, gs)
		g.listeners = append(g.listeners, l)
	}
	for i, a := range g.listeners {
		for _, b := range g.listeners[:i] {
			if conflict := a.conflictWith(b); conflict != "" {
				a.conflict, b.conflict = conflict, conflict
			}
		}
	}
	return g
}

// conflictWith says why two listeners of a gateway cannot both be in effect; empty: they can.
func (l *listener) conflictWith(other *listener) gatewayv1.ListenerConditionReason {
	switch {
	case l.port() != other.port():
		return ""
	case l.document.Protocol != other.document.Protocol && !(l.secure && other.secure):
		return gatewayv1.ListenerReasonProtocolConflict
	case l.hostname == other.hostname:
		return gatewayv1.ListenerReasonHostnameConflict
	}
	return ""
}

// refusedGateway says what a Gateway asks for as a whole that no node gives it.
func refusedGateway(g *gatewayv1.Gateway) (gatewayv1.GatewayConditionReason, string) {
	for i, a := range g.Spec.Addresses {
		if a.Type != nil && *a.Type != gatewayv1.IPAddressType {
			return gatewayv1.GatewayReasonUnsupportedAddress, fmt.Sprintf("spec.addresses[%d].type: must be IPAddress, is %s", i, *a.Type)
		}
		if _, err := netip.ParseAddr(a.Value); a.Value != "" && err != nil {
			return gatewayv1.GatewayReasonUnsupportedAddress, fmt.Sprintf("spec.addresses[%d].value: must be an IP address, is %q", i, a.Value)
		}
	}
	if i := g.Spec.Infrastructure; i != nil && i.ParametersRef != nil {
		return gatewayv1.GatewayReasonInvalidParameters, "spec.infrastructure.parametersRef: gateways of this class have no parameters"
	}
	if d := g.Spec.DefaultScope; d != "" && d != gatewayv1.GatewayDefaultScopeNone {
		return gatewayv1.GatewayReasonInvalid, "spec.defaultScope is not supported in this version"
	}
	if g.Spec.TLS != nil && g.Spec.TLS.Backend != nil {
		return gatewayv1.GatewayReasonInvalid, "spec.tls.backend is not supported in this version"
	}
	return "", ""
}

// newListener reads a listener of the documents that from stands for.
func newListener(document *gatewayv1.Listener, from reference, gs *gateways) *listener {
	l := &listener{document: document, attached: map[routeID]bool{}, hosts: map[string][]*entry{}, allowed: func(string) bool { return false }}
	if document.Hostname != nil {
		l.hostname = strings.ToLower(string(*document.Hostname))
	}
	switch document.Protocol {
	case gatewayv1.HTTPProtocolType:
	case gatewayv1.TCPProtocolType:
		l.tcp, l.hostname = true, "" // nobody says whom a connection is for
	case gatewayv1.UDPProtocolType:
		l.tcp, l.udp, l.hostname = true, true, ""
	case gatewayv1.HTTPSProtocolType, gatewayv1.TLSProtocolType:
		l.secure, l.tcp = true, document.Protocol == gatewayv1.TLSProtocolType
		if l.secureWith(document.TLS, from, gs); l.refused != "" {
			return l
		}
	default:
		l.reason, l.refused = gatewayv1.ListenerReasonUnsupportedProtocol, fmt.Sprintf("protocol %s is not supported in this version; HTTP, HTTPS, TLS, TCP and UDP are", document.Protocol)
		return l
	}
	l.supportKinds(document.AllowedRoutes)
	of, selector := gatewayv1.NamespacesFromSame, (*v1.LabelSelector)(nil)
	if a := document.AllowedRoutes; a != nil && a.Namespaces != nil && a.Namespaces.From != nil {
		of, selector = *a.Namespaces.From, a.Namespaces.Selector
	}
	var err error
	if l.allowed, err = gs.allows(of, selector, from.namespace); err != nil {
		l.reason, l.refused = gatewayv1.ListenerReasonUnsupportedValue, fmt.Sprintf("allowedRoutes.namespaces.selector: %v", err)
	}
	return l
}

// allows tells of namespaces whether they are among those that a document of namespace own lets in. Where the selector
// cannot be read that is none.
func (gs *gateways) allows(from gatewayv1.FromNamespaces, selector *v1.LabelSelector, own string) (func(namespace string) bool, error) {
	switch from {
	case gatewayv1.NamespacesFromSame:
		return func(namespace string) bool { return namespace == own }, nil
	case gatewayv1.NamespacesFromAll:
		return func(string) bool { return true }, nil
	case gatewayv1.NamespacesFromSelector:
		matching, err := v1.LabelSelectorAsSelector(selector)
		if err != nil {
			return func(string) bool { return false }, err
		}
		return func(namespace string) bool { return matching.Matches(gs.namespaces[namespace]) }, nil
	}
	return func(string) bool { return false }, nil
}

// routeKinds are the kinds of routes, of Gateway API's group, that listeners of a protocol take.
var routeKinds = map[gatewayv1.ProtocolType][]gatewayv1.Kind{
	gatewayv1.HTTPProtocolType:  {"HTTPRoute", "GRPCRoute"},
	gatewayv1.HTTPSProtocolType: {"HTTPRoute", "GRPCRoute"},
	gatewayv1.TLSProtocolType:   {"TLSRoute"},
	gatewayv1.TCPProtocolType:   {"TCPRoute"},
	gatewayv1.UDPProtocolType:   {"UDPRoute"},
}

// supportKinds finds out which kinds of routes may attach.
func (l *listener) supportKinds(allowed *gatewayv1.AllowedRoutes) {
	group := gatewayv1.Group(gatewayv1.GroupName)
	kinds := routeKinds[l.document.Protocol]
	if allowed == nil || len(allowed.Kinds) == 0 {
		for _, k := range kinds {
			l.kinds = append(l.kinds, gatewayv1.RouteGroupKind{Group: &group, Kind: k})
		}
		return
	}
	for _, k := range allowed.Kinds {
		switch {
		case slices.Contains(kinds, k.Kind) && (k.Group == nil || *k.Group == group):
			if !l.takes(k.Kind) {
				l.kinds = append(l.kinds, gatewayv1.RouteGroupKind{Group: &group, Kind: k.Kind})
			}
		case l.badKinds == "":
			l.badKinds = fmt.Sprintf("allowedRoutes.kinds: a listener of protocol %s takes %s and not %s", l.document.Protocol, joined(kinds, " and "), k.Kind)
		}
	}
}

// takes reports whether routes of a kind may attach.
func (l *listener) takes(kind gatewayv1.Kind) bool {
	return slices.ContainsFunc(l.kinds, func(k gatewayv1.RouteGroupKind) bool { return k.Kind == kind })
}

func joined[T ~string](words []T, by string) string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = string(w)
	}
	return strings.Join(all, by)
}

// sorted lists the gateways by name.
func (gs *gateways) sorted() []*gateway {
	all := make([]*gateway, 0, len(gs.byName))
	for _, g := range gs.byName {
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b *gateway) int { return compareNames(a.name, b.name) })
	return all
}
