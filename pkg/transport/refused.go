package transport

import (
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// A Refusal is why a connection that a peer wanted to open was refused. What peers are told does not depend on it.
type Refusal int

// The reasons for which a connection is refused.
const (
	RefusedIdentity Refusal = iota // its certificate does not hold here: expired, revoked, or of no authority that is trusted
	RefusedService                 // it wants a service of which this node is none
	RefusedLimit                   // there were too many, of all or of one peer
	refusalKinds
)

// Refusals are all of them.
var Refusals = [refusalKinds]Refusal{RefusedIdentity, RefusedService, RefusedLimit}

// String is "identity", "service" or "limit".
func (r Refusal) String() string { return [refusalKinds]string{"identity", "service", "limit"}[r] }

// refusals count them. The first are logged, and then one in a while: whoever knocks does not fill the log.
type refusals struct {
	counts [refusalKinds]atomic.Uint64
	seldom rate.Sometimes
}

func newRefusals() refusals {
	return refusals{seldom: rate.Sometimes{First: 16, Interval: 10 * time.Second}}
}

// Refused is how many connections that peers wanted to open were refused for a reason since New. A connection that brought no
// certificate at all, or did not speak TLS, is none of a peer's.
func (t *Transport) Refused(why Refusal) uint64 { return t.refusals.counts[why].Load() }

// refuse counts a refusal, and may log it.
func (t *Transport) refuse(why Refusal, from net.Addr, err error) {
	t.refusals.counts[why].Add(1)
	t.refusals.seldom.Do(func() {
		t.log.Warn("peer refused at a lane; the metric sennit_lane_refused_total counts all", "addr", from.String(), "err", err)
	})
}
