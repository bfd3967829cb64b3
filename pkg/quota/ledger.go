package quota

import (
	"cmp"
	"hash/fnv"
	"maps"
	"slices"
	"time"
)

const (
	// ClockBound is how far the clocks of two controllers may be apart: who takes a ledger over waits that much
	// longer where its predecessor's clock could count.
	ClockBound = time.Second
	// windowLease and bucketLease are how long a lease lives at most. A node that dies takes its tokens with it for
	// no longer than that, where they are a bucket's.
	windowLease = 5 * time.Second
	bucketLease = time.Second
	// shortWindow is the shortest window that is reserved on disk.
	shortWindow = 10 * time.Second
	// confirmed is for how long after a write under its term an owner grants from windows that are not reserved.
	// Its successor waits as long.
	confirmed = 2 * time.Second
	// reserveShare is the part of a limit that is reserved beyond what is granted: 0.5 %.
	reserveShare = 200
	// maxAccounts bounds what nodes can make a ledger hold.
	maxAccounts = 100_000
	// slots is how many records a limit's reservations are spread over.
	slots = 64
)

// A Limit is what an operator allows: so many requests in each window of Unix time, or a bucket that is refilled at
// that rate where Burst is not 0.
type Limit struct {
	Requests int64         // at least 1
	Per      time.Duration // a second, a minute, an hour or a day
	Burst    int64         // tokens that the bucket holds when it is full; 0: a window
}

// accountKey is an Account that can be compared.
type accountKey struct{ limit, caller, value string }

func keyOf(a *Account) accountKey { return accountKey{a.GetLimit(), a.GetCaller(), a.GetValue()} }

// slot is the record in which an account's reservation is kept.
func (k accountKey) slot() uint32 {
	h := fnv.New32a()
	h.Write([]byte(k.caller))
	h.Write([]byte{0})
	h.Write([]byte(k.value))
	return h.Sum32() % slots
}

// An account is the state of one key of a limit: a window or a bucket. Times are the owner's, in nanoseconds of Unix
// time; limit is what the operator allows now.
type account interface {
	settle(limit Limit, now int64)                  // windows pass
	free(limit Limit, now int64) int64              // tokens that could be granted, were all of them reserved
	raise(limit Limit, n, now int64) int64          // how far the reservation must reach for n more
	grant(limit Limit, n, now int64) int64          // takes up to n, as far as the reservation reaches
	release(limit Limit, tokens, unused, now int64) // ends a lease, and takes back what is unused of it
	horizon(limit Limit, now int64) (ends, reset int64)
	idle(now int64) bool // a new account would be the same
	reserved() (window, ceiling int64)
	reserve(window, ceiling int64)
}

// held is one lease, as the ledger remembers it.
type held struct {
	node   string
	tokens int64
	ends   int64
}

type entry struct {
	account
	limit   Limit         // as it was when the entry was last used
	per     time.Duration // of the limit that the account was made for; 0: a bucket
	planned int64         // to be granted in the round that is prepared
	leases  map[uint64]held
	nodes   map[string]int64 // who asked, and when last
}

// A Ledger grants the tokens of limits for as long as one owner's term lasts. It is pure and not safe for concurrent
// use. One round serves many asks: Raise says what must be stored, Stored that it is, and Grant gives.
//
//   - What was granted of a window, less what came back unused, never exceeds its limit, over all owners: the next
//     owner counts everything reserved as spent.
//   - The tokens of a bucket and those in its leases never exceed the burst together. What is kept of it is the time
//     at which it is full again; the next owner adds the longest life of a lease, since what its predecessor
//     granted may still be spent for that long.
//   - What was granted before a restore is not known: no window that had begun is granted from, and buckets begin empty.
//   - Windows shorter than shortWindow are not reserved: the next owner begins with one that starts after its
//     predecessor cannot grant any more.
//
// The clock never goes back: a window that has passed is not opened again.
type Ledger struct {
	limits   map[string]Limit
	entries  map[accountKey]*entry
	dead     map[accountKey]*Reserved // of owners before, as long as nobody asked for it
	slots    map[slotKey][]accountKey // of those that were reserved
	began    int64
	proven   time.Time // when the last write under the term began; zero: none was
	clock    int64
	restored int64  // until when everything was granted; 0: only what is reserved
	swept    int64  // when last
	lease    uint64 // the last that was given
}

type slotKey struct {
	limit string
	slot  uint32
}

// NewLedger takes over from an owner before, from all that it stored, and what Begin said. lease is the number that
// comes before that of the first lease: no other owner of the ledger, restored or not, has given numbers that follow.
func NewLedger(lease uint64, began time.Time, stored []*Reservation) *Ledger {
	l := &Ledger{
		entries: map[accountKey]*entry{}, dead: map[accountKey]*Reserved{}, slots: map[slotKey][]accountKey{},
		began: began.UnixNano(), lease: lease,
	}
	for _, r := range stored {
		if r.ofRestore() {
			l.restore(r.GetRestored())
			continue
		}
		for _, a := range r.GetAccounts() {
			key := accountKey{r.GetLimit(), a.GetCaller(), a.GetValue()}
			l.dead[key] = a
			at := slotKey{key.limit, key.slot()}
			l.slots[at] = append(l.slots[at], key)
			if a.GetPerNs() > 0 { // a clock that was set back must not open the window before again
				l.clock = max(l.clock, a.GetWindow())
			}
		}
	}
	return l
}

