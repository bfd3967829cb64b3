package quota

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	// patience is how long a request waits for a lease where none is in hand, and it is not known that none is to be
	// had: the first of a window does. An owner on a busy disk may need that long.
	patience = askTime
	// patienceAway is the same where the owner did not answer last.
	patienceAway = 500 * time.Millisecond
	// maxPurses bounds what callers can make a node hold, by sending ever new values of a header.
	maxPurses = 16_384
	// maxValue is the longest value of a header that is counted as it is, in bytes. A longer one is counted by its hash.
	maxValue = 128
	// shards are the parts of a limit's purses that are replaced alone when one is added.
	shards = 64
	// pokes is how many purses can need more at once without being told again.
	pokes = 1024
)

// Feature is what a reader of a snapshot must know that holds limits.
const Feature = "quota"

// A Spender decides for a node whether a request may spend of its limits. Admit is safe for concurrent use with
// everything, and takes no lock and allocates nothing where leases are in hand.
type Spender struct {
	// Ask puts a request to the owner; Run calls it, one call at a time.
	Ask func(ctx context.Context, r *Request) (*Answer, error)
	Log *slog.Logger

	away   atomic.Bool // the owner did not answer last
	pokes  chan *purse
	seed   maphash.Seed
	purses atomic.Int64

	limits atomic.Pointer[map[limitKey]*spending]
	mu     sync.Mutex // over replacing limits, and purses of one
}

// limitKey is a snapshot.Limit that can be compared: a limit that counts by something else is another.
type limitKey struct {
	id       string
	byCaller bool
	byHeader string
}

// spending are the purses of one limit, by what it counts by.
type spending struct {
	limitKey
	shards [shards]atomic.Pointer[map[string]*purse]
}

// NewSpender prepares a spender; Run refills it.
func NewSpender(ask func(context.Context, *Request) (*Answer, error), log *slog.Logger) *Spender {
	s := &Spender{Ask: ask, Log: log, pokes: make(chan *purse, pokes), seed: maphash.MakeSeed()}
	s.limits.Store(&map[limitKey]*spending{})
	return s
}

// A Refusal says why a request may not go on.
type Refusal struct {
	Limit  string // "<ns>/<policy>/<limit>"
	Reason exchange.Reason
	Retry  time.Duration // when it makes sense to try again
}

// Admit spends one token of each limit, or none and says why not. Where a lease is missing and may be had it waits,
// at most until ctx ends. now is the time by both clocks.
func (s *Spender) Admit(ctx context.Context, limits []*snapshot.Limit, caller exchange.ServiceName, req *exchange.Request, now time.Time) (Refusal, bool) {
	short, at, refused := s.spend(limits, caller, req, now)
	if refused != nil {
		return s.refusal(limits[at], refused, now), false
	}
	if short == nil {
		return Refusal{}, true
	}
	return s.wait(ctx, limits, caller, req)
}

// spend takes a token of each limit. Where one has none it takes nothing, and says which that is: a purse that may
// get more, or a refusal.
func (s *Spender) spend(limits []*snapshot.Limit, caller exchange.ServiceName, req *exchange.Request, now time.Time) (short *purse, at int, refused *refusal) {
	var room [8]*Lease
	taken := room[:0]
	for i, limit := range limits {
		p := s.purse(limit, caller, req)
		if p == nil {
			giveBack(taken)
			return nil, i, &refusal{reset: now.Add(time.Second), unavailable: true}
		}
		from, low := p.take(now)
		if low {
			s.poke(p, now)
		}
		if from == nil {
			giveBack(taken)
			if r := p.refusal.Load(); r != nil && now.Before(r.until) {
				return nil, i, r
			}
			return p, i, nil
		}
		taken = append(taken, from)
	}
	return nil, 0, nil
}

func giveBack(taken []*Lease) {
	for _, l := range taken {
		l.giveBack()
	}
}

// poke tells Run that a purse needs more. Where Run is told of too many at once, the next request tells it again.
func (s *Spender) poke(p *purse, now time.Time) {
	if r := p.refusal.Load(); r != nil && now.Before(r.until) || !p.poked.CompareAndSwap(false, true) {
		return
	}
	select {
	case s.pokes <- p:
	default:
		p.poked.Store(false)
	}
}

