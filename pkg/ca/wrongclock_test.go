package ca

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A wrongHost is a node whose clock is off, and that keeps its certificates fresh (Identity.Run).
type wrongHost struct {
	*cluster
	*Identity
	wire *wire
	away atomic.Bool  // no controller is reached
	off  atomic.Int64 // how far its clock is ahead
}

// newWrongHost is for a test in a bubble. The host joined while its clock was right.
func newWrongHost(t *testing.T) *wrongHost {
	t.Helper()
	h := &wrongHost{cluster: newClusterAt(t, time.Now)}
	h.wire = h.cluster.wire("web1")
	h.wire.request = func(payload []byte) ([]byte, error) {
		if h.away.Load() {
			return nil, errors.New("no controller")
		}
		return payload, nil
	}
	h.Identity = openIdentity(t, IdentityConfig{
		Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Now().Add(time.Duration(h.off.Load())) },
	})
	if err := h.Join(t.Context(), h.token("web1", orders), h.wire.dial); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.Run(ctx, h.wire) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *wrongHost) asked() int { return int(h.wire.sent.Load()) }

// set sets the clock, as the next beat of a controller shows.
func (h *wrongHost) set(ahead time.Duration) {
	h.off.Store(int64(ahead))
	h.CompareClock(time.Now())
}

// TestAClockThatIsADayWrong: a host with it renews in time by the controller's clock, and asks neither all the time nor too late.
func TestAClockThatIsADayWrong(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ahead time.Duration
		most  int // requests in three days
	}{
		{"right", 0, 6},
		{"ahead", 24 * time.Hour, 6},
		// What it is given is not valid yet by its own clock, and is taken when there is no time left.
		{"behind", -24 * time.Hour, 3 * int(DefaultTTL/(retryMost/2))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newWrongHost(t)
				h.set(tt.ahead)
				before := h.asked()
				for range 72 {
					time.Sleep(time.Hour)
					synctest.Wait()
					if left := time.Until(h.own.Load().Leaf.NotAfter); left <= 0 {
						t.Fatalf("its certificates ended %s ago", -left)
					}
				}
				if asked := h.asked() - before; asked < 3 || asked > tt.most {
					t.Errorf("it asked %d times in three days", asked)
				}
			})
		})
	}
}

// TestAClockThatIsSetBack does not put off what was to be done soon: a renewal that failed is repeated, and one that the roster
// asks for is made.
func TestAClockThatIsSetBack(t *testing.T) {
	for name, hinder := range map[string]func(*testing.T, *wrongHost) time.Duration{
		"after a failure": func(_ *testing.T, h *wrongHost) time.Duration {
			h.away.Store(true)
			h.Refresh()
			time.Sleep(time.Minute)
			return retryMost + wakeMost
		},
		"while it is to renew for a rotation": func(t *testing.T, h *wrongHost) time.Duration {
			const spread = time.Hour
			h.away.Store(true)
			if err := h.authority.RotateIntermediate(spread); err != nil {
				t.Fatal(err)
			}
			if _, err := h.UpdateRoster(h.authority.Roster()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return spread + retryMost + wakeMost
		},
		"while it is to show its receipt": func(t *testing.T, h *wrongHost) time.Duration {
			h.away.Store(true)
			if err := h.authority.BeginEpoch(7); err != nil {
				t.Fatal(err)
			}
			if _, err := h.UpdateRoster(h.authority.Roster()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return showSpread + retryMost + wakeMost
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newWrongHost(t)
				h.set(24 * time.Hour)
				within := hinder(t, h)
				_, _, before := h.Standing()
				h.set(0)
				h.away.Store(false)
				time.Sleep(within)
				synctest.Wait()
				if _, _, issued := h.Standing(); !issued.After(before) {
					t.Errorf("it has not renewed within %s", within)
				}
			})
		})
	}
}

// TestTheRootIsRotatedUnderAWrongClock: a host that is a day ahead or behind follows the roots, keeps nobody waiting past the
// end of its certificates, and is believed when its clock is set right, without joining again.
func TestTheRootIsRotatedUnderAWrongClock(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"ahead": 24 * time.Hour, "behind": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newWrongHost(t)
				right := openIdentity(t, IdentityConfig{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
				if err := right.Join(t.Context(), h.token("web2", orders), h.cluster.wire("web2").dial); err != nil {
					t.Fatal(err)
				}
				h.set(ahead)
				step := func(what string, f func() error) {
					t.Helper()
					if err := f(); err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					for _, i := range []*Identity{h.Identity, right} {
						if _, err := i.UpdateRoster(h.authority.Roster()); err != nil {
							t.Fatalf("%s: %s takes the roster: %v", what, i.Node(), err)
						}
					}
					time.Sleep(time.Second)
					synctest.Wait()
				}
				step("announce", h.authority.AnnounceRoot)
				step("activate", func() error { return h.authority.ActivateRoot(0) })
				if err := right.request(t.Context(), h.cluster.wire("web2"), false); err != nil {
					t.Fatal(err)
				}
				if h.RootHash() != h.authority.RootHash() {
					t.Error("it does not pin the new root")
				}
				// By the controller's clock who has renewed has a certificate of the new root when the old one is withdrawn.
				time.Sleep(time.Until(h.authority.Rotation().OldEnds) + time.Second)
				synctest.Wait()
				if err := right.request(t.Context(), h.cluster.wire("web2"), false); err != nil {
					t.Fatal(err)
				}
				step("withdraw", func() error { return h.authority.Withdraw(false) })
				if err := believes(t, h.Identity, right, orders); err == nil {
					t.Error("it believes what its clock takes for ended, or for not begun: the test shows nothing")
				}
				h.set(0)
				for _, pair := range [][2]*Identity{{h.Identity, right}, {right, h.Identity}} {
					if err := believes(t, pair[0], pair[1], orders); err != nil {
						t.Errorf("set right: %s does not believe %s: %v", pair[0].Node(), pair[1].Node(), err)
					}
				}
				if err := h.request(t.Context(), h.wire, true); err != nil || snapshot.RootHash(h.authority.Root()) != h.RootHash() {
					t.Errorf("set right, it renews: %v", err)
				}
			})
		})
	}
}
