package proxy

import (
	"errors"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// errUnwanted is a response whose status the rule's retry names.
var errUnwanted = errors.New("the service answered with a status that the rule has asked for again")

// again decides whether the request is sent once more after an attempt failed, waits as the rule says, and picks the
// instance. What reached the service is sent again only where that is idempotent (RFC 9110 §9.2.2), and out of
// the budget; what certainly did not loads nobody, and goes to another instance at once.
func (c *caller) again(f failure, request *body) bool {
	c.call.Now = time.Now()
	if !request.repeatable() || !f.unsent && !f.granted && !c.request.Idempotent() {
		return false
	}
	if f.unsent && f.elsewhere() && c.Table.PickAgain(&c.call, &c.decision) {
		return true
	}
	retry := c.decision.Retry
	if retry == nil {
		return !f.unsent && f.elsewhere() && c.decision.AllowRetry(c.call.Now) && c.Table.PickAgain(&c.call, &c.decision)
	}
	if !f.granted && (!f.wanted(retry) || !c.grant()) {
		return false
	}
	wait := retry.Backoff(c.retries, c.call.Random.Uint64())
	c.retries++
	c.decision.Leave() // nothing is in flight there meanwhile
	if !c.pause(wait) {
		return false
	}
	c.call.Now = time.Now()
	return c.Table.PickRetry(&c.call, &c.decision)
}

// grant reports whether the rule's retry and the budget have one more attempt, and pays for it. There is none where
// the time of the whole exchange would be over before it began.
func (c *caller) grant() bool {
	retry := c.decision.Retry
	if c.retries >= retry.Attempts || c.draining() {
		return false
	}
	ready := time.Since(c.seen.Start) + retry.Backoff(c.retries, ^uint64(0))
	for _, total := range [...]time.Duration{c.decision.Timeout, c.deadline} {
		if total > 0 && ready >= total {
			return false
		}
	}
	return c.decision.AllowRetry(c.call.Now)
}

// wanted reports whether a retry is for what happened.
func (f failure) wanted(retry *routing.Retry) bool {
	switch {
	case f.reason == exchange.Timeout:
		return retry.On(snapshot.Retry_TIMEOUT)
	case !f.elsewhere():
		return false
	case f.unsent:
		return retry.On(snapshot.Retry_CONNECT_FAILURE)
	}
	return retry.On(snapshot.Retry_RESET)
}

// unwanted reports whether the response that was read is not passed on but asked for again, and pays for that. Where
// nothing is left to pay with, the application gets what the service said. A call of gRPC is not idempotent by its
// method: whoever lists a status says that calls which end with it, without a message, may be sent again.
func (c *caller) unwanted(request *body) bool {
	retry := c.decision.Retry
	unwanted := retry.Unwanted(c.response.Status) && c.request.Idempotent()
	if !unwanted && c.gRPC && retry.Calls() {
		code, ended := c.response.Fields.Get("grpc-status")
		unwanted = ended && retry.UnwantedCall(code)
	}
	if !unwanted || request.open || !request.recall() {
		return false
	}
	c.call.Now = time.Now()
	return c.grant()
}

// pause waits between two attempts; false where the connection drains, and its caller is not kept waiting.
func (c *caller) pause(wait time.Duration) bool {
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.drains:
		return false
	}
}
