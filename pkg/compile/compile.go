// Package compile makes snapshots from what operators wrote and what nodes registered.
//
// Services, ExternalServices, Gateways, HTTPRoutes, GRPCRoutes, TLSRoutes, TCPRoutes, UDPRoutes, policies and instances go in; the bodies of the configuration's subjects and the status
// of every route and policy come out. It is a pure function: the same input, in whatever order, gives the same bytes, so
// that a body that did not change need not be published again. What it cannot execute it refuses in the
// route's status, and such a route is not in effect; what a route refers to and is not there becomes a
// backend that answers 500. It neither numbers nor signs, and it does no I/O.
//
// Start reading at Compile; then route.go, grpcroute.go, connections.go and udp.go (what the kinds of routes have in common, and what not), attach.go (which route applies to whom), rules.go (what a route says),
// precedence.go (in which order it is tried), quota.go (what is limited), resilience.go (what is done about failures), authorization.go (who may call), backendtls.go (who is spoken to in TLS), authentication.go (who end users are), fault.go (what is spoiled), loadbalancing.go (how instances are
// chosen), external.go (what is outside), and gateway.go, listenerset.go and ingress.go (what comes from
// outside).
package compile

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/quota"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Input is one state of the mesh. Compile reads it and keeps parts of it in what it returns.
type Input struct {
	Services  []*corev1.Service
	Routes    []*gatewayv1.HTTPRoute
	GRPC      []*gatewayv1.GRPCRoute
	TLS       []*gatewayv1.TLSRoute
	TCP       []*gatewayv1.TCPRoute
	UDP       []*gatewayv1.UDPRoute
	Quotas    []*api.QuotaPolicy
	External  []*api.ExternalService
	Balancing []*api.LoadBalancingPolicy
	// Resilience says how callers deal with instances that fail.
	Resilience []*api.ResiliencePolicy
	Faults     []*api.FaultPolicy
	// Authorization says who may call.
	Authorization []*api.AuthorizationPolicy
	// Authentication says how it is proven who end users are, and KeySets what was fetched for it (Output.KeySources).
	Authentication []*api.AuthenticationPolicy
	KeySets        map[KeySource]KeySet
	// Foreign are other trust domains; TrustDomain is the mesh's own.
	Foreign     []*api.FederatedTrustDomain
	TrustDomain string
	// Gateways and their classes; Namespaces say by their labels whose routes a Gateway takes.
	Gateways []*gatewayv1.Gateway
	Classes  []*gatewayv1.GatewayClass
	// ListenerSets have listeners for Gateways.
	ListenerSets []*gatewayv1.ListenerSet
	Namespaces   []*corev1.Namespace
	Grants       []*gatewayv1.ReferenceGrant // what may be named from other namespaces
	Secrets      []*corev1.Secret            // that listeners may name
	ConfigMaps   []*corev1.ConfigMap         // whose ca.crt Gateways and BackendTLSPolicies may name
	// BackendTLS says how instances are spoken to in TLS.
	BackendTLS []*gatewayv1.BackendTLSPolicy
	// Seal encrypts a private key of a gateway's to the holder of a sealing key (snapshot.SealKey), the same for the same
	// arguments. nil: no key can be sealed.
	Seal func(recipient []byte, gateway string, key []byte) ([]byte, error)
	// SessionKey is the key of the sessions of those who sign in under an AuthenticationPolicy, 32 bytes, the same for the
	// same arguments. nil: nobody can.
	SessionKey func(origin, uid string) []byte

	Instances []*snapshot.Instance
	Lost      map[string]bool // nodes that the leader declared lost, by name
}

