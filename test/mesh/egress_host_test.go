package mesh

import (
	"cmp"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// An outsideHost is an HTTPS server on a host that knows nothing of the mesh, with a certificate that nobody's roots
// have.
type outsideHost struct {
	address  *net.TCPAddr
	bundle   string
	mu       sync.Mutex
	requests []*http.Request
}

func (m *Mesh) serveOutside(host string) *outsideHost {
	o := &outsideHost{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		o.requests = append(o.requests, r)
		o.mu.Unlock()
		io.WriteString(w, "outside")
	}))
	server.Listener.Close()
	server.Listener = m.ListenOutside(host)
	server.StartTLS()
	m.t.Cleanup(server.Close)
	o.address = server.Listener.Addr().(*net.TCPAddr)
	o.bundle = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return o
}

func (o *outsideHost) seen() []*http.Request {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]*http.Request(nil), o.requests...)
}

// external is the ExternalService api; empty arguments are what leads to the host.
func (o *outsideHost) external(host, serverName, bundle, allowed string) string {
	return fmt.Sprintf(`
apiVersion: sennit.dev/v1alpha1
kind: ExternalService
metadata: {name: api}
spec:
  host: %s
  port: %d
  allowedAddresses: [%s]
  tls:
    mode: Simple
    serverName: %s
    caBundle: |
      %s
`, cmp.Or(host, o.address.IP.String()), o.address.Port, allowed, cmp.Or(serverName, "example.com"), strings.ReplaceAll(strings.TrimSpace(cmp.Or(bundle, o.bundle)), "\n", "\n      "))
}

// TestEgressToAnotherHost has a service on host one call an HTTPS server outside through host two, which may be its egress, while
// host three, which may not, says that it is too.
func TestEgressToAnotherHost(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Services: []string{"default/shop"}, Namespaces: true, Outside: []string{"outside"}, Flags: []string{"--access-log-share", "1"}})
	outside := m.serveOutside("outside")
	for _, node := range []string{"two", "three"} {
		m.Write(node, "service: default/api\negress: {}\n")
	}
	m.MustApply(outside.external("", "", "", subnet+"0/24"))
	if got := m.awaitExternal("Programmed", "False"); !strings.Contains(got, "NoEgress") {
		t.Errorf("before a node may be the egress: %s", got)
	}
	m.must("allow", m.Allow("two", "default/api"))
	if got := m.awaitExternal("Programmed", "True"); !strings.HasSuffix(got, ": two") {
		t.Errorf("the egress is: %s", got)
	}
	m.Eventually("host three says that it may not", func(context.Context) error {
		status, err := m.Status("three")
		if err != nil {
			return err
		}
		if all := strings.Join(status.Problems, "\n"); !strings.Contains(all, "default/api/three is not registered") {
			return fmt.Errorf("%q", all)
		}
		return nil
	})

	listener := m.Listen("one", "default/shop", fmt.Sprintf("default/api:%d", outside.address.Port))
	ask := func(ctx context.Context) (int, string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listener+"/v1/things", nil)
		if err != nil {
			return 0, "", err
		}
		request.Host = "api"
		response, err := m.Client("one").Do(request)
		if err != nil {
			return 0, "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return response.StatusCode, cmp.Or(response.Header.Get("Sennit-Reason"), string(body)), err
	}
	expect := func(status int, text string) {
		t.Helper()
		m.Eventually(fmt.Sprintf("%d %s", status, text), func(ctx context.Context) error {
			if got, said, err := ask(ctx); err != nil || got != status || said != text {
				return fmt.Errorf("%d %q %w", got, said, err)
			}
			return nil
		})
	}
	expect(http.StatusOK, "outside")
	for _, r := range outside.seen() {
		if r.Host != outside.address.String() || r.TLS == nil || r.TLS.ServerName != "example.com" || r.URL.Path != "/v1/things" {
			t.Errorf("the host outside is asked for %s%s, by TLS for %q", r.Host, r.URL.Path, r.TLS.ServerName)
		}
		if from, _, _ := net.SplitHostPort(r.RemoteAddr); from != m.network.address("two") {
			t.Errorf("the host outside is asked by %s", from)
		}
	}

	before := len(outside.seen())
	m.MustApply(outside.external("", "other.test", "", subnet+"0/24"))
	expect(http.StatusBadGateway, "tls-failed")
	m.MustApply(outside.external("169.254.169.254", "", "", "0.0.0.0/0"))
	expect(http.StatusBadGateway, "address-refused")
	m.MustApply(outside.external("", "", "", "")) // private, and not named
	expect(http.StatusBadGateway, "address-refused")
	m.MustApply(outside.external(m.network.address("two"), "", "", subnet+"0/24")) // the egress host itself
	expect(http.StatusBadGateway, "address-refused")
	m.MustApply(outside.external("nowhere.invalid", "", "", ""))
	expect(http.StatusServiceUnavailable, "name-unresolved")
	if after := len(outside.seen()); after != before {
		t.Errorf("%d requests were sent to a host that had not shown its name, or past the guard", after-before)
	}

	m.MustApply(outside.external("", "", "", subnet+"0/24"))
	expect(http.StatusOK, "outside")
	m.MustApply(`
apiVersion: sennit.dev/v1alpha1
kind: QuotaPolicy
metadata: {name: api}
spec:
  targetRefs: [{group: sennit.dev, kind: ExternalService, name: api}]
  limits: [{name: few, requests: 2, per: Hour}]
`)
	before, began := len(outside.seen()), time.Now().Unix()/3600
	expect(http.StatusTooManyRequests, "quota-exceeded")
	if passed, hours := len(outside.seen())-before, int(time.Now().Unix()/3600-began)+1; passed > 2*hours {
		t.Errorf("%d requests passed a quota of 2", passed)
	}
	m.awaitCall("default/shop", func(callee string) bool { return callee == "default/api" })
}

// awaitExternal waits until a condition of the ExternalService api has a status, and returns all of it.
func (m *Mesh) awaitExternal(kind, status string) (got string) {
	m.t.Helper()
	m.Eventually(kind+" of externalservice api is "+status, func(context.Context) error {
		var e api.ExternalService
		if err := m.Read("ExternalService", "default/api", &e); err != nil {
			return err
		}
		if got = conditionOf(e.Status.Conditions, kind); !strings.HasPrefix(got, status) {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	return got
}
