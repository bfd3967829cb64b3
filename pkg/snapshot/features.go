package snapshot

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

// FeatureAuthorization is what a reader must know to serve what policies guard: one that did not would let everybody in.
const FeatureAuthorization = "authorization"
