package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http1"
	"github.com/sennit-mesh/sennit/pkg/origination"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/transport"
	"github.com/sennit-mesh/sennit/pkg/transport/transporttest"
)

var (
	cart   = exchange.ServiceName{Namespace: "shop", Name: "cart"}
	orders = exchange.ServiceName{Namespace: "shop", Name: "orders"}
)

// pairLimits are those of a node.
var pairLimits = http1.Limits{Head: 60 << 10, Fields: 256}

// A pair is a caller's node and one or more nodes of the called service, with real lanes between them.
type pair struct {
	shard    *snapshot.Endpoints // of the service
	tb       testing.TB
	table    *routing.Table
	outbound *Outbound
	lanes    *heldLanes // of outbound
	inbound  *observed  // of the called services' nodes
	access   *ruled
	address  string // of the caller's listener
	drain    func() // what the end of a node is to its callers
	cutOff   func() // what it is when they had their time

	mu    sync.Mutex
	seen  []Observation
	quiet atomic.Bool // keeps no observations
}

// startPair starts a node for each process address, and a caller's node that knows them as instances.
// protocol is what the service's port speaks.
func startPair(tb testing.TB, protocol snapshot.Protocol, rule *snapshot.Rule, processes ...string) *pair {
	tb.Helper()
	var peers []servePeer
	traced, access := new(observed), new(ruled)
	for _, process := range processes {
		inbound := NewInbound(oneProcess(netip.MustParseAddrPort(process)), pairLimits, slog.New(slog.DiscardHandler))
		inbound.Traced, inbound.Access = traced, access
		run(tb, inbound.Run)
		peers = append(peers, inbound.Serve)
	}
	p := startCaller(tb, protocol, rule, peers...)
	p.inbound, p.access = traced, access
	return p
}

// observed keeps what Inbounds tell.
type observed struct {
	mu    sync.Mutex
	seen  []Observation
	quiet atomic.Bool
}

// kept is an observation for as long as a test likes: what it points to is used again.
func kept(o *Observation) Observation {
	k := *o
	k.Method, k.Path, k.Host = strings.Clone(o.Method), strings.Clone(o.Path), strings.Clone(o.Host)
	k.Node, k.Instance, k.CallerNode = strings.Clone(o.Node), strings.Clone(o.Instance), strings.Clone(o.CallerNode)
	k.Faults = slices.Clone(o.Faults)
	return k
}

// Ended keeps what was observed.
func (o *observed) Ended(seen *Observation) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.quiet.Load() {
		o.seen = append(o.seen, kept(seen))
	}
}

// A servePeer is what a peer does with an exchange: what an Inbound does, or worse.
type servePeer func(context.Context, *transport.Stream)

// startCaller is startPair with peers that serve as they are told.
func startCaller(tb testing.TB, protocol snapshot.Protocol, rule *snapshot.Rule, peers ...servePeer) *pair {
	tb.Helper()
	authority := transporttest.NewAuthority(tb)
	p := &pair{tb: tb, table: routing.New()}
	log := slog.New(slog.DiscardHandler)

	shard := &snapshot.Endpoints{Shards: 1}
	for i, serve := range peers {
		name := string(rune('a' + i))
		address := startLanes(tb, authority.Wallet(orders), serve)
		shard.Endpoints = append(shard.Endpoints, &snapshot.Endpoint{Node: name, Address: address.String(), Service: orders.String(), Instance: name})
	}
	if rule == nil {
		rule = &snapshot.Rule{}
	}
	var policy *snapshot.Resilience
	if len(rule.Backends) > 0 { // tests say what is for the service in a backend without a name
		policy = rule.Backends[0].Resilience
	}
	rule.Backends = []*snapshot.Backend{{
		Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1, Balance: snapshot.Balance_BALANCE_ROUND_ROBIN, Resilience: policy,
	}}
	outbound := &snapshot.Outbound{Ports: []*snapshot.OutboundPort{{Number: 80, Protocol: protocol, Rules: []*snapshot.Rule{rule}}}}
	version := snapshot.Version{Revision: 1}
	if _, err := p.table.Apply(snapshot.OutSubject("shop", "orders", ""), version, outbound); err != nil {
		tb.Fatal(err)
	}
	p.shard = shard
	if _, err := p.table.Apply(snapshot.EndpointsSubject("shop", "orders", 0), version, shard); err != nil {
		tb.Fatal(err)
	}

	wallet := authority.Wallet(cart)
	wallet.Put(cart, authority.IssueOn("web1", cart, time.Hour))
	p.lanes = &heldLanes{Lanes: newLanes(tb, wallet, func(_ context.Context, s *transport.Stream) { s.Reset(exchange.InstanceNotServed) })}
	o := &Outbound{Table: p.table, Lanes: p.lanes, Observe: func() Observer { return p }, Limits: pairLimits, Log: log, Await: func(context.Context, exchange.ServiceName, exchange.ServiceName) error { return nil }}
	p.outbound = o
	running, cutOff := context.WithCancel(tb.Context())
	p.cutOff = cutOff
	run(tb, func(ctx context.Context) error {
		defer context.AfterFunc(ctx, cutOff)()
		return o.Run(running)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p.address = l.Addr().String()
	drain := make(chan func(), 1)
	run(tb, func(ctx context.Context) error {
		var group sync.WaitGroup
		defer group.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		drain <- cancel
		defer context.AfterFunc(ctx, func() { l.Close() })()
		for {
			conn, err := l.Accept()
			if err != nil {
				return nil
			}
			group.Go(func() { o.Serve(ctx, conn.(*net.TCPConn), capture.Listener{As: cart, To: orders, Port: 80}) })
		}
	})
	p.drain = <-drain
	return p
}

// Ended keeps what was observed.
func (p *pair) Ended(o *Observation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quiet.Load() {
		return
	}
	p.seen = append(p.seen, kept(o))
	if o.Err != nil {
		p.tb.Logf("%s %s from instance %q: %d %s after %v: %v", o.Method, o.Path, o.Instance, o.Outcome.Status, o.Outcome.Reason, o.Duration, o.Err)
	}
}

// client returns a client whose every host is the caller's listener.
func (p *pair) client() *http.Client {
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", p.address)
	}, ExpectContinueTimeout: 20 * time.Second}
	p.tb.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: 30 * time.Second}
}

type oneProcess netip.AddrPort

func (oneProcess) Secure(exchange.ServiceName, exchange.Kind, *exchange.Target) (*origination.Settings, bool) {
	return nil, true
}

func (o oneProcess) Find(exchange.ServiceName, exchange.Target) (Place, bool) {
	return Place{Process: netip.AddrPort(o)}, true
}

func startLanes(tb testing.TB, credentials transport.Credentials, serve func(context.Context, *transport.Stream)) netip.AddrPort {
	tb.Helper()
	socket, t := openLanes(tb, credentials, serve)
	run(tb, t.Run)
	return socket.LocalAddr().(*net.UDPAddr).AddrPort()
}

func newLanes(tb testing.TB, credentials transport.Credentials, serve func(context.Context, *transport.Stream)) *transport.Transport {
	tb.Helper()
	_, t := openLanes(tb, credentials, serve)
	run(tb, t.Run)
	<-t.Running()
	return t
}

func openLanes(tb testing.TB, credentials transport.Credentials, serve func(context.Context, *transport.Stream)) (*net.UDPConn, *transport.Transport) {
	tb.Helper()
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	t, err := transport.New(transport.Config{Conn: socket, Credentials: credentials, Serve: serve, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	return socket, t
}

// run runs something until the test ends, and waits for it.
func run(tb testing.TB, fn func(context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
}
