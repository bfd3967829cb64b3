package node

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A denial is what is counted of requests that a policy of a service refused, or would have.
type denial struct {
	service exchange.ServiceName
	policy  string
	dryRun  bool
}

// A tally counts denials. Its zero value is empty; it is safe for concurrent use.
type tally struct {
	mu     sync.Mutex
	counts map[denial]uint64
}

func (t *tally) add(of denial) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = map[denial]uint64{}
	}
	t.counts[of]++
}

// keep forgets what a service's policies counted, but for those that are kept: policies come and go, and so do not add up.
func (t *tally) keep(service exchange.ServiceName, kept func(policy string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.counts, func(of denial, _ uint64) bool { return of.service == service && !kept(of.policy) })
}

// list is what was counted, in order.
func (t *tally) list() (all []denial, counts []uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all = slices.SortedFunc(maps.Keys(t.counts), func(x, y denial) int {
		return cmp.Or(strings.Compare(x.service.String(), y.service.String()), strings.Compare(x.policy, y.policy))
	})
	for _, of := range all {
		counts = append(counts, t.counts[of])
	}
	return all, counts
}
