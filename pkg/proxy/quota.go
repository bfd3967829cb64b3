package proxy

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// spend takes a token of each limit of the rule that matched. Where one has none the decision becomes an answer: the
// instance that was picked is not asked.
func (c *caller) spend(ctx context.Context) {
	d := &c.decision
	if len(d.Limits) == 0 || d.Status != 0 {
		return
	}
	// Not the time at which the exchange began: its body may have taken long to come, and leases end.
	refusal, ok := c.Quota.Admit(ctx, d.Limits, c.call.Caller, &c.request, time.Now())
	if ok {
		return
	}
	seconds := max(1, (refusal.Retry+time.Second-1)/time.Second)
	c.advice = []exchange.Field{
		{Name: "Retry-After", Value: strconv.FormatInt(int64(seconds), 10)}, // RFC 9110 §10.2.3
		{Name: "sennit-limit", Value: refusal.Limit},
	}
	d.Refuse(statusOf(refusal.Reason), refusal.Reason, fmt.Sprintf("limit %s", refusal.Limit))
}
