package compile

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// InputOf reads documents, separated by "---", into an input.
func InputOf(t testing.TB, documents string) (in Input) {
	t.Helper()
	for text := range strings.SplitSeq(documents, "---\n") {
		var kind struct{ Kind string }
		must(t, yaml.Unmarshal([]byte(text), &kind))
		switch kind.Kind {
		case "Service":
			in.Services = append(in.Services, decode[corev1.Service](t, text))
		case "HTTPRoute":
			in.Routes = append(in.Routes, decode[gatewayv1.HTTPRoute](t, text))
		case "GRPCRoute":
			in.GRPC = append(in.GRPC, decode[gatewayv1.GRPCRoute](t, text))
		case "TLSRoute":
			in.TLS = append(in.TLS, decode[gatewayv1.TLSRoute](t, text))
		case "TCPRoute":
			in.TCP = append(in.TCP, decode[gatewayv1.TCPRoute](t, text))
		case "UDPRoute":
			in.UDP = append(in.UDP, decode[gatewayv1.UDPRoute](t, text))
		case "ExternalService":
			in.External = append(in.External, decode[api.ExternalService](t, text))
		case "BackendTLSPolicy":
			in.BackendTLS = append(in.BackendTLS, decode[gatewayv1.BackendTLSPolicy](t, text))
		case "ConfigMap":
			in.ConfigMaps = append(in.ConfigMaps, decode[corev1.ConfigMap](t, text))
		case "FaultPolicy":
			in.Faults = append(in.Faults, decode[api.FaultPolicy](t, text))
		case "QuotaPolicy":
			in.Quotas = append(in.Quotas, decode[api.QuotaPolicy](t, text))
		case "Secret":
			in.Secrets = append(in.Secrets, decode[corev1.Secret](t, text))
		case "AuthenticationPolicy":
			in.Authentication = append(in.Authentication, decode[api.AuthenticationPolicy](t, text))
		case "AuthorizationPolicy":
			in.Authorization = append(in.Authorization, decode[api.AuthorizationPolicy](t, text))
		case "ResiliencePolicy":
			in.Resilience = append(in.Resilience, decode[api.ResiliencePolicy](t, text))
		case "LoadBalancingPolicy":
			in.Balancing = append(in.Balancing, decode[api.LoadBalancingPolicy](t, text))
		case "Gateway":
			in.Gateways = append(in.Gateways, decode[gatewayv1.Gateway](t, text))
		case "ListenerSet":
			in.ListenerSets = append(in.ListenerSets, decode[gatewayv1.ListenerSet](t, text))
		case "GatewayClass":
			in.Classes = append(in.Classes, decode[gatewayv1.GatewayClass](t, text))
		case "Namespace":
			in.Namespaces = append(in.Namespaces, decode[corev1.Namespace](t, text))
		case "ReferenceGrant":
			in.Grants = append(in.Grants, decode[gatewayv1.ReferenceGrant](t, text))
		case "":
			if strings.TrimSpace(text) != "" {
				t.Fatalf("a document without a kind: %s", text)
			}
		default:
			t.Fatalf("unknown kind %q", kind.Kind)
		}
	}
	return in
}

func decode[T any](t testing.TB, text string) *T {
	t.Helper()
	into := new(T)
	must(t, yaml.UnmarshalStrict([]byte(text), into))
	return into
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
