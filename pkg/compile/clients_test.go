package compile

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// rootsConfigMap is a ConfigMap with a certificate that clients' may chain to.
func rootsConfigMap(t *testing.T, namespace, name string) *corev1.ConfigMap {
	t.Helper()
	secret, _ := certificateSecret(t, namespace, name)
	document := &corev1.ConfigMap{Data: map[string]string{"ca.crt": string(secret.Data["tls.crt"])}}
	document.Namespace, document.Name = namespace, name
	return document
}

// TestClientsOfListeners: a listener that should ask clients for certificates and has nothing to compare them with lets in
// nobody, and says why. It concerns HTTPS alone.
func TestClientsOfListeners(t *testing.T) {
	const (
		roots   = `{group: "", kind: ConfigMap, name: `
		refused = "False NoValidCACertificate"
	)
	validation := func(refs string) string {
		return "{frontend: {default: {validation: {caCertificateRefs: [" + refs + "]}}}}"
	}
	for _, tt := range []struct {
		name, tls, grant   string
		accepted, resolved string
		asks, anybody      bool
	}{
		{"nobody is asked", "{}", "", "True Accepted", "True ResolvedRefs", false, false},
		{"roots", validation(roots + "good}"), "", "True Accepted", "True ResolvedRefs", true, false},
		{"anybody", "{frontend: {default: {validation: {mode: AllowInsecureFallback, caCertificateRefs: [" + roots + "good}]}}}}", "", "True Accepted", "True ResolvedRefs", true, true},
		{"of another port", "{frontend: {default: {}, perPort: [{port: 444, tls: {validation: {caCertificateRefs: [" + roots + "none}]}}}]}}", "", "True Accepted", "True ResolvedRefs", false, false},
		{"of this port", "{frontend: {default: {validation: {caCertificateRefs: [" + roots + "none}]}}, perPort: [{port: 443, tls: {validation: {caCertificateRefs: [" + roots + "good}]}}}]}}", "", "True Accepted", "True ResolvedRefs", true, false},
		{"nobody on this port", "{frontend: {default: {validation: {caCertificateRefs: [" + roots + "good}]}}, perPort: [{port: 443, tls: {}}]}}", "", "True Accepted", "True ResolvedRefs", false, false},
		{"not there", validation(roots + "none}"), "", refused, "False InvalidCACertificateRef", false, false},
		{"empty", validation(roots + "empty}"), "", refused, "False InvalidCACertificateRef", false, false},
		{"one is not readable", validation(roots + "spoiled}"), "", refused, "False InvalidCACertificateRef", false, false},
		{"one of two", validation(roots + "none}, " + roots + "good}"), "", "True Accepted", "False InvalidCACertificateRef", true, false},
		{"another kind", validation(`{group: "", kind: Secret, name: good}`), "", refused, "False InvalidCACertificateKind", false, false},
		{"another group", validation(`{group: a.example, kind: ConfigMap, name: good}`), "", refused, "False InvalidCACertificateKind", false, false},
		{"another namespace", validation(roots + "far, namespace: vault}"), "", refused, "False RefNotPermitted", false, false},
		{"by a grant", validation(roots + "far, namespace: vault}"), `{group: "", kind: ConfigMap}`, "True Accepted", "True ResolvedRefs", true, false},
		{"by a grant of Secrets", validation(roots + "far, namespace: vault}"), `{group: "", kind: Secret}`, refused, "False RefNotPermitted", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := InputOf(t, class+`
---
kind: Gateway
metadata: {name: edge, namespace: shop, generation: 3}
spec:
  gatewayClassName: sennit
  listeners: [{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: s}]}}, {name: b, port: 80, protocol: HTTP}]
  tls: `+tt.tls)
			if tt.grant != "" {
				in.Grants = InputOf(t, "kind: ReferenceGrant\nmetadata: {name: g, namespace: vault}\nspec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}], to: ["+tt.grant+"]}").Grants
			}
			secret, _ := certificateSecret(t, "shop", "s")
			good, empty, spoiled := rootsConfigMap(t, "shop", "good"), rootsConfigMap(t, "shop", "empty"), rootsConfigMap(t, "shop", "spoiled")
			empty.Data["ca.crt"] = ""
			spoiled.Data["ca.crt"] += "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
			in.Secrets, in.ConfigMaps = []*corev1.Secret{secret}, []*corev1.ConfigMap{good, empty, spoiled, rootsConfigMap(t, "vault", "far")}
			o := Compile(in)
			status := edgeStatus(t, o)
			if got := said(t, status.Listeners[0].Conditions, "Accepted"); got != tt.accepted {
				t.Errorf("Accepted: %s", got)
			}
			if got := said(t, status.Listeners[0].Conditions, "ResolvedRefs"); got != tt.resolved {
				t.Errorf("ResolvedRefs: %s", got)
			}
			if got := said(t, status.Listeners[1].Conditions, "Accepted"); got != "True Accepted" {
				t.Errorf("the one without TLS: %s", got)
			}
			if got := said(t, status.Conditions, "InsecureFrontendValidationMode"); (got == "True ConfigurationChanged") != tt.anybody {
				t.Errorf("InsecureFrontendValidationMode: %s", got)
			}
			body := o.Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound)
			opened := body.Ingress.Listeners[0]
			if (opened.Name == "a") != (tt.accepted == "True Accepted") {
				t.Fatalf("nodes open %v", body.Ingress.Listeners)
			}
			if got := opened.GetTls().GetClients(); (got != nil) != tt.asks || got.GetAnybody() != tt.anybody || tt.asks && len(got.Roots) == 0 {
				t.Errorf("clients are asked %v", got)
			}
			if slices.Contains(Requires(body), snapshot.FeatureIngressClients) != tt.asks {
				t.Errorf("a node could let in anybody: it must know %v", Requires(body))
			}
		})
	}
}
