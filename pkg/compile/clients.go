package compile

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// rootsKey is where a ConfigMap has the certificates that clients' chain to, in PEM.
const rootsKey = "ca.crt"

// askClients reads which certificates the clients of a listener show (GEP-91). One that should ask for them and has nothing
// to compare them with is refused: it would let in anybody.
func (l *listener) askClients(config *gatewayv1.GatewayTLSConfig, namespace string, gs *gateways) {
	if l.document.Protocol != gatewayv1.HTTPSProtocolType || config == nil || config.Frontend == nil {
		return
	}
	at, of := "spec.tls.frontend.default", config.Frontend.Default.Validation
	if i := slices.IndexFunc(config.Frontend.PerPort, func(p gatewayv1.TLSPortConfig) bool { return p.Port == l.document.Port }); i >= 0 {
		at, of = fmt.Sprintf("spec.tls.frontend.perPort[%d].tls", i), config.Frontend.PerPort[i].TLS.Validation
	}
	if of == nil {
		return
	}
	clients := &snapshot.IngressClients{Anybody: of.Mode == gatewayv1.AllowInsecureFallback}
	for i := range of.CACertificateRefs {
		roots, reason, problem := gs.clientRoots(&of.CACertificateRefs[i], namespace)
		if problem == "" {
			clients.Roots = append(clients.Roots, roots...)
		} else if l.badRefs == "" {
			l.badRefsWhy, l.badRefs = reason, fmt.Sprintf("%s.validation.caCertificateRefs[%d]: %s", at, i, problem)
		}
	}
	if len(clients.Roots) > 0 {
		l.clients = clients
	} else if l.refused == "" {
		l.reason, l.refused = gatewayv1.ListenerReasonNoValidCACertificate, at+".validation: none of caCertificateRefs can be used"
	}
}

// clientRoots finds what a caCertificateRef of a Gateway names. A ConfigMap of another namespace tells nothing, not even that
// it is there, unless that namespace allows it.
func (gs *gateways) clientRoots(ref *gatewayv1.ObjectReference, namespace string) ([]byte, gatewayv1.ListenerConditionReason, string) {
	if ref.Group != "" || ref.Kind != "ConfigMap" {
		return nil, gatewayv1.ListenerReasonInvalidCACertificateKind, "it is not a ConfigMap of the core group"
	}
	name := types.NamespacedName{Namespace: namespace, Name: string(ref.Name)}
	if ref.Namespace != nil && *ref.Namespace != "" {
		name.Namespace = string(*ref.Namespace)
	}
	if !gs.secrets.grants.allow(reference{gatewayv1.GroupName, "Gateway", namespace}, referred{"", "ConfigMap", name.Namespace, name.Name}) {
		return nil, gatewayv1.ListenerReasonRefNotPermitted, fmt.Sprintf("ConfigMap %s is of another namespace, and no ReferenceGrant there lets Gateways of namespace %s name it", name, namespace)
	}
	document := gs.roots[name]
	if document == nil {
		return nil, gatewayv1.ListenerReasonInvalidCACertificateRef, fmt.Sprintf("there is no ConfigMap %s", name)
	}
	roots := readRoots(document)
	if len(roots) == 0 {
		return nil, gatewayv1.ListenerReasonInvalidCACertificateRef, fmt.Sprintf("ConfigMap %s does not hold certificates in %s, in PEM", name, rootsKey)
	}
	return roots, "", ""
}

// readRoots returns the certificates of a ConfigMap, in PEM; none where one of them is not readable.
func readRoots(document *corev1.ConfigMap) []byte {
	var roots []byte
	for rest := []byte(document.Data[rootsKey]); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return roots
		}
		if _, err := x509.ParseCertificate(block.Bytes); block.Type != "CERTIFICATE" || err != nil {
			return nil
		}
		roots = append(roots, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
}

func hasClients(body *snapshot.Ingress) bool {
	return slices.ContainsFunc(body.GetListeners(), func(l *snapshot.IngressListener) bool { return l.GetTls().GetClients() != nil })
}
