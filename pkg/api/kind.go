package api

import (
	"fmt"
	"reflect"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// A Kind is one kind of document. Kinds are never changed after the program's start.
type Kind struct {
	Group, Version, Name string // Name is the kind: "HTTPRoute"
	Plural, Singular     string // Plural is the resource: "httproutes"
	Short                []string
	Namespaced           bool
	Core                 bool // a built-in of Kubernetes: strategic merge and protobuf are served
	HasStatus            bool // has a status subresource, which controllers write
	Sealed               bool // its data is not stored, backed up or audited in the clear
	Derived              bool // shown from other state (registrations, tokens), not stored as a document

	Verbs []string // as discovery lists them
	model string   // name of its schema in Definitions
	typ   reflect.Type
}

var (
	stored = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	shown  = []string{"get", "list", "watch"}
)

// The kinds that this version serves.
var (
	Namespace = &Kind{
		Version: "v1", Name: "Namespace", Plural: "namespaces", Singular: "namespace", Short: []string{"ns"},
		Core: true, Verbs: stored, model: "io.k8s.api.core.v1.Namespace", typ: reflect.TypeFor[corev1.Namespace](),
	}
	Service = &Kind{
		Version: "v1", Name: "Service", Plural: "services", Singular: "service", Short: []string{"svc"},
		Namespaced: true, Core: true, HasStatus: true, Verbs: stored,
		model: "io.k8s.api.core.v1.Service", typ: reflect.TypeFor[corev1.Service](),
	}
	Secret = &Kind{
		Version: "v1", Name: "Secret", Plural: "secrets", Singular: "secret",
		Namespaced: true, Core: true, Sealed: true, Verbs: stored,
		model: "io.k8s.api.core.v1.Secret", typ: reflect.TypeFor[corev1.Secret](),
	}
	ConfigMap = &Kind{
		Version: "v1", Name: "ConfigMap", Plural: "configmaps", Singular: "configmap", Short: []string{"cm"},
		Namespaced: true, Core: true, Verbs: stored,
		model: "io.k8s.api.core.v1.ConfigMap", typ: reflect.TypeFor[corev1.ConfigMap](),
	}
	EndpointSlice = &Kind{
		Group: "discovery.k8s.io", Version: "v1", Name: "EndpointSlice", Plural: "endpointslices", Singular: "endpointslice",
		Namespaced: true, Core: true, Derived: true, Verbs: shown,
		model: "io.k8s.api.discovery.v1.EndpointSlice", typ: reflect.TypeFor[discoveryv1.EndpointSlice](),
	}
	GatewayClass = &Kind{
		Group: "gateway.networking.k8s.io", Version: "v1", Name: "GatewayClass", Plural: "gatewayclasses", Singular: "gatewayclass", Short: []string{"gc"},
		HasStatus: true, Verbs: stored,
		model: "io.k8s.networking.gateway.v1.GatewayClass", typ: reflect.TypeFor[gatewayv1.GatewayClass](),
	}
	Gateway = &Kind{
		Group: "gateway.networking.k8s.io", Version: "v1", Name: "Gateway", Plural: "gateways", Singular: "gateway", Short: []string{"gtw"},
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "io.k8s.networking.gateway.v1.Gateway", typ: reflect.TypeFor[gatewayv1.Gateway](),
	}
	ListenerSet = &Kind{
		Group: "gateway.networking.k8s.io", Version: "v1", Name: "ListenerSet", Plural: "listenersets", Singular: "listenerset", Short: []string{"lset"},
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "io.k8s.networking.gateway.v1.ListenerSet", typ: reflect.TypeFor[gatewayv1.ListenerSet](),
	}
	HTTPRoute = &Kind{
		Group: "gateway.networking.k8s.io", Version: "v1", Name: "HTTPRoute", Plural: "httproutes", Singular: "httproute",
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "io.k8s.networking.gateway.v1.HTTPRoute", typ: reflect.TypeFor[gatewayv1.HTTPRoute](),
	}
	GRPCRoute = &Kind{
		Group: "gateway.networking.k8s.io", Version: "v1", Name: "GRPCRoute", Plural: "grpcroutes", Singular: "grpcroute",
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "io.k8s.networking.gateway.v1.GRPCRoute", typ: reflect.TypeFor[gatewayv1.GRPCRoute](),
	}
	TLSRoute = &Kind{
		Group: "gateway.networking.k8s.io", Version: "v1", Name: "TLSRoute", Plural: "tlsroutes", Singular: "tlsroute",
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "io.k8s.networking.gateway.v1.TLSRoute", typ: reflect.TypeFor[gatewayv1.TLSRoute](),
	}
	TCPRoute = &Kind{
		Group: "gateway.networking.k8s.io", Version: "v1", Name: "TCPRoute", Plural: "tcproutes", Singular: "tcproute",
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "io.k8s.networking.gateway.v1.TCPRoute", typ: reflect.TypeFor[gatewayv1.TCPRoute](),
	}
	UDPRoute = &Kind{
		Group: "gateway.networking.k8s.io", Version: "v1", Name: "UDPRoute", Plural: "udproutes", Singular: "udproute",
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "io.k8s.networking.gateway.v1.UDPRoute", typ: reflect.TypeFor[gatewayv1.UDPRoute](),
	}
	ReferenceGrant = &Kind{
		Group: "gateway.networking.k8s.io", Version: "v1", Name: "ReferenceGrant", Plural: "referencegrants", Singular: "referencegrant", Short: []string{"refgrant"},
		Namespaced: true, Verbs: stored,
		model: "io.k8s.networking.gateway.v1.ReferenceGrant", typ: reflect.TypeFor[gatewayv1.ReferenceGrant](),
	}
	BackendTLSPolicy = &Kind{
		Group: "gateway.networking.k8s.io", Version: "v1", Name: "BackendTLSPolicy", Plural: "backendtlspolicies", Singular: "backendtlspolicy", Short: []string{"btlspolicy"},
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "io.k8s.networking.gateway.v1.BackendTLSPolicy", typ: reflect.TypeFor[gatewayv1.BackendTLSPolicy](),
	}
	QuotaPolicies = &Kind{
		Group: "sennit.dev", Version: "v1alpha1", Name: "QuotaPolicy", Plural: "quotapolicies", Singular: "quotapolicy", Short: []string{"quota"},
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "dev.sennit.v1alpha1.QuotaPolicy", typ: reflect.TypeFor[QuotaPolicy](),
	}
	ExternalServices = &Kind{
		Group: "sennit.dev", Version: "v1alpha1", Name: "ExternalService", Plural: "externalservices", Singular: "externalservice", Short: []string{"extsvc"},
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "dev.sennit.v1alpha1.ExternalService", typ: reflect.TypeFor[ExternalService](),
	}
	ResiliencePolicies = &Kind{
		Group: "sennit.dev", Version: "v1alpha1", Name: "ResiliencePolicy", Plural: "resiliencepolicies", Singular: "resiliencepolicy", Short: []string{"resilience"},
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "dev.sennit.v1alpha1.ResiliencePolicy", typ: reflect.TypeFor[ResiliencePolicy](),
	}
	FaultPolicies = &Kind{
		Group: "sennit.dev", Version: "v1alpha1", Name: "FaultPolicy", Plural: "faultpolicies", Singular: "faultpolicy", Short: []string{"fault"},
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "dev.sennit.v1alpha1.FaultPolicy", typ: reflect.TypeFor[FaultPolicy](),
	}
	LoadBalancingPolicies = &Kind{
		Group: "sennit.dev", Version: "v1alpha1", Name: "LoadBalancingPolicy", Plural: "loadbalancingpolicies", Singular: "loadbalancingpolicy", Short: []string{"lbpol"},
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "dev.sennit.v1alpha1.LoadBalancingPolicy", typ: reflect.TypeFor[LoadBalancingPolicy](),
	}
	AuthorizationPolicies = &Kind{
		Group: "sennit.dev", Version: "v1alpha1", Name: "AuthorizationPolicy", Plural: "authorizationpolicies", Singular: "authorizationpolicy", Short: []string{"authz"},
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "dev.sennit.v1alpha1.AuthorizationPolicy", typ: reflect.TypeFor[AuthorizationPolicy](),
	}
	AuthenticationPolicies = &Kind{
		Group: "sennit.dev", Version: "v1alpha1", Name: "AuthenticationPolicy", Plural: "authenticationpolicies", Singular: "authenticationpolicy", Short: []string{"authn"},
		Namespaced: true, HasStatus: true, Verbs: stored,
		model: "dev.sennit.v1alpha1.AuthenticationPolicy", typ: reflect.TypeFor[AuthenticationPolicy](),
	}
	JoinTokens = &Kind{
		Group: "sennit.dev", Version: "v1alpha1", Name: "JoinToken", Plural: "jointokens", Singular: "jointoken",
		Derived: true, Verbs: []string{"create", "delete", "get", "list", "watch"},
		model: "dev.sennit.v1alpha1.JoinToken", typ: reflect.TypeFor[JoinToken](),
	}
	Nodes = &Kind{
		Group: "sennit.dev", Version: "v1alpha1", Name: "Node", Plural: "nodes", Singular: "node",
		Derived: true, Verbs: shown,
		model: "dev.sennit.v1alpha1.Node", typ: reflect.TypeFor[Node](),
	}
)

// Kinds lists all kinds, in the order in which they are shown.
func Kinds() []*Kind {
	return []*Kind{Namespace, Service, Secret, ConfigMap, EndpointSlice, GatewayClass, Gateway, ListenerSet, HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, UDPRoute, ReferenceGrant, BackendTLSPolicy, QuotaPolicies, ExternalServices, ResiliencePolicies, FaultPolicies, LoadBalancingPolicies, AuthorizationPolicies, AuthenticationPolicies, FederatedTrustDomains, JoinTokens, OperatorTokens, Nodes, Roles, ClusterRoles, RoleBindings, ClusterRoleBindings}
}

// ByResource returns the kind that a URL names, or nil.
func ByResource(group, version, plural string) *Kind {
	for _, k := range Kinds() {
		if k.Group == group && k.Version == version && k.Plural == plural {
			return k
		}
	}
	return nil
}

// ByKind returns the kind that a document names by apiVersion and kind, or nil.
func ByKind(apiVersion, name string) *Kind {
	for _, k := range Kinds() {
		if k.APIVersion() == apiVersion && k.Name == name {
			return k
		}
	}
	return nil
}

// APIVersion is what documents of the kind have as apiVersion.
func (k *Kind) APIVersion() string {
	if k.Group == "" {
		return k.Version
	}
	return k.Group + "/" + k.Version
}

// GVK is the kind in the words of Kubernetes' libraries.
func (k *Kind) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Name}
}

