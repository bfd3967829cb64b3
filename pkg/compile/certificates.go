package compile

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// sealer is Input.Seal.
type sealer func(recipient []byte, gateway string, key []byte) ([]byte, error)

// Secrets are those that listeners may name.
type secrets struct {
	byName map[types.NamespacedName]*corev1.Secret
	grants *grants
	read   map[types.NamespacedName]*gatewayCertificate
}

func newSecrets(in Input, grants *grants) *secrets {
	s := &secrets{byName: make(map[types.NamespacedName]*corev1.Secret, len(in.Secrets)), grants: grants, read: map[types.NamespacedName]*gatewayCertificate{}}
	for _, document := range in.Secrets {
		s.byName[types.NamespacedName{Namespace: document.Namespace, Name: document.Name}] = document
	}
	return s
}

// A gatewayCertificate is what a Secret holds for listeners; problem says why it cannot be used.
type gatewayCertificate struct {
	chain, key []byte // PEM
	problem    string
}

// secureWith reads what a listener of protocol HTTPS or TLS says of TLS.
func (l *listener) secureWith(config *gatewayv1.ListenerTLSConfig, from reference, gs *gateways) {
	if config != nil && config.Mode != nil && *config.Mode != gatewayv1.TLSModeTerminate {
		l.passthrough = l.tcp && *config.Mode == gatewayv1.TLSModePassthrough
		if !l.passthrough {
			l.reason, l.refused = gatewayv1.ListenerReasonUnsupportedValue, fmt.Sprintf("tls.mode %s is not for protocol %s; Terminate is", *config.Mode, l.document.Protocol)
		}
		return
	}
	if config == nil || len(config.CertificateRefs) == 0 {
		l.badRefsWhy, l.badRefs = gatewayv1.ListenerReasonInvalidCertificateRef, "tls.certificateRefs is missing: name a Secret of type kubernetes.io/tls"
		return
	}
	for i := range config.CertificateRefs {
		certificate, reason, problem := gs.secrets.certificate(&config.CertificateRefs[i], from)
		if problem != "" {
			if l.badRefs == "" {
				l.badRefsWhy, l.badRefs = reason, fmt.Sprintf("tls.certificateRefs[%d]: %s", i, problem)
			}
			continue
		}
		l.certificates = append(l.certificates, certificate)
	}
}

// certificate finds what a certificateRef of a Gateway or a ListenerSet names. A Secret of another namespace tells nothing, not even that it
// is there, unless that namespace allows it.
func (s *secrets) certificate(ref *gatewayv1.SecretObjectReference, from reference) (*gatewayCertificate, gatewayv1.ListenerConditionReason, string) {
	if ref.Group != nil && *ref.Group != "" || ref.Kind != nil && *ref.Kind != "Secret" {
		return nil, gatewayv1.ListenerReasonInvalidCertificateRef, "it is not a Secret of the core group"
	}
	name := types.NamespacedName{Namespace: from.namespace, Name: string(ref.Name)}
	if ref.Namespace != nil && *ref.Namespace != "" {
		name.Namespace = string(*ref.Namespace)
	}
	if !s.grants.allow(from, referred{"", "Secret", name.Namespace, name.Name}) {
		return nil, gatewayv1.ListenerReasonRefNotPermitted, fmt.Sprintf("Secret %s is of another namespace, and no ReferenceGrant there lets %ss of namespace %s name it", name, from.kind, from.namespace)
	}
	document := s.byName[name]
	if document == nil {
		return nil, gatewayv1.ListenerReasonInvalidCertificateRef, fmt.Sprintf("there is no Secret %s", name)
	}
	certificate := s.read[name]
	if certificate == nil {
		certificate = readCertificate(document)
		s.read[name] = certificate
	}
	if certificate.problem != "" {
		return nil, gatewayv1.ListenerReasonInvalidCertificateRef, fmt.Sprintf("Secret %s %s", name, certificate.problem)
	}
	return certificate, "", ""
}

// readCertificate checks that a Secret holds a certificate and its key. No problem says anything of the key.
func readCertificate(document *corev1.Secret) *gatewayCertificate {
	if document.Type != corev1.SecretTypeTLS {
		return &gatewayCertificate{problem: fmt.Sprintf("is of type %s; kubernetes.io/tls is needed", document.Type)}
	}
	pair, err := tls.X509KeyPair(document.Data[corev1.TLSCertKey], document.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return &gatewayCertificate{problem: "does not hold a certificate in tls.crt and its private key in tls.key, both PEM"}
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return &gatewayCertificate{problem: "holds a key that is neither RSA, ECDSA nor Ed25519"}
	}
	// Only what was understood goes to nodes: a Secret may hold other keys before and behind.
	c := &gatewayCertificate{key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})}
	for _, der := range pair.Certificate {
		c.chain = append(c.chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return c
}

// addCertificates adds a listener's certificates, with their keys sealed to the nodes that run the gateway.
func (g *gateway) addCertificates(body *snapshot.Ingress, l *listener, seal sealer) *snapshot.IngressTLS {
	config := &snapshot.IngressTLS{Clients: l.clients}
	for _, c := range l.certificates {
		at := slices.IndexFunc(body.Certificates, func(known *snapshot.IngressCertificate) bool { return string(known.Chain) == string(c.chain) })
		if at < 0 {
			at = len(body.Certificates)
			body.Certificates = append(body.Certificates, &snapshot.IngressCertificate{Chain: c.chain, Keys: g.sealed(c, seal)})
		}
		config.Certificates = append(config.Certificates, uint32(at))
	}
	return config
}

// sealed is the key of a certificate for each node that said what to seal to; others tell in their status that they
// have none.
func (g *gateway) sealed(c *gatewayCertificate, seal sealer) []*snapshot.SealedKey {
	var keys []*snapshot.SealedKey
	for _, n := range g.nodes {
		if seal == nil || len(n.Gateway.SealingKey) == 0 {
			continue
		}
		if sealed, err := seal(n.Gateway.SealingKey, g.name.String(), c.key); err == nil { // else the node's key is none
			keys = append(keys, &snapshot.SealedKey{Recipient: n.Gateway.SealingKey, Sealed: sealed})
		}
	}
	return keys
}

func hasTCP(body *snapshot.Ingress) bool {
	return slices.ContainsFunc(body.GetListeners(), func(l *snapshot.IngressListener) bool { return l.Tcp })
}

func hasTLS(body *snapshot.Ingress) bool {
	return slices.ContainsFunc(body.GetListeners(), func(l *snapshot.IngressListener) bool { return l.Tls != nil })
}
