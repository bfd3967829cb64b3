package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/authz"
	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/origination"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// udpProcess is a process that takes datagrams.
type udpProcess netip.AddrPort

func (u udpProcess) Find(_ exchange.ServiceName, target exchange.Target) (Place, bool) {
	return Place{Process: netip.AddrPort(u), UDP: true}, target.UDP
}

func (udpProcess) Secure(exchange.ServiceName, exchange.Kind, *exchange.Target) (*origination.Settings, bool) {
	return nil, true
}

// echoDatagrams starts a process that sends each datagram back behind its name, and returns how to end it.
func echoDatagrams(tb testing.TB, name string) (udpProcess, func()) {
	tb.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p := append([]byte(name), make([]byte, 65535)...)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(p[len(name):])
			if err != nil {
				return
			}
			if _, err := conn.WriteToUDPAddrPort(p[:len(name)+n], from); err != nil {
				return
			}
		}
	}()
	end := func() { conn.Close(); <-ended }
	tb.Cleanup(end)
	return udpProcess(conn.LocalAddr().(*net.UDPAddr).AddrPort()), end
}

// inboundOf is a node that runs a process.
func inboundOf(tb testing.TB, places Places) *Inbound {
	tb.Helper()
	inbound := NewInbound(places, pairLimits, slog.New(slog.DiscardHandler))
	run(tb, inbound.Run)
	return inbound
}