// GroupResource is the kind as Status errors name it.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Plural}
}

// Model is the name of the kind's schema in Definitions.
func (k *Kind) Model() string { return k.model }

// New returns an empty document of the kind's Go type.
func (k *Kind) New() runtime.Object {
	o := reflect.New(k.typ).Interface().(runtime.Object)
	o.GetObjectKind().SetGroupVersionKind(k.GVK())
	return o
}

// Scheme returns the scheme that knows every kind's Go type. It must not be changed.
var Scheme = sync.OnceValue(func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, rbacv1.AddToScheme, authorizationv1.AddToScheme, authenticationv1.AddToScheme, gatewayv1.Install} {
		if err := add(s); err != nil {
			panic("api: " + err.Error()) // two kinds with one name: a mistake in this file
		}
	}
	gv := schema.GroupVersion{Group: "sennit.dev", Version: "v1alpha1"}
	s.AddKnownTypes(gv, &JoinToken{}, &JoinTokenList{}, &Node{}, &NodeList{}, &QuotaPolicy{}, &QuotaPolicyList{}, &ExternalService{}, &ExternalServiceList{})
	s.AddKnownTypes(gv, &OperatorToken{}, &OperatorTokenList{})
	s.AddKnownTypes(gv, &ResiliencePolicy{}, &ResiliencePolicyList{})
	s.AddKnownTypes(gv, &FaultPolicy{}, &FaultPolicyList{})
	s.AddKnownTypes(gv, &AuthenticationPolicy{}, &AuthenticationPolicyList{})
	s.AddKnownTypes(gv, &AuthorizationPolicy{}, &AuthorizationPolicyList{})
	s.AddKnownTypes(gv, &LoadBalancingPolicy{}, &LoadBalancingPolicyList{})
	s.AddKnownTypes(gv, &FederatedTrustDomain{}, &FederatedTrustDomainList{})
	return s
})

// As converts a document to the Go type that into points to (*corev1.Service, *gatewayv1.HTTPRoute, …). The
// result shares nothing with u.
func As(u *unstructured.Unstructured, into any) error {
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, into); err != nil {
		return fmt.Errorf("convert %s %s/%s: %w", u.GetKind(), u.GetNamespace(), u.GetName(), err)
	}
	return nil
}

// From converts an object of a Go type to a document, with apiVersion and kind set.
func From(k *Kind, o runtime.Object) (*unstructured.Unstructured, error) {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, fmt.Errorf("convert %s: %w", k.Name, err)
	}
	u := &unstructured.Unstructured{Object: m}
	u.SetGroupVersionKind(k.GVK())
	return u, nil
}
