package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// ports are the addresses of the demo on loopback, by what listens there.
type ports struct {
	names map[string]int
	free  []int
}

func (p *ports) of(name string) string {
	port, ok := p.names[name]
	if !ok {
		port, p.free = p.free[0], p.free[1:]
		p.names[name] = port
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

func (p *ports) lanes(host string) string { return p.of("lanes of " + host) }

// hosts are those that join.
var hosts = []string{"host1", "host2", "host3"}

// open starts controller, nodes and shop, and declares what runs where.
func (s *show) open(ctx context.Context) error {
	free, err := launch.FreePorts(32)
	if err != nil {
		return err
	}
	s.ports = ports{map[string]int{}, free}
	s.view.say("Starting a controller and three nodes (state and logs: %s) …", s.dir)
	if err := s.mesh.StartController(ctx); err != nil {
		return err
	}
	services := map[string][]string{
		"host1": {"shop/storefront", "shop/customers", "shop/scraper", "shop/edge"},
		"host2": {"shop/orders", "shop/payments", "shop/bank"},
		"host3": {"shop/orders", "shop/payments"},
	}
	for _, host := range hosts {
		if _, err := s.mesh.Join(ctx, host, s.ports.lanes(host), services[host]...); err != nil {
			return err
		}
	}
	if err := errors.Join(s.startShop(), s.startBank()); err != nil {
		return err
	}
	for _, version := range []string{"v1", "v2"} {
		if err := s.apply(ctx, versionService(version)); err != nil {
			return err
		}
	}
	if err := s.split(ctx, 100, 0); err != nil {
		return err
	}
	s.traffic = newTraffic(s.ports.of("customers → storefront"))
	return s.firstCheckout(ctx)
}

// startShop starts the shop's processes and tells each node what runs on its host. The three hosts are one
// machine here: the nodes tell them apart by the listeners alone.
func (s *show) startShop() error {
	type process struct{ host, role, version, calls string }
	for _, p := range []process{
		{"host1", "storefront", "v1", "orders"},
		{"host2", "orders", "v1", "payments"}, {"host3", "orders", "v1", "payments"},
		{"host2", "payments", "v1", ""}, {"host3", "payments", "v1", ""},
		{"host2", "payments", "v2", ""}, {"host3", "payments", "v2", ""},
	} {
		name := fmt.Sprintf("%s-%s-%s", p.role, p.version, p.host)
		address := s.ports.of(name)
		argv := []string{s.cfg.Program, "demo", "shop", p.role, "--listen", address, "--as-version", p.version}
		document := fmt.Sprintf("service: shop/%s\ninstance: %s\nlabels: {version: %s}\nports: [{port: 80, name: http, protocol: http, address: %q}]\nhealth: {http: {port: http, path: /healthz}}\n",
			p.role, name, p.version, address)
		if p.calls != "" {
			listener := s.ports.of(name + " → " + p.calls)
			argv = append(argv, "--upstream", listener)
			document += fmt.Sprintf("listeners: [{as: shop/%s, to: shop/%s:80, address: %q}]\n", p.role, p.calls, listener)
		}
		if _, err := s.mesh.Run(name, argv...); err != nil {
			return err
		}
		if err := s.mesh.Declare(p.host, name+".yaml", document); err != nil {
			return err
		}
	}
	for _, caller := range []string{"customers", "scraper"} {
		document := fmt.Sprintf("service: shop/%[1]s\nlisteners: [{as: shop/%[1]s, to: shop/storefront:80, address: %[2]q}]\n",
			caller, s.ports.of(caller+" → storefront"))
		if err := s.mesh.Declare("host1", caller+".yaml", document); err != nil {
			return err
		}
	}
	return nil
}

// firstCheckout waits until the shop is open: before, nothing is counted.
func (s *show) firstCheckout(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, slowTime)
	defer cancel()
	for {
		_, err := s.traffic.checkout(ctx, customer(0))
		if err == nil {
			s.view.say("The shop is open.")
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the shop did not open within %s: %w", slowTime, err)
		}
		pauseFor(ctx, pause)
	}
}

// versionService is payments as one version of it: the instances that carry the label.
func versionService(version string) document {
	return document{"/api/v1", "services", "payments-" + version, map[string]any{
		"apiVersion": "v1", "kind": "Service",
		"metadata": map[string]any{"namespace": "shop", "name": "payments-" + version},
		"spec": map[string]any{
			"selector": map[string]any{"sennit.dev/service": "payments", "version": version},
			"ports":    []any{map[string]any{"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "http"}},
		},
	}}
}

// split applies the route that shares payments out, and returns when every node that uses it has it.
func (s *show) split(ctx context.Context, v1, v2 int) error {
	backend := func(version string, weight int) any {
		return map[string]any{"name": "payments-" + version, "port": 80, "weight": weight}
	}
	return s.apply(ctx, document{"/apis/gateway.networking.k8s.io/v1", "httproutes", "payments", map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
		"metadata": map[string]any{"namespace": "shop", "name": "payments"},
		"spec": map[string]any{
			"parentRefs": []any{map[string]any{"group": "", "kind": "Service", "name": "payments", "port": 80}},
			"rules":      []any{map[string]any{"backendRefs": []any{backend("v1", v1), backend("v2", v2)}}},
		},
	}})
}

func (s *show) edges(ctx context.Context) (edges []telemetry.GraphEdge, err error) {
	return edges, launch.Call(ctx, s.mesh.Socket(), http.MethodGet, report.PathEdges, nil, &edges)
}

// byHand are the commands that do what the demo does.
func (s *show) byHand() string {
	sennit := s.cfg.Program
	if strings.Contains(sennit, "/go-build") { // of `go run`: gone when it ends
		sennit = "go run ./cmd/sennit"
	}
	return fmt.Sprintf(`  export SENNIT_SOCKET=%[1]s
  %[2]s status
  %[2]s graph
  %[2]s quota
  %[2]s audit log
  %[2]s audit verify
  %[2]s get httproutes -n shop
  %[2]s get gateways,externalservices -n shop
  %[2]s get httproute payments -n shop -o yaml > payments.yaml    # change the weights, then:
  %[2]s diff -f payments.yaml
  %[2]s apply -f payments.yaml --wait
  %[2]s join-token create --node host4 --service shop/orders
  %[2]s kubeconfig > kubeconfig
  kubectl --kubeconfig kubeconfig -n shop get httproutes,services,endpointslices
  kubectl --kubeconfig kubeconfig -n shop edit httproute payments
  curl %[3]s
`, s.mesh.Socket(), sennit, s.traffic.url)
}
