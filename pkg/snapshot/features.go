package snapshot

import "strings"

// FeatureFilters is what a reader must know to use rules with Filters: one that did not would pass on unchanged what
// is to be changed.
const FeatureFilters = "filters"

// FeatureIngressTLS is what a reader must know to open listeners with TLS: one that did not would let requests in
// without.
const FeatureIngressTLS = "ingress-tls"

// FeatureIngressClients is what a reader must know to open listeners that ask clients for certificates: one that did not
// would let in anybody.
const FeatureIngressClients = "ingress-clients"

// FeatureIngressTCP is what a reader must know to open listeners for whole connections: one that did not would take them
// for HTTP.
const FeatureIngressTCP = "ingress-tcp"

// FeatureOrigination is what a reader must know to speak TLS to processes and hosts as policies say: one that did not would
// send in the clear, or to whoever is there.
const FeatureOrigination = "origination"

// FeatureAuthorization is what a reader must know to serve what policies guard: one that did not would let everybody in.
const FeatureAuthorization = "authorization"

// FeatureAuthentication is what a reader must know to serve what asks for the end user: one that did not would let in
// requests of anybody.
const FeatureAuthentication = "authentication"

// FeatureAuthorizationConditions is what a reader must know to go by policies that ask for more than service, namespace,
// method, path and port: one that did not would take a rule for every request that the rest of it is for.
const FeatureAuthorizationConditions = "authorization-conditions"

// FeatureUDP is what a reader must know to use ports of UDP: one that did not would take them for others of TCP.
const FeatureUDP = "udp"

// GuardsService reports whether a feature says who may call a service, for what, and as which end user. A node that lacks one
// lets nobody in.
func GuardsService(feature string) bool {
	return strings.HasPrefix(feature, "authorization") || strings.HasPrefix(feature, "authentication")
}
