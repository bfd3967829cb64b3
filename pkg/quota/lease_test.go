package quota

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestALeaseIsSpentAndReturnedOnce(t *testing.T) {
	const tokens, takers = 10_000, 8
	now := time.Now()
	l := newLease(&Grant{Lease: 1, Tokens: tokens, LifeNs: uint64(time.Hour)}, now)
	var spent atomic.Int64
	var group sync.WaitGroup
	half := make(chan struct{})
	var once sync.Once
	for range takers {
		group.Go(func() {
			for {
				left, ok := l.take(now)
				if !ok {
					return
				}
				if left == tokens/2 {
					once.Do(func() { close(half) })
				}
				if spent.Add(1)%7 == 0 { // a later limit refused
					spent.Add(-1)
					l.giveBack()
				}
			}
		})
	}
	<-half
	unused := l.close()
	group.Wait()
	if total := spent.Load() + unused; total > tokens {
		t.Errorf("%d were spent and %d returned of %d", spent.Load(), unused, tokens)
	}
	if _, ok := l.take(now); ok {
		t.Error("a closed lease was spent from")
	}
	l = newLease(&Grant{Lease: 2, Tokens: 10, LifeNs: uint64(time.Hour)}, now)
	for range 3 {
		l.take(now)
	}
	if unused := l.close(); unused != 7 {
		t.Errorf("%d are unused after 3 of 10 were spent", unused)
	}
}

func TestALeaseEndsByEitherClock(t *testing.T) {
	sent := time.Now()
	grant := &Grant{Tokens: 10, LifeNs: uint64(5 * time.Second)}
	for _, tt := range []struct {
		name string
		now  time.Time
		want bool
	}{
		{"at once", sent, true},
		{"just before its end", sent.Add(5*time.Second - 1), true},
		{"at its end", sent.Add(5 * time.Second), false},
		{"the host slept, and only its wall clock went on", sent.Round(0).Add(6 * time.Second), false},
		{"the wall clock was set back", sent.Round(0).Add(-time.Hour), true},
	} {
		if _, ok := newLease(grant, sent).take(tt.now); ok != tt.want {
			t.Errorf("%s: spent %t, want %t", tt.name, ok, tt.want)
		}
	}
}
