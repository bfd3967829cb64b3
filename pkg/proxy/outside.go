package proxy

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http1"
	"github.com/sennit-mesh/sennit/pkg/http2"
	"github.com/sennit-mesh/sennit/pkg/routing"
)

// Patience is how long those outside may keep a connection waiting: a gateway has so many, and whoever sends nothing
// gives its own up. 0 is the default.
type Patience struct {
	Idle time.Duration // between two requests, and in HTTP/2 for a client to take more of a response; 60 s
	Head time.Duration // for the first byte of a connection, and from the first byte of a head to its end; 10 s
	Body time.Duration // for more of a request's body; 30 s
	Call time.Duration // for a call of gRPC that the client has not ended to bring something, either way; 5 min
}

// outsideStreams is how many requests a client may have on one connection of HTTP/2 at a time: the least that RFC 9113
// §6.5.2 recommends. Whoever comes from outside costs the mesh as much for each as for a connection of HTTP/1.1.
const outsideStreams = 100

// outsideUnread is how much of the bodies of one connection waits for the mesh to take it, in bytes: what the kernel keeps of a
// connection of HTTP/1.1 is of that order. More than 16 bodies that nobody takes stop the others of the same client.
const outsideUnread = 1 << 20

// http2Limits are l as they are for those outside. What floods cost is the same for everybody (http2's patience).
func (p Patience) http2Limits(l http2.Limits) http2.Limits {
	l.Streams, l.Unread = outsideStreams, outsideUnread
	l.HeadTimeout, l.Idle, l.Stall = p.Head, p.Idle, p.Idle
	return l
}

func (p Patience) withDefaults() Patience {
	return Patience{
		Idle: cmp.Or(p.Idle, 60*time.Second), Head: cmp.Or(p.Head, 10*time.Second), Body: cmp.Or(p.Body, 30*time.Second),
		Call: cmp.Or(p.Call, 5*time.Minute),
	}
}

// An outsider is what a caller is beside that where it comes from outside, to a gateway: nobody knows it, and what it
// says of itself, or of others, counts for nothing.
type outsider struct {
	patience  Patience
	from      string       // its IP address
	forwarded string       // the same, as Forwarded has it
	waits     atomic.Int64 // since when more of a body is read, in Unix nanoseconds; 0: none is
	moved     atomic.Int64 // when something was last written to the client of a call of gRPC, the same; 0: not yet
	calls     atomic.Bool  // it is a call of gRPC, of which each side may be silent for long
	body      exchange.Body
	users     *authn.Policy // of the rule that the request matched; nil: nobody asks
}

// serveOutside drives one connection from outside to a gateway. Its routes decide, by host and path.
func (o *Outbound) serveOutside(ctx context.Context, conn *net.TCPConn, l capture.Listener) {
	far, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return
	}
	limits, patience := o.Limits, o.Outside.withDefaults()
	limits.HeadTimeout = patience.Head
	call := routing.Call{Caller: l.As, Callee: l.As, Port: l.Port, Source: far.AddrPort().Addr().Unmap(), Random: rand.NewPCG(rand.Uint64(), rand.Uint64())}
	var plain net.Conn = conn
	var both duplex = conn
	agreed := http2.Unsure // without TLS the first bytes say it
	var early []byte
	listener, _ := o.Table.IngressListener(l.As, l.Port, "")
	if o.Table.IngressSecure(l.As, l.Port) {
		met, err := o.meet(ctx, conn, l, patience.Head)
		if err != nil {
			o.Log.Debug("TLS from outside was not agreed on", "service", l.As.String(), "peer", far.String(), "err", err)
			return
		}
		call.Secure, call.ServerName = true, met.server
		listener, early = met.listener, met.early
		if met.secure != nil {
			plain, both, agreed = met.secure.Conn, met.secure, agreedOn(met.secure.Conn)
		}
	}
	if listener.TCP {
		o.serveTCP(ctx, both, &call, true, early)
		return
	}
	c := &caller{
		Outbound: o, conn: both, drains: ctx.Done(), guard: guard{conn: conn}, idle: patience.Head,
		call: call,
		http: http1.NewServerConn(plain, limits), observer: o.Observe(), outside: newOutsider(far.AddrPort().Addr(), patience),
	}
	c.app, c.version = c.http, agreed
	c.drive(ctx)
}

