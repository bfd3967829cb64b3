package transport

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	cart    = exchange.ServiceName{Namespace: "shop", Name: "cart"}
	orders  = exchange.ServiceName{Namespace: "shop", Name: "orders"}
	billing = exchange.ServiceName{Namespace: "shop", Name: "billing"}
	toOrder = Key{Local: cart, Node: "b", Remote: orders}
)

// A node is one end of lanes in a test.
type node struct {
	*Transport
	addr   netip.AddrPort
	stop   func()
	killed bool // Run is to fail
}

// overBoth runs a test over both carriers.
func overBoth(t *testing.T, test func(t carried)) {
	for _, carrier := range []Carrier{QUIC, TCP} {
		t.Run(carrier.String(), func(t *testing.T) { test(carried{t, carrier}) })
	}
}

// carried is a test whose nodes dial over one carrier.
type carried struct {
	*testing.T
	carrier Carrier
}

// listen opens a UDP and a TCP socket of one port.
func listen(tb testing.TB) (*net.UDPConn, *net.TCPListener) {
	tb.Helper()
	for {
		socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			tb.Fatal(err)
		}
		addr := socket.LocalAddr().(*net.UDPAddr)
		listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: addr.IP, Port: addr.Port})
		if err == nil {
			return socket, listener
		}
		_ = socket.Close() // somebody else has the port
	}
}

func startNode(tb testing.TB, credentials Credentials, limits Limits, serve func(context.Context, *Stream)) *node {
	tb.Helper()
	only := QUIC
	if c, ok := tb.(carried); ok {
		only = c.carrier
	}
	return startNodeOver(tb, only, credentials, limits, serve)
}

func startNodeOver(tb testing.TB, only Carrier, credentials Credentials, limits Limits, serve func(context.Context, *Stream)) *node {
	tb.Helper()
	socket, listener := listen(tb)
	return startNodeOn(tb, socket, listener, only, credentials, limits, serve)
}

func startNodeOn(tb testing.TB, socket *net.UDPConn, listener *net.TCPListener, only Carrier, credentials Credentials, limits Limits, serve func(context.Context, *Stream)) *node {
	tb.Helper()
	if serve == nil {
		serve = func(_ context.Context, s *Stream) { s.Reset(exchange.InstanceNotServed) }
	}
	t, err := New(Config{Conn: socket, Listener: listener, Only: only, Credentials: credentials, Serve: serve, Limits: limits, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- t.Run(ctx) }()
	for running := false; !running; {
		t.mu.Lock()
		running = t.run != nil
		t.mu.Unlock()
	}
	stopped := false
	n := &node{Transport: t, addr: socket.LocalAddr().(*net.UDPAddr).AddrPort()}
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if (err != nil) != n.killed {
				tb.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			tb.Error("Run does not return")
		}
	}
	tb.Cleanup(n.stop)
	return n
}

// startPair starts a caller of cart and a callee of orders.
func startPair(tb testing.TB, limits Limits, serve func(context.Context, *Stream)) (caller, callee *node) {
	tb.Helper()
	a := transporttest.NewAuthority(tb)
	callee = startNode(tb, a.Wallet(orders), limits, serve)
	caller = startNode(tb, a.Wallet(cart), limits, nil)
	return caller, callee
}

func testContext(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), 60*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

// echo answers with the request's body.
func echo(_ context.Context, s *Stream) {
	var req exchange.Request
	if s.ReadRequest(&req) != nil {
		return
	}
	resp := exchange.Response{Status: 200, BodyLength: req.BodyLength}
	if s.WriteResponse(&resp) != nil {
		return
	}
	if req.BodyLength != 0 {
		if _, err := io.Copy(onlyWriter{s}, s); err != nil {
			return
		}
	}
	_ = s.End()
}

// onlyWriter hides other methods from io.Copy.
type onlyWriter struct{ io.Writer }

// get makes one exchange without bodies.
func get(ctx context.Context, n *node, key Key, addr netip.AddrPort) error {
	s, err := n.Open(ctx, key, addr, Interactive)
	if err != nil {
		return err
	}
	defer s.Release()
	if err := s.WriteRequest(&exchange.Request{Method: "GET", Scheme: "http", Authority: "orders", Path: "/"}); err != nil {
		return err
	}
	if err := s.End(); err != nil {
		return err
	}
	var resp exchange.Response
	if err := s.ReadResponse(&resp); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, s)
	return err
}
