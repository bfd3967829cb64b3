package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
)

// bankName is in the bank's certificate, which the bank makes itself.
const bankName = "bank.example"

// startBank starts a host that knows nothing of the mesh, and declares who may lead there and who lets in.
func (s *show) startBank() error {
	bank := s.ports.of("bank")
	if _, err := s.mesh.Run("bank", s.cfg.Program, "demo", "shop", "bank", "--listen", bank, "--certificate", s.bankCertificate()); err != nil {
		return err
	}
	// On this one machine the bank has an address of the egress host itself, which nobody but its services.d opens.
	if err := s.mesh.Declare("host2", "bank.yaml", "service: shop/bank\negress: {allow: [127.0.0.1/32]}\n"); err != nil {
		return err
	}
	return s.mesh.Declare("host1", "edge.yaml", fmt.Sprintf("service: shop/edge\ngateway: {address: 127.0.0.1}\nlisteners: [{as: shop/storefront, to: \"shop/bank:%d\", address: %q}]\n",
		netip.MustParseAddrPort(bank).Port(), s.ports.of("storefront → bank")))
}

func (s *show) bankCertificate() string { return filepath.Join(s.dir, "bank.pem") }

// border lets a client outside in, and a service call outside.
func (s *show) border(ctx context.Context) error {
	for _, d := range gatewayDocuments(netip.MustParseAddrPort(s.ports.of("edge")).Port()) {
		if err := s.apply(ctx, d); err != nil {
			return err
		}
	}
	edge := "http://" + s.ports.of("edge") + "/prices"
	if err := untilAnswered(ctx, edge, "all"); err != nil {
		return err
	}
	s.view.say("Gateway edge: host1 lets clients outside in, by host and path. By hand: curl %s", edge)

	certificate, err := os.ReadFile(s.bankCertificate())
	if err != nil {
		return err
	}
	if err := s.apply(ctx, bankDocument(netip.MustParseAddrPort(s.ports.of("bank")).Port(), string(certificate))); err != nil {
		return err
	}
	bank := "http://" + s.ports.of("storefront → bank") + "/rates"
	if err := untilAnswered(ctx, bank, "service"); err != nil {
		return err
	}
	s.view.say("ExternalService bank: the storefront calls an HTTPS host outside through host2,\nwhich verifies its certificate. By hand: curl %s", bank)
	return nil
}

// untilAnswered asks until JSON with a field comes back.
func untilAnswered(ctx context.Context, url, field string) error {
	within, cancel := context.WithTimeout(ctx, slowTime)
	defer cancel()
	client := &http.Client{Timeout: slowTime}
	defer client.CloseIdleConnections()
	for {
		body, err := get(within, client, url, "outside")
		if err == nil {
			var answer map[string]any
			if err = json.Unmarshal(body, &answer); err == nil && answer[field] != nil {
				return nil
			}
			err = fmt.Errorf("it answered %q: %w", body, err)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case within.Err() != nil:
			return fmt.Errorf("%w: %s was not answered as it must be within %s: %w", ErrNotShown, url, slowTime, err)
		}
		pauseFor(within, 5*pause)
	}
}

// gatewayDocuments open a port outside, and lead from there to the storefront.
func gatewayDocuments(port uint16) []document {
	const group, version = "/apis/gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1"
	return []document{
		{group, "gateways", "edge", map[string]any{
			"apiVersion": version, "kind": "Gateway",
			"metadata": map[string]any{"namespace": "shop", "name": "edge"},
			"spec": map[string]any{
				"gatewayClassName": "sennit",
				"listeners":        []any{map[string]any{"name": "web", "port": port, "protocol": "HTTP"}},
			},
		}},
		{group, "httproutes", "outside", map[string]any{
			"apiVersion": version, "kind": "HTTPRoute",
			"metadata": map[string]any{"namespace": "shop", "name": "outside"},
			"spec": map[string]any{
				"parentRefs": []any{map[string]any{"name": "edge"}},
				"rules": []any{map[string]any{
					"matches":     []any{map[string]any{"path": map[string]any{"type": "PathPrefix", "value": "/prices"}}},
					"backendRefs": []any{map[string]any{"name": "storefront", "port": 80}},
				}},
			},
		}},
	}
}

// bankDocument is the bank as a service of the mesh.
func bankDocument(port uint16, certificate string) document {
	return document{"/apis/sennit.dev/v1alpha1", "externalservices", "bank", map[string]any{
		"apiVersion": "sennit.dev/v1alpha1", "kind": "ExternalService",
		"metadata": map[string]any{"namespace": "shop", "name": "bank"},
		"spec": map[string]any{
			"host": "127.0.0.1", "port": port, "protocol": "HTTP",
			"tls": map[string]any{"mode": "Simple", "serverName": bankName, "caBundle": certificate},
		},
	}}
}
