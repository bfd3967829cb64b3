package mesh

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// edge is a mesh whose node one is gateway default/edge, and where default/storefront runs on two as v1 and on three
// as v2.
type edge struct {
	*Mesh
	port int
}

const storefronts = `{apiVersion: v1, kind: Service, metadata: {name: storefront}, spec: {ports: [{port: 80, appProtocol: http}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: storefront-v1}, spec: {ports: [{port: 80, appProtocol: http}], selector: {sennit.dev/service: storefront, version: v1}}}
---
{apiVersion: v1, kind: Service, metadata: {name: storefront-v2}, spec: {ports: [{port: 80, appProtocol: http}], selector: {sennit.dev/service: storefront, version: v2}}}
`

// startEdge starts it where every node may run services, or with the gateway only declared where it is not among them.
func startEdge(t *testing.T, services ...string) *edge {
	e := &edge{Mesh: Start(t, Config{Services: services, Flags: []string{"--access-log-share", "1"}})}
	e.Serve("two", Service{Name: "default/storefront", Version: "v1"})
	e.Serve("three", Service{Name: "default/storefront", Version: "v2"})
	e.Write("one", "service: default/edge\ngateway: {address: 127.0.0.1}\n")
	e.port = e.Mesh.port()
	e.MustApply(storefronts)
	e.listeners(e.port)
	e.route("storefront-v1")
	if slices.Contains(services, "default/edge") {
		e.awaitHost("shop.example", http.StatusOK, "v1")
	}
	return e
}

// listeners has the Gateway listen on ports, as HTTP.
func (e *edge) listeners(ports ...int) {
	e.t.Helper()
	var all strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&all, "\n  - {name: http-%d, port: %d, protocol: HTTP}", p, p)
	}
	e.MustApply("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  gatewayClassName: sennit\n  listeners:" + all.String() + "\n")
}

func (e *edge) route(service string) {
	e.t.Helper()
	e.MustApply(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: edge}]
  hostnames: [shop.example]
  rules: [{backendRefs: [{name: ` + service + `, port: 80}]}]
