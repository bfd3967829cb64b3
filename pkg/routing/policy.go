package routing

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A resilience is what a ResiliencePolicy says of a service, made ready. It never changes.
type resilience struct {
	origin   string    // "<ns>/<policy>"
	outliers *outliers // nil: none is ejected
	breaker  *breaker  // nil: nothing is bounded
	retry    *Retry    // of rules without one; nil: they have none

	hedge     time.Duration // of rules without one; 0: they have none
	allowance allowance     // for all retries
}

// resilient makes what a backend has ready. Rules often name one service many times: what is the same is made once.
func (t *Table) resilient(p *pool, s *snapshot.Resilience) (*resilience, error) {
	if s == nil {
		return nil, nil
	}
	if p.resilience != nil && proto.Equal(p.source, s) {
		return p.resilience, nil
	}
	r := &resilience{
		origin: s.Origin, outliers: compileOutliers(s.Outliers), breaker: compileBreaker(s.CircuitBreaker, s.AdaptiveConcurrency, s.Origin),
		allowance: compileAllowance(s.RetryBudget), hedge: bounded(s.HedgeDelayMs, mostPerTry),
	}
	var err error
	if r.retry, err = compileRetry(s.Retry); err != nil {
		return nil, fmt.Errorf("ResiliencePolicy %s: %w", s.Origin, err)
	}
	t.guard(p)
	p.source, p.resilience = s, r
	return r, nil
}
