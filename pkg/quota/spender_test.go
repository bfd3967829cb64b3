package quota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

var web = exchange.ServiceName{Namespace: "shop", Name: "web"}

// diskTerm is a term over a disk in memory.
type diskTerm struct {
	mu   sync.Mutex
	disk map[slotKey]*Reservation
	err  error
}

func (d *diskTerm) Stored() (all []*Reservation) {
	for _, r := range d.disk {
		all = append(all, proto.Clone(r).(*Reservation))
	}
	return all
}

func (d *diskTerm) Store(_ context.Context, reservations []*Reservation) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range reservations {
		d.disk[slotKey{r.GetLimit(), r.GetSlot()}] = proto.Clone(r).(*Reservation)
	}
	return d.err
}

// mesh runs an owner and one spender for each name, until the test ends.
func mesh(t *testing.T, limits map[string]Limit, names ...string) (*Owner, []*Spender) {
	o := NewOwner()
	o.SetLimits(limits)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	t.Cleanup(func() { cancel(); group.Wait() })
	group.Go(func() { _ = o.Hold(ctx, &diskTerm{disk: map[slotKey]*Reservation{}}, time.Now()) })
	var spenders []*Spender
	for _, name := range names {
		s := NewSpender(func(ctx context.Context, r *Request) (*Answer, error) {
			time.Sleep(time.Millisecond) // the network, in the bubble's time
			sent, err := proto.Marshal(r)
			if err != nil {
				return nil, err
			}
			var arrived Request
			if err := proto.Unmarshal(sent, &arrived); err != nil {
				return nil, err
			}
			return o.Serve(ctx, name, &arrived)
		}, slog.New(slog.DiscardHandler))
		spenders = append(spenders, s)
		group.Go(func() { _ = s.Run(ctx) })
	}
	return o, spenders
}

func admit(t *testing.T, s *Spender, caller exchange.ServiceName, fields exchange.Fields, limits ...*snapshot.Limit) (Refusal, bool) {
	t.Helper()
	return s.Admit(t.Context(), limits, caller, &exchange.Request{Fields: fields}, time.Now())
}

// TestAllOfALimitIsUsedAndNoMore has nodes ask for far more than the limit, and wants all of it to be admitted in
// each window, and not one more.
func TestAllOfALimitIsUsedAndNoMore(t *testing.T) {
	for _, tt := range []struct {
		name  string
		limit Limit
		least float64 // the share of the limit that is used
	}{
		{"a window of a second", Limit{Requests: 200, Per: time.Second}, 0.99},
		{"a window of a minute", Limit{Requests: 1000, Per: time.Minute}, 0.99},
		{"a bucket", Limit{Requests: 100, Per: time.Second, Burst: 50}, 0.90},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, spenders := mesh(t, map[string]Limit{"l": tt.limit}, "a", "b", "c")
				time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute))) // past what a new owner waits for
				begin := time.Now()
				windows := 5
				var mu sync.Mutex
				admitted := map[int64]int64{}
				var group sync.WaitGroup
				for _, s := range spenders {
					for range 4 {
						group.Go(func() {
							for time.Since(begin) < time.Duration(windows)*tt.limit.Per {
								now := time.Now()
								if _, ok := admit(t, s, web, nil, &snapshot.Limit{Id: "l"}); ok {
									mu.Lock()
									admitted[int64(time.Since(begin)/tt.limit.Per)]++
									mu.Unlock()
								}
								time.Sleep(max(5*time.Millisecond-time.Since(now), 1))
							}
						})
					}
				}
				group.Wait()
				total := int64(0)
				for i := range int64(windows) {
					total += admitted[i]
					if most := tt.limit.Requests + tt.limit.Burst; admitted[i] > most {
						t.Errorf("window %d: %d admitted, the limit is %d", i, admitted[i], most)
					}
				}
				share := float64(total) / float64(tt.limit.Requests*int64(windows)+tt.limit.Burst)
				t.Logf("%.1f %% of the limit was used", 100*share)
				if share < tt.least {
					t.Errorf("only %.1f %% of the limit was used", 100*share)
				}
			})
		})
	}
}

func TestEachCallerAndEachValueHasItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, spenders := mesh(t, map[string]Limit{"caller": {Requests: 2, Per: time.Hour}, "user": {Requests: 1, Per: time.Hour}}, "a")
		desk := exchange.ServiceName{Namespace: "shop", Name: "desk"}
		byCaller, byUser := &snapshot.Limit{Id: "caller", ByCaller: true}, &snapshot.Limit{Id: "user", ByHeader: "x-user"}
		long := strings.Repeat("x", 500)
		for i, tt := range []struct {
			limit  *snapshot.Limit
			caller exchange.ServiceName
			user   string
			want   exchange.Reason
		}{
			{byCaller, web, "", ""}, {byCaller, web, "", ""}, {byCaller, web, "", exchange.QuotaExceeded},
			{byCaller, desk, "", ""},
			{byUser, web, "ann", ""}, {byUser, desk, "ann", exchange.QuotaExceeded}, {byUser, web, "bob", ""},
			{byUser, web, "", ""}, {byUser, web, "", exchange.QuotaExceeded},
			{byUser, web, "\xff\xfe", ""}, {byUser, web, "\xff\xfe", exchange.QuotaExceeded}, // no text, which no message carries
			{byUser, web, long + "1", ""}, {byUser, web, long + "2", ""}, {byUser, web, long + "1", exchange.QuotaExceeded},
		} {
			var fields exchange.Fields
			if tt.user != "" {
				fields = exchange.Fields{{Name: "X-User", Value: tt.user}}
			}
			refusal, _ := admit(t, spenders[0], tt.caller, fields, tt.limit)
			if refusal.Reason != tt.want {
				t.Errorf("request %d: refused for %q, want %q", i, refusal.Reason, tt.want)
			}
			if tt.want != "" && (refusal.Retry <= 0 || refusal.Retry > time.Hour || refusal.Limit != tt.limit.GetId()) {
				t.Errorf("request %d: try again in %v, limit %q", i, refusal.Retry, refusal.Limit)
			}
		}
	})
}

// TestARefusedRequestSpendsNothing wants a later limit's refusal to give back what an earlier one gave.
func TestARefusedRequestSpendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, spenders := mesh(t, map[string]Limit{"wide": {Requests: 10, Per: time.Hour}, "narrow": {Requests: 1, Per: time.Hour}}, "a")
		wide, narrow := &snapshot.Limit{Id: "wide"}, &snapshot.Limit{Id: "narrow"}
		admitted := 0
		for range 30 {
			if _, ok := admit(t, spenders[0], web, nil, wide, narrow); ok {
				admitted++
			}
		}
		if admitted != 1 {
			t.Fatalf("%d admitted by a limit of 1", admitted)
		}
		for range 30 {
			if _, ok := admit(t, spenders[0], web, nil, wide); ok {
				admitted++
			}
			time.Sleep(time.Second) // what the other node-side leases hold ends and comes back
		}
		if admitted != 10 {
			t.Errorf("%d admitted in all of 10", admitted)
		}
	})
}

func TestWithoutAnOwnerNothingIsAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var there atomic.Bool
		var asked atomic.Int64
		s := NewSpender(func(context.Context, *Request) (*Answer, error) {
			asked.Add(1)
			if there.Load() {
				return &Answer{Grants: []*Grant{{Lease: 1, Tokens: 5, LifeNs: uint64(time.Minute)}}}, nil
			}
			return nil, errors.New("nobody answers")
		}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { _ = s.Run(ctx) })
		defer func() { cancel(); group.Wait() }()
		for range 100 {
			began := time.Now()
			refusal, ok := admit(t, s, web, nil, &snapshot.Limit{Id: "l"})
			if ok || refusal.Reason != exchange.QuotaUnavailable || time.Since(began) > 500*time.Millisecond {
				t.Fatalf("admitted %t, refused for %q after %v", ok, refusal.Reason, time.Since(began))
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := asked.Load(); n > 20 {
			t.Errorf("asked %d times in ten seconds in which nobody answered", n)
		}
		there.Store(true)
		time.Sleep(slowest)
		if refusal, ok := admit(t, s, web, nil, &snapshot.Limit{Id: "l"}); !ok {
			t.Errorf("refused for %q when there was an owner again", refusal.Reason)
		}
	})
}

