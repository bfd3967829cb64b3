package compile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// certificateSecret is a Secret with a certificate, and its key as nodes get it.
func certificateSecret(t *testing.T, namespace, name string) (secret *corev1.Secret, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.example"}, NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	secret = &corev1.Secret{Type: corev1.SecretTypeTLS, Data: map[string][]byte{
		"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	}}
	secret.Namespace, secret.Name = namespace, name
	return secret, pkcs8
}

// TestCertificatesOfListeners: what a listener of protocol HTTPS may name, and what is said where it names something
// else. A listener without any certificate is not opened; one with some is.
func TestCertificatesOfListeners(t *testing.T) {
	grant := func(kind, to string) string {
		return "kind: ReferenceGrant\nmetadata: {name: g, namespace: vault}\nspec: {from: [{group: gateway.networking.k8s.io, kind: " + kind + ", namespace: shop}], to: [" + to + "]}"
	}
	for _, tt := range []struct{ name, tls, grant, resolved, programmed string }{
		{"a Secret", "{certificateRefs: [{name: good}]}", "", "True ResolvedRefs", "True Programmed"},
		{"nothing", "{}", "", "False InvalidCertificateRef", "False Invalid"},
		{"no such Secret", "{certificateRefs: [{name: none}]}", "", "False InvalidCertificateRef", "False Invalid"},
		{"one of two", "{certificateRefs: [{name: none}, {name: good}]}", "", "False InvalidCertificateRef", "True Programmed"},
		{"another kind", "{certificateRefs: [{name: good, kind: ConfigMap}]}", "", "False InvalidCertificateRef", "False Invalid"},
		{"another group", "{certificateRefs: [{name: good, group: example.com}]}", "", "False InvalidCertificateRef", "False Invalid"},
		{"another type", "{certificateRefs: [{name: opaque}]}", "", "False InvalidCertificateRef", "False Invalid"},
		{"no certificate in it", "{certificateRefs: [{name: malformed}]}", "", "False InvalidCertificateRef", "False Invalid"},
		{"another's key", "{certificateRefs: [{name: mixed}]}", "", "False InvalidCertificateRef", "False Invalid"},
		{"another namespace", "{certificateRefs: [{name: far, namespace: vault}]}", "", "False RefNotPermitted", "False Invalid"},
		{"another namespace, and not there", "{certificateRefs: [{name: none, namespace: vault}]}", "", "False RefNotPermitted", "False Invalid"},
		{"by a grant", "{certificateRefs: [{name: far, namespace: vault}]}", grant("Gateway", `{group: "", kind: Secret}`), "True ResolvedRefs", "True Programmed"},
		{"by a grant of this one", "{certificateRefs: [{name: far, namespace: vault}]}", grant("Gateway", `{group: "", kind: Secret, name: far}`), "True ResolvedRefs", "True Programmed"},
		{"by a grant of another", "{certificateRefs: [{name: far, namespace: vault}]}", grant("Gateway", `{group: "", kind: Secret, name: near}`), "False RefNotPermitted", "False Invalid"},
		{"by a grant to others", "{certificateRefs: [{name: far, namespace: vault}]}", grant("HTTPRoute", `{group: "", kind: Secret}`), "False RefNotPermitted", "False Invalid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := withGateway(t, "{name: a, port: 443, protocol: HTTPS, tls: "+tt.tls+"}", "", "shop")
			if tt.grant != "" {
				in.Grants = InputOf(t, tt.grant).Grants
			}
			good, _ := certificateSecret(t, "shop", "good")
			far, _ := certificateSecret(t, "vault", "far")
			opaque, malformed, mixed := good.DeepCopy(), good.DeepCopy(), good.DeepCopy()
			opaque.Name, opaque.Type = "opaque", corev1.SecretTypeOpaque
			malformed.Name, malformed.Data["tls.crt"] = "malformed", []byte("Hello world")
			mixed.Name, mixed.Data["tls.key"] = "mixed", far.Data["tls.key"]
			in.Secrets = []*corev1.Secret{good, far, opaque, malformed, mixed}
			in.Instances = append(in.Instances, opened("h1", "10.0.0.1", &snapshot.GatewayPort{Number: 443}))
			o := Compile(in)
			l := edgeStatus(t, o).Listeners[0]
			if got := said(t, l.Conditions, "ResolvedRefs"); got != tt.resolved {
				t.Errorf("ResolvedRefs: %s; %+v", got, l.Conditions)
			}
			if got := said(t, l.Conditions, "Programmed"); got != tt.programmed {
				t.Errorf("Programmed: %s; %+v", got, l.Conditions)
			}
			if got := said(t, l.Conditions, "Accepted"); got != "True Accepted" || l.AttachedRoutes != 1 || len(l.SupportedKinds) != 2 {
				t.Errorf("Accepted: %s, %d routes", got, l.AttachedRoutes)
			}
			body, _ := o.Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound)
			if opens := tt.programmed == "True Programmed"; opens != (body.GetIngress() != nil) {
				t.Errorf("nodes are told %v", body)
			}
			if body != nil && (body.Ingress.Listeners[0].Tls == nil || !slices.Contains(Requires(body), snapshot.FeatureIngressTLS)) {
				t.Errorf("a node could open it without TLS: %v", body)
			}
		})
	}
}

// TestKeysGoToTheNodesOfTheGateway: configuration holds a private key for the nodes that run the Gateway, sealed to each
// of them, and nowhere else.
func TestKeysGoToTheNodesOfTheGateway(t *testing.T) {
	in := withGateway(t, "{name: a, port: 443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: good}]}}, {name: b, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good}]}}", "", "shop")
	good, key := certificateSecret(t, "shop", "good")
	in.Secrets, in.Seal = []*corev1.Secret{good}, snapshot.SealKey
	mine, err := snapshot.NewSealingKey()
	must(t, err)
	other, err := snapshot.NewSealingKey()
	must(t, err)
	run := opened("h1", "10.0.0.1")
	run.Gateway.SealingKey = mine.PublicKey().Bytes()
	lost := opened("h2", "10.0.0.2")
	lost.Gateway.SealingKey = other.PublicKey().Bytes()
	in.Instances, in.Lost = []*snapshot.Instance{run, lost, opened("old", "10.0.0.3")}, map[string]bool{"h2": true}
	o := Compile(in)
	for subject, body := range o.Bodies {
		data, err := proto.Marshal(body)
		must(t, err)
		if bytes.Contains(data, key) || bytes.Contains(data, []byte("PRIVATE KEY")) || bytes.Contains(data, good.Data["tls.key"]) {
			t.Errorf("%s holds the key in the clear", subject)
		}
	}
	ingress := o.Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound).Ingress
	if len(ingress.Certificates) != 1 || len(ingress.Certificates[0].Keys) != 1 {
		t.Fatalf("%v", ingress)
	}
	sealed := ingress.Certificates[0].Keys[0].Sealed
	got, err := snapshot.OpenKey(mine, "shop/edge", sealed)
	if block, _ := pem.Decode(got); err != nil || block == nil || !bytes.Equal(block.Bytes, key) {
		t.Errorf("%v", err)
	}
	if _, err := snapshot.OpenKey(other, "shop/edge", sealed); err == nil {
		t.Error("a node that is lost opened it")
	}
}
