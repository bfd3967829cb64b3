package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

const (
	// flowPause is for how long the datagrams of a flow that nobody takes are dropped before somebody is asked again.
	flowPause = time.Second
	// flowFarewell bounds how long an end of a flow waits for the other, and lingerFlow how long answers that are under way
	// are waited for.
	flowFarewell = 5 * time.Second
	lingerFlow   = time.Second
	// keptDatagram is the largest first datagram of a flow that is sent again, in bytes.
	keptDatagram = 2 << 10
)

// ServeFlow carries one flow of a local process, or from outside to a gateway, until it ends; it is a capture.FlowHandler.
// Its instance is chosen with its first datagram, and stays: another is chosen where the instance does not take the flow or
// is lost, and where its lane drains.
func (o *Outbound) ServeFlow(ctx context.Context, f *capture.Flow) {
	c := &flowCaller{Outbound: o, flow: f, observer: o.Observe()}
	l := f.Listener
	c.call = routing.Call{Caller: l.As, Callee: l.To, Port: l.Port, UDP: true, Random: rand.NewPCG(rand.Uint64(), rand.Uint64())}
	if l.Gateway {
		c.call.Source = f.Source.Addr()
	}
	defer c.leaving.Wait()
	for {
		first, err := f.Receive(nil)
		if err != nil {
			return
		}
		if !l.Gateway && !o.Table.Ready(l.As.Namespace, l.To) {
			o.await(ctx, l, time.Now())
		}
		if !c.carry(ctx, first) {
			c.pause()
		}
	}
}

// A flowCaller is one flow. One goroutine owns it.
type flowCaller struct {
	*Outbound
	flow     *capture.Flow
	call     routing.Call
	observer Observer
	leaving  sync.WaitGroup // streams that were left, and wait for their ends
}

// carry chooses an instance for the flow and carries its datagrams, of which one is there, until the flow ends or has to go
// on elsewhere. It reports false where nobody took it.
func (c *flowCaller) carry(ctx context.Context, first *capture.Datagram) (taken bool) {
	defer first.Release()
	seen := Observation{Kind: exchange.UDP, Caller: c.call.Caller, Callee: c.call.Callee, Start: time.Now()}
	var d routing.Decision
	defer func() {
		d.Done()
		seen.Rule, seen.Backend = d.Rule, d.Service
		if d.Instance != nil {
			seen.Node, seen.Instance, seen.Version = d.Instance.Node, d.Instance.ID, d.Instance.Version
		}
		seen.Duration = time.Since(seen.Start)
		c.observer.Ended(&seen)
	}()
	c.call.Now = seen.Start
	if c.flow.Listener.Gateway {
		if c.Table.PickIngress(&c.call, nil, &d); !d.Service.IsZero() {
			seen.Callee = d.Service
		}
	} else {
		c.Table.Pick(&c.call, nil, &d)
	}
	for d.Status == 0 {
		seen.Attempts++
		began := time.Now()
		stream, err := c.Lanes.Open(ctx, laneOf(&c.call, &d), d.Instance.Address, transport.Flows)
		if err == nil {
			seen.Lane = stream.Carrier()
			took := time.Since(began)
			taken, err = c.run(stream, &d, first, &seen)
			if err == nil {
				d.Judge(false, took, time.Now())
				return true
			}
		}
		seen.Err = err
		f := failed(err)
		seen.Outcome.Reason = f.reason
		now := time.Now()
		if f.unreachable() {
			c.Table.MarkUnreachable(d.Instance, now)
			d.Judge(true, now.Sub(began), now)
		}
		if taken || !f.unreachable() || len(first.Bytes()) > keptDatagram {
			return taken
		}
		c.call.Now = now
		c.Table.PickAgain(&c.call, &d)
	}
	seen.Outcome.Reason = d.Reason
	if seen.Err == nil {
		seen.Err = fmt.Errorf("no instance for the flow: %s", d.Detail)
	}
	return false
}

// A flowRun is the flow on one stream.
type flowRun struct {
	stream   *transport.Stream
	received atomic.Int64 // bytes
	ran      chan error   // what RunFlow returned
}

// run carries the flow on one stream, until that ends, the flow does, or both part: that is no error. It reports whether the
// callee took the flow.
func (c *flowCaller) run(stream *transport.Stream, d *routing.Decision, first *capture.Datagram, seen *Observation) (taken bool, err error) {
	r := &flowRun{stream: stream, ran: make(chan error, 1)}
	err = stream.OpenFlow(d.Target, func(p []byte) {
		r.received.Add(int64(len(p)))
		c.flow.Send(p)
	})
	if err != nil {
		stream.Release()
		return false, err
	}
	go func() { r.ran <- stream.RunFlow() }()
	sent, err := c.send(stream, first)
	if err == nil {
		select {
		case err = <-r.ran: // the callee has ended it
			r.ran <- err
		default:
		}
	}
	if err == nil {
		err = stream.End()
	}
	taken = stream.FlowAccepted()
	seen.Sent += sent
	seen.Received += r.received.Load()
	if err != nil {
		stream.Reset(failed(err).reason)
		if ran := <-r.ran; ran != nil {
			err = ran // it knows better why
		}
		stream.Release()
		return taken, err
	}
	c.leaving.Go(func() { r.part(c.Log) })
	return true, nil
}

// send passes datagrams on until the flow ends or has to leave its stream. It returns how many bytes that were.
func (c *flowCaller) send(stream *transport.Stream, first *capture.Datagram) (sent int64, err error) {
	if err := stream.SendDatagram(first.Bytes()); err != nil {
		return 0, err
	}
	sent = int64(len(first.Bytes()))
	for {
		d, err := c.flow.Receive(stream.Leaving())
		if err != nil {
			return sent, nil //nolint:nilerr // both ends of the wait are ends of this
		}
		err = stream.SendDatagram(d.Bytes())
		sent += int64(len(d.Bytes()))
		d.Release()
		if err != nil {
			return sent, err
		}
	}
}

// part waits for the answers that are still on their way, and for the callee's end.
func (r *flowRun) part(log *slog.Logger) {
	timer := time.AfterFunc(flowFarewell, func() { r.stream.Reset(exchange.CallerGone) })
	if err := <-r.ran; err != nil {
		log.Debug("the end of a flow did not come", "err", err)
	}
	timer.Stop()
	r.stream.Release()
}

// pause drops what comes for a while.
func (c *flowCaller) pause() {
	over := make(chan struct{})
	timer := time.AfterFunc(flowPause, func() { close(over) })
	defer timer.Stop()
	for {
		d, err := c.flow.Receive(over)
		if err != nil {
			return // the flow's end is found again
		}
		d.Release()
	}
}
