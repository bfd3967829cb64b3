package mesh

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestServiceThatSpeaksTLS calls a process that speaks TLS by two Services that lead to it, of which each has a policy of its
// own: by the name that one asks for it is not believed. Once its authority is believed no more it gets no request, not even
// over a connection that is open; and its node goes on so after it started again with no controller there.
func TestServiceThatSpeaksTLS(t *testing.T) {
	t.Parallel()
	process := startOutside(t)
	m := Start(t, Config{Services: []string{"shop/web", "shop/orders"}})
	m.must("declare", m.Declare("two", "orders.yaml", fmt.Sprintf(
		"service: shop/orders\nlabels: {tls: yes}\nports:\n- {port: 443, protocol: http, address: \"127.0.0.1:%d\"}\n", process.port)))
	authority := func(pem string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: shop, name: authority}\ndata:\n  ca.crt: |" + pem + "\n"
	}
	policy := func(service, hostname string) string {
		return fmt.Sprintf(`{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {namespace: shop, name: %s}, `+
			`spec: {targetRefs: [{group: "", kind: Service, name: %s}], validation: {hostname: %s, caCertificateRefs: [{group: "", kind: ConfigMap, name: authority}]}}}`,
			service, service, hostname)
	}
	m.MustApply(strings.Join([]string{
		`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{port: 443, appProtocol: https}]}}`,
		`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: all}, spec: {ports: [{port: 443, appProtocol: https}], selector: {tls: "yes"}}}`,
		authority(process.ca), policy("orders", "example.com"), policy("all", "orders.example"),
	}, "\n---\n"))
	orders, all := m.Listen("one", "shop/web", "shop/orders:443"), m.Listen("one", "shop/web", "shop/all:443")
	gets := func(address string, status int, says string) func(context.Context) error {
		return func(ctx context.Context) error {
			response, body, err := m.Get(ctx, "one", address, "/x")
			if err != nil {
				return err
			}
			if got := response.Header.Get("sennit-reason") + body; response.StatusCode != status || !strings.HasPrefix(got, says) {
				return fmt.Errorf("%s %q", response.Status, got)
			}
			return nil
		}
	}
	m.Eventually("an answer of the process", gets(orders, http.StatusOK, "outside GET /x"))
	m.Eventually("by the other Service it is not believed", gets(all, http.StatusBadGateway, "tls-failed"))
	if got := process.proto.Load(); got != "HTTP/1.1" {
		t.Errorf("it is spoken to in %v", got)
	}

	other := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: newCertificate(t, 1).Certificate[0]})
	m.MustApply(authority(indented(other)))
	m.Eventually("its authority is believed no more", gets(orders, http.StatusBadGateway, "tls-failed"))
	before := process.requests.Load()
	m.StopPart(m.Controller())
	m.StopPart(m.Node("two"))
	m.RestartNode("two")
	m.Eventually("nor without a controller", gets(orders, http.StatusBadGateway, "tls-failed"))
	if now := process.requests.Load(); now != before {
		t.Errorf("%d requests reached a process that is not believed", now-before)
	}
}
