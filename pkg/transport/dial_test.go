package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/pkg/transport/transporttest"
)

// A firewall stands before a callee's UDP port. It lets datagrams through while it is open; TCP passes always.
type firewall struct {
	open    atomic.Bool
	outside *net.UDPConn
	inside  netip.AddrPort
	group   sync.WaitGroup

	mu    sync.Mutex
	flows map[netip.AddrPort]*net.UDPConn
}

// startBehindFirewall starts a callee of orders that is reached through a firewall only, which is shut.
func startBehindFirewall(t *testing.T, a *transporttest.Authority, limits Limits, serve func(context.Context, *Stream)) (*node, *firewall) {
	t.Helper()
	outside, listener := listen(t)
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	f := &firewall{outside: outside, inside: socket.LocalAddr().(*net.UDPAddr).AddrPort(), flows: map[netip.AddrPort]*net.UDPConn{}}
	f.group.Go(f.inward)
	t.Cleanup(func() {
		_ = f.outside.Close()
		f.mu.Lock()
		for _, flow := range f.flows {
			_ = flow.Close()
		}
		f.mu.Unlock()
		f.group.Wait()
	})
	n := startNodeOn(t, socket, listener, Auto, a.Wallet(orders), limits, serve)
	n.addr = outside.LocalAddr().(*net.UDPAddr).AddrPort()
	return n, f
}

func (f *firewall) inward() {
	var p [2048]byte
	for {
		n, from, err := f.outside.ReadFromUDPAddrPort(p[:])
		if err != nil {
			return
		}
		f.mu.Lock()
		flow := f.flows[from]
		if flow == nil {
			if flow, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(f.inside)); err != nil {
				f.mu.Unlock()
				return
			}
			f.flows[from] = flow
			f.group.Go(func() { f.outward(flow, from) })
		}
		f.mu.Unlock()
		if f.open.Load() {
			_, _ = flow.Write(p[:n])
		}
	}
}

