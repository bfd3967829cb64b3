package routing

import (
	"fmt"
	"strconv"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	firstCode, codeCount = 400, 200
	// backoffGrowth is how many times the first back-off a later one can be.
	backoffGrowth = 10
	// What the compiler lets through is less than these; a body that asks for more is not followed into it.
	mostAttempts = 100
	mostBackoff  = time.Minute
	mostPerTry   = 24 * time.Hour
	mostGRPCCode = 16
)

// A Retry is what a rule says of sending a request again (GEP-1731). It never changes.
type Retry struct {
	Attempts int           // after the first
	backoff  time.Duration // at least, before the first of these
	longest  time.Duration // before any of them, but for what chance adds
	perTry   time.Duration // that one attempt may take; 0: as the rule says
	codes    [(codeCount + 63) / 64]uint64
	calls    uint32 // a bit for each status of gRPC
	on       uint32 // a bit for each snapshot.Retry_Condition
}

func compileRetry(s *snapshot.Retry) (*Retry, error) {
	if s == nil {
		return nil, nil
	}
	if s.Attempts > mostAttempts {
		return nil, fmt.Errorf("retry: %d attempts; at most %d are possible", s.Attempts, mostAttempts)
	}
	r := &Retry{Attempts: int(s.Attempts), backoff: bounded(s.BackoffMs, mostBackoff), perTry: bounded(s.PerTryTimeoutMs, mostPerTry)}
	r.longest = backoffGrowth * r.backoff
	if s.MaxBackoffMs > 0 {
		r.longest = max(r.backoff, bounded(s.MaxBackoffMs, mostBackoff))
	}
	if len(s.On) == 0 {
		r.on = ^uint32(0)
	}
	for _, condition := range s.On {
		r.on |= 1 << (uint32(condition) % 32)
	}
	for _, code := range s.GrpcCodes {
		if code == 0 || code > mostGRPCCode {
			return nil, fmt.Errorf("retry: status %d of gRPC is not one of 1 to %d", code, mostGRPCCode)
		}
		r.calls |= 1 << code
	}
	for _, code := range s.Codes {
		if code < firstCode || code >= firstCode+codeCount {
			return nil, fmt.Errorf("retry: code %d is not one of 400 to 599", code)
		}
		r.codes[(code-firstCode)/64] |= 1 << ((code - firstCode) % 64)
	}
	return r, nil
}

// Unwanted reports whether a response of this status is to be asked for again. A nil Retry wants all.
func (r *Retry) Unwanted(status int) bool {
	if r == nil || status < firstCode || status >= firstCode+codeCount {
		return false
	}
	at := uint(status - firstCode)
	return r.codes[at/64]&(1<<(at%64)) != 0
}

// UnwantedCall reports whether a call of gRPC that ended without a message, with a status in decimal digits, is to be
// sent again. A nil Retry wants all.
func (r *Retry) UnwantedCall(status string) bool {
	if r == nil || r.calls == 0 {
		return false
	}
	code, err := strconv.ParseUint(status, 10, 8)
	return err == nil && code <= mostGRPCCode && r.calls&(1<<code) != 0
}

// Calls reports whether some calls of gRPC that the service answered may be sent again: their messages are worth being
// kept.
func (r *Retry) Calls() bool { return r != nil && r.calls != 0 }

// On reports whether the retry is for attempts that failed so.
func (r *Retry) On(condition snapshot.Retry_Condition) bool { return r.on&(1<<uint32(condition)) != 0 }

// Backoff is how long to wait before a retry, of which the first is number 0: twice as long each time, at most as
// long as is said or ten times the first, and up to half as much again by chance, so that callers that failed together do not come back
// together. It is never shorter than the rule says.
func (r *Retry) Backoff(number int, random uint64) time.Duration {
	base := r.backoff
	for range min(number, 16) {
		base = min(2*base, r.longest)
	}
	return base + time.Duration(below(random, uint64(base/2)+1))
}

// Count adds the request to what the caller's retries for the decision's service are measured by. Pick does not: it is
// asked for requests that nobody sends, too. A request that is not counted is not retried.
func (d *Decision) Count(call *Call) {
	if d.backend != nil && d.backend.pool != nil {
		d.budget = d.backend.pool.budget(call.Caller)
		d.budget.request(call.Now)
	}
}

// AllowRetry takes one retry from the budget that the caller has for the decision's service, and reports whether
// there was one. It is asked before each attempt by which the service may get a request a second time.
func (d *Decision) AllowRetry(now time.Time) bool {
	if d.budget == nil {
		return false
	}
	a := defaultAllowance
	if r := d.backend.resilience; r != nil {
		a = r.allowance
	}
	return d.budget.retry(now, a)
}

// PickRetry is PickAgain for a rule's Retry: instances that were tried are taken again where no other is left. It
// reports false, and answers 503, where the backend has none at all.
func (t *Table) PickRetry(call *Call, out *Decision) bool {
	out.Leave()
	if out.backend == nil {
		return false
	}
	if out.tried == maxTries {
		out.tried = 0
	}
	if out.Instance != nil {
		out.tries[out.tried] = out.Instance.load
		out.tried++
	}
	out.Status, out.Reason, out.Detail = 0, exchange.Completed, ""
	if out.take(call); out.Instance == nil && out.tried > 0 {
		out.tried, out.Status, out.Reason, out.Detail = 0, 0, exchange.Completed, ""
		out.take(call)
	}
	return out.Instance != nil
}
