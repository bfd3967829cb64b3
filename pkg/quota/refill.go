package quota

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// pace is the shortest time between two requests of a node: a controller takes no more than 50 a second from
	// one, and there are others to make.
	pace = 40 * time.Millisecond
	// lookEvery is how often leases are looked at that may have ended.
	lookEvery = 100 * time.Millisecond
	// askTime bounds one request.
	askTime = 2 * time.Second
	// maxAsks bounds the asks of one request.
	maxAsks = 500
	// forget is after how long without a lease a purse is dropped, and forgetEvery how often that is looked at.
	forget      = time.Minute
	forgetEvery = 10 * time.Second
	// notReady is how long a node waits before it asks an owner again that did not know the limit.
	notReady = 200 * time.Millisecond
	// slowest is the longest pause after requests that failed.
	slowest = 2 * time.Second
)

// want is how many tokens to ask for: what was spent lately, for half as long again as a second, and twice what
// waits, less what is in hand. It grows by at most four times from one ask to the next, so that a moment's burst
// does not take what others need.
func want(spent int64, over time.Duration, waiting, held, before int64) int64 {
	over = max(over, pace)
	n := int64(float64(spent)/over.Seconds()*1.5) + 2*waiting
	return max(min(n, 4*max(before, 1)+2*waiting)-held, 0)
}

// ask is what a purse asks for now.
func (p *purse) ask(now time.Time) *Ask {
	p.tidy(now, false)
	total, held := p.spent, int64(0)
	for _, l := range *p.leases.Load() {
		held += l.unspent()
		total += l.size - l.unspent()
	}
	n := want(total-p.counted, now.Sub(p.asked), p.waiting.Load(), held, p.wanted)
	p.counted, p.asked, p.wanted = total, now, n
	a := &Ask{Account: p.account, Want: uint64(n), Returns: p.returns}
	p.returns = nil
	return a
}

// answered takes in what an owner says to an ask that was sent at a time.
func (p *purse) answered(g *Grant, sent, now time.Time) {
	switch {
	case g.GetTokens() > 0:
		p.granted(newLease(g, sent))
	case g.GetUnknown():
		p.refuse(&refusal{until: now.Add(notReady), reset: now.Add(time.Second), unavailable: true})
	case p.wanted > 0:
		p.refuse(&refusal{until: now.Add(time.Duration(g.GetAgainNs())), reset: now.Add(time.Duration(g.GetResetNs()))})
	}
}

// A refiller is the state of Run.
type refiller struct {
	*Spender
	need   map[*purse]bool // to be asked for
	active map[*purse]bool // those with leases
	failed int             // requests in a row
}

// Run asks for leases and returns them until ctx ends; then it gives back what is left.
func (s *Spender) Run(ctx context.Context) error {
	r := &refiller{Spender: s, need: map[*purse]bool{}, active: map[*purse]bool{}}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last, forgot time.Time
	for {
		var due <-chan time.Time
		if len(r.need) > 0 {
			due = time.After(time.Until(last.Add(pace)))
		}
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime/2)
			defer cancel()
			r.giveBack(ctx)
			return nil
		case p := <-s.pokes:
			p.poked.Store(false)
			r.need[p] = true
		case now := <-tick.C:
			r.look(now)
			if now.Sub(forgot) >= forgetEvery {
				forgot = now
				s.forget(now)
			}
		case <-due:
			last = time.Now()
			r.refill(ctx)
		}
	}
}

// look closes leases that have ended. Who spent from one goes on to need more.
func (r *refiller) look(now time.Time) {
	for p := range r.active {
		unused, used := p.tidy(now, false)
		if unused || used {
			r.need[p] = true
		}
		if len(*p.leases.Load()) == 0 {
			delete(r.active, p)
		}
	}
}

// refill sends one request for all that is needed, and takes in the answer.
func (r *refiller) refill(ctx context.Context) {
	var purses []*purse
	request, sent := &Request{}, time.Now()
	for p := range r.need {
		if len(purses) == maxAsks {
			break
		}
		delete(r.need, p)
		if a := p.ask(sent); a.GetWant() > 0 || len(a.GetReturns()) > 0 {
			purses, request.Asks = append(purses, p), append(request.Asks, a)
		} else {
			p.wake() // who waits was too late to be counted, and asks again
		}
	}
	if len(purses) == 0 {
		return
	}
	asking, cancel := context.WithTimeout(ctx, askTime)
	answer, err := r.Ask(asking, request)
	cancel()
	if err == nil && len(answer.GetGrants()) != len(purses) {
		err = fmt.Errorf("%d grants answer %d asks", len(answer.GetGrants()), len(purses))
	}
	now := time.Now()
	r.away.Store(err != nil)
	if err != nil {
		if ctx.Err() == nil && r.failed == 0 {
			r.Log.Warn("no quota leases: requests that need one are refused until there are", "err", err)
		}
		pause := min(notReady<<min(r.failed, 10), slowest)
		r.failed++
		for i, p := range purses {
			p.returns = append(request.Asks[i].Returns, p.returns...) // an owner takes each once
			p.refuse(&refusal{until: now.Add(pause), reset: now.Add(max(pause, time.Second)), unavailable: true})
		}
		return
	}
	if r.failed > 0 {
		r.Log.Info("quota leases are granted again")
	}
	r.failed = 0
	for i, p := range purses {
		if p.answered(answer.GetGrants()[i], sent, now); len(*p.leases.Load()) > 0 {
			r.active[p] = true
		}
	}
}

// giveBack returns all that is left.
func (r *refiller) giveBack(ctx context.Context) {
	request := &Request{}
	for p := range r.active {
		if unused, _ := p.tidy(time.Now(), true); unused && len(request.Asks) < maxAsks {
			request.Asks = append(request.Asks, &Ask{Account: p.account, Returns: p.returns})
		}
	}
	if len(request.Asks) == 0 {
		return
	}
	if _, err := r.Ask(ctx, request); err != nil && !errors.Is(err, context.Canceled) {
		r.Log.Warn("quota leases could not be given back and end by themselves", "err", err)
	}
}
