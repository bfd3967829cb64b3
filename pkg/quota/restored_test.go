package quota

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// What had begun before a restore is not granted from: of windows up to their end, by either of two clocks, and of a
// bucket until it has filled. What begins behind it is granted whole.
func TestWhatHadBegunBeforeARestoreIsNotGranted(t *testing.T) {
	limits := map[string]Limit{
		"minute": {Requests: 10, Per: time.Minute},
		"day":    {Requests: 10, Per: 24 * time.Hour},
		"bucket": {Requests: 1, Per: time.Second, Burst: 10},
	}
	noon := time.Unix(1_800_000_000, 0).Truncate(24 * time.Hour).Add(12 * time.Hour)
	for _, tt := range []struct {
		name  string
		limit string
		began time.Time // of the first owner since the restore
		asked time.Time
		want  uint64 // tokens that are granted at most, to who asks often
	}{
		{"the minute in which it began", "minute", noon.Add(10 * time.Second), noon.Add(59 * time.Second), 0},
		{"the minute behind it", "minute", noon.Add(10 * time.Second), noon.Add(time.Minute), 10},
		{"a minute that the clock before may have seen begin", "minute", noon.Add(-time.Second / 2), noon.Add(30 * time.Second), 0},
		{"the minute behind that", "minute", noon.Add(-time.Second / 2), noon.Add(time.Minute), 10},
		{"the evening of the day", "day", noon, noon.Add(11 * time.Hour), 0},
		{"the next day", "day", noon, noon.Add(12 * time.Hour), 10},
		{"a bucket when the last leases have ended", "bucket", noon, noon.Add(bucketLease + ClockBound), 0},
		{"a bucket that has filled by half", "bucket", noon, noon.Add(bucketLease + ClockBound + 5*time.Second), 5},
		{"a bucket that is full", "bucket", noon, noon.Add(time.Minute), 10},
	} {
		stored := []*Reservation{Restored()}
		if first := Begin(stored, tt.began); len(first) != 1 || len(Begin(stored, tt.began.Add(time.Hour))) != 0 {
			t.Fatalf("%s: to be stored: %v", tt.name, first)
		}
		l := NewLedger(1, tt.began.Add(time.Second), stored) // another owner, after the first
		l.SetLimits(limits)
		got := uint64(0)
		for range 20 {
			got += grantOf(l, tt.limit, 10, tt.asked).GetTokens()
		}
		if got != tt.want {
			t.Errorf("%s: %d were granted, want %d", tt.name, got, tt.want)
		}
		for _, u := range l.usage(limits, tt.asked) {
			if u.Name == tt.limit && u.Granted != 10 {
				t.Errorf("%s: %d of 10 are shown as granted when nothing is left", tt.name, u.Granted)
			}
		}
	}
}

// hold has an owner serve for a while, and returns what ended it.
func hold(t *testing.T, term Term, serve func(*Owner)) error {
	t.Helper()
	o := NewOwner()
	o.SetLimits(map[string]Limit{"minute": {Requests: 10, Per: time.Minute}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- o.Hold(ctx, term, time.Now()) }()
	synctest.Wait()
	serve(o)
	cancel()
	return <-ended
}

// The first owner stores when it began, before it grants; later ones count from there. Leases of before the restore are
// nobody's when they come back.
func TestTheFirstOwnerAfterARestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ask := func(o *Owner, want uint64, returns ...*Return) *Grant {
			answer, err := o.Serve(t.Context(), "node", &Request{Asks: []*Ask{{Account: &Account{Limit: "minute"}, Want: want, Returns: returns}}})
			if err != nil {
				t.Fatal(err)
			}
			return answer.GetGrants()[0]
		}
		var before, after *Grant
		_ = hold(t, &diskTerm{disk: map[slotKey]*Reservation{}}, func(o *Owner) { before = ask(o, 4) })

		term := &diskTerm{disk: map[slotKey]*Reservation{{}: Restored()}, err: errors.New("full")}
		if err := hold(t, term, func(o *Owner) {
			if _, err := o.Serve(t.Context(), "node", &Request{}); !errors.Is(err, ErrNotOwner) {
				t.Errorf("served by an owner that could not store when it began: %v", err)
			}
		}); !errors.Is(err, term.err) {
			t.Fatal(err)
		}
		term = &diskTerm{disk: map[slotKey]*Reservation{{}: Restored()}}
		began := time.Now()
		_ = hold(t, term, func(o *Owner) {
			if g := ask(o, 4); g.GetTokens() > 0 || time.Duration(g.GetResetNs()) != time.Until(began.Truncate(time.Minute).Add(time.Minute)) {
				t.Errorf("of the window that had begun: %v", g)
			}
		})
		time.Sleep(time.Until(began.Truncate(time.Minute).Add(time.Minute)))
		_ = hold(t, term, func(o *Owner) {
			after = ask(o, 4)
			ask(o, 0, &Return{Lease: before.GetLease(), Unused: 4})
			ask(o, 0, &Return{Lease: before.GetLease() + 1, Unused: 4})
			left := uint64(0)
			for range 10 {
				left += ask(o, 10).GetTokens()
			}
			if after.GetTokens() != 4 || left != 6 {
				t.Errorf("%v, then %d more of 10", after, left)
			}
		})
	})
}
