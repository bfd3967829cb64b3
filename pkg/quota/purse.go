package quota

import (
	"sync"
	"sync/atomic"
	"time"
)

// A purse is what a node has of one account of a limit: the leases that it spends, and who waits for more. Taking is
// safe for concurrent use and takes no lock; leases come and go by one goroutine, the Spender's Run.
type purse struct {
	account *Account
	leases  atomic.Pointer[[]*Lease] // replaced as a whole
	refusal atomic.Pointer[refusal]  // nil: none
	poked   atomic.Bool              // Run knows that more is needed
	waiting atomic.Int64             // requests

	mu      sync.Mutex
	changed chan struct{} // closed when a lease or a refusal comes; nil: nobody waits

	// Of Run alone:
	returns []*Return
	asked   time.Time // when last
	spent   int64     // from leases that are closed
	counted int64     // of all that is spent: what was, when it was asked last
	wanted  int64     // in the last ask
}

// A refusal says that there is nothing to be had for a while.
type refusal struct {
	until       time.Time // asking before is in vain
	reset       time.Time // when there are new tokens at the latest
	unavailable bool      // no owner answered
}

var noLeases []*Lease

func newPurse(account *Account) *purse {
	p := &purse{account: account}
	p.leases.Store(&noLeases)
	return p
}

// take spends a token, and returns the lease that it is from; nil where there is none. low says that it is time to
// ask for more.
func (p *purse) take(now time.Time) (from *Lease, low bool) {
	for _, l := range *p.leases.Load() {
		if left, ok := l.take(now); ok {
			return l, left == l.low
		}
	}
	return nil, true
}

// arrived reports whether trying again makes sense: there is a token, or a refusal.
func (p *purse) arrived(now time.Time) bool {
	for _, l := range *p.leases.Load() {
		if l.unspent() > 0 && !l.ended(now) {
			return true
		}
	}
	r := p.refusal.Load()
	return r != nil && now.Before(r.until)
}

// watch returns a channel that is closed when a lease or a refusal comes from now on.
func (p *purse) watch() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.changed
}

func (p *purse) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// granted puts a new lease behind those that are there.
func (p *purse) granted(l *Lease) {
	held := append(append([]*Lease(nil), *p.leases.Load()...), l)
	p.leases.Store(&held)
	p.refusal.Store(nil)
	p.wake()
}

func (p *purse) refuse(r *refusal) {
	p.refusal.Store(r)
	p.wake()
}

// tidy closes the leases that are spent or have ended, and reports whether any had tokens left to return, or had any
// spent.
func (p *purse) tidy(now time.Time, all bool) (unused, used bool) {
	held := *p.leases.Load()
	var kept, over []*Lease
	for _, l := range held {
		if all || l.unspent() == 0 || l.ended(now) {
			over = append(over, l)
		} else {
			kept = append(kept, l)
		}
	}
	if over == nil {
		return false, false
	}
	p.leases.Store(&kept)
	for _, l := range over {
		left := l.close()
		p.spent += l.size - left
		unused, used = unused || left > 0, used || left < l.size
		p.returns = append(p.returns, &Return{Lease: l.id, Unused: uint64(left)})
	}
	if extra := len(p.returns) - maxReturns; extra > 0 { // an owner that is away forgets them anyway
		p.returns = p.returns[extra:]
	}
	return unused, used
}

// maxReturns bounds what a purse holds to be returned while nobody answers.
const maxReturns = 16
