package report

import "time"

const (
	// PathRevocations (GET) answers a list of Revocation; (POST, Revoke) answers Revoked, 404 where there is no such
	// node or certificate, or Failure.
	PathRevocations = "/sennit/v1/revocations"
	// PathUndo (POST, Undo) answers Undone, 404 where the service is taken away from no node by revoking it everywhere, or
	// Failure.
	PathUndo = PathRevocations + "/undo"
	// PathCertificates (GET, ?node=NAME&service=NAMESPACE/NAME&state=revoked&serial=HEX) answers a list of HeldCertificate.
	PathCertificates = "/sennit/v1/certificates"
)

// Revoke is the body of a request to revoke a certificate (Serial), a service (Service, on one Node or on all), or a node
// (Node alone).
type Revoke struct {
	Serial  string `json:"serial,omitempty"`  // hexadecimal
	Service string `json:"service,omitempty"` // "namespace/name"
	Node    string `json:"node,omitempty"`
	Why     string `json:"why,omitempty"`
}

// Revoked is what was revoked.
type Revoked struct {
	Holder   string   `json:"holder,omitempty"`   // SPIFFE ID of whose certificate it was, where it was one
	Node     string   `json:"node,omitempty"`     // that held it
	Nodes    []string `json:"nodes,omitempty"`    // that the service was taken away from
	Tokens   []string `json:"tokens,omitempty"`   // join tokens that would have let a host run it, and were taken back
	Restarts bool     `json:"restarts,omitempty"` // it was a controller's, which must be restarted to get another
}

// Undo is the body of a request to undo that a service was revoked on all nodes.
type Undo struct {
	Service string `json:"service"` // "namespace/name"
	Why     string `json:"why,omitempty"`
}

// Undone is what was undone.
type Undone struct {
	Nodes []string `json:"nodes"` // that may run the service again
}

// Revocation is one that is in force.
type Revocation struct {
	Serial   string    `json:"serial,omitempty"`
	Identity string    `json:"identity,omitempty"` // SPIFFE ID
	Node     string    `json:"node,omitempty"`
	Issued   time.Time `json:"issued,omitzero"` // certificates that are valid from then or earlier on are revoked
	Ends     time.Time `json:"ends"`            // when the last of these has expired
	Why      string    `json:"why,omitempty"`
}

// HeldCertificate is one that the controller issued.
type HeldCertificate struct {
	Node      string    `json:"node,omitempty"`    // that holds it; empty: the controller
	Service   string    `json:"service,omitempty"` // "namespace/name"; empty: it is the node's, or a controller's
	SPIFFEID  string    `json:"spiffeID"`
	Serial    string    `json:"serial"` // lower-case hexadecimal
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Issuer    string    `json:"issuer"` // name of the certificate that signed it
	State     string    `json:"state"`  // current, renewing, replaced, revoked or expired
}
