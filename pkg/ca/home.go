package ca

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
)

// nodeUnit marks the organizational unit of a certificate's subject that names the node. A SPIFFE ID says who somebody is
// and has no place for where; X509-SVID §4 leaves the subject to the authority.
const nodeUnit = "node "

// subjectOf is the subject of a certificate that a node asked for. The registry knows which one asks: it cannot name another.
func subjectOf(node string) pkix.Name {
	subject := pkix.Name{Organization: []string{"Sennit"}}
	if node != "" {
		subject.OrganizationalUnit = []string{nodeUnit + node}
	}
	return subject
}

// Home tells where a peer is from that Verify has approved: the trust domain of its SPIFFE ID, and the node that its
// certificate was issued to; "" where it names none, as those of older controllers do, or where the authority is not of
// this trust domain, for another's nodes have names of their own.
func (i *Identity) Home(state tls.ConnectionState) (trustDomain, node string) {
	leaf := state.PeerCertificates[0]
	trustDomain = leaf.URIs[0].Host
	if b := i.believed.Load(); b == nil || b.trustDomain != trustDomain {
		return trustDomain, ""
	}
	return trustDomain, nodeOf(leaf)
}

// nodeOf is the node that a certificate was issued to; "" where it names none.
func nodeOf(leaf *x509.Certificate) string {
	for _, unit := range leaf.Subject.OrganizationalUnit {
		if name, is := strings.CutPrefix(unit, nodeUnit); is {
			return name
		}
	}
	return ""
}
