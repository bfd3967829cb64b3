package ca

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// The paths of SPIFFE IDs within a trust domain. They are part of the product's interface: policies and
// other meshes refer to them.
const (
	pathNamespace  = "/ns/"
	pathService    = "/svc/"
	pathNode       = "/node/"
	pathController = "/controller/"
)

// ServiceID is the SPIFFE ID of a service: spiffe://<trust domain>/ns/<namespace>/svc/<name>.
func ServiceID(trustDomain string, service exchange.ServiceName) string {
	return "spiffe://" + trustDomain + pathNamespace + service.Namespace + pathService + service.Name
}

// NodeID is the SPIFFE ID of a node: spiffe://<trust domain>/node/<name>.
func NodeID(trustDomain, node string) string {
	return "spiffe://" + trustDomain + pathNode + node
}

// ControllerID is the SPIFFE ID of a controller: spiffe://<trust domain>/controller/<name>.
func ControllerID(trustDomain, controller string) string {
	return "spiffe://" + trustDomain + pathController + controller
}

// serviceOf reads the service out of a SPIFFE ID of ours; false for every other ID.
func serviceOf(id spiffeid.ID) (exchange.ServiceName, bool) {
	rest, found := strings.CutPrefix(id.Path(), pathNamespace)
	if !found {
		return exchange.ServiceName{}, false
	}
	namespace, name, found := strings.Cut(rest, pathService)
	if !found || !exchange.IsLabel(namespace) || !exchange.IsLabel(name) {
		return exchange.ServiceName{}, false
	}
	return exchange.ServiceName{Namespace: namespace, Name: name}, true
}

// CheckNodeName returns an error that says what is wrong with a node's name. A node is named like one
// label of a host name, so that the name fits a SPIFFE ID, a subject and a DNS name as it is.
func CheckNodeName(node string) error {
	if !exchange.IsLabel(node) {
		return fmt.Errorf("node name %q: want 1 to 63 of a-z, 0-9 and \"-\", with a letter or digit at each end", node)
	}
	return nil
}

// checkTrustDomain refuses what SPIFFE-ID §2.1 does not allow, and names that X.509 name constraints
// cannot express (RFC 5280 §4.2.1.10).
func checkTrustDomain(name string) error {
	td, err := spiffeid.TrustDomainFromString(name)
	if err != nil || td.Name() != name || strings.ContainsAny(name, "_") || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") {
		return fmt.Errorf("trust domain %q: want a DNS name in lower case, such as mesh.example.com", name)
	}
	return nil
}

// parseServices reads "<ns>/<name>" names, refusing duplicates and more than maxServices.
func parseServices(names []string) ([]exchange.ServiceName, error) {
	if len(names) > maxServices {
		return nil, fmt.Errorf("%d services: a node runs at most %d", len(names), maxServices)
	}
	seen := make(map[exchange.ServiceName]bool, len(names))
	services := make([]exchange.ServiceName, 0, len(names))
	for _, name := range names {
		service, err := exchange.ParseServiceName(name)
		if err != nil {
			return nil, err
		}
		if seen[service] {
			return nil, fmt.Errorf("service %s is listed twice", service)
		}
		seen[service] = true
		services = append(services, service)
	}
	return services, nil
}
