package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestOneWayPartitionOfTheBus: packets between a node and the controller are lost in one direction. The node notices,
// serves on by what it has, and has what changed soon after the wire is mended.
func TestOneWayPartitionOfTheBus(t *testing.T) {
	m, address := wired(t, Config{})
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, Methods: []string{"GET", "POST"}})
	for i, way := range []Way{Out, In} {
		m.Wire(Path{Host: "one", Way: way, Peer: Controller}, Fault{Down: true})
		m.Eventually("the node knows that it has no bus", func(context.Context) error {
			status, err := m.Status("one")
			if err == nil && status.Bus.Connected {
				err = errors.New("it says that it is connected")
			}
			return err
		})
		path := fmt.Sprintf("/gone%d", i)
		_, err := m.StoreOnly(`{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: orders}, spec: {parentRefs: [{group: "", kind: Service, name: orders}], ` +
			`rules: [{matches: [{path: {value: ` + path + `}}]}, {backendRefs: [{name: orders, port: 80}]}]}}`)
		m.must("store", err)
		if response, _, err := m.Get(t.Context(), "one", address, path); err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("without the bus: %v, %v", response, err)
		}
		served(m, load, 200)
		m.Mend("one")
		mended := time.Now()
		m.Eventually("the new rules are in force", func(ctx context.Context) error {
			response, _, err := m.Get(ctx, "one", address, path)
			if err == nil && response.StatusCode != http.StatusInternalServerError {
				err = fmt.Errorf("%s", response.Status)
			}
			return err
		})
		t.Logf("way %d: the new rules are in force %s after the wire is whole", way, time.Since(mended).Round(time.Millisecond))
	}
	if got := load.Stop(); got.Failed > 0 {
		t.Errorf("%s\n%s", got, strings.Join(got.Failures, "\n"))
	}
}

// TestSmallMTUInTheMiddle: a path that carried long packets drops them from now on, without a word. A connection that
// has found out what the path carried cannot go on with bulk: its body fails, with a reason and never with a wrong answer,
// and the connection that takes its place begins short. Small requests do not notice.
func TestSmallMTUInTheMiddle(t *testing.T) {
	m, address := wired(t, Config{})
	m.carries(address, "before", 400)
	for _, host := range []string{"one", "two", "three"} {
		m.Wire(Path{Host: host}, Fault{MTU: 1280})
	}
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2})
	body := strings.Repeat("0123456789", 20<<10)
	// A failure a connection: a lane has up to 4 for bulk, and there are two lanes.
	for failed, inRow := 0, 0; inRow < 6; {
		response, echo, err := m.Send(t.Context(), "one", http.MethodPost, address, "/echo", strings.NewReader(body))
		switch {
		case err == nil && response.StatusCode == http.StatusOK && echo == body:
			inRow++
		case err == nil && response.StatusCode == http.StatusBadGateway && response.Header.Get("Sennit-Reason") != "" && failed < 8:
			failed, inRow = failed+1, 0
		default:
			t.Fatalf("after %d failures a body of %d bytes comes back as %d: %v, %v", failed, len(body), len(echo), response, err)
		}
	}
	if got := load.Stop(); got.Failed > 0 {
		t.Errorf("%s\n%s", got, strings.Join(got.Failures, "\n"))
	}
}

// TestSmallMTUOverTCP: where longer packets are dropped without a word, a host joins, an operator's command is answered, and
// lanes over TCP come up and carry bulk.
func TestSmallMTUOverTCP(t *testing.T) {
	if testing.Short() {
		t.Skip("disturbs wires for a while")
	}
	t.Parallel()
	m := Start(t, Config{Namespaces: true, Wires: true, Nodes: []string{"one"}, Outside: []string{"two"}, Services: []string{"default/web", "default/orders"}, Flags: []string{"--lane", "tcp"}})
	for _, host := range []string{"one", "two", Controller} {
		m.Wire(Path{Host: host}, Fault{MTU: 1280})
	}
	m.JoinLater("two", "default/orders")
	m.must("operate", m.Operate("two"))
	m.Serve("two", Service{Name: "default/orders", Version: "v1"})
	address := m.Listen("one", "default/web", "default/orders:80")
	m.AwaitAnswer("one", address, "v1")
	m.carries(address, "MTU of 1280 over TCP", 100)
	if err := lanesOver(m, "one", "tcp", ""); err != nil {
		t.Error(err)
	}
}
