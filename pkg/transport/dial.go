package transport

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
)

// headStart is how long QUIC is tried alone.
const headStart = 250 * time.Millisecond

// A dialling is how a dial over one carrier ended: with a connection or an error.
type dialling struct {
	c   *conn
	err error
}

// dial opens one connection over what the lane may use. With Auto QUIC is tried first, and TCP joins where that takes
// long, or at once where UDP is known not to get through: the first that is there is used. Where that is TCP, QUIC is
// tried to its end, and later says how that was.
func (t *Transport) dial(ctx context.Context, l *lane, addr netip.AddrPort, class Class) (c *conn, later <-chan dialling, err error) {
	switch t.carrier(l.key) {
	case QUIC:
		c, err = t.dialQUIC(ctx, l, addr, class)
		return c, nil, err
	case TCP:
		c, err = t.dialTCP(ctx, l, addr, class)
		return c, nil, err
	case Auto:
	}
	overTCP, giveUp := context.WithCancel(ctx)
	defer giveUp()
	quicDone, tcpDone := make(chan dialling, 1), make(chan dialling, 1)
	if !t.spawn(func(context.Context) {
		c, err := t.dialQUIC(ctx, l, addr, class)
		quicDone <- dialling{c, err}
	}) {
		return nil, nil, errStops
	}
	tcp := false
	join := func() {
		tcp = t.spawn(func(context.Context) {
			c, err := t.dialTCP(overTCP, l, addr, class)
			tcpDone <- dialling{c, err}
		})
	}
	wait := time.NewTimer(t.headStart)
	defer wait.Stop()
	if t.ways.blocked(addr) {
		wait.Stop()
		join()
	}
	var overQUIC *dialling
	for {
		select {
		case <-wait.C:
			join()
		case d := <-quicDone:
			if d.err == nil {
				t.ways.open(addr)
				t.dropLoser(tcp, tcpDone)
				return d.c, nil, nil
			}
			if overQUIC = &d; answered(d.err) || ctx.Err() != nil {
				t.dropLoser(tcp, tcpDone)
				return nil, nil, d.err
			}
			if !tcp {
				wait.Stop()
				join()
			}
		case d := <-tcpDone:
			switch {
			case d.err == nil && overQUIC != nil:
				t.ways.block(addr, overQUIC.err)
				return d.c, nil, nil
			case d.err == nil:
				t.ways.block(addr, errSlow)
				return d.c, quicDone, nil
			case overQUIC == nil: // it may only be slow
				q := <-quicDone
				overQUIC = &q
				if q.err == nil {
					t.ways.open(addr)
					return q.c, nil, nil
				}
			}
			return nil, nil, fmt.Errorf("%w; over TCP: %w", overQUIC.err, d.err)
		}
	}
}

var errSlow = errors.New("no answer when TCP had one")

// dropLoser closes the connection over TCP where it still comes.
func (t *Transport) dropLoser(dialled bool, done <-chan dialling) {
	drop := func(context.Context) {
		if d := <-done; d.err == nil {
			d.c.close(closeDone, "QUIC was faster")
		}
	}
	if dialled && !t.spawn(drop) {
		drop(context.Background())
	}
}

// answered reports whether the peer answered a dial over QUIC: UDP gets through, and TCP would end alike.
func answered(err error) bool {
	var refused *quic.TransportError
	var closed *quic.ApplicationError
	return errors.Is(err, ErrIdentity) || errors.As(err, &closed) || errors.As(err, &refused) && refused.Remote
}

// settle uses a connection over QUIC that was slower than one over TCP, in its place, or remembers that UDP does not
// get through. It returns when that connection has ended.
func (l *lane) settle(ctx context.Context, addr netip.AddrPort, d dialling) {
	if d.err != nil {
		l.t.ways.block(addr, d.err)
		l.t.log.Info("lane goes over TCP", "lane", l.key, "addr", addr, "err", d.err)
		return
	}
	l.t.ways.open(addr)
	l.mu.Lock()
	added := l.add(d.c)
	var replaced []*conn
	if added {
		for _, c := range l.sides[d.c.class].conns {
			if _, tcp := c.link.(*tcpLink); tcp {
				replaced = append(replaced, c)
			}
		}
	}
	l.mu.Unlock()
	for _, c := range replaced {
		c.drain()
	}
	if added {
		l.stay(ctx, d.c)
	}
}

// retryQUIC tries a connection over QUIC for one that goes over TCP because UDP did not get through.
func (c *conn) retryQUIC(ctx context.Context) {
	defer c.retries.Store(false)
	q, err := c.t.dialQUIC(ctx, c.lane, c.addr, c.class)
	c.retries.Store(false)
	c.lane.settle(ctx, c.addr, dialling{q, err})
}

// sweepTCP has QUIC tried again where a connection over TCP takes its place.
func (c *conn) sweepTCP(now time.Time) {
	if !c.solo || c.t.carrier(c.lane.key) != Auto || !c.t.ways.due(c.addr, now) {
		return
	}
	c.mu.Lock()
	draining := c.draining
	c.mu.Unlock()
	if !draining && c.retries.CompareAndSwap(false, true) && !c.t.spawn(c.retryQUIC) {
		c.retries.Store(false)
	}
}