// SetLimits replaces the limits. What was granted of a limit stays granted when its numbers change; where its period
// changes, or a window becomes a bucket, it starts anew. The ledger keeps the map.
func (l *Ledger) SetLimits(limits map[string]Limit) { l.limits = limits }

// now is the ledger's time, which never goes back.
func (l *Ledger) now(t time.Time) int64 {
	l.clock = max(l.clock, t.UnixNano())
	return l.clock
}

// Raise takes in what asks return, and gives the reservations that must be stored before Grant can give all that
// they want. confirm says that a write under the term is needed even where there is none: the last one is long ago.
// nodes names who asks, in the order of asks; now is that of the whole round.
func (l *Ledger) Raise(nodes []string, asks []*Ask, now time.Time) (reservations []*Reservation, confirm bool) {
	at := l.now(now)
	raised := map[accountKey]int64{}
	var planned []*entry
	for i, ask := range asks {
		key := keyOf(ask.GetAccount())
		e, limit := l.entry(key, at)
		if e == nil {
			continue
		}
		l.takeBack(e, nodes[i], ask, at)
		if ask.GetWant() == 0 {
			continue
		}
		e.nodes[nodes[i]] = at
		n := l.share(e, limit, ask, at)
		e.planned += n
		planned = append(planned, e)
		if limit.unreserved() {
			confirm = confirm || l.unproven(now) >= confirmed/2
			continue
		}
		if _, ceiling := e.reserved(); n > 0 {
			if need := e.raise(limit, e.planned, at); need > ceiling {
				raised[key] = need
			}
		}
	}
	for _, e := range planned {
		e.planned = 0
	}
	return l.reservations(raised, at), confirm
}

// share is how much of what is free one ask gets: half, divided by those who ask, so that something is left for the
// others, and a node that dies takes little with it.
func (l *Ledger) share(e *entry, limit Limit, ask *Ask, now int64) int64 {
	free := e.free(limit, now) - e.planned
	if free <= 0 {
		return 0
	}
	sharers := int64(0)
	for _, last := range e.nodes {
		if now-last < int64(2*windowLease) {
			sharers++
		}
	}
	return min(int64(min(ask.GetWant(), uint64(free))), max(1, free/(2*max(1, sharers))))
}

// unproven is how long ago it was certain that the term is this owner's, by the clock that says more.
func (l *Ledger) unproven(now time.Time) time.Duration {
	return max(now.Sub(l.proven), now.Round(0).Sub(l.proven.Round(0)))
}

func (limit Limit) unreserved() bool { return limit.Burst == 0 && limit.Per < shortWindow }

// entry finds an account and settles it; nil where its limit is not known, or the ledger is full.
func (l *Ledger) entry(key accountKey, now int64) (*entry, Limit) {
	limit, ok := l.limits[key.limit]
	if !ok {
		return nil, limit
	}
	per := limit.Per
	if limit.Burst > 0 {
		per = 0
	}
	e := l.entries[key]
	if e == nil || e.per != per {
		if e == nil && len(l.entries) >= maxAccounts {
			if now-l.swept >= int64(time.Second) { // who sends ever new values must not keep the ledger busy
				l.Sweep(time.Unix(0, now))
			}
			if len(l.entries) >= maxAccounts {
				return nil, limit
			}
		}
		e = &entry{account: l.open(key, limit, now), per: per, leases: map[uint64]held{}, nodes: map[string]int64{}}
		l.entries[key] = e
	}
	e.limit = limit
	e.tick(now)
	return e, limit
}

// open makes an account, with what an owner before had reserved of it.
func (l *Ledger) open(key accountKey, limit Limit, now int64) account {
	before := l.dead[key]
	delete(l.dead, key)
	if limit.Burst > 0 {
		b := &bucket{}
		if l.restored > 0 {
			b.full = l.restored + cost(limit, limit.Burst) + int64(bucketLease)
		}
		if before != nil && before.GetPerNs() == 0 {
			b.ceiling = before.GetCeiling()
			b.full = max(b.full, before.GetCeiling()+int64(bucketLease+ClockBound))
		}
		return b
	}
	w := &window{from: l.restored}
	switch {
	case limit.unreserved():
		w.from = max(w.from, l.began+int64(confirmed+ClockBound))
	case before != nil && before.GetPerNs() == int64(limit.Per):
		w.start, w.ceiling, w.granted = before.GetWindow(), before.GetCeiling(), before.GetCeiling()
	}
	return w
}

