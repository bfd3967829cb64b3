package proxy

import (
	"errors"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// pacedSteps is in how many pieces what may pass in a second does.
const pacedSteps = 10

// A pace lets no more than so many bytes pass in a second, in small pieces, so that whoever reads sees a slow
// connection and not one that stalls. A nil pace lets all pass at once. It is for one goroutine.
type pace struct {
	rate   int64
	free   time.Time       // when the next piece may pass
	drains <-chan struct{} // closed: nothing is held back any more
	timer  *time.Timer
}

func newPace(rate int64, drains <-chan struct{}) *pace {
	if rate <= 0 {
		return nil
	}
	return &pace{rate: rate, drains: drains}
}

// pass hands p on, piece by piece, each when it may pass.
func (p *pace) pass(data []byte, on func([]byte) error) error {
	if p == nil {
		return on(data)
	}
	for len(data) > 0 {
		n := int(min(int64(len(data)), max(p.rate/pacedSteps, 1)))
		p.wait(n)
		if err := on(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// wait returns when n bytes more may pass.
func (p *pace) wait(n int) {
	now := time.Now()
	if wait := p.free.Sub(now); wait > 0 {
		if p.timer == nil {
			p.timer = time.NewTimer(wait)
		} else {
			p.timer.Reset(wait)
		}
		select {
		case <-p.timer.C:
			now = time.Now()
		case <-p.drains:
			p.timer.Stop()
			return
		}
	}
	// What passed late makes up for nothing: there are no bursts.
	p.free = now.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
}

// A pacedWriter writes the body of a caller's response at a pace.
type pacedWriter struct {
	bodyWriter

	of *caller
}

var errPaced = errors.New("the time of the exchange ran out while a fault slowed its response down")

// Write writes all of data, and takes its time, of which the rule may give it no more than a part.
func (w pacedWriter) Write(data []byte) (int, error) {
	err := w.of.responsePace.pass(data, func(piece []byte) error {
		if w.of.guard.over() {
			w.of.seen.Outcome.Reason, w.of.seen.Err = exchange.FaultInjected, errPaced
			return errPaced
		}
		if _, err := w.bodyWriter.Write(piece); err != nil {
			return err
		}
		return w.Flush()
	})
	if err != nil {
		return 0, err
	}
	return len(data), nil
}

// paced is where the response's body goes.
func (c *caller) paced() bodyWriter {
	if c.responsePace == nil {
		return c.answers()
	}
	return pacedWriter{c.answers(), c}
}
