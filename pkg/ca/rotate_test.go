package ca

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestRotationPoints(t *testing.T) {
	t.Parallel()
	const draws = 4000
	life := 24 * time.Hour
	ends := testStart.Add(life)
	var buckets [6]int
	for range draws {
		share := float64(rotationPoint(testStart, ends).Sub(testStart)) / float64(life)
		if share < 0.5 || share >= 0.8 {
			t.Fatalf("rotates at %.3f of its life", share)
		}
		buckets[int((share-0.5)/0.05)]++
	}
	for i, n := range buckets { // a sixth each; six standard deviations are 141
		if n < draws/6-150 || n > draws/6+150 {
			t.Errorf("%d of %d fall into part %d of 6", n, draws, i)
		}
	}
	for n := 1; n < 100; n++ {
		if d := retryDelay(n); d < retryFirst/2 || d > retryMost {
			t.Errorf("pause %d is %s", n, d)
		}
	}
}

// Run over days of injected time: rotates past half of each life, through an outage that ends before the
// certificates do, and comes back by itself after one that ends later.
func TestRunRotatesAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClusterAt(t, time.Now)
		var mu sync.Mutex
		var rotated []time.Time
		i, err := NewIdentity(IdentityConfig{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Rotated: func(r Rotation) {
			mu.Lock()
			defer mu.Unlock()
			if r.Key {
				rotated = append(rotated, time.Now())
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer i.Close()
		wire := &wire{registrar: c.registrar, node: "web1"}
		if err := i.Join(t.Context(), c.token("web1", orders), wire.dial); err != nil {
			t.Fatal(err)
		}
		var down bool
		wire.request = func(payload []byte) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			if down {
				return nil, errors.New("the bus is away")
			}
			return payload, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- i.Run(ctx, wire) }()
		start := time.Now()
		for range 10 * 24 {
			time.Sleep(time.Hour)
			if _, err := i.Certificate(orders); err != nil {
				t.Fatalf("after %s: %v", time.Since(start), err)
			}
		}
		mu.Lock()
		for n := 1; n < len(rotated); n++ {
			if gap := rotated[n].Sub(rotated[n-1]); gap < 12*time.Hour || gap > 20*time.Hour {
				t.Errorf("rotated after %s", gap)
			}
		}
		if len(rotated) < 12 {
			t.Errorf("%d rotations in ten days", len(rotated))
		}
		down = true
		before := wire.sent.Load()
		mu.Unlock()
		time.Sleep(48 * time.Hour)
		if _, err := i.Certificate(orders); !errors.Is(err, ErrNoCertificate) || !strings.Contains(err.Error(), "the bus is away") {
			t.Errorf("after two days without a bus: %v", err)
		}
		if tries := wire.sent.Load() - before; tries > 1000 || tries < 100 {
			t.Errorf("%d tries in two days", tries)
		}
		mu.Lock()
		down = false
		mu.Unlock()
		time.Sleep(retryMost + time.Minute)
		if _, err := i.Certificate(orders); err != nil {
			t.Errorf("did not come back: %v", err)
		}
		if err := c.registrar.Allow(t.Context(), "web1", billing); err != nil {
			t.Fatal(err)
		}
		i.Refresh()
		time.Sleep(time.Second) // what is issued is recorded together with what others ask for
		synctest.Wait()
		if _, err := i.Certificate(billing); err != nil {
			t.Errorf("refresh: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestShortLives: with whatever life the controller gives certificates, a node always holds a good one, and asks for no
// more than it must.
func TestShortLives(t *testing.T) {
	for _, life := range []time.Duration{time.Minute, 5 * time.Minute, time.Hour, DefaultTTL} {
		t.Run(life.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const lives = 20
				cfg := authorityConfig(t)
				cfg.Now, cfg.MaxTTL = time.Now, life
				c := newClusterOf(t, cfg)
				i, err := NewIdentity(IdentityConfig{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				defer i.Close()
				wire := c.wire("web1")
				if err := i.Join(t.Context(), c.token("web1", orders), wire.dial); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- i.Run(ctx, wire) }()
				before := wire.sent.Load()
				for range 20 * lives {
					time.Sleep(life / 20)
					certificate, err := i.Certificate(orders)
					if err != nil {
						t.Fatal(err)
					}
					if left := time.Until(certificate.Leaf.NotAfter); left > life || left <= 0 {
						t.Fatalf("a certificate has %s left of %s", left, life)
					}
				}
				if asked := wire.sent.Load() - before; asked < lives || asked > 2*lives+1 {
					t.Errorf("asked %d times in %d lives", asked, lives)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
