package grpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sennit-mesh/sennit/internal/launch"
)

// TestInteropAtGateway runs the cases of TestInterop from outside, through a Gateway: with TLS, on which gRPC's client
// demands that HTTP/2 was agreed on, and without.
func TestInteropAtGateway(t *testing.T) {
	m, _ := startNodes(t, startServer(t), "grpc")
	certificate, key := newCertificate(t, "orders.example")
	secure, plain := startGateway(t, m, certificate, key)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	for _, tt := range []struct {
		name string
		port int
		by   credentials.TransportCredentials
	}{
		{"TLS", secure, credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "orders.example"})},
		{"prior knowledge", plain, insecure.NewCredentials()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := grpc.NewClient(fmt.Sprintf("passthrough:///127.0.0.1:%d", tt.port), grpc.WithAuthority("orders.example"), grpc.WithTransportCredentials(tt.by), byLoad)
			must(t, err)
			runInterop(t, conn)
		})
	}
}

// startGateway has a Gateway send everything to shop/orders, and returns the ports of its listeners with TLS and without.
func startGateway(t *testing.T, m *launch.Mesh, certificate, key []byte) (secure, plain int) {
	t.Helper()
	ports, err := launch.FreePorts(2)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, m.Declare("caller", "edge.yaml", "service: shop/edge\ngateway: {address: 127.0.0.1}\n"))
	for path, document := range map[string]string{
		"/api/v1/namespaces/shop/secrets/edge": fmt.Sprintf(`{"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "edge", "namespace": "shop"},
			"stringData": {"tls.crt": %q, "tls.key": %q}}`, certificate, key),
		gatewayAPI + "gateways/edge": fmt.Sprintf(`{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "edge", "namespace": "shop"},
			"spec": {"gatewayClassName": "sennit", "listeners": [
				{"name": "secure", "port": %d, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "edge"}]}},
				{"name": "plain", "port": %d, "protocol": "HTTP"}]}}`, ports[0], ports[1]),
		gatewayAPI + "httproutes/orders": `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "orders", "namespace": "shop"},
			"spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "orders", "port": 80}]}]}}`,
	} {
		must(t, m.Apply(ctx, path, raw(document)))
	}
	return ports[0], ports[1]
}

// A raw document is JSON already.
type raw string

func (r raw) MarshalJSON() ([]byte, error) { return []byte(r), nil }

// newCertificate returns a certificate of a name, which is its own authority, and its key, PEM.
func newCertificate(t *testing.T, name string) (certificate, key []byte) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Unix(1<<32, 0), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}
