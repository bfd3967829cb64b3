package controller

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/registry"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// start runs a controller until stop is called, or the test ends.
func start(t *testing.T, dir string) (c *Controller, stop func()) {
	t.Helper()
	return startWith(t, dir, func(*Config) {})
}

func startWith(t *testing.T, dir string, change func(*Config)) (c *Controller, stop func()) {
	t.Helper()
	loopback := netip.MustParseAddrPort("127.0.0.1:0")
	cfg := Config{
		StateDir: filepath.Join(dir, "state"), Cluster: "test", TrustDomain: "test.local", Name: "controller",
		Bus: loopback, API: loopback, Log: slog.New(slog.DiscardHandler),
	}
	change(&cfg)
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stopped := false
	stop = func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	select {
	case <-c.inputs:
	case err := <-done:
		t.Fatal(err)
	case <-time.After(30 * time.Second):
		t.Fatal("the controller does not read its inputs")
	}
	return c, stop
}

// record stores an instance as a registration does.
func record(t *testing.T, c *Controller, service, node string) {
	t.Helper()
	name, err := exchange.ParseServiceName(service)
	if err != nil {
		t.Fatal(err)
	}
	data, err := proto.Marshal(&snapshot.Instance{
		Service: service, Node: node, Instance: "1", LaneAddress: "192.0.2.1:7443",
		Ports: []*snapshot.InstancePort{{Number: 80, Name: "http"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	key := registry.Key{Service: name, Name: "1"}
	if _, err := c.conn.Records(bus.StreamInstance).Append(t.Context(), registry.InstanceSubject(node, key), data, 0); err != nil {
		t.Fatal(err)
	}
}

func TestEndpointSlicesFollowInstances(t *testing.T) {
	dir := t.TempDir()
	c, stop := start(t, dir)
	shown := endpointSlices{c}
	_, before, err := shown.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	changed := shown.Changed()
	// Two pairs that a dash would give one name.
	record(t, c, "default/orders-web", "a")
	select {
	case <-changed:
	case <-time.After(20 * time.Second):
		t.Fatal("a new instance is no change")
	}
	record(t, c, "default/orders", "web-a")
	names := map[string]bool{}
	var version uint64
	for deadline := time.Now().Add(20 * time.Second); len(names) < 2 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		list, v, err := shown.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, slice := range list {
			names[slice.GetName()] = true
		}
		version = v
	}
	if len(names) != 2 || version < before+2 {
		t.Errorf("slices %v at version %d, before two instances it was %d", names, version, before)
	}
	stop()
	again, _ := start(t, dir)
	list, restarted, err := endpointSlices{again}.List(t.Context())
	if err != nil || restarted < version || len(list) != 2 {
		t.Errorf("%d slices at version %d after a restart, %d before it: %v", len(list), restarted, version, err)
	}
}

func TestListsWaitForWhatIsStored(t *testing.T) {
	c := &Controller{inputs: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := (endpointSlices{c}).List(ctx); err == nil {
		t.Error("instances were listed before they were read")
	}
	if _, _, err := (nodeDocuments{c}).List(ctx); err == nil {
		t.Error("nodes were listed before they were read")
	}
}

func TestBellRingsAtOnceAndThenSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bell
		rings := 0
		ctx, cancel := context.WithCancel(t.Context())
		first := b.Changed()
		began := time.Now()
		b.ring()
		<-first
		if time.Since(began) != 0 {
			t.Error("the first ring was late")
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-b.Changed():
					rings++
				case <-ctx.Done():
					return
				}
			}
		}()
		for range 1000 { // a second of changes
			b.ring()
			time.Sleep(time.Millisecond)
		}
		time.Sleep(2 * bellPause) // the last one is heard
		cancel()
		<-done
		if most := int(time.Second/bellPause) + 1; rings == 0 || rings > most {
			t.Errorf("%d rings in a second, want 1 to %d", rings, most)
		}
	})
}
