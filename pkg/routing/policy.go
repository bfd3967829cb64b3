package routing

import (
	"fmt"
	"strings"
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

// verdict says in words what the policy does.
func (r *resilience) verdict() PolicyVerdict {
	var does []string
	for _, part := range []struct {
		there bool
		does  string
	}{
		{r.outliers != nil, "ejects outliers"},
		{r.breaker != nil, "bounds what is under way"},
		{r.breaker != nil && r.breaker.adaptive != nil, "by the latency too"},
		{r.retry != nil, "has a retry for rules without one"},
		{r.hedge > 0, "hedges after " + r.hedge.String()},
		{r.allowance != defaultAllowance, "has a retry budget of its own"},
	} {
		if part.there {
			does = append(does, part.does)
		}
	}
	return PolicyVerdict{Kind: "ResiliencePolicy", Name: r.origin, Detail: strings.Join(does, ", ")}
}
