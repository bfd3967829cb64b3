package quota

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// ErrNotOwner is returned for asks to a controller that does not have the term of the ledger.
var ErrNotOwner = errors.New("this controller does not own the ledger of quotas")

// ErrInvalid is returned for a request that is none.
var ErrInvalid = errors.New("not a request for quota")

// A Term is an owner's turn, as it begins: what was stored before, and how to store more under it.
type Term interface {
	Stored() []*Reservation
	// Store writes all or none, and fails where the term is over. Without reservations it makes sure of the term.
	Store(ctx context.Context, reservations []*Reservation) error
}

const (
	// maxRound bounds the requests that are served by one write.
	maxRound = 256
	// sweepEvery is how often a ledger forgets what is over.
	sweepEvery = 10 * time.Second
)

// An Owner serves the ledger while it has the term. It is safe for concurrent use; Hold is called by one goroutine.
type Owner struct {
	visits chan *visit
	views  chan chan []Usage
	limits atomic.Pointer[map[string]Limit]
	holds  atomic.Pointer[chan struct{}] // closed when the term ends; nil: no term
}

// visit is one request, and where its answer goes.
type visit struct {
	node    string
	request *Request
	answer  chan *Answer // of size 1; closed without one where the write failed
}

// NewOwner returns an owner that has no term yet and knows no limit.
func NewOwner() *Owner {
	o := &Owner{visits: make(chan *visit), views: make(chan chan []Usage)}
	o.limits.Store(&map[string]Limit{})
	return o
}

// SetLimits replaces what is allowed, by the limits' names. The owner keeps the map.
func (o *Owner) SetLimits(limits map[string]Limit) { o.limits.Store(&limits) }

// Serve answers what a node asks. Whether it may count for the callers that it names is the caller's to know.
func (o *Owner) Serve(ctx context.Context, node string, r *Request) (*Answer, error) {
	if len(r.GetAsks()) > maxAsks {
		return nil, fmt.Errorf("%w: %d asks, more than %d", ErrInvalid, len(r.GetAsks()), maxAsks)
	}
	for _, a := range r.GetAsks() {
		if a.GetAccount() == nil || len(a.GetAccount().GetValue()) > maxValue || len(a.GetReturns()) > 2*maxReturns {
			return nil, fmt.Errorf("%w: an ask without account, or with too much in it", ErrInvalid)
		}
	}
	ended := o.holds.Load()
	if ended == nil {
		return nil, ErrNotOwner
	}
	v := &visit{node, r, make(chan *Answer, 1)}
	select {
	case o.visits <- v:
	case <-*ended:
		return nil, ErrNotOwner
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case answer, ok := <-v.answer:
		if !ok {
			return nil, ErrNotOwner
		}
		return answer, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Hold serves under a term that was taken at a time by this host's clock, until ctx ends or a write fails.
func (o *Owner) Hold(ctx context.Context, term Term, began time.Time) error {
	stored := term.Stored()
	if first := Begin(stored, began); len(first) > 0 {
		if err := term.Store(ctx, first); err != nil {
			return fmt.Errorf("begin with restored quota: %w", err)
		}
	}
	// Terms are counted from one again after a restore, while nodes still give back leases of before.
	ledger := NewLedger(rand.Uint64()>>1, began, stored)
	ended := make(chan struct{})
	o.holds.Store(&ended)
	defer func() {
		o.holds.Store(nil)
		close(ended)
	}()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-sweep.C:
			ledger.Sweep(now)
		case to := <-o.views:
			to <- ledger.usage(*o.limits.Load(), time.Now())
		case first := <-o.visits:
			ledger.SetLimits(*o.limits.Load())
			if err := round(ctx, ledger, term, o.gather(first)); err != nil {
				return err
			}
		}
	}
}

// gather takes what else waits to be served.
func (o *Owner) gather(first *visit) []*visit {
	visits := []*visit{first}
	for len(visits) < maxRound {
		select {
		case v := <-o.visits:
			visits = append(visits, v)
		default:
			return visits
		}
	}
	return visits
}

// round serves visits with one write.
func round(ctx context.Context, ledger *Ledger, term Term, visits []*visit) error {
	var nodes []string
	var asks []*Ask
	for _, v := range visits {
		for _, a := range v.request.GetAsks() {
			nodes, asks = append(nodes, v.node), append(asks, a)
		}
	}
	now := time.Now()
	reservations, confirm := ledger.Raise(nodes, asks, now)
	if len(reservations) > 0 || confirm {
		began := time.Now()
		if err := term.Store(ctx, reservations); err != nil {
			for _, v := range visits {
				close(v.answer)
			}
			return fmt.Errorf("reserve quota: %w", err)
		}
		ledger.Stored(reservations, began)
	}
	for _, v := range visits {
		answer := &Answer{}
		for _, a := range v.request.GetAsks() {
			answer.Grants = append(answer.Grants, ledger.Grant(v.node, a, now))
		}
		v.answer <- answer
	}
	return nil
}

// Usage is what is known of one account, for people.
type Usage struct {
	Name          string // of the limit
	Caller, Value string
	Limit         Limit
	Granted       int64         // of this window, or missing from the bucket
	Reset         time.Duration // until the window ends, or the bucket is full
	Holders       []Holder
}

// A Holder is a node that has leases.
type Holder struct {
	Node   string
	Tokens int64 // granted to it in leases that have not ended
}

// usagePatience is how long people wait for a controller that is about to own the ledger.
const usagePatience = 2 * time.Second

// Usage lists the accounts that are in use. It waits a moment for a term.
func (o *Owner) Usage(ctx context.Context) ([]Usage, error) {
	to, patience := make(chan []Usage, 1), time.NewTimer(usagePatience)
	defer patience.Stop()
	select {
	case o.views <- to:
		return <-to, nil
	case <-patience.C:
		return nil, ErrNotOwner
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *Ledger) usage(limits map[string]Limit, now time.Time) []Usage {
	l.SetLimits(limits)
	at := l.now(now)
	all := make([]Usage, 0, len(l.entries))
	used := map[string]bool{}
	for key, e := range l.entries {
		limit, ok := limits[key.limit]
		if !ok {
			continue
		}
		e.tick(at)
		used[key.limit] = true
		u := Usage{Name: key.limit, Caller: key.caller, Value: key.value, Limit: limit}
		switch a := e.account.(type) {
		case *window:
			u.Granted, u.Reset = limit.Requests-a.free(limit, at), time.Duration(a.start+a.per-at)
		case *bucket:
			u.Granted, u.Reset = max(limit.Burst-a.free(limit, at), 0), time.Duration(max(a.full-at, 0))
		}
		tokens := map[string]int64{}
		for _, lease := range e.leases {
			tokens[lease.node] += lease.tokens
		}
		for node, n := range tokens {
			u.Holders = append(u.Holders, Holder{node, n})
		}
		slices.SortFunc(u.Holders, func(a, b Holder) int { return strings.Compare(a.Node, b.Node) })
		all = append(all, u)
	}
	for name, limit := range limits {
		if !used[name] {
			all = append(all, Usage{Name: name, Limit: limit})
		}
	}
	slices.SortFunc(all, func(a, b Usage) int {
		return strings.Compare(a.Name+"\x00"+a.Caller+"\x00"+a.Value, b.Name+"\x00"+b.Caller+"\x00"+b.Value)
	})
	return all
}
