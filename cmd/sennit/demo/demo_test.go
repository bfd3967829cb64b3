package demo

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"charm.land/lipgloss/v2"

	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// openShop starts the three services, each calling the next one directly.
func openShop(t *testing.T, payments http.Handler) (storefront string) {
	t.Helper()
	next := httptest.NewServer(payments)
	t.Cleanup(next.Close)
	for _, role := range []string{"orders", "storefront"} {
		handler, err := shopHandler(ShopConfig{Role: role, Version: "v1", Upstream: next.Listener.Addr().String()})
		if err != nil {
			t.Fatal(err)
		}
		next = httptest.NewServer(handler)
		t.Cleanup(next.Close)
	}
	return next.Listener.Addr().String()
}

func TestCheckoutTellsTheVersionOfPayments(t *testing.T) {
	payments, err := shopHandler(ShopConfig{Role: "payments", Version: "v2"})
	if err != nil {
		t.Fatal(err)
	}
	customers := newTraffic(openShop(t, payments))
	version, err := customers.checkout(t.Context(), "ann")
	customers.count(version, err)
	if got := customers.takeVersions(); err != nil || got["v2"] != 1 || len(got) != 1 {
		t.Errorf("checkouts by version: %v, %v", got, err)
	}
	if got := customers.takeVersions(); len(got) != 0 {
		t.Errorf("taken twice: %v", got)
	}
}

func TestFailureOfPaymentsIsAFailedCheckout(t *testing.T) {
	customers := newTraffic(openShop(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no money", http.StatusServiceUnavailable)
	})))
	version, err := customers.checkout(t.Context(), "ann")
	customers.count(version, err)
	total, failed, last := customers.counts()
	if total != 1 || failed != 1 || !strings.Contains(last, "no money") {
		t.Errorf("%d checkouts, %d failed, the last: %s", total, failed, last)
	}
}

func TestUnknownRole(t *testing.T) {
	if _, err := shopHandler(ShopConfig{Role: "warehouse"}); err == nil {
		t.Error("a shop has no warehouse")
	}
}

func TestTableStaysInPlaceOnATerminal(t *testing.T) {
	edges := []telemetry.GraphEdge{{Caller: "shop/a", Callee: "shop/b", Backend: "shop/b", Version: "v1", Rate: 12.34, Success: 0.5, P50: 0.0015}}
	for _, terminal := range []bool{true, false} {
		var out strings.Builder
		v := &view{out: &out, terminal: terminal}
		v.draw(edges, 10, 1)
		first := out.Len()
		v.draw(edges, 11, 1)
		if up := strings.Contains(out.String()[first:], "\x1b[3A\x1b[J"); up != terminal {
			t.Errorf("on a terminal: %v; the table is drawn over the one before: %v", terminal, up)
		}
		for _, want := range []string{"  a ", "b v1", "12.3", "50.00 %", "1.5", "requests: 10, failed: 1"} {
			if !strings.Contains(out.String()[:first], want) {
				t.Errorf("%q is missing in\n%s", want, out.String()[:first])
			}
		}
	}
}

// What the demo shows fits a terminal of 80 columns; on a narrower one no line takes two.
func TestTableFitsTheTerminal(t *testing.T) {
	edges := []telemetry.GraphEdge{
		{Caller: "shop/customers", Callee: "shop/storefront", Backend: "shop/storefront", Version: "v1", Rate: 1234.5, Success: 1, P50: 1.2345, P99: 12.345},
		{Caller: "shop/orders", Callee: "shop/payments", Backend: "shop/payments-v1", Version: "v1", Rate: 1234.5, Success: 0.99, P50: 1.2345, P99: 12.345},
	}
	for _, tt := range []struct {
		width int
		whole bool
	}{{80, true}, {40, false}} {
		var out strings.Builder
		v := &view{out: &out, terminal: true, width: func() int { return tt.width }}
		v.draw(edges, 1_000_000, 10)
		for line := range strings.Lines(out.String()) {
			if n := lipgloss.Width(line); n > tt.width {
				t.Errorf("%d columns on a terminal of %d: %q", n, tt.width, line)
			}
		}
		if whole := strings.Contains(out.String(), "12345.0"); whole != tt.whole {
			t.Errorf("at %d columns the last one is shown: %v\n%s", tt.width, whole, out.String())
		}
	}
}

// A folder in which a demo ran is not one in which another can.
func TestFolderOfAnotherDemo(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "controller"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), Config{Program: "/nowhere", Keep: dir, Out: io.Discard})
	if err == nil || !strings.Contains(err.Error(), dir+" holds the state of a demo") {
		t.Errorf("got %v", err)
	}
}
