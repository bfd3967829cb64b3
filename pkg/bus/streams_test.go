package bus_test

import (
	"testing"

	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

// TestStreamsAreMadeOverAConnectionThatBreaks: what could not be sent is asked again where the connection stands again.
func TestStreamsAreMadeOverAConnectionThatBreaks(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	for range 5 {
		if err := b.Controller.Reconnect(); err != nil {
			t.Fatal(err)
		}
		if err := b.Controller.EnsureStreams(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
}
