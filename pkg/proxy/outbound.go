package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http1"
	"github.com/sennit-mesh/sennit/pkg/login"
	"github.com/sennit-mesh/sennit/pkg/quota"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// Lanes open streams to other nodes; a *transport.Transport does.
type Lanes interface {
	Open(ctx context.Context, key transport.Key, addr netip.AddrPort, class transport.Class) (*transport.Stream, error)
}

// A Quota spends of limits, or says why not; a *quota.Spender does. It may wait for a while.
type Quota interface {
	Admit(ctx context.Context, limits []*snapshot.Limit, caller exchange.ServiceName, req *exchange.Request, now time.Time) (quota.Refusal, bool)
}

// An Outbound carries what local applications send to listeners. It is safe for concurrent use.
type Outbound struct {
	Table *routing.Table
	Lanes Lanes
	// Await returns when the table knows the callee, or an error when it is not to be expected soon. It is
	// called for a service that this node has not called before, and for no other.
	Await func(ctx context.Context, caller, callee exchange.ServiceName) error
	// Observe returns who hears of the exchanges of one connection, one after the other.
	Observe func() Observer
	// Quota decides where a rule names limits. It may be nil where none does.
	Quota Quota
	// TraceShare is the share, from 0 to 1, of the traces that begin here that are sampled; 0 begins none.
	TraceShare float64
	Limits     http1.Limits
	Outside    Patience // with those who come to a gateway
	// Certificates has those of gateways' listeners. It may be nil where none has TLS.
	Certificates Certificates
	// Clients says whom gateways' listeners with TLS let in. It may be nil where that is anybody.
	Clients func(gateway exchange.ServiceName, listener string) Clients
	// Logins has how people sign in under a policy ("<ns>/<name>") of a gateway; nil: they cannot, yet or at all. It may be
	// nil itself.
	Logins func(gateway exchange.ServiceName, policy string) *login.Login
	Log    *slog.Logger

	callers sync.Map     // *caller → nothing: those of HTTP, for Run to look after
	conns   sync.Map     // *net.TCPConn → nothing: all that are open, for Run to end
	ended   atomic.Bool  // Run has
	delayed atomic.Int64 // exchanges that faults hold back
	mirrors atomic.Int64 // requests on their way to mirrors
	vain    sync.Map     // awaited → time.Time: when it was last awaited in vain
}

// awaited is what is awaited: the rules of a callee for the callers of a namespace.
type awaited struct {
	callers string
	callee  exchange.ServiceName
}

// vainFor is for how long a service that was awaited in vain is not awaited again: who calls what is not there
// hears so at once.
const vainFor = 30 * time.Second

const (
	// idleCaller is how long an application's connection may be silent between two requests.
	idleCaller = 10 * time.Minute
	// unknownCaller is the same where it is not known what the service speaks: a protocol in which the service
	// speaks first would wait for nothing.
	unknownCaller = 10 * time.Second
)

const (
	// drainBody is how much of a request's body is read and dropped to keep its connection, in bytes, and
	// drainTime how long that may take.
	drainBody = 64 << 10
	drainTime = time.Second
	// lingerBody and lingerTime are the same for a connection that closes, so that the answer is read before
	// the kernel resets the connection for what was not (RFC 9112 §9.6).
	lingerBody = 256 << 10
	lingerTime = time.Second
)

// Serve drives one connection of an application, or from outside to a gateway, until it ends; it is a capture.Handler. When ctx ends, an
// exchange that runs is finished and the connection closed; when Run ends, it is cut off.
func (o *Outbound) Serve(ctx context.Context, conn *net.TCPConn, l capture.Listener) {
	defer conn.Close()
	o.conns.Store(conn, nil)
	defer o.conns.Delete(conn)
	if o.ended.Load() {
		return
	}
	if l.Gateway {
		o.serveOutside(ctx, conn, l)
		return
	}
	if !o.Table.Ready(l.As.Namespace, l.To) {
		o.await(ctx, l, time.Now())
	}
	call := routing.Call{Caller: l.As, Callee: l.To, Port: l.Port, Random: rand.NewPCG(rand.Uint64(), rand.Uint64())}
	protocol, known := o.Table.Protocol(l.As.Namespace, l.To, l.Port)
	if known && protocol == snapshot.Protocol_PROTOCOL_TCP {
		o.serveTCP(ctx, conn, &call, false, nil)
		return
	}
	c := &caller{
		Outbound: o, call: call, conn: conn, drains: ctx.Done(), guard: guard{conn: conn}, idle: idleCaller,
		http: http1.NewServerConn(conn, o.Limits), observer: o.Observe(),
	}
	c.app = c.http
	if !known {
		c.idle = unknownCaller
		c.http.Last() // the next connection is looked at anew
	}
	c.drive(ctx)
}

