package apiserver

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limits on failures to say who asks. They are spent by failures alone, and looked at after a token was found wrong: nobody can
// keep out who has a good one, not even from the same address.
const (
	failuresOfOne   = 20               // from one address at once,
	failurePause    = 10 * time.Second // and one more after each pause
	failuresOfAll   = 200              // the same from all addresses together
	failurePauseAll = 100 * time.Millisecond
	maxSources      = 4096 // addresses in one generation, of which there are two
)

// failures counts who fails to say who he is. Its memory is bounded: where more addresses fail than it remembers, it forgets
// those that failed longest ago. It is safe for concurrent use.
type failures struct {
	mu       sync.Mutex
	all      *rate.Limiter
	now, old map[netip.Prefix]*rate.Limiter // by source; old is the generation before
}

func newFailures() *failures {
	return &failures{all: rate.NewLimiter(rate.Every(failurePauseAll), failuresOfAll), now: map[netip.Prefix]*rate.Limiter{}}
}

// note takes in a failure of an address, and reports whether it is one too many.
func (f *failures) note(remote string, at time.Time) (tooMany bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	source := sourceOf(remote)
	limit := f.now[source]
	if limit == nil {
		if limit = f.old[source]; limit == nil {
			limit = rate.NewLimiter(rate.Every(failurePause), failuresOfOne)
		}
		if len(f.now) >= maxSources {
			f.old, f.now = f.now, map[netip.Prefix]*rate.Limiter{}
		}
		f.now[source] = limit
	}
	return !limit.AllowN(at, 1) || !f.all.AllowN(at, 1)
}

// sourceOf is whom a remote address stands for: of IPv6 the network of 64 bits, which one host can have all of. The zero
// prefix stands for all that cannot be read.
func sourceOf(remote string) netip.Prefix {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	address := a.Addr().Unmap().WithZone("")
	bits := 32
	if address.Is6() {
		bits = 64
	}
	source, _ := address.Prefix(bits) // the number fits
	return source
}

// Refusals is how many requests were not answered because of who sent them.
type Refusals struct {
	Unrecognised uint64 // no token, or none that is good (401)
	TooMany      uint64 // the same, from an address that fails too often, or when too many do (429)
	Forbidden    uint64 // no role allows it (403)
}

type refusals struct{ unrecognised, tooMany, forbidden atomic.Uint64 }

// Refusals counts since the start.
func (s *Server) Refusals() Refusals {
	r := &s.refusals
	return Refusals{r.unrecognised.Load(), r.tooMany.Load(), r.forbidden.Load()}
}

// forbid notes that a role is missing.
func (s *Server) forbid(c Caller, method, path string, err error) {
	s.refusals.forbidden.Add(1)
	s.cfg.Refused(c, method, path, err)
}
