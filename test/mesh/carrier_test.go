package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// lanesOver returns an error unless all lanes of a node go over a carrier, for a reason that says why.
func lanesOver(m *Mesh, node, carrier, why string) error {
	status, err := m.Status(node)
	if err != nil {
		return err
	}
	if len(status.Lanes) == 0 {
		return errors.New("there is no lane")
	}
	for _, l := range status.Lanes {
		if l.Carrier != carrier || !strings.Contains(l.Why, why) || l.State == "draining" {
			return fmt.Errorf("lane %+v", l)
		}
	}
	return nil
}

// served returns when a load has so many more answers than before, and no more failures.
func served(m *Mesh, load *Load, more int) Tally {
	from := load.So()
	m.Eventually("requests are answered", func(context.Context) error {
		if so := load.So(); so.Requests-so.Failed < from.Requests-from.Failed+more {
			return fmt.Errorf("%s", so)
		}
		return nil
	})
	so := load.So()
	if so.Failed != from.Failed {
		m.t.Errorf("requests failed: %v", so.Failures)
	}
	return so
}

// TestUDPBlocked drops UDP between the hosts, from the beginning and in the middle of requests.
func TestUDPBlocked(t *testing.T) {
	t.Parallel()
	for _, middle := range []bool{false, true} {
		name := map[bool]string{false: "at the start", true: "in the middle"}[middle]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := Start(t, Config{Nodes: []string{"one", "two"}, Services: []string{"default/web", "default/orders"}, Namespaces: true, Record: true})
			m.Serve("two", Service{Name: "default/orders", Version: "v1"})
			address := m.Listen("one", "default/web", "default/orders:80")
			if !middle {
				m.BlockUDP("one", "two")
			}
			m.AwaitAnswer("one", address, "v1")
			load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 8, Methods: []string{"GET", "POST"}})
			if middle {
				served(m, load, 200)
				m.Eventually("lanes go over QUIC", func(context.Context) error { // TCP may have been faster once
					return lanesOver(m, "one", "quic", "")
				})
				m.BlockUDP("one", "two")
			}
			m.Eventually("lanes go over TCP", func(context.Context) error {
				return lanesOver(m, "one", "tcp", "UDP does not get through since")
			})
			served(m, load, 500)
			tally := load.Stop()
			t.Log(tally)
			if !middle && tally.Failed > 0 {
				t.Errorf("requests failed: %v", tally.Failures)
			}
			traffic := m.Recording.Stop()
			t.Log(traffic)
			if traffic.Lanes == 0 || len(traffic.Faults) > 0 {
				t.Errorf("on the wire: %s\n%s", traffic, strings.Join(traffic.Faults, "\n"))
			}
		})
	}
}

// TestLaneOfAService sets a Service's lanes to TCP and back while requests run.
func TestLaneOfAService(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Nodes: []string{"one", "two"}, Services: []string{"default/web", "default/orders"}})
	m.Serve("two", Service{Name: "default/orders", Version: "v1"})
	address := m.Listen("one", "default/web", "default/orders:80")
	m.AwaitAnswer("one", address, "v1")
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 4})
	const document = "apiVersion: v1\nkind: Service\nmetadata: {name: orders, annotations: {sennit.dev/lane: %s}}\nspec: {ports: [{port: 80, appProtocol: http}]}"
	for _, lane := range []string{"tcp", "quic", "auto"} {
		m.MustApply(fmt.Sprintf(document, lane))
		m.Eventually("a lane over "+lane+" runs", func(context.Context) error {
			status, err := m.Status("one")
			if err != nil {
				return err
			}
			for _, l := range status.Lanes {
				if over, why := strings.Replace(lane, "auto", "quic", 1), lane != "auto"; l.Carrier == over && (l.Why != "") == why && strings.Contains(l.State, "running") {
					return nil
				}
			}
			return fmt.Errorf("lanes %+v", status.Lanes)
		})
		served(m, load, 100)
	}
	if tally := load.Stop(); tally.Failed > 0 {
		t.Errorf("%s: %v", tally, tally.Failures)
	}
	if err := m.Documents(fmt.Sprintf(document, "sctp")); err == nil || !slices.ContainsFunc([]string{"auto", "quic", "tcp"}, func(word string) bool { return strings.Contains(err.Error(), word) }) {
		t.Errorf("a lane over sctp: %v", err)
	}
}