`)
}

// ask sends one request from outside.
func (e *edge) ask(ctx context.Context, port int, host string) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
	if err != nil {
		return 0, "", err
	}
	request.Host = host
	response, err := e.Client("two").Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text := new(strings.Builder)
	_, err = fmt.Fprint(text, response.Header.Get("Sennit-Reason"))
	if response.StatusCode == http.StatusOK {
		text.Reset()
		buffer := make([]byte, 64)
		n, _ := response.Body.Read(buffer)
		text.Write(buffer[:n])
	}
	return response.StatusCode, text.String(), err
}

func (e *edge) awaitHost(host string, status int, body string) {
	e.t.Helper()
	e.Eventually(fmt.Sprintf("%d %q for %s", status, body, host), func(ctx context.Context) error {
		got, text, err := e.ask(ctx, e.port, host)
		if err != nil || got != status || text != body {
			return fmt.Errorf("%d %q %w", got, text, err)
		}
		return nil
	})
}

func conditionOf(conditions []metav1.Condition, kind string) string {
	for _, c := range conditions {
		if c.Type == kind {
			return fmt.Sprintf("%s %s %s", c.Status, c.Reason, c.Message)
		}
	}
	return "none"
}

// awaitGateway waits until the Gateway's status passes a check.
func (e *edge) awaitGateway(what string, check func(gatewayv1.GatewayStatus) error) (status gatewayv1.GatewayStatus) {
	e.t.Helper()
	e.Eventually(what, func(context.Context) error {
		var g gatewayv1.Gateway
		if err := e.Read("Gateway", "default/edge", &g); err != nil {
			return err
		}
		status = g.Status
		return check(status)
	})
	return status
}

// awaitListener waits until the Gateway's status says something of a listener's Programmed.
func (e *edge) awaitListener(port int, says string) (status gatewayv1.GatewayStatus) {
	e.t.Helper()
	return e.awaitGateway(fmt.Sprintf("listener of port %d: %s", port, says), func(status gatewayv1.GatewayStatus) error {
		for _, l := range status.Listeners {
			if string(l.Name) == fmt.Sprintf("http-%d", port) {
				if got := conditionOf(l.Conditions, "Programmed"); !strings.HasPrefix(got, says) {
					return fmt.Errorf("%s", got)
				}
				return nil
			}
		}
		return fmt.Errorf("no such listener in %+v", status)
	})
}

// TestGateway asks from outside for what is behind a gateway while its routes and listeners change.
func TestGateway(t *testing.T) {
	t.Parallel()
	e := startEdge(t, "default/edge", "default/storefront")
	status := e.awaitListener(e.port, "True Programmed")
	if len(status.Addresses) != 1 || status.Addresses[0].Value != "127.0.0.1" || status.Listeners[0].AttachedRoutes != 1 {
		t.Errorf("%+v", status)
	}
	e.awaitHost("other.example", http.StatusNotFound, "no-route")

	load := e.Load(LoadConfig{Node: "two", Address: fmt.Sprintf("127.0.0.1:%d", e.port), Host: "shop.example", Connections: 4, Methods: []string{"GET", "POST"}})
	e.Eventually("load", func(context.Context) error {
		if so := load.So(); so.Answers["v1"] < 50 {
			return fmt.Errorf("%s", so)
		}
		return nil
	})
	for i := range 6 {
		to := []string{"v2", "v1"}[i%2]
		e.route("storefront-" + to)
		e.awaitHost("shop.example", http.StatusOK, to)
	}

	second := e.Mesh.port()
	e.listeners(e.port, second)
	e.awaitListener(second, "True Programmed")
	if got, text, err := e.ask(t.Context(), second, "shop.example"); err != nil || got != http.StatusOK {
		t.Errorf("on the port that was added: %d %q %v", got, text, err)
	}
	kept, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", second))
	e.must("dial", err)
	defer kept.Close()
	e.listeners(e.port)
	e.Eventually("the port of the listener that was removed is closed", func(ctx context.Context) error {
		conn, err := e.Dial(ctx, "two", fmt.Sprintf("127.0.0.1:%d", second))
		if err != nil {
			return nil
		}
		conn.Close()
		return fmt.Errorf("it is open")
	})
	kept.SetReadDeadline(time.Now().Add(ready))
	if n, err := kept.Read(make([]byte, 1)); n > 0 || err == nil || isTimeout(err) {
		t.Errorf("who waits on the listener that was removed: %d bytes, %v", n, err)
	}

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	e.must("listen", err)
	port := taken.Addr().(*net.TCPAddr).Port
	e.listeners(e.port, port)
	e.awaitListener(port, "False PortUnavailable node one: ")
	e.awaitGateway("it says why", func(status gatewayv1.GatewayStatus) error { // the other listener is looked at anew, too
		if got := conditionOf(status.Conditions, "Programmed"); !strings.Contains(got, "address already in use") {
			return errors.New(got)
		}
		return nil
	})
	e.awaitHost("shop.example", http.StatusOK, "v1")
	taken.Close()
	e.awaitListener(port, "True Programmed")

	got := load.Stop()
	if got.Failed > 0 || got.Answers["v2"] == 0 {
		t.Errorf("%s\n%s", got, strings.Join(got.Failures, "\n"))
	}
	t.Log(got)
	e.awaitCall("default/edge", func(callee string) bool { return strings.HasPrefix(callee, "default/storefront") })
}

// TestGatewayNeedsPermission: a node that may not run the gateway opens nothing and learns nothing; once it may, it
// does, and when it stops it answers what runs.
func TestGatewayNeedsPermission(t *testing.T) {
	t.Parallel()
	e := startEdge(t, "default/storefront")
	address := fmt.Sprintf("127.0.0.1:%d", e.port)
	e.Eventually("the node says that it may not", func(context.Context) error {
		status, err := e.Status("one")
		if err != nil {
			return err
		}
		if !strings.Contains(strings.Join(status.Problems, "\n"), "default/edge/one is not registered") {
			return fmt.Errorf("%q", status.Problems)
		}
		if len(status.Gateways) != 1 || status.Gateways[0].Error == "" {
			return fmt.Errorf("%+v", status.Gateways)
		}
		return nil
	})
	if conn, err := e.Dial(t.Context(), "two", address); err == nil {
		conn.Close()
		t.Error("a gateway is open that the node may not run")
	}
	e.awaitListener(e.port, "False Pending no living node runs the gateway")
	e.must("allow", e.Allow("one", "default/edge"))
	first := 0
	e.Eventually("the port opens", func(ctx context.Context) (err error) {
		first, _, err = e.ask(ctx, e.port, "shop.example")
		return err
	})
	if first != http.StatusOK {
		t.Errorf("the first request was answered with %d: the port was open too early", first)
	}

	conn, err := e.Dial(t.Context(), "two", address)
	e.must("dial", err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(ready))
	const size = 100_000
	fmt.Fprintf(conn, "POST /take HTTP/1.1\r\nHost: shop.example\r\nContent-Length: %d\r\n\r\n%s", size, make([]byte, size/2))
	e.Eventually("the request runs", func(context.Context) error {
		status, err := e.Status("one")
		if err != nil {
			return err
		}
		for _, l := range status.Lanes {
			if l.From == "default/edge" && l.State == "1 running" {
				return nil
			}
		}
		return fmt.Errorf("%+v", status.Lanes)
	})
	ended := make(chan error, 1)
	one := e.Node("one")
	go func() { ended <- one.Stop(ready) }()
	e.Eventually("the port is closed", func(ctx context.Context) error {
		late, err := e.Dial(ctx, "two", address)
		if err != nil {
			return nil
		}
		late.Close()
		return errors.New("it is open")
	})
	_, err = conn.Write(make([]byte, size/2))
	e.must("send the rest", err)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	e.must("read the answer", err)
	if text, err := io.ReadAll(response.Body); err != nil || string(text) != strconv.Itoa(size) || !response.Close {
		t.Errorf("%s %q %v, closes: %v", response.Status, text, err, response.Close)
	}
	e.must("stop", <-ended)
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