func (f *firewall) outward(flow *net.UDPConn, to netip.AddrPort) {
	var p [2048]byte
	for {
		n, err := flow.Read(p[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && f.open.Load() {
			_, _ = f.outside.WriteToUDPAddrPort(p[:n], to)
		}
	}
}

// outbound are the connections of a node that take exchanges, "quic" or "tcp" each.
func (n *node) outbound() (carriers []string) {
	for _, s := range n.Connections() {
		if !s.Inbound && !s.Draining {
			carriers = append(carriers, s.Carrier.String())
		}
	}
	return carriers
}

// await returns when the connections of a node that take exchanges are these.
func (n *node) await(ctx context.Context, t *testing.T, carriers ...string) {
	t.Helper()
	for fmt.Sprint(n.outbound()) != fmt.Sprint(carriers) {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("connections over %v, want %v", n.outbound(), carriers)
		}
	}
}

func TestQUICWhereUDPGetsThrough(t *testing.T) {
	a := transporttest.NewAuthority(t)
	callee, f := startBehindFirewall(t, a, Limits{}, echo)
	f.open.Store(true)
	caller := startNodeOver(t, Auto, a.Wallet(cart), Limits{}, nil)
	caller.headStart = time.Hour
	ctx := testContext(t)
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	caller.await(ctx, t, "quic")
	if s := caller.Connections()[0]; s.Why != "" {
		t.Errorf("the usual carrier is explained: %s", s.Why)
	}
}

func TestUDPBlockedAtTheStart(t *testing.T) {
	t.Parallel()
	a := transporttest.NewAuthority(t)
	callee, f := startBehindFirewall(t, a, Limits{}, echo)
	caller := startNodeOver(t, Auto, a.Wallet(cart, billing), Limits{Handshake: 6 * time.Second, Idle: time.Hour}, nil)
	ctx := testContext(t)
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	caller.await(ctx, t, "tcp")
	if s := caller.Connections()[0]; !strings.Contains(s.Why, "UDP does not get through") {
		t.Errorf("why TCP: %q", s.Why)
	}
	triedToTheEnd := func() {
		for way, _ := caller.ways.find(callee.addr); errors.Is(way.err, errSlow); way, _ = caller.ways.find(callee.addr) {
			if ctx.Err() != nil {
				t.Fatal("QUIC is tried without an end")
			}
			time.Sleep(time.Millisecond)
		}
	}
	triedToTheEnd()

	// Another lane to the same node does not wait for QUIC.
	caller.headStart = time.Hour
	if err := get(ctx, caller, Key{Local: billing, Node: "b", Remote: orders}, callee.addr); err != nil {
		t.Fatal(err)
	}
	caller.await(ctx, t, "tcp", "tcp")
	triedToTheEnd()

	// After five minutes QUIC is tried again, and takes the place of TCP without the loss of an exchange.
	stop := steady(ctx, t, caller, callee)
	f.open.Store(true)
	way, _ := caller.ways.find(callee.addr)
	if since := way.again.Sub(way.since); since < retryUDP {
		t.Errorf("QUIC is tried again after %s", since)
	}
	caller.sweep(caller.conns(), way.again.Add(-time.Second))
	for _, c := range caller.conns() {
		if c.retries.Load() {
			t.Error("QUIC is tried again too early")
		}
	}
	caller.sweep(caller.conns(), way.again)
	for caller.ways.blocked(callee.addr) {
		if ctx.Err() != nil {
			t.Fatal("QUIC is not tried again")
		}
		time.Sleep(time.Millisecond)
	}
	caller.sweep(caller.conns(), time.Now()) // the lane that hears of it from the other
	caller.await(ctx, t, "quic", "quic")
	if n := stop(); n == 0 {
		t.Error("no exchange ran meanwhile")
	}
}

// TestSlowQUICTakesThePlaceOfTCP: a handshake over QUIC that only took longer than one over TCP says nothing against UDP.
func TestSlowQUICTakesThePlaceOfTCP(t *testing.T) {
	a := transporttest.NewAuthority(t)
	callee, f := startBehindFirewall(t, a, Limits{}, echo)
	caller := startNodeOver(t, Auto, a.Wallet(cart), Limits{Handshake: 20 * time.Second}, nil)
	ctx := testContext(t)
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	caller.await(ctx, t, "tcp")
	stop := steady(ctx, t, caller, callee)
	f.open.Store(true)
	caller.await(ctx, t, "quic")
	stop()
	if caller.ways.blocked(callee.addr) {
		t.Error("UDP counts as blocked")
	}
	for len(caller.conns()) > 1 && ctx.Err() == nil { // the other ends when its exchanges have
		time.Sleep(time.Millisecond)
	}
}

func TestUDPBlockedInTheMiddle(t *testing.T) {
	t.Parallel()
	a := transporttest.NewAuthority(t)
	callee, f := startBehindFirewall(t, a, Limits{Silence: 4 * time.Second}, echo)
	f.open.Store(true)
	caller := startNodeOver(t, Auto, a.Wallet(cart), Limits{Silence: 4 * time.Second, Handshake: time.Hour}, nil)
	caller.headStart = time.Hour
	ctx := testContext(t) // ends long before a handshake over QUIC would
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	caller.await(ctx, t, "quic")
	f.open.Store(false)
	if err := get(ctx, caller, toOrder, callee.addr); !errors.Is(err, ErrBroken) {
		t.Errorf("the exchange that runs into it: %v", err)
	}
	for err := errSlow; err != nil; err = get(ctx, caller, toOrder, callee.addr) {
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	caller.await(ctx, t, "tcp")
}

// TestStreamsKnowOfSilenceFirst: the context of a connection that fell silent ends a moment after its streams, and whoever
// dials in that moment does not wait for QUIC either.
func TestStreamsKnowOfSilenceFirst(t *testing.T) {
	tr := &Transport{only: Auto}
	for what, broke := range map[string]func(*Stream, error) error{
		"reading": (*Stream).unreadable,
		"writing": (*Stream).unwritten,
	} {
		c := newConn(tr, nil)
		c.lane, c.addr = &lane{t: tr, key: toOrder}, netip.MustParseAddrPort("192.0.2.1:7946")
		s := &Stream{t: tr, conn: c, caller: true}
		s.sent.Store(true)
		if err := broke(s, &quic.IdleTimeoutError{}); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v", what, err)
		}
		if !tr.ways.blocked(c.addr) {
			t.Errorf("%s: the next dial waits for QUIC", what)
		}
		tr.ways.open(c.addr)
	}
}

// TestLoserIsClosed lets both carriers race from the start.
func TestLoserIsClosed(t *testing.T) {
	a := transporttest.NewAuthority(t)
	callee, f := startBehindFirewall(t, a, Limits{}, echo)
	f.open.Store(true)
	caller := startNodeOver(t, Auto, a.Wallet(cart), Limits{}, nil)
	ctx := testContext(t)
	for range 20 {
		caller.ways.block(callee.addr, errSlow)
		if err := get(ctx, caller, toOrder, callee.addr); err != nil {
			t.Fatal(err)
		}
		caller.await(ctx, t, "quic")
		for len(callee.conns()) != 1 || callee.inbound.Load() != 1 {
			if ctx.Err() != nil {
				t.Fatalf("the callee has %d connections and counts %d", len(callee.conns()), callee.inbound.Load())
			}
			time.Sleep(time.Millisecond)
		}
		caller.closeLanes(t)
	}
	c, err := caller.dialTCP(ctx, caller.addLane(toOrder), callee.addr, Interactive)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan dialling, 1)
	done <- dialling{c: c}
	caller.dropLoser(true, done)
	select {
	case <-c.link.Context().Done():
	case <-ctx.Done():
		t.Error("a connection that nobody uses stays")
	}
}

