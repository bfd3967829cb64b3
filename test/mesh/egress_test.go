package mesh

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// outside is a server of HTTPS that knows nothing of the mesh, with an authority of its own.
type outside struct {
	port     int
	ca       string // PEM, each line behind spaces
	requests atomic.Int32
	host     atomic.Value // of the last request
	proto    atomic.Value // of it
}

func startOutside(t *testing.T) *outside {
	o := &outside{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.requests.Add(1)
		o.host.Store(r.Host)
		o.proto.Store(r.Proto)
		_, _ = io.Copy(w, io.MultiReader(strings.NewReader("outside "+r.Method+" "+r.URL.Path+" "), r.Body))
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	o.port = server.Listener.Addr().(*net.TCPAddr).Port
	o.ca = indented(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return o
}

// indented is PEM as it stands behind a "|" of YAML.
func indented(text []byte) string {
	return "\n      " + strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "\n      ")
}

// document is an ExternalService that leads to it under a name of its certificate, or another.
func (o *outside) document(serverName, more string) string {
	return fmt.Sprintf(`
apiVersion: sennit.dev/v1alpha1
kind: ExternalService
metadata: {namespace: shop, name: bank}
spec:
  host: localhost
  port: %d
  tls:
    mode: Simple
    serverName: %s
    caBundle: |%s
%s`, o.port, serverName, o.ca, more)
}

// TestEgress calls a server outside by the name of a document, through a node that may carry it and one that may not.
func TestEgress(t *testing.T) {
	t.Parallel()
	const here = "  allowedAddresses: [0.0.0.0/0, '::/0']\n" // services.d opens the host itself
	out := startOutside(t)
	m := Start(t, Config{Services: []string{"shop/web", "shop/desk"}, Flags: []string{"--access-log-share", "1"}})
	web := m.Listen("one", "shop/web", fmt.Sprintf("shop/bank:%d", out.port))
	const itself = "service: shop/bank\negress: {allow: [127.0.0.0/8, '::1/128']}\n"
	m.must("declare", m.Declare("two", "bank.yaml", itself))
	m.Write("three", itself)
	m.MustApply(out.document("example.com", here))
	programmed := func(says string) {
		t.Helper()
		m.Eventually("the ExternalService is "+says, func(context.Context) error {
			var e api.ExternalService
			if err := m.Read("ExternalService", "shop/bank", &e); err != nil {
				return err
			}
			if got := conditionOf(e.Status.Conditions, "Programmed"); !strings.HasPrefix(got, says) {
				return errors.New(got)
			}
			return nil
		})
	}
	post := func() (int, string) {
		t.Helper()
		response, text, err := m.Send(t.Context(), "one", http.MethodPost, web, "/pay", strings.NewReader("10 EUR"))
		m.must("send", err)
		if response.StatusCode != http.StatusOK {
			return response.StatusCode, response.Header.Get("Sennit-Reason")
		}
		return response.StatusCode, text
	}
	await := func(status int, says string) {
		t.Helper()
		m.Eventually(fmt.Sprintf("%d %s", status, says), func(context.Context) error {
			if got, text := post(); got != status || text != says {
				return fmt.Errorf("%d %q", got, text)
			}
			return nil
		})
	}

	programmed("False NoEgress no node carries calls to it: allow one with `sennit node allow NODE shop/bank`")
	if status, reason := post(); status != http.StatusServiceUnavailable || reason != "no-instance" {
		t.Errorf("without an egress: %d %q", status, reason)
	}
	m.must("allow", m.Allow("two", "shop/bank"))
	programmed("True Programmed calls to it are carried by: two")
	await(http.StatusOK, "outside POST /pay 10 EUR")
	if got, want := out.host.Load(), fmt.Sprintf("localhost:%d", out.port); got != want {
		t.Errorf("Host is %q outside, want %q", got, want)
	}

	// What services.d opens counts from when it is written, with no change of a document.
	m.must("declare", m.Declare("two", "bank.yaml", "service: shop/bank\negress: {}\n"))
	await(http.StatusBadGateway, "address-refused")
	before := out.requests.Load()
	if status, reason := post(); status != http.StatusBadGateway || reason != "address-refused" || out.requests.Load() != before {
		t.Errorf("closed in services.d: %d %q, and %d requests arrived", status, reason, out.requests.Load()-before)
	}
	m.must("declare", m.Declare("two", "bank.yaml", itself))
	await(http.StatusOK, "outside POST /pay 10 EUR")

	for _, wrong := range []struct{ document, reason string }{
		{out.document("other.example", here), "tls-failed"},
		{strings.Replace(out.document("example.com", here), "localhost", "169.254.169.254", 1), "address-refused"}, // which services.d does not open
		{out.document("example.com", "  allowedAddresses: [192.0.2.0/24]\n"), "address-refused"},
	} {
		m.MustApply(wrong.document)
		await(http.StatusBadGateway, wrong.reason)
		before := out.requests.Load()
		if status, reason := post(); status != http.StatusBadGateway || reason != wrong.reason || out.requests.Load() != before {
			t.Errorf("%d %q, and %d requests arrived", status, reason, out.requests.Load()-before)
		}
	}
	m.MustApply(out.document("example.com", here))
	await(http.StatusOK, "outside POST /pay 10 EUR")
	if got := out.proto.Load(); got != "HTTP/1.1" {
		t.Errorf("without a word about it %s is spoken", got)
	}
	m.MustApply(out.document("example.com", here+"  protocol: HTTP2\n"))
	m.Eventually("HTTP/2 is spoken", func(context.Context) error {
		if status, text := post(); status != http.StatusOK || text != "outside POST /pay 10 EUR" || out.proto.Load() != "HTTP/2.0" {
			return fmt.Errorf("%d %q by %s", status, text, out.proto.Load())
		}
		return nil
	})

	m.MustApply(`
apiVersion: sennit.dev/v1alpha1
kind: QuotaPolicy
metadata: {namespace: shop, name: bank}
spec: {targetRefs: [{kind: ExternalService, name: bank}], limits: [{name: few, requests: 3, per: Hour}]}
`)
	await(http.StatusTooManyRequests, "quota-exceeded")
	m.awaitCall("shop/web", func(callee string) bool { return callee == "shop/bank" })
	status, err := m.Status("three")
	m.must("status", err)
	if problems := strings.Join(status.Problems, "\n"); !strings.Contains(problems, "shop/bank/three is not registered") {
		t.Errorf("a node that may not be its egress says %q", problems)
	}
}

// TestEgressOfBytes: a connection goes out as it is, over TLS, and its two directions end by themselves.
func TestEgressOfBytes(t *testing.T) {
	t.Parallel()
	out := startOutside(t)
	m := Start(t, Config{Nodes: []string{"one", "two"}, Services: []string{"shop/web", "shop/bank"}})
	web := m.Listen("one", "shop/web", fmt.Sprintf("shop/bank:%d", out.port))
	m.Write("two", "service: shop/bank\negress: {allow: [127.0.0.0/8, '::1/128']}\n")
	m.MustApply(out.document("example.com", "  allowedAddresses: [127.0.0.0/8, '::1/128']\n  protocol: TCP\n"))
	m.Eventually("bytes come back", func(ctx context.Context) error {
		conn, err := m.Dial(ctx, "one", web)
		if err != nil {
			return err
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /raw HTTP/1.1\r\nHost: as.it.is\r\nConnection: close\r\n\r\n")
		text, err := io.ReadAll(conn)
		if err != nil {
			return err
		}
		if !strings.Contains(string(text), "outside GET /raw") || out.host.Load() != "as.it.is" {
			return fmt.Errorf("%q, Host %v", text, out.host.Load())
		}
		return nil
	})
}
