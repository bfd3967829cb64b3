package workload

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestTheFirstCertificateIsRenewedInTime, where the loop that renews had nothing to do as a process came to wait.
func TestTheFirstCertificateIsRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		a.life = wakeMost / 3
		cfg := a.config()
		cfg.Now = time.Now
		s := newSVIDs(cfg, func() {})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = s.run(ctx) }()
		defer s.watch(orders)()
		synctest.Wait()
		if _, err := s.get(ctx, orders); err != nil {
			t.Fatal(err)
		}
		time.Sleep(a.life) // of the bubble
		synctest.Wait()
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.issued < 2 {
			t.Error("it has ended, and there is no other")
		}
	})
}