func TestWhoChoosesTheCarrier(t *testing.T) {
	for _, tt := range []struct {
		node, service, want Carrier
	}{
		{Auto, Auto, Auto},
		{Auto, QUIC, QUIC},
		{Auto, TCP, TCP},
		{QUIC, TCP, QUIC},
		{TCP, QUIC, TCP},
	} {
		tr := &Transport{only: tt.node}
		if got := tr.carrier(Key{Carrier: tt.service}); got != tt.want {
			t.Errorf("node %s, service %s: %s, want %s", tt.node, tt.service, got, tt.want)
		}
		var read Carrier
		if err := read.UnmarshalText([]byte(tt.want.String())); err != nil || read != tt.want {
			t.Errorf("%s is read as %s, %v", tt.want, read, err)
		}
	}
	if err := new(Carrier).UnmarshalText([]byte("sctp")); err == nil {
		t.Error("any word is a carrier")
	}
}

// TestServiceChoosesTheCarrier changes what a service wants between two exchanges.
func TestServiceChoosesTheCarrier(t *testing.T) {
	a := transporttest.NewAuthority(t)
	callee := startNode(t, a.Wallet(orders), Limits{}, echo)
	caller := startNodeOver(t, Auto, a.Wallet(cart), Limits{}, nil)
	ctx := testContext(t)
	key := toOrder
	for _, key.Carrier = range []Carrier{QUIC, TCP} {
		if err := get(ctx, caller, key, callee.addr); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[Carrier]string{}
	for _, s := range caller.Connections() {
		seen[s.Carrier] = s.Why
	}
	if why := "the service is set to it"; len(seen) != 2 || seen[QUIC] != why || seen[TCP] != why {
		t.Errorf("connections %v", seen)
	}
}

// TestAnswerOverUDPIsNotAskedForAgain: what the peer has refused over QUIC it would refuse over TCP.
func TestAnswerOverUDPIsNotAskedForAgain(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"the peer is another", fmt.Errorf("verify: %w", ErrIdentity), true},
		{"the peer refuses the handshake", &quic.TransportError{Remote: true}, true},
		{"the peer closes", &quic.ApplicationError{Remote: true}, true},
		{"nobody answers", &quic.HandshakeTimeoutError{}, false},
		{"this host may not send", &quic.TransportError{}, false},
	} {
		if got := answered(tt.err); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	a := transporttest.NewAuthority(t)
	server := a.Wallet(orders)
	server.Put(orders, a.Issue(billing, time.Hour))
	callee := startNode(t, server, Limits{}, echo)
	caller := startNodeOver(t, Auto, a.Wallet(cart), Limits{}, nil)
	caller.headStart = time.Hour
	if err := get(testContext(t), caller, toOrder, callee.addr); !errors.Is(err, ErrIdentity) || strings.Contains(err.Error(), "TCP") {
		t.Error(err)
	}
}

func TestBothCarriersFail(t *testing.T) {
	a := transporttest.NewAuthority(t)
	caller := startNodeOver(t, Auto, a.Wallet(cart), Limits{Handshake: 200 * time.Millisecond}, nil)
	err := get(testContext(t), caller, toOrder, netip.MustParseAddrPort("127.0.0.1:9"))
	if !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "over TCP") {
		t.Error(err)
	}
}
