// Package ca says who is who: the authority that issues SPIFFE X.509-SVIDs, the registrar that lets nodes
// join and renew, and the identity that a node keeps of itself.
//
// Through it pass join tokens, certificate requests, certificates and receipts. It guarantees that private
// keys never leave the host that made them; that a node gets certificates only of services that the
// registry allows it; that a token admits one node once; that whoever carries the messages can lose them
// and nothing else, since requests are signed by the keys they ask for and replies by a key that the root
// certified; and that a renewal that was cut short anywhere is repeated with the same outcome.
//
// It does not decide who may call whom, does not watch whether nodes live, and knows no transport: the bus
// is handed in as something that answers requests.
//
// Start reading at authority.go and registrar.go for the controller, identity.go for the node, and
// generation.go for the rule that tells a renewal from a copied host.
package ca

//go:generate go run ../../internal/protogen