// wait tries again whenever something has come, as long as patience lasts.
func (s *Spender) wait(ctx context.Context, limits []*snapshot.Limit, caller exchange.ServiceName, req *exchange.Request) (Refusal, bool) {
	most := patience
	if s.away.Load() {
		most = patienceAway
	}
	patient, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		now := time.Now()
		short, at, refused := s.spend(limits, caller, req, now)
		switch {
		case refused != nil:
			return s.refusal(limits[at], refused, now), false
		case short == nil:
			return Refusal{}, true
		}
		short.waiting.Add(1)
		changed := short.watch()
		if short.arrived(now) { // before it was watched
			short.waiting.Add(-1)
			continue
		}
		s.poke(short, now)
		select {
		case <-changed:
		case <-patient.Done():
		}
		short.waiting.Add(-1)
		if patient.Err() != nil {
			return Refusal{Limit: limits[at].GetId(), Reason: exchange.QuotaUnavailable, Retry: time.Second}, false
		}
	}
}

func (s *Spender) refusal(limit *snapshot.Limit, r *refusal, now time.Time) Refusal {
	reason := exchange.QuotaExceeded
	if r.unavailable {
		reason = exchange.QuotaUnavailable
	}
	return Refusal{Limit: limit.GetId(), Reason: reason, Retry: max(r.reset.Sub(now), 0)}
}

// purse finds what there is of a limit for a request, and makes it; nil where there are too many.
func (s *Spender) purse(limit *snapshot.Limit, caller exchange.ServiceName, req *exchange.Request) *purse {
	key := limitKey{limit.GetId(), limit.GetByCaller(), limit.GetByHeader()}
	l := (*s.limits.Load())[key]
	if l == nil {
		l = s.open(key)
	}
	var room [256]byte
	name := room[:0]
	value := ""
	if key.byCaller {
		name = append(append(append(name, caller.Namespace...), '/'), caller.Name...)
	}
	if key.byHeader != "" {
		value = headerValue(req, key.byHeader)
		name = append(append(name, 0), value...)
	}
	shard := &l.shards[maphash.Bytes(s.seed, name)%shards]
	if all := shard.Load(); all != nil {
		if p := (*all)[string(name)]; p != nil {
			return p
		}
	}
	account := &Account{Limit: key.id, Value: value}
	if key.byCaller {
		account.Caller = caller.String()
	}
	return s.add(shard, string(name), account)
}

// headerValue is the value that is counted by: of a field that came several times the first. One that is long is
// counted by its hash, so that what is held of it is short; and one that is no text (RFC 9110 §5.5 lets it through),
// since no message could carry it.
func headerValue(req *exchange.Request, name string) string {
	value, _ := req.Fields.Get(name)
	if exchange.EqualName(name, "host") {
		value = req.Authority
	}
	if len(value) > maxValue || !utf8.ValidString(value) {
		sum := sha256.Sum256([]byte(value))
		return "sha256:" + hex.EncodeToString(sum[:])
	}
	return value
}

func (s *Spender) open(key limitKey) *spending {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := (*s.limits.Load())[key]; l != nil {
		return l
	}
	all := maps.Clone(*s.limits.Load())
	all[key] = &spending{limitKey: key}
	s.limits.Store(&all)
	return all[key]
}

func (s *Spender) add(shard *atomic.Pointer[map[string]*purse], name string, account *Account) *purse {
	s.mu.Lock()
	defer s.mu.Unlock()
	purses := map[string]*purse{}
	if all := shard.Load(); all != nil {
		if p := (*all)[name]; p != nil {
			return p
		}
		purses = maps.Clone(*all)
	}
	if s.purses.Load() >= maxPurses {
		return nil
	}
	// What is kept must not be a part of the connection's buffer.
	p := newPurse(&Account{Limit: account.Limit, Caller: account.Caller, Value: string([]byte(account.Value))})
	purses[name] = p
	shard.Store(&purses)
	s.purses.Add(1)
	return p
}

// forget drops the purses that have been empty for a while. Who still holds one spends nothing from it.
func (s *Spender) forget(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range *s.limits.Load() {
		for i := range l.shards {
			all := l.shards[i].Load()
			if all == nil {
				continue
			}
			kept := maps.Clone(*all)
			maps.DeleteFunc(kept, func(_ string, p *purse) bool {
				return len(*p.leases.Load()) == 0 && p.waiting.Load() == 0 && now.Sub(p.asked) > forget
			})
			if gone := len(*all) - len(kept); gone > 0 {
				l.shards[i].Store(&kept)
				s.purses.Add(-int64(gone))
			}
		}
	}
}
