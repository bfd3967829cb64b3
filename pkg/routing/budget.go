package routing

import (
	"maps"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	// budgetSeconds is the time over which a budget counts.
	budgetSeconds = 10
	// budgetShare is of how many requests one may be sent again.
	budgetShare = 5
	// budgetFloor is how many retries there are in each budgetSeconds however few the requests are.
	budgetFloor = 3 * budgetSeconds
)

// An allowance is how much a budget gives.
type allowance struct {
	percent uint64 // of the requests
	floor   uint64 // in each budgetSeconds, however few the requests are
}

// defaultAllowance is that of services without a policy.
var defaultAllowance = allowance{100 / budgetShare, budgetFloor}

func compileAllowance(s *snapshot.RetryBudget) allowance {
	if s == nil {
		return defaultAllowance
	}
	return allowance{uint64(min(s.Percent, 100)), min(uint64(s.MinPerSecond), fullRetries) * budgetSeconds}
}

// A budget bounds the retries of one calling service for one called service on this node: in any ten seconds of the
// clock they are at most a fifth of the requests, or 30 where that is more; or as many as a policy says. So retries never
// multiply an overload.
// It is safe for concurrent use, takes no lock and allocates nothing.
type budget struct {
	// seconds are a ring. Of each the upper 20 bits say which second it counts, the next 24 are its requests, and the
	// lower 20 its retries; a count that is full stays full.
	seconds [budgetSeconds]atomic.Uint64
}

const (
	retryBits, requestBits = 20, 24
	stampShift             = retryBits + requestBits
	fullRetries            = 1<<retryBits - 1
	fullRequests           = 1<<requestBits - 1
)

// count adds to a second, which begins at nothing where its place counted another.
func (b *budget) count(second uint64, requests, retries uint64) {
	slot, stamp := &b.seconds[second%budgetSeconds], stampOf(second)
	for {
		old := slot.Load()
		asked, again := old>>retryBits&fullRequests, old&fullRetries
		if old>>stampShift != stamp {
			asked, again = 0, 0
		}
		next := stamp<<stampShift | min(asked+requests, fullRequests)<<retryBits | min(again+retries, fullRetries)
		if slot.CompareAndSwap(old, next) {
			return
		}
	}
}

func secondOf(now time.Time) uint64 { return uint64(max(now.Unix(), 0)) }

func stampOf(second uint64) uint64 { return second & (1<<(64-stampShift) - 1) }

// request notes a request that is no retry.
func (b *budget) request(now time.Time) { b.count(secondOf(now), 1, 0) }

// retry takes a retry, and reports whether there was one. It counts before it looks: of several at once some may be
// refused that would have been within the bound, and none is allowed that is not.
func (b *budget) retry(now time.Time, a allowance) bool {
	second := secondOf(now)
	b.count(second, 0, 1)
	var requests, retries uint64
	for back := range uint64(budgetSeconds) {
		at := second - back
		if value := b.seconds[at%budgetSeconds].Load(); value>>stampShift == stampOf(at) {
			requests += value >> retryBits & fullRequests
			retries += value & fullRetries
		}
	}
	if retries <= max(requests*a.percent/100, a.floor) && retries < fullRetries {
		return true
	}
	b.giveBack(second)
	return false
}

// giveBack takes a retry that was refused out of its second, where that is still counted.
func (b *budget) giveBack(second uint64) {
	slot, stamp := &b.seconds[second%budgetSeconds], stampOf(second)
	for {
		old := slot.Load()
		if old>>stampShift != stamp || old&fullRetries == 0 || slot.CompareAndSwap(old, old-1) {
			return
		}
	}
}

// budget returns that of a caller. There are as many as services that call from this node.
func (p *pool) budget(caller exchange.ServiceName) *budget {
	for {
		old := p.budgets.Load()
		if old != nil {
			if b := (*old)[caller]; b != nil {
				return b
			}
		}
		next := make(map[exchange.ServiceName]*budget)
		if old != nil {
			maps.Copy(next, *old)
		}
		b := new(budget)
		next[caller] = b
		if p.budgets.CompareAndSwap(old, &next) {
			return b
		}
	}
}
