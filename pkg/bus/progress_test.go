package bus

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Progress
		if err := p.Wait(t.Context(), 0); err != nil || p.At() != 0 {
			t.Errorf("nothing is waited for: %v, at %d", err, p.At())
		}
		done := make(chan error, 2)
		for range 2 {
			go func() { done <- p.Wait(t.Context(), 3) }()
		}
		synctest.Wait()
		moved := p.Moved()
		p.Reach(2)
		synctest.Wait()
		select {
		case <-moved:
		default:
			t.Error("a step is not told")
		}
		if moved = p.Moved(); len(done) > 0 {
			t.Error("3 is reached with 2")
		}
		p.Reach(1)
		p.Reach(2)
		synctest.Wait()
		select {
		case <-moved:
			t.Error("what was reached already is told")
		default:
		}
		p.Reach(4)
		if err := errors.Join(<-done, <-done); err != nil || p.At() != 4 {
			t.Errorf("%v, at %d", err, p.At())
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- p.Wait(ctx, 5) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
