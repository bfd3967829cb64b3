package mesh

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// webCertificate writes a certificate of 127.0.0.1 that signs itself, as a web server's, and its key.
func webCertificate(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "web.crt"), filepath.Join(dir, "web.key")
	for file, block := range map[string]*pem.Block{certificate: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}

// bundle is that of a mesh's trust domain, as its operator would give it to another's.
func (m *Mesh) bundle() string {
	m.t.Helper()
	var out json.RawMessage
	m.must("read the bundle", launch.Call(m.t.Context(), m.Socket(), http.MethodGet, report.PathBundle, nil, &out))
	return string(out)
}

// federate applies a FederatedTrustDomain.
func (m *Mesh) federate(name, domain, endpoint, bundle string) {
	m.t.Helper()
	document := fmt.Sprintf("apiVersion: sennit.dev/v1alpha1\nkind: FederatedTrustDomain\nmetadata: {name: %s}\nspec:\n  trustDomain: %s\n  endpoint: %s\n", name, domain, endpoint)
	if bundle != "" {
		document += fmt.Sprintf("  bundle: %q\n", bundle)
	}
	m.MustApply(document)
}

// awaitFederated waits until a document's conditions are as wanted.
func (m *Mesh) awaitFederated(name string, conditions map[string]metav1.ConditionStatus) {
	m.t.Helper()
	m.Eventually(fmt.Sprintf("%s is %v", name, conditions), func(context.Context) error {
		var f api.FederatedTrustDomain
		if err := m.Read("FederatedTrustDomain", "default/"+name, &f); err != nil {
			return err
		}
		for kind, want := range conditions {
			found := metav1.ConditionStatus("missing")
			for _, c := range f.Status.Conditions {
				if c.Type == kind {
					found = c.Status
				}
			}
			if found != want {
				return fmt.Errorf("%+v", f.Status.Conditions)
			}
		}
		return nil
	})
}

// awaitDomain waits until an application believes so many roots and keys of a trust domain; of none it is not told.
func (a *Application) awaitDomain(domain, want string) {
	a.m.t.Helper()
	a.m.Eventually(fmt.Sprintf("%s of %s", want, domain), func(ctx context.Context) error {
		got, err := a.Ask(ctx, "domains")
		if err != nil {
			return err
		}
		if found := strings.Contains(got, domain+" "); found != (want != "") || found && !strings.Contains(got, domain+" "+want) {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
}

// TestFederation has processes of two meshes with trust domains of their own authenticate each other: one mesh serves its
// bundle by https_spiffe, the other by https_web.
func TestFederation(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: processes become other users")
	}
	certificate, key := webCertificate(t)
	t.Setenv("SSL_CERT_FILE", certificate) // the controllers' own roots of the web
	ports, err := launch.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	const partner, partnerPayments = "partner.example", "spiffe://partner.example/ns/default/svc/payments"
	here, there := fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	m, endpoint := workloads(t, Config{Waits: true, ControllerFlags: []string{"--bundle-endpoint", here}})
	other, otherEndpoint := workloads(t, Config{Waits: true, ControllerFlags: []string{
		"--trust-domain", partner, "--bundle-endpoint", there, "--bundle-certificate", certificate, "--bundle-key", key}})
	orders, payments := m.Application("orders", ordersUser, endpoint), other.Application("payments", paymentsUser, otherEndpoint)
	orders.awaitID(ordersID)
	payments.awaitID(partnerPayments)
	payments.MustAsk(t, "serve")
	if got, err := orders.Ask(t.Context(), "call", payments.Serves, partnerPayments); err == nil {
		t.Fatalf("another trust domain is believed without a document: %s", got)
	}

	m.federate("partner", partner, "{url: 'https://"+there+"/', profile: https_web}", "")
	other.federate("sennit", "sennit.local", "{url: 'https://"+here+"/', profile: https_spiffe, spiffeID: 'spiffe://sennit.local/controller/controller'}", m.bundle())
	both := map[string]metav1.ConditionStatus{"Accepted": metav1.ConditionTrue, "Fetched": metav1.ConditionTrue}
	m.awaitFederated("partner", both)
	other.awaitFederated("sennit", both)
	orders.awaitDomain(partner, "1 1")
	payments.awaitDomain("sennit.local", "1 1")
	m.Eventually("a call from one trust domain to the other", func(ctx context.Context) error { // sources hear a moment later
		got, err := orders.Ask(ctx, "call", payments.Serves, partnerPayments)
		if err == nil && got != ordersID {
			t.Errorf("payments takes orders for %s", got)
		}
		return err
	})
	token := orders.MustAsk(t, "token", "payments")
	m.Eventually("a token of one trust domain in the other", func(ctx context.Context) error {
		got, err := payments.Ask(ctx, "validate", "payments", token)
		if err == nil && got != ordersID {
			t.Errorf("payments takes orders for %s", got)
		}
		return err
	})

	// Nobody else speaks for the mesh's own trust domain, nor for one that another document has.
	m.federate("ourselves", "sennit.local", "{url: 'https://"+there+"/', profile: https_web}", "")
	m.federate("second", partner, "{url: 'https://127.0.0.1:1/', profile: https_web}", "")
	m.awaitFederated("ourselves", map[string]metav1.ConditionStatus{"Accepted": metav1.ConditionFalse})
	m.awaitFederated("second", map[string]metav1.ConditionStatus{"Accepted": metav1.ConditionFalse})
	orders.awaitDomain("sennit.local", "1 1")

	// While the endpoint is away, and after a restart, what it served counts on.
	other.StopPart(other.Controller())
	m.StopPart(m.Controller())
	m.RestartController()
	m.awaitFederated("partner", map[string]metav1.ConditionStatus{"Accepted": metav1.ConditionTrue, "Fetched": metav1.ConditionFalse})
	orders.awaitDomain(partner, "1 1")
	if got := orders.MustAsk(t, "call", payments.Serves, partnerPayments); got != ordersID {
		t.Errorf("payments takes orders for %s", got)
	}

	m.must("take the second document back", launch.Call(t.Context(), m.Socket(), http.MethodDelete, "/apis/sennit.dev/v1alpha1/federatedtrustdomains/second", nil, nil))
	m.must("take the document back", launch.Call(t.Context(), m.Socket(), http.MethodDelete, "/apis/sennit.dev/v1alpha1/federatedtrustdomains/partner", nil, nil))
	orders.awaitDomain(partner, "")
	m.Eventually("the other trust domain is believed no more", func(ctx context.Context) error {
		if got, err := orders.Ask(ctx, "call", payments.Serves, partnerPayments); err == nil {
			return fmt.Errorf("it answers %s", got)
		}
		return nil
	})
}
