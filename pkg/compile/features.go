package compile

import (
	"slices"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// supported are the features of Gateway API that its Gateways and their routes have here, as GEP-2162 names them. One is
// here once the tests that the conformance suite has for it pass (test/conformance).
var supported = []features.FeatureName{
	features.SupportGateway,
	features.SupportReferenceGrant,
	features.SupportHTTPRoute,
	features.SupportGRPCRoute,
	features.SupportTLSRoute,
	features.SupportTCPRoute,
	features.SupportUDPRoute,

	features.SupportBackendTLSPolicy,
	features.SupportBackendTLSPolicySANValidation,

	features.SupportGatewayAddressEmpty,
	features.SupportGatewayFrontendClientCertificateValidation,
	features.SupportGatewayFrontendClientCertificateValidationInsecureFallback,
	features.SupportGatewayHTTPListenerIsolation,
	features.SupportGatewayHTTPSListenerDetectMisdirectedRequests,
	features.SupportGatewayPort8080,
	features.SupportGatewayStaticAddresses,
	features.SupportListenerSet,

	features.SupportHTTPRoute303RedirectStatusCode,
	features.SupportHTTPRoute307RedirectStatusCode,
	features.SupportHTTPRoute308RedirectStatusCode,
	features.SupportHTTPRouteBackendProtocolH2C,
	features.SupportHTTPRouteBackendProtocolWebSocket,
	features.SupportHTTPRouteBackendRequestHeaderModification,
	features.SupportHTTPRouteBackendTimeout,
	features.SupportHTTPRouteCORS,
	features.SupportHTTPRouteDestinationPortMatching,
	features.SupportHTTPRouteHostRewrite,
	features.SupportHTTPRouteMethodMatching,
	features.SupportHTTPRouteNamedRouteRule,
	features.SupportHTTPRouteParentRefPort,
	features.SupportHTTPRoutePathRedirect,
	features.SupportHTTPRoutePathRewrite,
	features.SupportHTTPRoutePortRedirect,
	features.SupportHTTPRouteQueryParamMatching,
	features.SupportHTTPRouteRequestMirror,
	features.SupportHTTPRouteRequestMultipleMirrors,
	features.SupportHTTPRouteRequestPercentageMirror,
	features.SupportHTTPRouteRequestTimeout,
	features.SupportHTTPRouteResponseHeaderModification,
	features.SupportHTTPRouteRetry,
	features.SupportHTTPRouteRetryBackendTimeout,
	features.SupportHTTPRouteRetryConnectionError,
	features.SupportHTTPRouteSchemeRedirect,

	features.SupportGRPCRouteNamedRouteRule,
	features.SupportTLSRouteModeMixed,
	features.SupportTLSRouteModeTerminate,
}

// MergeClassStatus makes the status of a class of Sennit's from the one that is stored and the conditions just compiled, as
// MergeConditions does, with what Sennit supports. It reports whether anything is different.
func MergeClassStatus(stored gatewayv1.GatewayClassStatus, compiled []v1.Condition, now v1.Time) (gatewayv1.GatewayClassStatus, bool) {
	merged := gatewayv1.GatewayClassStatus{}
	for _, name := range slices.Sorted(slices.Values(supported)) {
		merged.SupportedFeatures = append(merged.SupportedFeatures, gatewayv1.SupportedFeature{Name: gatewayv1.FeatureName(name)})
	}
	changed := false
	merged.Conditions, changed = MergeConditions(stored.Conditions, compiled, now)
	return merged, changed || !slices.Equal(stored.SupportedFeatures, merged.SupportedFeatures)
}
