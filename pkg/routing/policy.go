package routing

import (
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A resilience is what a ResiliencePolicy says of a service, made ready. It never changes.
type resilience struct {
	origin   string    // "<ns>/<policy>"
	outliers *outliers // nil: none is ejected
	breaker  *breaker  // nil: nothing is bounded
}

// resilient makes what a backend has ready. Rules often name one service many times: what is the same is made once.
func (t *Table) resilient(p *pool, s *snapshot.Resilience) *resilience {
	if s == nil {
		return nil
	}
	t.guard(p)
	if p.resilience == nil || !proto.Equal(p.source, s) {
		p.source = s
		p.resilience = &resilience{origin: s.Origin, outliers: compileOutliers(s.Outliers), breaker: compileBreaker(s.CircuitBreaker, s.Origin)}
	}
	return p.resilience
}
