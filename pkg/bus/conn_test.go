package bus_test

import (
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
