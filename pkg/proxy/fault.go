package proxy

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// maxDelayed is how many exchanges one node holds back for faults at a time: each keeps its connection, and what was
// read of it. Those beyond it go on undelayed, and are counted.
const maxDelayed = 1024

// What a fault did to an exchange.
const (
	FaultDelayed  = "delay"
	FaultAborted  = "abort"
	FaultReset    = "reset"
	FaultSlowed   = "bandwidth"
	FaultNotHeld  = "delay-skipped" // maxDelayed exchanges were held back already
	faultField    = "sennit-fault"
	goneFromDelay = "the caller went away while a fault held its request back"
)

// A Fault is one thing that a fault of a FaultPolicy did to an exchange.
type Fault struct {
	ID     string // "<ns>/<policy>/<fault>"
	Action string
}

var errFault = errors.New("a FaultPolicy says so")

// inject does to the request what the faults that hit it say, before an instance is chosen for it. What the decision
// says afterwards is to be done: an instance to be asked, or an answer. ended says that nothing is: whoever called went
// away, or is to see the exchange break off.
func (c *caller) inject() (ended bool) {
	if len(c.decision.Faults) == 0 || c.decision.Status != 0 {
		return false
	}
	in := c.decision.Injection()
	if in.Delay > 0 {
		switch c.delay(in.Delay) {
		case heldOut:
			c.interrupt(http.StatusGatewayTimeout)
			return false
		case heldGone:
			c.left(errors.New(goneFromDelay))
			return true
		case heldOver:
		}
	}
	for _, f := range c.decision.Faults {
		switch {
		case f.Reset:
			c.note(f.ID, FaultReset)
			c.seen.Outcome, c.seen.Err = exchange.Outcome{Reason: exchange.FaultInjected}, errFault
			return true
		case f.Status != 0:
			c.note(f.ID, FaultAborted)
			c.code = in.GRPC
			c.interrupt(in.Status)
			return false
		}
	}
	c.slow(in.RequestRate, in.ResponseRate)
	c.call.Now = time.Now()
	c.Table.Proceed(&c.call, &c.decision)
	return false
}

// slow has bodies pass at rates, of which 0 is none.
func (c *caller) slow(request, response int64) {
	c.requestPace, c.responsePace = newPace(request, c.drains), newPace(response, c.drains)
	for _, f := range c.decision.Faults {
		if f.RequestRate+f.ResponseRate > 0 {
			c.note(f.ID, FaultSlowed)
		}
	}
}

// blame has a fault answer for the time that ran out while it slowed bodies down.
func (c *caller) blame(f failure) failure {
	if f.reason == exchange.Timeout && (c.requestPace != nil || c.responsePace != nil) {
		f.reason = exchange.FaultInjected
	}
	return f
}

// note says what a fault did, in what is observed of the exchange.
func (c *caller) note(id, action string) {
	c.seen.Faults = append(c.seen.Faults, Fault{id, action})
}

// interrupt has the request answered in the place of the service.
func (c *caller) interrupt(status int) {
	var ids []string
	for _, f := range c.seen.Faults {
		ids = append(ids, f.ID)
	}
	c.advice = append(c.advice, exchange.Field{Name: faultField, Value: strings.Join(ids, ", ")})
	c.decision.Refuse(status, exchange.FaultInjected, "")
}

// Ways in which a delay ends.
type held int

const (
	heldOver held = iota // the request goes on
	heldOut              // the time that the rule, or the caller, gives the exchange is over
	heldGone             // nobody waits for the answer any more
)

// delay holds the request back. The time counts for the timeouts of the rule, as that of a slow service would. A node
// that drains lets it go on at once.
func (c *caller) delay(wait time.Duration) held {
	action := FaultDelayed
	over := heldOver
	if limit := c.limit(); limit != 0 && limit <= wait {
		wait, over = max(limit, 0), heldOut
	}
	if c.delayed.Add(1) > maxDelayed {
		action, wait, over = FaultNotHeld, 0, heldOver
	}
	defer c.delayed.Add(-1)
	for _, f := range c.decision.Faults {
		if f.Delay > 0 {
			c.note(f.ID, action)
		}
	}
	if wait == 0 {
		return over
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	look := time.NewTicker(sweepEvery)
	defer look.Stop()
	for {
		select {
		case <-timer.C:
			return over
		case <-c.drains:
			return heldOver
		case <-look.C:
			if c.guard.left() {
				return heldGone
			}
		}
	}
}
