package proxy

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// How far a hedge is.
const (
	hedgeArmed = iota // it may begin
	hedgeRuns         // a second attempt is on its way
	hedgeWon          // its response was first; the first attempt's stream is reset
	hedgeEnded        // it brought nothing, or nobody wants it any more
)

// A hedge is a second attempt of an exchange whose first has not brought a response's head for a while. Whichever head
// is first is passed on, and the other attempt is reset. The exchange's goroutine begins it by arm and ends it by race; between
// these it changes neither the request nor the decision, which the hedge copies when it begins.
type hedge struct {
	c     *caller
	timer *time.Timer
	ctx   context.Context // the exchange's; not kept beyond it
	until time.Time       // when the attempt must have ended; zero: no limit
	first *transport.Stream
	held  []byte // the request's body; the exchange's

	mu       sync.Mutex
	state    int
	stream   *transport.Stream  // nil: there is none that may be reset
	cancel   context.CancelFunc // of its dial
	began    time.Time
	done     chan struct{} // closed when it has won or ended; nil: it has not begun
	decision routing.Decision
	response exchange.Response // where it won
}

// arm has a hedge begin after the policy's delay, where the request may be sent twice; nil: it may not.
func (c *caller) arm(ctx context.Context, until time.Time, stream *transport.Stream, request *body) *hedge {
	delay := c.decision.Hedge
	if delay == 0 || c.requestPace != nil || !request.whole || request.open || !c.request.Idempotent() {
		return nil
	}
	h := c.spare
	if h == nil {
		h = &hedge{c: c}
		c.spare = h
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ctx, h.until, h.first, h.held, h.state = ctx, until, stream, nil, hedgeArmed
	if request.length > 0 {
		h.held = request.held[:request.length]
	}
	if h.timer == nil {
		h.timer = time.AfterFunc(delay, h.begin)
	} else {
		h.timer.Reset(delay)
	}
	return h
}

// begin sends the request to another instance, where there is one and the budget has it.
func (h *hedge) begin() {
	h.mu.Lock()
	if h.state != hedgeArmed {
		h.mu.Unlock()
		return
	}
	c := h.c
	call := c.call
	call.Now, call.Random = time.Now(), rand.NewPCG(rand.Uint64(), rand.Uint64())
	if c.draining() || !c.decision.PickHedge(&call, &h.decision) {
		h.state = hedgeEnded
		h.mu.Unlock()
		return
	}
	if !c.decision.AllowRetry(call.Now) {
		h.decision.Done()
		h.state = hedgeEnded
		h.mu.Unlock()
		return
	}
	request := copyOf(&c.request)
	request.Target = h.decision.Target
	content := bytes.Clone(h.held)
	h.state, h.done = hedgeRuns, make(chan struct{})
	ctx, cancel := context.WithCancel(h.ctx)
	if !h.until.IsZero() {
		ctx, cancel = context.WithDeadline(h.ctx, h.until)
	}
	h.began = call.Now
	h.cancel = cancel
	c.copies.Add(1) // its owner is in the exchange, and waits for copies when the connection ends
	h.mu.Unlock()
	defer c.copies.Done()
	defer cancel()
	defer close(h.done)
	h.run(ctx, &call, &request, content)
}

// run is the attempt.
func (h *hedge) run(ctx context.Context, call *routing.Call, request *exchange.Request, content []byte) {
	stream, err := h.c.Lanes.Open(ctx, laneOf(call, &h.decision), h.decision.Instance.Address, transport.Interactive)
	if err == nil {
		if h.watch(stream) {
			err = h.ask(stream, request, content)
		} else {
			err = context.Canceled
		}
	}
	took := time.Since(h.began)
	h.mu.Lock()
	wanted := h.state == hedgeRuns
	won := wanted && err == nil && h.response.Status < 500
	if won {
		h.state = hedgeWon
		h.first.Reset(exchange.CallerGone)
	} else {
		h.state, h.stream = hedgeEnded, nil
	}
	h.mu.Unlock()
	if won {
		return // stream and decision are the exchange's now
	}
	if wanted {
		h.tell(err, took)
	}
	if stream != nil {
		h.c.guard.leave(stream)
		if !stream.Ended() {
			stream.Reset(exchange.CallerGone)
		}
		stream.Release()
	}
	h.decision.Done()
}

// watch has the attempt end with the exchange; it reports false where that has ended.
func (h *hedge) watch(stream *transport.Stream) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state != hedgeRuns {
		return false
	}
	h.stream = stream
	h.c.guard.join(stream)
	return true
}

func (h *hedge) ask(stream *transport.Stream, request *exchange.Request, content []byte) error {
	if err := stream.WriteRequest(request); err != nil {
		return err
	}
	if len(content) > 0 {
		if _, err := stream.Write(content); err != nil {
			return err
		}
	}
	if err := stream.End(); err != nil {
		return err
	}
	for {
		if err := stream.ReadResponse(&h.response); err != nil || !h.response.Informational() {
			return err
		}
	}
}

// tell says what a hedge that brought nothing says of its instance.
func (h *hedge) tell(err error, took time.Duration) {
	if err == nil { // a status of 500 and more
		h.decision.Judge(true, took, time.Now())
		return
	}
	f := failed(err)
	if f.unreachable() {
		h.c.Table.MarkUnreachable(h.decision.Instance, time.Now())
	}
	if f.elsewhere() {
		h.decision.Judge(true, took, time.Now())
	}
}

// race ends the race after the first attempt has brought its head, or failed. It returns the hedge's stream where that won:
// its head is c.response, its instance the decision's, and the first stream is of no use. Where the first attempt failed it
// waits for a hedge that runs.
func (h *hedge) race(f failure) (winner *transport.Stream) {
	c := h.c
	h.mu.Lock()
	if h.state == hedgeRuns && f.err != nil && f.reason != exchange.CallerGone && f.reason != exchange.Timeout {
		done := h.done
		h.mu.Unlock()
		<-done // the guard ends it, if nothing else does
		h.mu.Lock()
	}
	defer h.mu.Unlock()
	if h.timer.Stop() { // it never began, and nobody else knows it
		h.state, h.ctx, h.first, h.held = hedgeEnded, nil, nil, nil
		return nil
	}
	c.spare = nil // begin may still be on its way
	if h.done != nil {
		c.seen.Attempts++
	}
	if h.state == hedgeWon {
		if c.decision.Judged() { // the instance that was overtaken took at least so long
			c.decision.Judge(false, time.Since(c.began), time.Now())
		}
		c.decision.Adopt(&h.decision)
		c.response, c.began, c.seen.Err = h.response, h.began, nil
		return h.stream
	}
	if h.state == hedgeRuns {
		h.cancel()
		if h.stream != nil {
			h.stream.Reset(exchange.CallerGone)
		}
	}
	h.state = hedgeEnded
	return nil
}