// drive serves a caller until it goes, or drains.
func (c *caller) drive(ctx context.Context) {
	c.callers.Store(c, nil)
	defer c.callers.Delete(c)
	stop := context.AfterFunc(ctx, c.wake)
	defer stop()
	c.serve(context.WithoutCancel(ctx))
	c.conn.Close()
	c.copies.Wait()
}

// await waits for what is needed to serve a caller, where that was not in vain just now. HTTP callers are told with
// a 503 where it does not come; what another protocol would say is not known.
func (o *Outbound) await(ctx context.Context, l capture.Listener, now time.Time) {
	what := awaited{l.As.Namespace, l.To}
	if last, ok := o.vain.Load(what); ok && now.Sub(last.(time.Time)) < vainFor {
		return
	}
	if err := o.Await(ctx, l.As, l.To); err != nil {
		o.vain.Store(what, now)
		o.Log.Warn("caller cannot be served yet", "service", l.To.String(), "err", err)
		return
	}
	o.vain.Delete(what)
}

// laneOf is the lane to the instance that was decided on.
func laneOf(call *routing.Call, d *routing.Decision) transport.Key {
	key := transport.Key{Local: call.Caller, Node: d.Instance.Node, Remote: d.Instance.Identity}
	switch d.Carrier {
	case snapshot.Carrier_CARRIER_QUIC:
		key.Carrier = transport.QUIC
	case snapshot.Carrier_CARRIER_TCP:
		key.Carrier = transport.TCP
	}
	return key
}

// serveTCP carries one connection whose bytes are not looked at, of an application, or from outside to the gateway that
// calls. early was read from it already.
func (o *Outbound) serveTCP(ctx context.Context, conn net.Conn, call *routing.Call, outside bool, early []byte) {
	seen := Observation{Kind: exchange.TCP, Caller: call.Caller, Callee: call.Callee, Host: call.ServerName, Start: time.Now()}
	var d routing.Decision
	defer func() {
		d.Done()
		seen.Rule, seen.Backend = d.Rule, d.Service
		if d.Instance != nil {
			seen.Node, seen.Instance, seen.Version = d.Instance.Node, d.Instance.ID, d.Instance.Version
		}
		seen.Duration = time.Since(seen.Start)
		o.Observe().Ended(&seen)
	}()
	call.Now = seen.Start
	if outside {
		if o.Table.PickIngress(call, nil, &d); !d.Service.IsZero() {
			seen.Callee = d.Service
		}
	} else {
		o.Table.Pick(call, nil, &d)
	}
	for d.Status == 0 {
		seen.Attempts++
		began := time.Now()
		stream, err := o.Lanes.Open(ctx, laneOf(call, &d), d.Instance.Address, transport.Bulk)
		if err != nil {
			seen.Err = err
			call.Now = time.Now()
			o.Table.MarkUnreachable(d.Instance, call.Now)
			d.Judge(true, call.Now.Sub(began), call.Now)
			o.Table.PickAgain(call, &d)
			continue
		}
		defer stream.Release()
		took := time.Since(began)
		seen.Lane = stream.Carrier()
		seen.Err = stream.WriteRequest(&exchange.Request{Kind: exchange.TCP, Target: d.Target})
		if seen.Err == nil {
			seen.Sent, seen.Received, seen.Err = tunnel(conn, stream, early)
		}
		if seen.Err != nil {
			f := failed(seen.Err)
			seen.Outcome.Reason = f.reason
			if f.unreachable() && seen.Received == 0 {
				o.Table.MarkUnreachable(d.Instance, time.Now())
				d.Judge(true, took, time.Now())
			}
		} else {
			d.Judge(false, took, time.Now())
		}
		return
	}
	seen.Outcome.Reason = d.Reason
	if seen.Err == nil {
		seen.Err = fmt.Errorf("no instance to connect to: %s", d.Detail)
	}
	abort(conn) // a reset tells the application that nothing was there
}
