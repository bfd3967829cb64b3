package bus

import (
	"time"

	"golang.org/x/time/rate"
)

// Limits bound what one node may ask of one controller.
type Limits struct {
	Rate  float64 // requests a second, over all verbs; to join or to renew counts as issuingCost of them
	Burst int     // requests at once
	Flood int     // requests refused in one second that cut a node off
}

// DefaultLimits leave room for a node that starts with many services, and end a flood within its first
// second.
var DefaultLimits = Limits{Rate: 50, Burst: 200, Flood: 2000}

// issuingCost is what a request for certificates counts for: it may ask for 257 of them, each of which is verified,
// signed and kept, and it makes two synced writes.
const issuingCost = 10

// workloadCost is what a request for SVIDs of processes counts for: it may ask for a few, each of which is signed and kept.
const workloadCost = 3

func costOf(verb string) int {
	switch verb {
	case VerbJoin, VerbRenew:
		return issuingCost
	case VerbWorkload:
		return workloadCost
	}
	return 1
}

const (
	maxMetered   = 16384 // senders that are remembered at once
	forgetSender = time.Minute
)

// verdict is what becomes of a request.
type verdict int

const (
	serve   verdict = iota
	refuse          // answered with TOO_MANY
	cut             // this one makes it a flood: cut the sender off
	discard         // of a flood that is known: not worth an answer
)

// meter counts what each sender asks. It is not safe for concurrent use.
type meter struct {
	limits  Limits
	senders map[flood]*sender
}

// A sender is one node, by its own users or by those that ask to join under its name.
type sender struct {
	rate    *rate.Limiter
	last    time.Time
	refused int       // since second
	second  time.Time // the beginning of the second that is counted
}

func newMeter(limits Limits) *meter {
	return &meter{limits: limits, senders: map[flood]*sender{}}
}

// take counts one request, at its cost.
func (m *meter) take(from flood, cost int, now time.Time) verdict {
	s := m.senders[from]
	if s == nil {
		if len(m.senders) >= maxMetered {
			m.forget(now)
		}
		s = &sender{rate: rate.NewLimiter(rate.Limit(m.limits.Rate), m.limits.Burst)}
		m.senders[from] = s
	}
	s.last = now
	if now.Sub(s.second) >= time.Second {
		s.refused, s.second = 0, now
	}
	if s.rate.AllowN(now, min(cost, m.limits.Burst)) {
		return serve
	}
	s.refused++
	switch {
	case s.refused < m.limits.Flood:
		return refuse
	case s.refused == m.limits.Flood:
		return cut
	}
	return discard
}

// forget drops who was quiet for a while, and one at random where nobody was. Names come from the bus's
// users, so that there are not more than nodes.
func (m *meter) forget(now time.Time) {
	for from, s := range m.senders {
		if now.Sub(s.last) > forgetSender {
			delete(m.senders, from)
		}
	}
	for from := range m.senders {
		if len(m.senders) < maxMetered {
			return
		}
		delete(m.senders, from)
	}
}