// tick moves an account to now: leases end, in their order, and windows pass.
func (e *entry) tick(now int64) {
	var over []uint64
	for id, lease := range e.leases {
		if lease.ends <= now {
			over = append(over, id)
		}
	}
	slices.SortFunc(over, func(a, b uint64) int { return cmp.Compare(e.leases[a].ends, e.leases[b].ends) })
	for _, id := range over {
		e.release(e.limit, e.leases[id].tokens, 0, e.leases[id].ends)
		delete(e.leases, id)
	}
	e.settle(e.limit, now)
}

// takeBack takes in what a node returns of leases that are its own. One that has ended, or is of an owner before,
// counts as spent.
func (*Ledger) takeBack(e *entry, node string, ask *Ask, now int64) {
	for _, r := range ask.GetReturns() {
		lease, ok := e.leases[r.GetLease()]
		if !ok || lease.node != node {
			continue
		}
		e.release(e.limit, lease.tokens, int64(min(r.GetUnused(), uint64(lease.tokens))), now)
		delete(e.leases, r.GetLease())
	}
}

// reservations are the records of all slots in which an account is raised; they hold every account of theirs that
// still means something.
func (l *Ledger) reservations(raised map[accountKey]int64, now int64) []*Reservation {
	touched := map[slotKey]bool{}
	for key := range raised {
		at := slotKey{key.limit, key.slot()}
		touched[at] = true
		if !slices.Contains(l.slots[at], key) {
			l.slots[at] = append(l.slots[at], key)
		}
	}
	var all []*Reservation
	for at := range touched {
		r := &Reservation{Limit: at.limit, Slot: at.slot}
		l.slots[at] = slices.DeleteFunc(l.slots[at], func(key accountKey) bool {
			reserved := l.reservedOf(key)
			if ceiling, ok := raised[key]; ok {
				reserved.Ceiling = ceiling
			} else if reserved == nil || reserved.over(now) {
				delete(l.dead, key)
				return true
			}
			r.Accounts = append(r.Accounts, reserved)
			return false
		})
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *Reservation) int {
		return cmp.Or(cmp.Compare(a.GetLimit(), b.GetLimit()), cmp.Compare(a.GetSlot(), b.GetSlot()))
	})
	return all
}

// reservedOf is what is reserved of an account now; nil where nothing is.
func (l *Ledger) reservedOf(key accountKey) *Reserved {
	e := l.entries[key]
	if e == nil {
		return l.dead[key]
	}
	r := &Reserved{Caller: key.caller, Value: key.value, PerNs: int64(e.per)}
	r.Window, r.Ceiling = e.reserved()
	return r
}

// over reports whether a reservation means nothing any more.
func (r *Reserved) over(now int64) bool {
	if r.GetPerNs() > 0 {
		return r.GetWindow()+r.GetPerNs() <= now
	}
	return r.GetCeiling()+int64(bucketLease+ClockBound) <= now
}

// Stored takes in that reservations which Raise gave are on disk, by a write under the term that began at a time. It
// is called for the confirming write of nothing too.
func (l *Ledger) Stored(reservations []*Reservation, began time.Time) {
	l.proven = began
	for _, r := range reservations {
		for _, a := range r.GetAccounts() {
			if e := l.entries[accountKey{r.GetLimit(), a.GetCaller(), a.GetValue()}]; e != nil && int64(e.per) == a.GetPerNs() {
				e.reserve(a.GetWindow(), a.GetCeiling())
			}
		}
	}
}

// Grant answers one ask of a round with what its account has and the reservation allows. now is the round's, from
// before the write: a grant that is late is one that the network delayed.
func (l *Ledger) Grant(node string, ask *Ask, now time.Time) *Grant {
	at := l.now(now)
	e, limit := l.entry(keyOf(ask.GetAccount()), at)
	if e == nil {
		return &Grant{Unknown: true}
	}
	if ask.GetWant() == 0 {
		return &Grant{}
	}
	n := l.share(e, limit, ask, at)
	if limit.unreserved() && l.unproven(now) >= confirmed {
		return &Grant{Unknown: true}
	}
	ends, reset := e.horizon(limit, at)
	if n = e.grant(limit, n, at); n == 0 {
		again := reset
		for _, lease := range e.leases { // what others hold may come back
			again = min(again, lease.ends)
		}
		return &Grant{AgainNs: uint64(max(again-at, int64(time.Millisecond))), ResetNs: uint64(max(reset-at, 0))}
	}
	l.lease++
	e.leases[l.lease] = held{node, n, ends}
	return &Grant{Lease: l.lease, Tokens: uint64(n), LifeNs: uint64(ends - at)}
}

// Sweep forgets accounts that are as new ones would be.
func (l *Ledger) Sweep(now time.Time) {
	at := l.now(now)
	l.swept = at
	for key, e := range l.entries {
		if e.tick(at); len(e.leases) == 0 && e.idle(at) {
			delete(l.entries, key)
		}
	}
	maps.DeleteFunc(l.dead, func(_ accountKey, r *Reserved) bool { return r.over(at) })
}
