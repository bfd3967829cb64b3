package mesh

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// clockBound is how far a host's clock may be from the controller's, less what a starved test machine takes.
const clockBound = 4*time.Minute + 30*time.Second

// TestClocksApart runs hosts whose clocks are as far from the controller's as they may be, one to each side, and so twice
// as far from each other. They join, call each other, spend a quota, are seen to live and to be lost, and renew.
func TestClocksApart(t *testing.T) {
	t.Parallel()
	apart := map[string]time.Duration{"one": clockBound, "two": -clockBound}
	m := Start(t, Config{Waits: true, Nodes: []string{"one", "two"}, Services: []string{"shop/web", "shop/orders"}, Clocks: apart})
	m.Serve("two", Service{Name: "shop/orders", Version: "v1"})
	m.Serve("one", Service{Name: "shop/web", Version: "w1"})
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: web}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	there, back := m.Listen("one", "shop/web", "shop/orders:80"), m.Listen("two", "shop/orders", "shop/web:80")
	m.AwaitAnswer("one", there, "v1")
	m.AwaitAnswer("two", back, "w1")

	const limit = 20
	began := time.Now()
	m.MustApply(quotaPolicy(fmt.Sprintf("{name: each, requests: %d, per: Hour}", limit)))
	passed := 0
	for range 3 * limit {
		response := m.limited("one", there)
		if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusTooManyRequests {
			t.Fatalf("under a quota: %v", response)
		}
		if response.StatusCode == http.StatusOK {
			passed++
		}
	}
	if passed < limit || passed > limit*hours(began) {
		t.Errorf("%d requests passed, the limit is %d", passed, limit)
	}
	for node := range apart {
		status, err := m.Status(node)
		if err != nil || len(status.Problems) > 0 {
			t.Errorf("%s within the bound: %q, %v", node, status.Problems, err)
		}
	}

	// A day on, what everybody holds is to be renewed; everybody's clock is as wrong as before.
	ended := map[string]time.Time{}
	for node := range apart {
		status, err := m.Status(node)
		m.must("status", err)
		ended[node] = ends(status)
		m.Kill(m.Node(node))
	}
	const later = 20 * time.Hour
	m.StopPart(m.Controller())
	m.SetClock(theController, later)
	m.RestartController()
	for node, offset := range apart {
		m.SetClock(node, later+offset)
		m.RestartNode(node)
	}
	for node := range apart {
		m.awaitRenewed(node, ended[node])
	}
	m.AwaitAnswer("two", back, "w1")
	m.Kill(m.Node("two"))
	m.Eventually("two is lost and one lives", func(context.Context) error {
		cluster, err := m.Cluster()
		for _, n := range cluster.Nodes {
			if (n.State == report.Lost) != (n.Name == "two") {
				err = fmt.Errorf("%s is %s", n.Name, n.State)
			}
		}
		return err
	})
}

// TestClockOutOfBounds sets the clock of a host wrong that has joined. The host says which clock is where, and what
// to do. Behind by more than the bound it takes nobody's certificate for valid, so that requests to it fail as failed; ahead it
// serves on with what is registered. Set right, it works without more.
func TestClockOutOfBounds(t *testing.T) {
	t.Parallel()
	m, address := startOrders(t, Config{})
	for _, tt := range []struct {
		name    string
		offset  time.Duration
		problem []string
		passes  bool // requests to it are answered
	}{
		{"behind", -time.Hour, []string{"this host's clock and the controller's disagree", "timedatectl set-ntp true"}, false},
		{"ahead", time.Hour, []string{"1h0m0s ahead of the controller's", "timedatectl set-ntp true"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := m.In(t)
			m.Kill(m.Node("two"))
			m.SetClock("two", tt.offset)
			m.RestartNode("two")
			m.awaitProblem("two", tt.problem...)
			m.Eventually("the answer to a request", func(ctx context.Context) error {
				response, body, err := m.Get(ctx, "one", address, "/")
				switch {
				case err != nil:
				case tt.passes != (body == "v1"), !tt.passes && response.StatusCode < http.StatusInternalServerError:
					err = fmt.Errorf("answered %s %q", response.Status, body)
				}
				return err
			})
			m.Kill(m.Node("two"))
			m.SetClock("two", 0)
			m.RestartNode("two")
			m.AwaitAnswer("one", address, "v1")
			m.Eventually("two has nothing to complain about", func(ctx context.Context) error {
				status, err := m.NodeStatus(ctx, "two")
				if err == nil && len(status.Problems) > 0 {
					err = fmt.Errorf("%q", status.Problems)
				}
				return err
			})
		})
	}
}
