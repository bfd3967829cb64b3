package bus_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

func TestANodeConnectsOverTLS(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	if err := b.Node(t, "web1.example.com", "default/orders").Err(); err != nil {
		t.Fatal(err)
	}
}

// A node that may run as many services as any may, with the longest names, has the longest token.
func TestNodeWithManyServicesConnects(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	services := make([]string, 256)
	for i := range services {
		services[i] = strings.Repeat("n", 63) + "/" + strings.Repeat("s", 59) + fmt.Sprintf("%04d", i)
	}
	conn := b.Node(t, "web1", services...)
	if err := conn.Err(); err != nil {
		t.Error(err)
	}
}
