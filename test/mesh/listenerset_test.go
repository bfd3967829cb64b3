package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestListenerSet: another namespace's listener, with a certificate of its own, is opened at a Gateway once that lets it and
// closed when it does not any more, beside those of the Gateway, which go on as they were.
func TestListenerSet(t *testing.T) {
	t.Parallel()
	e := startEdge(t, "default/storefront", "default/edge")
	port := e.Mesh.port()
	document, _ := certificateSecret(t, 7)
	e.MustApply(strings.Join([]string{
		strings.Replace(document, "name: shop", "namespace: desk, name: shop", 1),
		fmt.Sprintf(`{apiVersion: gateway.networking.k8s.io/v1, kind: ListenerSet, metadata: {namespace: desk, name: shop}, spec: {parentRef: {name: edge, namespace: default}, `+
			`listeners: [{name: tls, port: %d, protocol: HTTPS, hostname: shop.example, tls: {certificateRefs: [{name: shop}]}}]}}`, port),
		`{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {namespace: default, name: desk}, spec: {` +
			`from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: desk}], to: [{group: "", kind: Service}]}}`,
		`{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {namespace: desk, name: shop}, spec: {` +
			`parentRefs: [{kind: ListenerSet, name: shop}], rules: [{backendRefs: [{name: storefront-v2, namespace: default, port: 80}]}]}}`,
	}, "\n---\n"))
	allow := func(from string) {
		e.MustApply(fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  gatewayClassName: sennit\n"+
			"  listeners: [{name: http-%d, port: %d, protocol: HTTP}]\n  allowedListeners: {namespaces: {from: %s}}\n", e.port, e.port, from))
	}
	ask := func(ctx context.Context) (serial int64, body string, err error) {
		client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				return e.Dial(ctx, "two", address)
			},
			TLSClientConfig: &tls.Config{ServerName: "shop.example", InsecureSkipVerify: true},
		}}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/", port), nil)
		if err != nil {
			return 0, "", err
		}
		request.Host = "shop.example"
		response, err := client.Do(request)
		if err != nil {
			return 0, "", err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return response.TLS.PeerCertificates[0].SerialNumber.Int64(), string(text), err
	}
	closed := func(ctx context.Context) error {
		if _, body, err := ask(ctx); !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%q %w", body, err)
		}
		return nil
	}
	e.must("before it is allowed", closed(t.Context()))
	allow("All")
	e.Eventually("the set's listener", func(ctx context.Context) error {
		if serial, body, err := ask(ctx); err != nil || serial != 7 || body != "v2" {
			return fmt.Errorf("certificate %d, %q, %w", serial, body, err)
		}
		return nil
	})
	e.awaitHost("shop.example", http.StatusOK, "v1")
	allow("Same")
	e.Eventually("the set's listener is closed", closed)
	e.awaitHost("shop.example", http.StatusOK, "v1")
}