func newOutsider(from netip.Addr, patience Patience) *outsider {
	from = from.Unmap().WithZone("")
	o := &outsider{patience: patience, from: from.String()}
	if o.forwarded = o.from; from.Is6() {
		o.forwarded = `"[` + o.from + `]"` // RFC 7239 §6
	}
	return o
}

// another is for another of the exchanges that are on a connection of HTTP/2 at a time.
func (o *outsider) another() *outsider {
	return &outsider{patience: o.patience, from: o.from, forwarded: o.forwarded}
}

// pick routes the request, by the rules of the called service or of the gateway.
func (c *caller) pick() {
	if c.outside == nil {
		c.Table.Pick(&c.call, &c.request, &c.decision)
		return
	}
	c.idle = c.outside.patience.Idle
	c.Table.PickIngress(&c.call, &c.request, &c.decision)
	if service := c.decision.Service; !service.IsZero() {
		c.seen.Callee = service
	}
}

// admit replaces what a request from outside says about where it comes from by what is known of it.
func (o *outsider) admit(request *exchange.Request) {
	deny(&request.Fields)
	request.Fields = append(request.Fields,
		exchange.Field{Name: "X-Forwarded-For", Value: o.from},
		exchange.Field{Name: "X-Forwarded-Proto", Value: request.Scheme})
	forwarded := "for=" + o.forwarded
	if request.Authority != "" {
		request.Fields = append(request.Fields, exchange.Field{Name: "X-Forwarded-Host", Value: request.Authority})
		forwarded += `;host="` + request.Authority + `"`
	}
	request.Fields = append(request.Fields, exchange.Field{Name: "Forwarded", Value: forwarded + ";proto=" + request.Scheme})
}

// deny removes the fields that those outside may not speak in.
func deny(fields *exchange.Fields) {
	kept := (*fields)[:0]
	for _, f := range *fields {
		if !denied(f.Name) {
			kept = append(kept, f)
		}
	}
	*fields = kept
}

// denied reports whether a field says where a request comes from, belongs to a trace, or is one of ours, to the
// loosest reader.
func denied(name string) bool {
	switch len(name) {
	case len("forwarded"):
		return grammar.SameName(name, "forwarded") || grammar.SameName(name, "x-real-ip")
	case len(tracestate):
		return grammar.SameName(name, tracestate)
	case len(traceparent):
		return grammar.SameName(name, traceparent)
	}
	return hasPrefix(name, "x-forwarded-") || hasPrefix(name, "sennit-")
}

func hasPrefix(name, prefix string) bool {
	return len(name) >= len(prefix) && grammar.SameName(name[:len(prefix)], prefix)
}

// Body is where the body of the request comes from.
func (c *caller) Body() exchange.Body {
	if c.outside == nil {
		return c.app.Body()
	}
	c.outside.body = c.app.Body()
	c.outside.calls.Store(c.gRPC)
	c.outside.moved.Store(0)
	return c.outside
}

// answers is where the body of the response is written to.
func (c *caller) answers() bodyWriter {
	if c.outside == nil || !c.gRPC {
		return c.app
	}
	return moving{c.app, c.outside}
}

// A moving writer notes that a call of gRPC goes on.
type moving struct {
	bodyWriter
	of *outsider
}

// Write is io.Writer's.
func (m moving) Write(p []byte) (int, error) {
	n, err := m.bodyWriter.Write(p)
	m.of.moved.Store(time.Now().UnixNano())
	return n, err
}

// Read reads the body of a request from outside, and lets watch know that it waits.
func (o *outsider) Read(p []byte) (int, error) {
	o.waits.Store(time.Now().UnixNano())
	defer o.waits.Store(0)
	return o.body.Read(p)
}

// Trailers are those that may be passed on.
func (o *outsider) Trailers() exchange.Fields {
	trailers := slices.Clone(o.body.Trailers())
	deny(&trailers)
	return hearing{users: o.users}.of(trailers)
}

// watch ends the wait for more of a body that does not come.
func (c *caller) watch(now time.Time) {
	if c.outside == nil {
		return
	}
	since, patience := c.outside.waits.Load(), c.outside.patience.Body
	if since == 0 {
		return
	}
	if c.outside.calls.Load() {
		since, patience = max(since, c.outside.moved.Load()), c.outside.patience.Call
	}
	if now.UnixNano()-since > patience.Nanoseconds() {
		c.stopReading()
	}
}