// TestASlowOwnerIsWaitedFor holds requests for as long as an owner whose disk is busy needs, and no longer than half a
// second each where it does not answer.
func TestASlowOwnerIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var takes atomic.Int64
		takes.Store(int64(1900 * time.Millisecond))
		s := NewSpender(func(ctx context.Context, _ *Request) (*Answer, error) {
			select {
			case <-time.After(time.Duration(takes.Load())):
				return &Answer{Grants: []*Grant{{Lease: 1, Tokens: 1, LifeNs: uint64(time.Minute)}}}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { _ = s.Run(ctx) })
		defer func() { cancel(); group.Wait() }()
		limit := &snapshot.Limit{Id: "l"}
		if refusal, ok := admit(t, s, web, nil, limit); !ok {
			t.Fatalf("refused for %q while the owner was about to answer", refusal.Reason)
		}
		takes.Store(int64(time.Hour))
		for i := range 20 {
			most := 500 * time.Millisecond
			if i == 0 {
				most = 2 * time.Second // that nobody answers is what it finds out
			}
			time.Sleep(slowest) // until it makes sense to ask again
			began := time.Now()
			refusal, ok := admit(t, s, web, nil, limit)
			if ok || refusal.Reason != exchange.QuotaUnavailable || time.Since(began) > most {
				t.Errorf("request %d to an owner that is away: admitted %t, refused for %q after %v", i, ok, refusal.Reason, time.Since(began))
			}
		}
	})
}

func TestANodeHoldsNoMorePursesThanItMust(t *testing.T) {
	s := NewSpender(nil, slog.New(slog.DiscardHandler))
	limit := &snapshot.Limit{Id: "l", ByHeader: "x-user"}
	for i := range maxPurses + 10 {
		p := s.purse(limit, web, &exchange.Request{Fields: exchange.Fields{{Name: "x-user", Value: fmt.Sprint(i)}}})
		if (p != nil) != (i < maxPurses) {
			t.Fatalf("purse %d: %v", i, p)
		}
	}
	s.forget(time.Now())
	if n := s.purses.Load(); n != 0 {
		t.Errorf("%d purses are left of those that nobody uses", n)
	}
}

// ready is a spender with a lease that lasts.
func ready(limits ...*snapshot.Limit) *Spender {
	s := NewSpender(nil, slog.New(slog.DiscardHandler))
	for i, l := range limits {
		p := s.purse(l, web, &request)
		p.granted(newLease(&Grant{Lease: uint64(i), Tokens: 1 << 50, LifeNs: uint64(time.Hour)}, time.Now()))
	}
	return s
}

var request = exchange.Request{Method: "GET", Path: "/items/7", Fields: exchange.Fields{
	{Name: "Accept", Value: "*/*"}, {Name: "User-Agent", Value: "curl/8"}, {Name: "X-User", Value: "0123456789abcdef"},
}}

var benchLimits = map[string][]*snapshot.Limit{
	"shared":           {{Id: "shop/orders/all"}},
	"by caller":        {{Id: "shop/orders/each", ByCaller: true}},
	"by header":        {{Id: "shop/orders/user", ByHeader: "x-user"}},
	"all three limits": {{Id: "shop/orders/all"}, {Id: "shop/orders/each", ByCaller: true}, {Id: "shop/orders/user", ByHeader: "x-user"}},
}

func TestADecisionAllocatesNothing(t *testing.T) {
	for name, limits := range benchLimits {
		s, now := ready(limits...), time.Now()
		if n := testing.AllocsPerRun(100, func() {
			if _, ok := s.Admit(t.Context(), limits, web, &request, now); !ok {
				t.Fatal("refused")
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// BenchmarkDecision is the cost that a limit adds to a request when a lease is in hand.
func BenchmarkDecision(b *testing.B) {
	for _, name := range []string{"shared", "by caller", "by header", "all three limits"} {
		limits := benchLimits[name]
		b.Run(name, func(b *testing.B) {
			s, now := ready(limits...), time.Now()
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := s.Admit(b.Context(), limits, web, &request, now); !ok {
					b.Fatal("refused")
				}
			}
		})
	}
	b.Run("by caller, all processors", func(b *testing.B) {
		limits := benchLimits["by caller"]
		s, now := ready(limits...), time.Now()
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, ok := s.Admit(context.Background(), limits, web, &request, now); !ok {
					b.Error("refused")
				}
			}
		})
	})
}