// Output is what nodes and operators are told of an input.
type Output struct {
	// Bodies holds an Outbound, Inbound or Endpoints for each subject that exists. What was there for an
	// earlier input and is not here is gone. Encode them deterministically: they hold maps.
	Bodies map[string]proto.Message
	// Statuses holds the status of every HTTPRoute, and GRPC, TLS, TCP and UDP that of the routes of these kinds, without the
	// times of transition: MergeStatus adds them.
	Statuses map[types.NamespacedName]gatewayv1.RouteStatus
	GRPC     map[types.NamespacedName]gatewayv1.RouteStatus
	TLS      map[types.NamespacedName]gatewayv1.RouteStatus
	TCP      map[types.NamespacedName]gatewayv1.RouteStatus
	UDP      map[types.NamespacedName]gatewayv1.RouteStatus
	// Quotas holds the conditions of every policy, without the times of transition: MergeConditions adds them.
	Quotas map[types.NamespacedName][]metav1.Condition
	// Gateways holds the status of every Gateway whose class is Sennit's, and Classes the conditions of every such class,
	// without the times of transition: MergeGatewayStatus and MergeConditions add them.
	Gateways map[types.NamespacedName]gatewayv1.GatewayStatus
	Classes  map[string][]metav1.Condition
	// ListenerSets holds the status of every ListenerSet that is not for a Gateway of somebody else's, without the times of
	// transition: MergeListenerSetStatus adds them.
	ListenerSets map[types.NamespacedName]gatewayv1.ListenerSetStatus
	// External holds the conditions of every ExternalService, without the times of transition.
	External map[types.NamespacedName][]metav1.Condition
	// Resilience holds the conditions of every ResiliencePolicy, without the times of transition.
	Resilience map[types.NamespacedName][]metav1.Condition
	// Faults holds the conditions of every FaultPolicy, without the times of transition.
	Faults map[types.NamespacedName][]metav1.Condition
	// Balancing holds the conditions of every LoadBalancingPolicy, without the times of transition.
	Balancing map[types.NamespacedName][]metav1.Condition
	// Authorization holds the conditions of every AuthorizationPolicy, without the times of transition.
	Authorization map[types.NamespacedName][]metav1.Condition
	// Authentication holds the conditions of every AuthenticationPolicy, without the times of transition, and KeySources
	// where their keys are, in order and each once.
	Authentication map[types.NamespacedName][]metav1.Condition
	KeySources     []KeySource
	// Foreign holds the conditions of every FederatedTrustDomain, without the times of transition.
	Foreign map[types.NamespacedName][]metav1.Condition
	// BackendTLS holds the status of every BackendTLSPolicy, without the times of transition: MergePolicyStatus adds them.
	BackendTLS map[types.NamespacedName]gatewayv1.PolicyStatus
	// Limits says what each limit of the bodies allows, by its id.
	Limits map[string]quota.Limit
}

// Compile resolves an input. It never fails: what is wrong with a document stands in its status.
func Compile(in Input) Output {
	services := newCatalog(in)
	out := Output{
		Bodies:    make(map[string]proto.Message, 4*len(services.byName)),
		Statuses:  make(map[types.NamespacedName]gatewayv1.RouteStatus, len(in.Routes)),
		GRPC:      make(map[types.NamespacedName]gatewayv1.RouteStatus, len(in.GRPC)),
		TLS:       make(map[types.NamespacedName]gatewayv1.RouteStatus, len(in.TLS)),
		TCP:       make(map[types.NamespacedName]gatewayv1.RouteStatus, len(in.TCP)),
		UDP:       make(map[types.NamespacedName]gatewayv1.RouteStatus, len(in.UDP)),
		Quotas:    make(map[types.NamespacedName][]metav1.Condition, len(in.Quotas)),
		Gateways:  make(map[types.NamespacedName]gatewayv1.GatewayStatus, len(in.Gateways)),
		Classes:   make(map[string][]metav1.Condition, len(in.Classes)),
		External:  services.externalConditions(in),
		Faults:    make(map[types.NamespacedName][]metav1.Condition, len(in.Faults)),
		Limits:    make(map[string]quota.Limit, len(in.Quotas)),
		Balancing: services.balance(in.Balancing),

		Authentication: make(map[types.NamespacedName][]metav1.Condition, len(in.Authentication)),
	}
	secured := attachBackendTLS(in, services)
	out.Resilience = attachResilience(in, services)
	out.Authorization = attachAuthorization(in, services)
	out.Foreign = foreignConditions(in)
	gateways := newGateways(in, services, &out)
	users := attachAuthentication(in, services, gateways, &out)
	attached := make(attachments)
	routes := routesOf(in)
	taken := claimed(routes, services)
	for _, route := range routes {
		out.Routes(route.kind)[types.NamespacedName{Namespace: route.Namespace, Name: route.Name}] = attach(route, services, gateways, attached, taken)
	}
	out.BackendTLS = backendTLSStatuses(secured, gateways)
	securedPorts := services.securedPorts()
	limits, faults := attachQuotas(in, services, &out), attachFaults(in, services, &out)
	consumers := attached.consumers()
	for _, s := range services.sorted() {
		for i, shard := range s.shards {
			out.Bodies[snapshot.EndpointsSubject(s.name.Namespace, s.name.Name, uint32(i))] = shard
		}
		if len(s.own) > 0 || s.document == nil || len(s.document.Spec.Selector) == 0 {
			body := s.inbound(securedPorts[s.name.String()])
			body.Authentication = users.services[s.name]
			out.Bodies[snapshot.InSubject(s.name.Namespace, s.name.Name)] = body
		}
		out.Bodies[snapshot.OutSubject(s.name.Namespace, s.name.Name, "")] = s.outbound(attached, limits, faults, "")
		for _, callers := range consumers[s.name] {
			out.Bodies[snapshot.OutSubject(s.name.Namespace, s.name.Name, callers)] = s.outbound(attached, limits, faults, callers)
		}
	}
	out.ListenerSets = gateways.setStatuses()
	for _, g := range gateways.sorted() {
		out.Gateways[types.NamespacedName{Namespace: g.name.Namespace, Name: g.name.Name}] = g.status()
		if ingress := g.ingress(limits, faults, users, in.Seal); ingress != nil {
			subject := snapshot.InSubject(g.name.Namespace, g.name.Name)
			body, ok := out.Bodies[subject].(*snapshot.Inbound) // of a service of the same name
			if !ok {
				body = &snapshot.Inbound{}
				out.Bodies[subject] = body
			}
			body.Ingress = ingress
		}
	}
	return out
}

