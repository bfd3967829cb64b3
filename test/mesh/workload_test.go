package mesh

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	ordersID   = "spiffe://sennit.local/ns/default/svc/orders"
	paymentsID = "spiffe://sennit.local/ns/default/svc/payments"

	ordersUser, paymentsUser, strangeUser = 65531, 65532, 65533
)

// workloads starts a mesh of one host that runs orders and payments, each as a user of its own, and returns where the
// Workload API is.
func workloads(t *testing.T, cfg Config) (m *Mesh, endpoint string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: processes become other users")
	}
	dir, err := os.MkdirTemp("", "sennit-workload-") //nolint:usetesting // other users open what is in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "workload.sock")
	cfg.Nodes, cfg.Services, cfg.Flags = []string{"one"}, []string{"default/orders", "default/payments"}, []string{"--workload-socket", socket}
	m = Start(t, cfg)
	m.Write("one", fmt.Sprintf("service: default/orders\nworkload: {uid: %d}\n---\nservice: default/payments\nworkload: {uid: %d}\n", ordersUser, paymentsUser))
	return m, "unix://" + socket
}

// awaitID waits until an application has its SVID: services.d was written a moment ago.
func (a *Application) awaitID(want string) (svid string) {
	a.m.t.Helper()
	a.m.Eventually("an SVID of "+want, func(ctx context.Context) (err error) {
		if svid, err = a.Ask(ctx, "id"); err == nil && !strings.HasPrefix(svid, want+" ") {
			a.m.t.Fatalf("the application is %s, want %s", svid, want)
		}
		return err
	})
	return svid
}

// TestApplicationsTakeTheirSVIDs has two processes of one host authenticate each other, past the node, and a third one that
// is nobody.
func TestApplicationsTakeTheirSVIDs(t *testing.T) {
	m, endpoint := workloads(t, Config{Waits: true})
	orders, payments := m.Application("orders", ordersUser, endpoint), m.Application("payments", paymentsUser, endpoint)
	svid := orders.awaitID(ordersID)
	payments.awaitID(paymentsID)
	payments.MustAsk(t, "serve")
	if got := orders.MustAsk(t, "call", payments.Serves, paymentsID); got != ordersID {
		t.Errorf("payments takes orders for %s", got)
	}
	if got, err := orders.Ask(t.Context(), "call", payments.Serves, ordersID); err == nil {
		t.Errorf("payments is taken for orders, and says %s", got)
	}

	token := orders.MustAsk(t, "token", "payments")
	m.Eventually("payments knows the key of tokens", func(ctx context.Context) error {
		got, err := payments.Ask(ctx, "validate", "payments", token)
		if err == nil && got != ordersID {
			t.Errorf("the token is of %s", got)
		}
		return err
	})
	if got, err := payments.Ask(t.Context(), "validate", "reports", token); err == nil {
		t.Errorf("a token for payments is good for reports, as %s", got)
	}

	stranger := m.Application("stranger", strangeUser, endpoint)
	for _, what := range [][]string{{"id"}, {"token", "payments"}, {"domains"}} {
		if got, err := stranger.Ask(t.Context(), what[0], what[1:]...); err == nil || !strings.Contains(err.Error(), "PermissionDenied") {
			t.Errorf("a stranger who asks for his %s: %q, %v", what[0], got, err)
		}
	}

	// A node that starts without the bus has what its processes had, and no tokens.
	m.StopPart(m.Controller())
	m.StopPart(m.Node("one"))
	m.RestartNode("one")
	again := m.Application("orders-again", ordersUser, endpoint)
	if got := again.awaitID(ordersID); got != svid {
		t.Errorf("another process of orders has %s, want %s, which the node has kept", got, svid)
	}
	if got, err := again.Ask(t.Context(), "token", "payments"); err == nil || !strings.Contains(err.Error(), "Unavailable") {
		t.Errorf("a token without a controller: %q, %v", got, err)
	}

	// What services.d no longer says is over.
	m.Write("one", "service: default/other\nworkload: {uid: 1}\n")
	m.must("take the declaration back", os.Remove(filepath.Join(m.ServicesDir("one"), "1.yaml")))
	m.Eventually("orders is nobody", func(ctx context.Context) error {
		last := m.Application("late", ordersUser, endpoint)
		if got, err := last.Ask(ctx, "id"); err == nil || !strings.Contains(err.Error(), "PermissionDenied") {
			return fmt.Errorf("%q, and the error %w", got, err)
		}
		return nil
	})
}

// TestApplicationsHearOfRotation has certificates that end soon replaced while both ends call each other.
func TestApplicationsHearOfRotation(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until certificates are rotated")
	}
	m, endpoint := workloads(t, Config{Waits: true, CertificateTTL: shortTTL})
	orders, payments := m.Application("orders", ordersUser, endpoint), m.Application("payments", paymentsUser, endpoint)
	first, of := orders.awaitID(ordersID), payments.awaitID(paymentsID)
	payments.MustAsk(t, "serve")
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), shortTTL+ready)
		next, err := orders.Ask(ctx, "id", first)
		cancel()
		if err != nil || !strings.HasPrefix(next, ordersID) {
			t.Fatalf("%s, %v", next, err)
		}
		first = next
		if got := orders.MustAsk(t, "call", payments.Serves, paymentsID); got != ordersID {
			t.Errorf("payments takes orders for %s", got)
		}
	}
	if now := payments.MustAsk(t, "id", of); now == of || !strings.HasPrefix(now, paymentsID) {
		t.Errorf("payments has %s", now)
	}
}