// startFlows has the caller's node of a pair listen for datagrams to shop/orders, and returns a socket that is connected to
// it.
func startFlows(tb testing.TB, p *pair) *net.UDPConn {
	tb.Helper()
	rule := &snapshot.Rule{Backends: []*snapshot.Backend{{
		Namespace: "shop", Service: "orders", Port: snapshot.PortID(53, true), Weight: 1, Shards: 1, Balance: snapshot.Balance_BALANCE_ROUND_ROBIN,
	}}}
	if _, err := p.table.Apply(snapshot.OutSubject("shop", "orders", ""), snapshot.Version{Revision: 2}, &snapshot.Outbound{
		Ports: []*snapshot.OutboundPort{{Number: snapshot.PortID(53, true), Protocol: snapshot.Protocol_PROTOCOL_UDP, Rules: []*snapshot.Rule{rule}}},
	}); err != nil {
		tb.Fatal(err)
	}
	free, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	at := free.LocalAddr().(*net.UDPAddr)
	free.Close()
	listeners, err := capture.New(capture.Config{Handle: p.outbound.Serve, HandleFlow: p.outbound.ServeFlow, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	listeners.Apply([]capture.Listener{{As: cart, To: orders, Port: 53, UDP: true, Address: at.AddrPort()}})
	run(tb, func(ctx context.Context) error {
		if err := listeners.Run(ctx); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	for len(listeners.Status()) == 0 || listeners.Status()[0].Err != nil {
		time.Sleep(time.Millisecond)
	}
	conn, err := net.DialUDP("udp4", nil, at)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return conn
}

// answerTo sends a datagram until it is answered, for at most so long.
func answerTo(tb testing.TB, conn *net.UDPConn, what string, within time.Duration) (answer string) {
	tb.Helper()
	p := make([]byte, 65535)
	for end := time.Now().Add(within); time.Now().Before(end); {
		if _, err := conn.Write([]byte(what)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			tb.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if n, err := conn.Read(p); err == nil {
			return string(p[:n])
		} else if !errors.Is(err, os.ErrDeadlineExceeded) {
			tb.Fatal(err)
		}
	}
	return ""
}

// TestFlowIsObserved: each part of a flow that one instance has is one exchange, of what went either way.
func TestFlowIsObserved(t *testing.T) {
	t.Parallel()
	process, _ := echoDatagrams(t, "a")
	p := startCaller(t, snapshot.Protocol_PROTOCOL_TCP, nil, inboundOf(t, process).Serve)
	conn := startFlows(t, p)
	for range 3 {
		if got := answerTo(t, conn, "hello", 20*time.Second); got != "ahello" {
			t.Fatalf("%q", got)
		}
	}
	conn.Close()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		seen := slices.Clone(p.seen)
		p.mu.Unlock()
		if len(seen) == 1 {
			o := seen[0]
			if o.Kind != exchange.UDP || o.Caller != cart || o.Callee != orders || o.Instance != "a" || o.Outcome != (exchange.Outcome{}) || o.Sent < 15 || o.Received < 18 || o.Attempts != 1 {
				t.Errorf("%+v", o)
			}
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the end of the flow is not observed: %+v", seen)
		}
	}
}

// TestFlowGoesOnElsewhere where its process is gone, or refuses it from the beginning.
func TestFlowGoesOnElsewhere(t *testing.T) {
	t.Parallel()
	a, endA := echoDatagrams(t, "a")
	b, endB := echoDatagrams(t, "b")
	p := startCaller(t, snapshot.Protocol_PROTOCOL_TCP, nil, inboundOf(t, a).Serve, inboundOf(t, b).Serve)
	conn := startFlows(t, p)
	first := answerTo(t, conn, "x", 20*time.Second)
	other := map[string]string{"ax": "bx", "bx": "ax"}[first]
	if other == "" {
		t.Fatalf("%q", first)
	}
	for range 5 { // round robin is for flows
		if got := answerTo(t, conn, "x", 20*time.Second); got != first {
			t.Fatalf("a flow that was at %q is at %q", first, got)
		}
	}
	if first == "ax" {
		endA()
	} else {
		endB()
	}
	for end := time.Now().Add(20 * time.Second); ; {
		got := answerTo(t, conn, "x", 20*time.Second)
		if got == other {
			break
		}
		if got != first || time.Now().After(end) { // an answer of the first that was on its way is none of now
			t.Errorf("%q answers, want %q", got, other)
			break
		}
	}
}

// TestFlowsHaveNoToken: where end users are asked for a flow is refused, unless the policy is optional.
func TestFlowsHaveNoToken(t *testing.T) {
	t.Parallel()
	for optional, want := range map[bool]string{false: "", true: "ax"} {
		process, _ := echoDatagrams(t, "a")
		body := newIssuer(t).policy
		body.Optional = optional
		var asked atomic.Pointer[authz.Request]
		p, _ := startUsers(t, snapshot.Protocol_PROTOCOL_TCP, body, process, &asked)
		within := 20 * time.Second
		if want == "" {
			within = 2 * time.Second
		}
		if got := answerTo(t, startFlows(t, p), "x", within); got != want {
			t.Errorf("optional %t: %q", optional, got)
		}
		if q := asked.Load(); optional && (q == nil || !q.TCP || q.Port != 53 || q.Caller != cart) {
			t.Errorf("asked %+v", q)
		}
	}
}

// TestPlaceTakesItsKind: a process that takes the one is not given the other.
func TestPlaceTakesItsKind(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		udp  bool
		kind exchange.Kind
		want bool
	}{{true, exchange.UDP, true}, {true, exchange.TCP, false}, {true, exchange.HTTP, false}, {false, exchange.UDP, false}, {false, exchange.TCP, true}} {
		if got := (Place{UDP: tt.udp}).takes(tt.kind); got != tt.want {
			t.Errorf("a place of UDP %t takes %s: %t", tt.udp, tt.kind, got)
		}
	}
}

// BenchmarkDatagram sends a datagram to a process at another node, and waits for the answer, all in one process. What it allocates is
// quic-go's.
func BenchmarkDatagram(b *testing.B) {
	process, _ := echoDatagrams(b, "")
	p := startCaller(b, snapshot.Protocol_PROTOCOL_TCP, nil, inboundOf(b, process).Serve)
	conn := startFlows(b, p)
	answerTo(b, conn, "x", 20*time.Second)
	_ = conn.SetReadDeadline(time.Time{})
	datagram := make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(datagram); err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Read(datagram); err != nil {
			b.Fatal(err)
		}
	}
}
