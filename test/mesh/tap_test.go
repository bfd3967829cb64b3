package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// TestTap looks at one service's exchanges while two nodes call it and another one, and ends the taps in the two ways
// in which they end.
func TestTap(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{
		Nodes: []string{"one", "two", "three"}, Services: []string{"default/web", "default/orders", "default/payments"}, Metrics: true, Flags: overQUIC,
	})
	m.Serve("three", Service{Name: "default/orders", Version: "v1"})
	m.Serve("three", Service{Name: "default/payments", Version: "v1"})
	addresses := map[string][2]string{}
	for _, node := range []string{"one", "two"} {
		orders, payments := m.Listen(node, "default/web", "default/orders:80"), m.Listen(node, "default/web", "default/payments:80")
		m.AwaitAnswer(node, orders, "v1")
		m.AwaitAnswer(node, payments, "v1")
		addresses[node] = [2]string{orders, payments}
	}
	controller, err := client.New(client.Config{Socket: m.Socket()})
	m.must("reach the controller", err)
	call := func(context.Context) error {
		for node, to := range addresses {
			for i, path := range []string{"/echo/mine?secret=1", "/echo/other", "/other"} {
				if _, _, err := m.Get(t.Context(), node, to[i/2], path); err != nil {
					return err
				}
			}
			if _, _, err := m.Get(t.Context(), node, to[1], "/echo/mine"); err != nil {
				return err
			}
		}
		return nil
	}
	all := errors.New("seen from both nodes")
	// tapOf taps until each node has told of an exchange, while calls of all kinds go on.
	tapOf := func(what string, tap func(context.Context, func(telemetry.TapLine) error) error, want int) map[string]int {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), ready)
		defer cancel()
		seen := map[string]int{}
		ended := make(chan error, 1)
		go func() {
			ended <- tap(ctx, func(l telemetry.TapLine) error {
				e := l.Exchange
				if e == nil {
					return nil
				}
				if e.Callee != "default/orders" || e.Path != "/echo/mine" || e.Method != http.MethodGet || e.Caller != "default/web" ||
					e.ServedBy != "three" || e.Version != "v1" || e.Status != http.StatusOK || e.Lane != "quic" || e.Duration <= 0 || e.Instance == "" {
					return fmt.Errorf("shown though it is not asked for, or not whole: %+v", *e)
				}
				if seen[e.Node]++; len(seen) == want {
					return all
				}
				return nil
			})
		}()
		for {
			select {
			case err := <-ended:
				if !errors.Is(err, all) {
					t.Errorf("%s: %v (seen so far: %v)", what, err, seen)
				}
				return seen
			default:
				m.must("call", call(t.Context()))
			}
		}
	}
	filter := &telemetry.TapFilter{To: "default/orders", Path: "/echo/mine", Code: 2}
	seen := tapOf("the controller's tap", func(ctx context.Context, fn func(telemetry.TapLine) error) error {
		return controller.Tap(ctx, filter, "", fn)
	}, 2)
	if seen["one"] == 0 || seen["two"] == 0 || len(seen) != 2 {
		t.Errorf("seen: %v", seen)
	}
	for _, node := range []string{"one", "two"} {
		m.Eventually("the tap on "+node+" ends with its operator", m.tapsOn(node, 0))
	}
	seen = tapOf("a node's own tap", func(ctx context.Context, fn func(telemetry.TapLine) error) error {
		return client.NewNode(m.NodeSocket("two")).Tap(ctx, filter, fn)
	}, 1)
	if seen["two"] == 0 {
		t.Errorf("seen on its host: %v", seen)
	}
	m.Eventually("the tap on two ends with its command", m.tapsOn("two", 0))

	// And with the controller, which is killed: nobody tells the nodes.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- controller.Tap(ctx, filter, "one", func(telemetry.TapLine) error { return nil })
	}()
	m.Eventually("one is tapped", m.tapsOn("one", 1))
	m.must("two is not", m.tapsOn("two", 0)(t.Context()))
	m.Kill(m.Controller())
	if err := <-ended; err == nil {
		t.Error("the tap ended well though its controller was killed")
	}
	m.Eventually("the tap on one ends without a controller", m.tapsOn("one", 0))
	m.RestartController()
	m.Eventually("the audit says who looked", func(ctx context.Context) error {
		var found []string
		err := controller.Audit(ctx, client.AuditOptions{Kind: "reading"}, func(e report.AuditEvent) error {
			found = append(found, e.Verb+" "+e.Result+" "+e.Detail)
			return nil
		})
		if err == nil && (len(found) != 2 || !strings.Contains(found[0], "tap done") || !strings.Contains(found[0], "default%2Forders") || !strings.Contains(found[1], "node=one")) {
			err = fmt.Errorf("it has %q", found)
		}
		return err
	})
	var answer report.Failure
	for _, query := range []string{"?node=nobody", "?code=9", "?from=A"} {
		if err := launch.Call(t.Context(), m.Socket(), http.MethodGet, report.PathTap+query, nil, &answer); err == nil {
			t.Errorf("%s is answered", query)
		}
	}
}

// tapsOn checks how many taps are open on a node.
func (m *Mesh) tapsOn(node string, want int) func(context.Context) error {
	return func(ctx context.Context) error {
		body, err := fetch(ctx, "http://"+m.metrics[node]+"/metrics")
		if text := string(body); err == nil && !strings.Contains(text, fmt.Sprintf("\nsennit_taps %d\n", want)) {
			err = fmt.Errorf("%s has not %d taps", node, want)
		}
		return err
	}
}