// Routes are the statuses of the routes of a kind; nil: it is no kind of route.
func (o *Output) Routes(kind *api.Kind) map[types.NamespacedName]gatewayv1.RouteStatus {
	switch kind {
	case api.HTTPRoute:
		return o.Statuses
	case api.GRPCRoute:
		return o.GRPC
	case api.TLSRoute:
		return o.TLS
	case api.TCPRoute:
		return o.TCP
	case api.UDPRoute:
		return o.UDP
	}
	return nil
}

// outbound is what callers need: those of one namespace, or all that have no rules of their own. A port
// that has consumer routes from the callers' namespace takes those and no others; a port without them
// takes the producers'; one without any routes to the service itself (GEP-1294, "Multiple routes for a
// Service").
func (s *service) outbound(attached attachments, limits *quotas, faults *faults, callers string) *snapshot.Outbound {
	body := &snapshot.Outbound{}
	for _, p := range s.ports {
		entries := attached[attachment{s.name, p.number, callers}]
		if len(entries) == 0 && callers != "" {
			entries = attached[attachment{s.name, p.number, ""}]
		}
		port := &snapshot.OutboundPort{Number: p.number, Name: p.name, Protocol: p.protocol}
		if len(entries) == 0 {
			port.Rules = []*snapshot.Rule{{
				Origin:   "service/" + s.name.String(),
				Backends: []*snapshot.Backend{s.backend(p.number, 1)},
			}}
		} else {
			port.Rules = inPrecedence(entries)
		}
		limits.limit(body, port, s.name, entries)
		faults.spoil(body, port, s.name)
		body.Ports = append(body.Ports, port)
	}
	return body
}

// inbound is what the nodes that run the service need: its own ports, and those that an instance
// registered and another Service's targetPort may name.
func (s *service) inbound(secured []*snapshot.SecuredPort) *snapshot.Inbound {
	body := &snapshot.Inbound{Secured: secured}
	for _, p := range s.reachable {
		body.Ports = append(body.Ports, &snapshot.InboundPort{Number: p.number, Name: p.name, Protocol: p.protocol})
	}
	if s.outside != nil {
		body.Outside = dialled(s.outside, s.ports[0].tls)
	}
	if s.document != nil && s.document.Annotations[PlaintextAnnotation] == plaintextPermissive {
		body.Permissive = true
	}
	if len(s.authorization) > 0 {
		body.Authorization = &snapshot.Authorization{Policies: s.authorization}
	}
	return body
}

// backend is the service as the target of a rule.
func (s *service) backend(port, weight uint32) *snapshot.Backend {
	b := &snapshot.Backend{
		Namespace: s.name.Namespace,
		Service:   s.name.Name,
		Port:      port,
		Weight:    weight,
		Shards:    uint32(len(s.shards)),
		Carrier:   s.carrier,

		Resilience: s.resilience,
	}
	s.balancing.say(b)
	if p, known := s.port(port); known && p.tls != nil {
		if s.outside == nil {
			b.Called = calledAt(s.name, port)
		}
		if p.tls.invalid != "" {
			b.Answer, b.AnswerReason = 502, fmt.Sprintf("BackendTLSPolicy %s: %s", p.tls.says.Origin, p.tls.invalid)
		}
	}
	return b
}

func compareNames(a, b exchange.ServiceName) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}
