package mesh

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestConnectionsFromOutside: a Gateway leads connections by the name that their client asks for with TLS, which ends at the
// process that has the certificate, or at the gateway; and connections without any by their port. TCPRoutes share them out.
func TestConnectionsFromOutside(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Services: []string{"default/edge", "default/vault", "default/lines", "default/web"}})
	vault, key := listenTLS(t)
	m.Write("two", fmt.Sprintf("service: default/vault\nports: [{port: 443, name: main, protocol: tcp, address: %q}]\n", vault))
	m.Serve("two", Service{Name: "default/lines", Version: "v1", Port: 5432, Protocol: "tcp"})
	m.Serve("three", Service{Name: "default/lines", Version: "v2", Port: 5432, Protocol: "tcp"})
	m.Write("one", "service: default/edge\ngateway: {address: 127.0.0.1}\n")
	inside := m.Listen("one", "default/web", "default/lines:5432")
	secure, plain := m.port(), m.port()
	m.MustApply(key + fmt.Sprintf(`
---
{apiVersion: v1, kind: Service, metadata: {name: vault}, spec: {ports: [{port: 443}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: lines}, spec: {ports: [{port: 5432}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: lines-v1}, spec: {ports: [{port: 5432}], selector: {sennit.dev/service: lines, version: v1}}}
---
{apiVersion: v1, kind: Service, metadata: {name: lines-v2}, spec: {ports: [{port: 5432}], selector: {sennit.dev/service: lines, version: v2}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: sennit
  listeners:
  - {name: passes, port: %[1]d, protocol: TLS, hostname: vault.example, tls: {mode: Passthrough}}
  - {name: ends, port: %[1]d, protocol: TLS, hostname: shop.example, tls: {certificateRefs: [{name: shop}]}}
  - {name: tcp, port: %[2]d, protocol: TCP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: vault}
spec: {parentRefs: [{name: edge}], hostnames: [vault.example], rules: [{backendRefs: [{name: vault, port: 443}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: shop}
spec: {parentRefs: [{name: edge, sectionName: ends}], hostnames: [shop.example], rules: [{backendRefs: [{name: lines-v1, port: 5432}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: lines}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: lines-v2, port: 5432}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: inside}
spec:
  parentRefs: [{name: lines, group: "", kind: Service}]
  rules: [{backendRefs: [{name: lines-v1, port: 5432, weight: 3}, {name: lines-v2, port: 5432, weight: 1}, {name: vault, port: 443, weight: 0}]}]
`, secure, plain))

	// dial connects, with TLS for a name where one is given, says something to the end, and returns what is said behind it.
	dial := func(ctx context.Context, address, server string) (string, error) {
		conn, err := m.Dial(ctx, "one", address)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		var both interface {
			io.ReadWriter
			CloseWrite() error
		} = conn.(*net.TCPConn)
		if server != "" {
			both = tls.Client(conn, &tls.Config{ServerName: server, InsecureSkipVerify: true})
		}
		if _, err := io.WriteString(both, "said"); err != nil {
			return "", err
		}
		if err := both.CloseWrite(); err != nil {
			return "", err
		}
		heard, err := io.ReadAll(both)
		if secured, ok := both.(*tls.Conn); ok && err == nil {
			heard = fmt.Appendf(heard, " certificate %d", secured.ConnectionState().PeerCertificates[0].SerialNumber)
		}
		return string(heard), err
	}
	for _, tt := range []struct {
		port         int
		server, want string
	}{
		{secure, "vault.example", "the vault: said certificate 7"},
		{secure, "shop.example", "v1\nsaid certificate 1"},
		{plain, "", "v2\nsaid"},
	} {
		m.Eventually(tt.want, func(ctx context.Context) error {
			got, err := dial(ctx, fmt.Sprintf("127.0.0.1:%d", tt.port), tt.server)
			if err == nil && got != tt.want {
				return fmt.Errorf("%q", got)
			}
			return err
		})
	}
	if got, err := dial(t.Context(), fmt.Sprintf("127.0.0.1:%d", secure), "other.example"); err == nil || got != "" {
		t.Errorf("a name that nobody has: %q, %v", got, err)
	}
	heard := map[string]int{}
	m.Eventually("connections of a caller in the mesh are shared out", func(ctx context.Context) error {
		got, err := dial(ctx, inside, "")
		if err != nil {
			return err
		}
		if heard[strings.TrimSuffix(got, "\nsaid")]++; heard["v1"] < 12 || heard["v2"] < 2 {
			return fmt.Errorf("%v", heard)
		}
		return nil
	})
	if len(heard) != 2 || heard["v1"] < heard["v2"] {
		t.Errorf("%v", heard)
	}
}

// listenTLS starts a process that speaks TLS with a certificate of its own, number 7, and returns where; and the document of a
// Secret with another, number 1.
func listenTLS(t *testing.T) (address, secret string) {
	t.Helper()
	secret, _ = certificateSecret(t, 1)
	certificate := newCertificate(t, 7)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if said, err := io.ReadAll(conn); err == nil {
					io.WriteString(conn, "the vault: "+string(said))
				}
			}()
		}
	}()
	return l.Addr().String(), secret
}
