package mesh

import (
	"context"
	"fmt"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

func TestRoundTrip(t *testing.T) {
	m := Start(t, Config{Services: []string{"default/web", "default/orders"}})
	m.Serve("two", Service{Name: "default/orders", Version: "v1"})
	address := m.Listen("one", "default/web", "default/orders:80")
	m.AwaitAnswer("one", address, "v1")
	l := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, Methods: []string{"GET", "POST"}})
	m.Eventually("500 requests", func(context.Context) error {
		if n := l.So().Requests; n < 500 {
			return fmt.Errorf("%d requests", n)
		}
		return nil
	})
	if got := l.Stop(); got.Failed > 0 {
		t.Fatalf("%s\n%s", got, got.Failures)
	}
}
