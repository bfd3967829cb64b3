package proxy

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// TestAwaitedOnce wants nobody to wait again for what did not come just now, and others to wait for other services.
func TestAwaitedOnce(t *testing.T) {
	waits, there := 0, false
	o := &Outbound{Log: slog.New(slog.DiscardHandler), Await: func(context.Context, exchange.ServiceName, exchange.ServiceName) error {
		waits++
		if there {
			return nil
		}
		return errors.New("not there")
	}}
	now := time.Now()
	for _, tt := range []struct {
		name  string
		to    exchange.ServiceName
		after time.Duration
		there bool
		want  int
	}{
		{"the first call", orders, 0, false, 1},
		{"the second", orders, time.Second, false, 1},
		{"another service", cart, time.Second, false, 2},
		{"after a while", orders, vainFor, true, 3},
		{"that it came is no reason not to wait", orders, vainFor + time.Second, false, 4},
	} {
		there = tt.there
		o.await(t.Context(), capture.Listener{As: cart, To: tt.to}, now.Add(tt.after))
		if waits != tt.want {
			t.Errorf("%s: waited %d times, want %d", tt.name, waits, tt.want)
		}
	}
}
